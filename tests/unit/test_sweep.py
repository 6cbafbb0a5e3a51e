"""The sweep: what goes and when, and what stays however old it is."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.service_kit import deletion, metrics, owners
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_payload, write_manifest, write_payload
from synthmix.service_kit.deletion import delete
from synthmix.service_kit.environment import SweepSettings, sweep_settings
from synthmix.service_kit.errors import FailedPrecondition, Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.owners import Caller
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import (
    ADAPTERS,
    DATASETS,
    IMAGE_SETS,
    TRIALS,
    ArtifactName,
    OperationName,
)
from synthmix.service_kit.sweep import Swept, _Sweep, sweep, sweep_and_log

SETTINGS = SweepSettings(grace_hours=24, upload_hours=168, checkpoint_hours=720)
ID = "a" * 32
UPLOAD = f"uploads/{'e' * 64}"


def swept(store: ObjectStore, *, hours: float, dry_run: bool = False) -> Swept:
    """What a sweep takes so many hours from now."""
    return sweep(store, SETTINGS, lambda: datetime.now(UTC) + timedelta(hours=hours), dry_run=dry_run)


def orphan(store: ObjectStore, artifact: ArtifactName, data: bytes = b"orphan") -> str:
    return f"{artifact}/{write_payload(store, artifact, 'data.bin', data).sha256}"


def finished(store: ObjectStore, artifact: ArtifactName) -> Manifest:
    payload = write_payload(store, artifact, "data.bin", b"data")
    return write_manifest(store, Manifest(artifact, {}, {}, 1, (payload,), software={}))


def operation(store: ObjectStore, service: str, kind: str, *, ended: bool, upload: str = "") -> OperationName:
    name = OperationName(service, ID)
    store.put_json(f"{name}/request.json", {"kind": kind, "request": {"request": {"upload": upload}}})
    if ended:
        store.put_json(f"{name}/result.json", {})
    return name


def test_payloads_that_no_manifest_names_go_after_the_grace_period(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(TRIALS, ID)
    manifest = finished(store, artifact)
    beside, alone = orphan(store, artifact), orphan(store, ArtifactName(DATASETS, ID))
    assert swept(store, hours=23).keys == ()
    assert set(swept(store, hours=25, dry_run=True).keys) == {beside, alone}
    assert store.stat(beside)
    taken = swept(store, hours=25)
    assert (set(taken.keys), taken.size_bytes) == ({beside, alone}, 12)
    assert read_payload(store, manifest, "data.bin") == b"data"
    assert swept(store, hours=25).keys == ()
    # An hour later nothing of it is left, the records of deletions neither.
    swept(store, hours=26.5)
    assert [key for key in store.keys if not key.startswith(f"{artifact}/")] == []


def test_what_a_newer_version_names_stays(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(TRIALS, ID)
    key = orphan(store, artifact)
    store.put_json(f"{artifact}/manifest.json", {"schema": 99, "chunks": [key.rpartition("/")[2]]})
    assert swept(store, hours=1000).keys == ()


def test_what_is_not_keyed_by_its_content_is_nobodys_to_sweep(store: MemoryObjectStore) -> None:
    store.put_bytes(f"trials/{ID}/notes.txt", b"a person's")
    assert swept(store, hours=1000).keys == ()


def test_the_grace_period_of_a_deleted_artifact_begins_with_its_deletion(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(ADAPTERS, ID)
    finished(store, artifact)
    for key in store.keys:
        store.set_modify_time(key, datetime.now(UTC) - timedelta(days=90))
    delete(store, artifact, caller=Caller(LOCAL), force=False, validate_only=False)
    assert swept(store, hours=23).keys == ()
    assert len(swept(store, hours=25).keys) == 1


def test_what_is_made_again_after_its_deletion_stays(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(ADAPTERS, ID)
    finished(store, artifact)
    delete(store, artifact, caller=Caller(LOCAL), force=False, validate_only=False)
    manifest = finished(store, artifact)
    assert swept(store, hours=25).keys == ()
    assert read_payload(store, manifest, "data.bin") == b"data"


@pytest.mark.parametrize(("collection", "service"), [(ADAPTERS, "adapter-training"), (IMAGE_SETS, "image-synthesis")])
def test_what_an_operation_is_making_stays(collection: str, service: str, store: MemoryObjectStore) -> None:
    key = orphan(store, ArtifactName(collection, ID))
    operation(store, service, collection, ended=False)
    assert swept(store, hours=1000).keys == ()
    operation(store, service, collection, ended=True)
    assert swept(store, hours=1000).keys == (key,)


def test_no_orphan_of_a_dataset_goes_while_something_is_imported(store: MemoryObjectStore) -> None:
    key = orphan(store, ArtifactName(DATASETS, "b" * 32))
    operation(store, "study-control", DATASETS, ended=False)
    assert swept(store, hours=1000).keys == ()
    operation(store, "study-control", DATASETS, ended=True)
    assert swept(store, hours=1000).keys == (key,)


def test_finished_shards_stay_as_long_as_their_checkpoints(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(IMAGE_SETS, ID)
    kept, other = orphan(store, artifact), orphan(store, artifact, b"other")
    name = operation(store, "image-synthesis", IMAGE_SETS, ended=True)
    record = f"{name.checkpoints}00000.json"
    store.put_json(record, {"payload": {"sha256": kept.rpartition("/")[2]}, "sha256s": []})
    assert swept(store, hours=719).keys == (other,)
    assert swept(store, hours=721).keys == (record,)
    assert swept(store, hours=721).keys == (kept,)


def test_checkpoints_of_operations_that_go_on_stay_and_records_of_operations_always(store: MemoryObjectStore) -> None:
    name = operation(store, "adapter-training", ADAPTERS, ended=False)
    forgotten = OperationName("adapter-training", "b" * 32)
    keys = [f"{item.checkpoints}000000000001.safetensors" for item in (name, forgotten)]
    for key in keys:
        store.put_bytes(key, b"state")
    assert swept(store, hours=719).keys == ()
    assert swept(store, hours=721).keys == (keys[1],)
    operation(store, "adapter-training", ADAPTERS, ended=True)
    assert swept(store, hours=721).keys == (keys[0],)
    assert store.keys == [f"{name}/request.json", f"{name}/result.json"]


def test_uploads_expire_unless_an_import_needs_them(store: MemoryObjectStore) -> None:
    store.put_bytes(UPLOAD, b"zip")
    operation(store, "study-control", DATASETS, ended=False, upload="e" * 64)
    assert swept(store, hours=169).keys == ()
    operation(store, "study-control", DATASETS, ended=True, upload="e" * 64)
    assert swept(store, hours=167).keys == ()
    assert swept(store, hours=169).keys == (UPLOAD,)


def test_a_sweep_that_was_interrupted_is_put_right_by_the_next(store: MemoryObjectStore) -> None:
    """It had laid a payload aside and deleted it, and a writer had finished in between."""
    artifact = ArtifactName(TRIALS, ID)
    manifest = finished(store, artifact)
    key = f"{artifact}/{manifest.payloads[0].sha256}"
    store.copy(key, f"laid-aside/{key}")
    store.delete(key)
    swept(store, hours=0.5)
    assert read_payload(store, manifest, "data.bin") == b"data"
    swept(store, hours=1.5)
    assert not [item for item in store.keys if item.startswith("laid-aside/")]


def claimed(store: ObjectStore) -> set[tuple[ArtifactName, str]]:
    return {(name, owner) for name, owners_ in owners.all_owners(store).items() for owner in owners_}


def test_a_claim_that_an_interrupted_deletion_left_goes_after_the_grace_period(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, other = ArtifactName(ADAPTERS, ID), ArtifactName(ADAPTERS, "b" * 32)
    for name in (artifact, other):
        finished(store, name)
        owners.claim(store, name, "ada")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(deletion, "withdraw", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            delete(store, artifact, caller=Caller("ada"), force=False, validate_only=False)
    assert (find_manifest(store, artifact), claimed(store)) == (None, {(artifact, "ada"), (other, "ada")})
    assert "claims" not in swept(store, hours=23).by_kind()
    assert swept(store, hours=25, dry_run=True).by_kind()["claims"][0] == 1
    assert claimed(store) == {(artifact, "ada"), (other, "ada")}
    assert swept(store, hours=25).by_kind()["claims"][0] == 1
    assert claimed(store) == {(other, "ada")}


@pytest.mark.parametrize(
    ("result", "goes"),
    [(None, False), ({"error": {"code": 1}}, False), ({"schema": 99}, False), ({"target": f"adapters/{ID}"}, True)],
    ids=["goes on", "failed", "of a newer version", "succeeded"],
)
def test_a_claim_of_what_an_operation_has_not_made_stays(
    result: dict[str, Any] | None, goes: bool, store: MemoryObjectStore
) -> None:
    artifact = ArtifactName(ADAPTERS, ID)
    record = records.OperationRecord(OperationName("adapter-training", ID), ADAPTERS, str(artifact), {}, records.now())
    records.write_record(store, record)
    if result is not None:
        schema = {"schema": records.SCHEMA, "attempt": record.attempt, "end_time": records.now()}
        store.put_json(f"{record.name}/result.json", schema | result)
    owners.claim(store, artifact, "ada")
    assert len(swept(store, hours=25).keys) == goes
    assert (claimed(store) == set()) is goes


def test_a_claim_that_is_made_again_just_before_it_would_go_stays(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(ADAPTERS, ID)
    owners.claim(store, artifact, "ada")
    for key in store.keys:
        store.set_modify_time(key, datetime.now(UTC) - timedelta(days=90))
    sweeping = _Sweep(store, SETTINGS, lambda: datetime.now(UTC))
    [found] = sweeping.claims()
    owners.claim(store, artifact, "ada")
    assert not sweeping.withdraw(found)
    assert claimed(store) == {(artifact, "ada")}


class Meanwhile(MemoryObjectStore):
    """Something else happens just before the first call of one kind."""

    def before(self, call: str, action: Callable[[], object]) -> None:
        def first(*arguments: Any, **keywords: Any) -> Any:
            delattr(self, call)
            action()
            return getattr(self, call)(*arguments, **keywords)

        setattr(self, call, first)


def test_a_writer_whose_payload_was_swept_does_its_work_again(store: MemoryObjectStore) -> None:
    artifact = ArtifactName(TRIALS, ID)
    payload = write_payload(store, artifact, "data.bin", b"data")
    assert len(swept(store, hours=25).keys) == 1
    with pytest.raises(Unavailable):
        write_manifest(store, Manifest(artifact, {}, {}, 1, (payload,), software={}))
    assert find_manifest(store, artifact) is None


def test_a_writer_takes_back_what_a_sweep_took_since_it_looked() -> None:
    store = Meanwhile.created()
    taken: list[Swept] = []
    soon = datetime.now(UTC) + timedelta(minutes=30)
    store.before("put_if", lambda: taken.append(sweep(store, SweepSettings(grace_hours=0), lambda: soon)))
    manifest = finished(store, ArtifactName(TRIALS, ID))
    assert len(taken[0].keys) == 1
    assert read_payload(store, manifest, "data.bin") == b"data"


def test_a_sweep_puts_back_what_a_writer_named_since_it_looked() -> None:
    store = Meanwhile.created()
    artifact = ArtifactName(TRIALS, ID)
    write_payload(store, artifact, "data.bin", b"data")
    store.before("copy", lambda: finished(store, artifact))
    assert swept(store, hours=25).keys == ()
    manifest = find_manifest(store, artifact)
    assert manifest is not None
    assert read_payload(store, manifest, "data.bin") == b"data"


def test_a_front_end_counts_what_it_swept_and_outlives_a_sweep_that_fails(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    orphan(store, ArtifactName(TRIALS, ID))
    before = metrics.SWEPT_BYTES._value.get()
    sweep_and_log(store, SweepSettings(grace_hours=-1))
    assert metrics.SWEPT_BYTES._value.get() == before + 6
    assert "swept 1 objects of 6 bytes" in caplog.text
    for error in (Unavailable("it is down", reason="OBJECT_STORAGE_UNAVAILABLE"), KeyError("a fault of ours")):
        monkeypatch.setattr(MemoryObjectStore, "list", lambda *a, error=error: (_ for _ in ()).throw(error))
        sweep_and_log(store, SETTINGS)
    assert "it is down" in caplog.text
    assert "a fault of ours" in caplog.text


def test_the_periods_are_settings() -> None:
    assert sweep_settings({}) == SweepSettings()
    given = {
        "SYNTHMIX_SWEEP_GRACE_HOURS": "1.5",
        "SYNTHMIX_SWEEP_UPLOAD_HOURS": "2",
        "SYNTHMIX_SWEEP_LAID_ASIDE_HOURS": "0.2",
    }
    assert sweep_settings(given) == SweepSettings(grace_hours=1.5, upload_hours=2, laid_aside_hours=0.2)
    with pytest.raises(FailedPrecondition, match="SYNTHMIX_SWEEP_CHECKPOINT_HOURS"):
        sweep_settings({"SYNTHMIX_SWEEP_CHECKPOINT_HOURS": "a month"})
