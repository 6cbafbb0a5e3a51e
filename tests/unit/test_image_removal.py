"""Removing images from a dataset: what is left is what an import of the others makes, and nothing of them stays."""

import asyncio
import contextvars
import dataclasses
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.longrunning.operations_pb2 import CancelOperationRequest

from image_archives import dataset, plates
from imported_image_sets import import_here, imported, saw
from memory_object_store import MemoryObjectStore
from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data import image_table
from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_data.import_bounds import import_bounds
from synthmix.service_kit import open_operations, owners
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest, write_payload
from synthmix.service_kit.environment import STUDY_CONTROL, sweep_settings
from synthmix.service_kit.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SynthMixError,
    Unavailable,
)
from synthmix.service_kit.operation_calls import result_of
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.requesters import LOCAL, Requester, current_requester, set_requester
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.service_kit.sweep import sweep
from synthmix.study_control import datasets, image_removal
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.dataset_service import DatasetService
from synthmix.study_control.image_import import import_operation

pytestmark = pytest.mark.usefixtures("own_cache")

WITHDRAWN = "alpha/plate-1_0.png"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five images each: 24 images have five shards."""
    monkeypatch.setattr(image_table, "SHARD_ROWS", 5)


class Started:
    """Takes the place of the service's operations: keeps what is started, and does it when it is told to."""

    def __init__(self, store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch):
        self.store, self.records = store, []
        monkeypatch.setattr(image_removal, "open_object_store", lambda: store)

    async def start(self, operation_id: str, kind: str, target: str, request: dict[str, Any]) -> Any:
        name = OperationName(STUDY_CONTROL, operation_id)
        record = records.OperationRecord(
            name, kind, target, request, records.now(), requested_by=current_requester(), request_id="r-7"
        )
        records.write_record(self.store, record)
        self.records.append(record)
        return None

    def do(self) -> ArtifactName:
        """As a host does the latest, with its task in this process."""
        record = self.records[-1]
        context: Any = OperationContext(self.store, record)
        reported: list[tuple[int, int]] = []

        def run_tasks(function: str, arguments: Sequence[dict[str, Any]]) -> list[Any]:
            assert function == "synthmix.study_control.image_removal:write_reduced"
            done = [
                image_removal.write_reduced(**item, report=lambda *steps: reported.append(steps), threads=1)
                for item in arguments
            ]
            assert all(steps == total for steps, total in reported[-1:])
            return done

        context.run_tasks = run_tasks
        left = import_operation.run(context)
        records.write_success(self.store, record, str(left))
        return left


@pytest.fixture
def started(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(store, monkeypatch)


def ask(started: Started, name: str = "cells", **request: Any) -> Any:
    service = DatasetService(started.store, started, import_bounds())  # type: ignore[arg-type]
    message = datasets_pb2.DeleteDatasetImagesRequest(name=f"datasets/{name}", **request)
    return asyncio.run(service.DeleteDatasetImages(message, None))  # type: ignore[arg-type]


def removed(started: Started, **request: Any) -> Manifest:
    ask(started, **request)
    return read_manifest(started.store, started.do())


def named(store: MemoryObjectStore, folder: Path, *names: str, files: dict[str, bytes] | None = None) -> Manifest:
    manifest = dataset(store, folder, files)
    for name in names or ("cells",):
        account = {
            "warnings": ["the folder 'gamma' is not a class"],
            "left_out": [{"folder": "gamma", "reason": "NOT_AN_IMAGE", "count": 1, "examples": ["gamma/patient.txt"]}],
            "has_manifest": False,
        }
        datasets.claim_name(store, LOCAL, name, manifest.name, account=account, replace=False)
    return manifest


def contents(store: MemoryObjectStore, manifest: Manifest) -> list[tuple[Any, ...]]:
    index = read_index(store, manifest)
    rows = [tuple(row.values()) for row in index.drop_columns(["shard", "row"]).to_pylist()]
    images = [data for _, data in read_images(store, manifest, range(len(rows)))]
    return list(zip(rows, images, strict=True))


def everything(store: MemoryObjectStore) -> bytes:
    return b"".join(store.get_bytes(key) for key in store.keys)


def test_what_is_left_is_what_an_import_of_the_others_makes(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    files = plates()
    old = named(store, tmp_path, files=files)
    left = removed(started, images=[WITHDRAWN])
    elsewhere = MemoryObjectStore.created()
    (tmp_path / "other").mkdir()
    expected = dataset(elsewhere, tmp_path / "other", {name: data for name, data in files.items() if name != WITHDRAWN})
    assert (left.name, left.request) == (expected.name, expected.request)
    assert contents(store, left) == contents(elsewhere, expected)
    for key in ("image_count", "group_count", "class_counts", "group_rule", "white_level"):
        assert left.summary[key] == expected.summary[key]
    assert find_manifest(store, old.name) is None
    assert datasets.get_dataset(store, "cells", owner=LOCAL).name == str(left.name)


def test_every_name_passes_on_with_its_account_and_without_paths(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    named(store, tmp_path, "cells", "nuclei")
    left = removed(started, images=[WITHDRAWN])
    shown = datasets.get_dataset(store, "nuclei", owner=LOCAL)
    assert list(shown.display_names) == ["cells", "nuclei"]
    assert shown.name == str(left.name)
    [row] = shown.left_out
    assert (row.folder, row.count, list(row.examples)) == ("gamma", 1, [])
    assert b"patient.txt" not in everything(store)


@pytest.mark.parametrize("by", ["path", "sha256", "group"])
def test_images_are_named_by_path_sha256_or_group(
    by: str, store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    old = named(store, tmp_path)
    index = read_index(store, old).to_pylist()
    of_group = [row for row in index if row["group"] == "plate-1"]
    request = {
        "path": {"images": [row["path"] for row in of_group]},
        "sha256": {"images": [row["sha256"] for row in of_group]},
        "group": {"groups": ["plate-1"]},
    }[by]
    left = removed(started, **request)
    assert [row["path"] for row in read_index(store, left).to_pylist()] == [
        row["path"] for row in index if row not in of_group
    ]
    assert left.summary["group_count"] == 5


def test_shards_that_lose_nothing_are_copied(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    old = named(store, tmp_path)
    left = removed(started, images=[row["path"] for row in read_index(store, old).to_pylist()[5:11]])
    sha256s = {item.name: item.sha256 for item in old.payloads}
    assert [item.name for item in left.payloads] == [
        *(f"images-0000{number}.parquet" for number in range(4)),
        "index.parquet",
    ]
    copied = {0: "images-00000.parquet", 2: "images-00003.parquet", 3: "images-00004.parquet"}
    for number, name in copied.items():
        assert left.payloads[number].sha256 == sha256s[name]
    assert len(contents(store, left)) == 18


def test_imported_images_whose_generator_saw_one_go_with_it(
    store: MemoryObjectStore, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they refer to no data set, but to the sha256 of the image's file."""
    import_here(store, monkeypatch)
    old = named(store, tmp_path)
    of = {row["path"]: row["sha256"] for row in read_index(store, old).to_pylist()}
    image_set = imported(store, seen=saw(store, of[WITHDRAWN]))
    other = imported(store, seen=saw(store, of["beta/plate-1_0.png"]))
    with pytest.raises(FailedPrecondition, match="were seen by the generators of imported image sets") as caught:
        ask(started, images=[WITHDRAWN])
    assert caught.value.reason == "STILL_REFERENCED" and str(image_set.name) in caught.value.message
    assert not started.records
    removed(started, images=[WITHDRAWN], force=True)
    assert find_manifest(store, image_set.name) is None
    assert find_manifest(store, other.name) is not None
    assert find_manifest(store, old.name) is None


def test_images_that_are_imported_while_one_is_removed_are_not_passed_over(
    store: MemoryObjectStore, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_here(store, monkeypatch)
    old = named(store, tmp_path)
    [sha256] = [row["sha256"] for row in read_index(store, old).to_pylist() if row["path"] == WITHDRAWN]
    ask(started, images=[WITHDRAWN])
    image_set = imported(store, seen=saw(store, sha256))
    with pytest.raises(FailedPrecondition, match="was imported since the removal was asked for"):
        started.do()
    assert find_manifest(store, old.name) is not None and find_manifest(store, image_set.name) is not None


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        ({}, InvalidArgument, "name images by path or sha256, or groups"),
        ({"images": ["alpha/none.png", WITHDRAWN]}, InvalidArgument, "alpha/none.png"),
        (
            {"images": ["0" * 64]},
            InvalidArgument,
            "give each by its path in the dataset, such as 'alpha/plate-0_0.png'",
        ),
        ({"groups": ["plate-77"]}, InvalidArgument, "such as 'plate-0'"),
        ({"groups": [f"plate-{number}" for number in range(6)]}, FailedPrecondition, "would be left with 0 images"),
        (
            {"images": [f"alpha/plate-{plate}_{number}.png" for plate in range(6) for number in range(2)]},
            FailedPrecondition,
            "12 images of beta, and a dataset has at least 2 classes; delete it",
        ),
    ],
)
def test_what_cannot_be_removed_is_refused(
    request_: dict[str, Any],
    error: type[SynthMixError],
    said: str,
    store: MemoryObjectStore,
    started: Started,
    tmp_path: Path,
) -> None:
    named(store, tmp_path)
    before = store.keys
    with pytest.raises(error, match=re.escape(said)):
        ask(started, **request_)
    assert (started.records, store.keys) == ([], before)


def adapter_of(store: MemoryObjectStore, split: str) -> ArtifactName:
    name = ArtifactName(ADAPTERS, "a" * 32)
    train = read_manifest(store, ArtifactName.parse(split, field="split")).summary["parts"]["train"]["digest"]
    payload = write_payload(store, name, "weights.safetensors", b"learnt from alpha")
    write_manifest(store, Manifest(name, {"train_split": train}, {}, 1, (payload,), {}, software={}))
    return name


def test_what_was_made_from_it_is_named_and_goes_with_cascade_alone(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    old = named(store, tmp_path)
    split = datasets.create_split(store, datasets_pb2.Split(dataset="cells"), owner=LOCAL).name
    adapter = adapter_of(store, split)
    with pytest.raises(FailedPrecondition, match=f"still used by what was made from it(.|\n)*{adapter}") as raised:
        ask(started, images=[WITHDRAWN])
    assert raised.value.reason == "STILL_REFERENCED"
    assert find_manifest(store, old.name) is not None
    removed(started, images=[WITHDRAWN], force=True)
    for name in (old.name, adapter, ArtifactName.parse(split, field="split")):
        assert find_manifest(store, name) is None, name


def test_what_trainings_had_learnt_goes_as_well(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    """Of one that was cancelled on the way there is no adapter, and a checkpoint for a month."""
    named(store, tmp_path)
    split = datasets.create_split(store, datasets_pb2.Split(dataset="cells"), owner=LOCAL).name
    train = read_manifest(store, ArtifactName.parse(split, field="split")).summary["parts"]["train"]["digest"]
    adapter = adapter_of(store, split)
    keys = {}
    for letter, service, request in (
        ("c", "adapter-training", {"train_split": train}),
        ("d", "image-synthesis", {"adapter": adapter.id}),
        ("e", "adapter-training", {"train_split": "9" * 32}),
    ):
        name = OperationName(service, letter * 32)
        record = records.OperationRecord(name, ADAPTERS, "", request, records.now())
        records.write_record(store, record)
        records.write_failure(store, record, Cancelled("stopped", reason="CANCELLED"))
        keys[letter] = f"{name.checkpoints}000000000320.safetensors"
        store.put_bytes(keys[letter], b"learnt")
    removed(started, images=[WITHDRAWN], force=True)
    assert {letter for letter, key in keys.items() if store.stat(key)} == {"e"}, "another dataset's stays"


def test_a_plan_changes_nothing(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    named(store, tmp_path)
    before = store.keys
    planned = result_of(ask(started, images=[WITHDRAWN], validate_only=True), datasets_pb2.Dataset)
    assert (started.records, store.keys) == ([], before)
    assert (planned.image_count, planned.group_count) == (23, 6)
    assert planned.name == str(removed(started, images=[WITHDRAWN]).name)


def bytes_left(store: MemoryObjectStore, hours: float) -> bool:
    """Whether the withdrawn image is anywhere in object storage after a sweep so many hours from now."""
    sweep(store, sweep_settings(), lambda: datetime.now(UTC) + timedelta(hours=hours))
    return plates()[WITHDRAWN] in everything(store)


def test_files_go_after_the_grace_period(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    named(store, tmp_path)
    removed(started, images=[WITHDRAWN])
    assert bytes_left(store, hours=23)
    assert not bytes_left(store, hours=25)


def test_files_go_at_once_if_that_is_asked_for(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    old = named(store, tmp_path)
    left = removed(started, images=[WITHDRAWN], skip_grace_period=True)
    assert not list(store.list(f"{old.name}/"))
    assert bytes_left(store, hours=0.5), "laid aside for an hour, for whoever is writing the same"
    assert not bytes_left(store, hours=2)
    assert len(contents(store, left)) == 23


def test_nothing_else_loses_its_grace_period(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    named(store, tmp_path)
    kept = write_payload(store, ArtifactName(ADAPTERS, "b" * 32), "weights", b"being made")
    removed(started, images=[WITHDRAWN], skip_grace_period=True)
    assert store.stat(f"adapters/{'b' * 32}/{kept.sha256}")


@pytest.mark.parametrize("stage", ["delete", "datasets.pass_names_on", "datasets.forget_imports", "sweep"])
def test_an_interrupted_removal_goes_on(
    stage: str, store: MemoryObjectStore, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = named(store, tmp_path)
    ask(started, images=[WITHDRAWN], skip_grace_period=True)

    def die(*arguments: Any, **keywords: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(f"synthmix.study_control.image_removal.{stage}", die)
        started.do()
    left = started.do()
    assert datasets.get_dataset(store, "cells", owner=LOCAL).name == str(left)
    assert find_manifest(store, old.name) is None
    assert not bytes_left(store, hours=2)


def test_a_removal_of_a_dataset_that_was_imported_again_is_another_one(
    store: MemoryObjectStore, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = named(store, tmp_path)
    left = removed(started, images=[WITHDRAWN])
    manifest = dataset(store, tmp_path)
    assert manifest.name == old.name
    key = f"{old.name}/manifest.json"
    store.put_json(key, store.get_json(key) | {"create_time": "2027-01-01T00:00:00Z"})
    ask(started, name=old.name.id, images=[WITHDRAWN])
    first, second = started.records
    assert first.name != second.name
    assert started.do() == left.name
    assert find_manifest(store, old.name) is None


def test_the_same_removal_asked_for_twice_is_one(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    named(store, tmp_path)
    for _ in range(2):  # the first one has not ended, and does not keep the second from being asked for
        ask(started, images=[WITHDRAWN])
    first, second = started.records
    assert first.name == second.name


def test_the_upload_and_its_account_go(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    old = named(store, tmp_path)
    upload = f"uploads/{'e' * 64}"
    store.put_bytes(upload, b"a ZIP of all images")
    name = OperationName(STUDY_CONTROL, "c" * 32)
    record = records.OperationRecord(name, "datasets", "", {"request": {"upload": "e" * 64}}, records.now())
    records.write_record(store, record)
    records.write_success(store, record, str(old.name))
    datasets.write_account(store, name.id, {"left_out": []})
    removed(started, images=[WITHDRAWN])
    assert not [key for key in store.keys if key.startswith(("uploads/", "dataset-accounts/"))]


def test_a_removed_dataset_is_not_found_any_more(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    old = named(store, tmp_path)
    removed(started, images=[WITHDRAWN])
    with pytest.raises(NotFound):
        ask(started, name=old.name.id, images=[WITHDRAWN])
    with pytest.raises(InvalidArgument, match="are not of"):
        ask(started, images=[WITHDRAWN])


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_sweep_that_is_asked_for_says_what_it_took(
    dry_run: bool, store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHMIX_SWEEP_GRACE_HOURS", "0")
    monkeypatch.setenv("SYNTHMIX_SWEEP_UPLOAD_HOURS", "0")
    for letter in "ab":
        write_payload(store, ArtifactName(ADAPTERS, letter * 32), "weights", b"orphan")
    store.put_bytes(f"uploads/{'e' * 64}", b"upload")
    service = ArtifactService(store, import_bounds())
    answer = asyncio.run(service.Sweep(artifacts_pb2.SweepRequest(validate_only=dry_run), None))  # type: ignore[arg-type]
    assert [(item.kind, item.count, item.size_bytes) for item in answer.swept] == [
        ("adapters", 2, 12),
        ("uploads", 1, 6),
    ]
    assert bool(list(store.list("adapters/"))) == bool(list(store.list("uploads/"))) == dry_run


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    texts = [item.getMessage() for item in caplog.records if item.name == "synthmix.service_kit.audit"]
    caplog.clear()
    return [json.loads(text.removeprefix("audit ")) for text in texts]


def test_what_the_host_deletes_is_in_the_audit_for_who_asked_for_it(
    store: MemoryObjectStore, started: Started, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "synthmix.service_kit.audit")
    manifest = named(store, tmp_path)
    owners.claim(store, manifest.name, "ada")
    ask_as(started, "ada", images=[WITHDRAWN])
    operation = str(started.records[-1].name)
    asked = {"caller": "ada", "operation": operation, "request_id": "r-7", "resource": str(manifest.name)}
    owners.claim(store, manifest.name, "bob")
    with pytest.raises(PermissionDenied):
        started.do()
    assert audited(caplog) == [asked | {"code": "PERMISSION_DENIED"}]
    owners.withdraw(store, manifest.name, ["bob"])
    started.do()
    [line] = audited(caplog)
    assert line == asked | {"code": "OK", "deleted": [str(manifest.name)], "deleted_count": 1}
    started.do()
    assert audited(caplog) == [], "done again, it deletes nothing"


def test_a_dataset_of_others_loses_images_by_an_administrator_alone(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    """They go for all who asked for the dataset; what is left is theirs, by their names."""
    manifest = named(store, tmp_path)
    for owner in ("ada", "bob"):
        owners.claim(store, manifest.name, owner)
    datasets.claim_name(store, "bob", "nuclei", manifest.name, account=None, replace=False)

    for nobody in ("ada", "eve"):
        with pytest.raises(PermissionDenied) as refused:
            ask_as(started, nobody, name=manifest.name.id, images=[WITHDRAWN])
        assert refused.value.reason == "NOT_OWNER" and "bob" in refused.value.message
        assert started.records == []
    ask_as(started, "ada", True, name=manifest.name.id, images=[WITHDRAWN])
    left = started.do()
    assert find_manifest(store, manifest.name) is None
    assert owners.owners_of(store, left) >= {"ada", "bob"}
    assert datasets.get_dataset(store, "nuclei", owner="bob").name == str(left)


def ask_as(started: Started, owner: str, administers: bool = False, **request: Any) -> None:
    def ask_now() -> None:
        set_requester(Requester(owner))
        owners.set_administration(owners.Fixed(administers))
        ask(started, **request)

    contextvars.copy_context().run(ask_now)


def asked_for(store: MemoryObjectStore, started: Started, folder: Path) -> Manifest:
    """A dataset of LOCAL's, who has asked for a removal that is still to be done."""
    manifest = named(store, folder)
    owners.claim(store, manifest.name, LOCAL)
    ask_as(started, LOCAL, images=[WITHDRAWN])
    return manifest


def test_who_asks_for_the_dataset_meanwhile_keeps_it(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    """The rights are those of the moment in which it is deleted, and not of the request."""
    manifest = asked_for(store, started, tmp_path)
    owners.claim(store, manifest.name, "bob")
    datasets.claim_name(store, "bob", "nuclei", manifest.name, account=None, replace=False)
    with pytest.raises(PermissionDenied, match="belongs to bob as well as to you"):
        started.do()
    assert find_manifest(store, manifest.name) is not None
    assert datasets.get_dataset(store, "nuclei", owner="bob").name == str(manifest.name)


def test_a_claim_in_the_middle_of_the_deletion_has_it_done_again(
    store: MemoryObjectStore, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = asked_for(store, started, tmp_path)
    delete = store.delete

    def claimed_after(key: str) -> None:
        delete(key)
        if key == f"{manifest.name}/manifest.json":
            owners.claim(store, manifest.name, "bob")

    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", claimed_after)
        with pytest.raises(Unavailable, match="was asked for while it was deleted"):
            started.do()
    assert find_manifest(store, manifest.name) is not None
    assert datasets.get_dataset(store, "cells", owner=LOCAL).name == str(manifest.name), "no name has moved"


def test_a_removal_that_goes_on_leaves_what_was_imported_again(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    old = asked_for(store, started, tmp_path)
    started.do()
    again = write_manifest(store, dataclasses.replace(old, create_time="2031-01-01T00:00:00.000000+00:00"))
    owners.claim(store, again.name, "bob")
    datasets.claim_name(store, "bob", "nuclei", again.name, account=None, replace=False)
    started.do()
    assert find_manifest(store, again.name) is not None
    assert datasets.get_dataset(store, "nuclei", owner="bob").name == str(again.name)


def test_a_damaged_name_or_record_keeps_no_removal_from_ending(
    store: MemoryObjectStore, started: Started, tmp_path: Path
) -> None:
    named(store, tmp_path)
    store.put_bytes("dataset-names/broken/bG9jYWw.json", b"{")
    store.put_bytes(f"operations/study-control/{'b' * 32}/result.json", b"{")
    left = removed(started, images=[WITHDRAWN])
    assert datasets.get_dataset(store, "cells", owner=LOCAL).name == str(left.name)


def test_a_removal_is_its_requesters(store: MemoryObjectStore, started: Started, tmp_path: Path) -> None:
    """What it leaves may be another's, or nobody's yet."""
    named(store, tmp_path)
    ask_as(started, "ada", images=[WITHDRAWN])
    [record] = started.records
    assert record.request["is_requesters"] and record.requested_by.owner == "ada"
    operations = Operations(STUDY_CONTROL, store, None, {}, lambda name, request: None)  # type: ignore[arg-type,return-value]
    for user, may in (("eve", False), ("ada", True)):

        def cancel(user: str = user) -> None:
            set_requester(Requester(user))
            owners.set_administration(owners.Fixed(False))
            asyncio.run(operations.CancelOperation(CancelOperationRequest(name=str(record.name)), None))  # type: ignore[arg-type]

        if may:
            contextvars.copy_context().run(cancel)
        else:
            with pytest.raises(PermissionDenied, match="belongs to ada, and you are eve"):
                contextvars.copy_context().run(cancel)
        assert open_operations.cancellation_requested(store, record) == may
