"""A sweep beside writers of one artifact, in every order of their calls, with a failure anywhere: nothing is lost."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from interleaving import Failure, run_interleaved
from memory_object_store import MemoryObjectStore
from synthmix.service_kit import owners, references, s3_object_store
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_payload, write_manifest, write_payload
from synthmix.service_kit.environment import ADAPTER_TRAINING, SweepSettings
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import OperationRecord, now, write_record
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.service_kit.sweep import Swept, sweep

SCHEDULES = 1000
SCHEDULES_OF_A_SERVER = 40
LONGEST_SCHEDULE = 80
# Without any, a payload may be swept the moment it is written: what holds without a grace period holds with one.
NO_GRACE = SweepSettings(grace_hours=0)


def a_sweep(store: ObjectStore) -> Swept:
    return sweep(store, NO_GRACE, lambda: datetime.now(UTC) + timedelta(hours=NO_GRACE.laid_aside_hours / 2))


def writer_of(artifact: ArtifactName, who: int, calls_before: int) -> Callable[[ObjectStore], Manifest]:
    """Work that is done again if a payload of it was swept before the manifest was there."""

    def write(store: ObjectStore) -> Manifest:
        for _ in range(calls_before):  # so that it meets a sweep anywhere
            store.stat("elsewhere")
        while True:
            found = find_manifest(store, artifact)
            if found is not None:
                return found
            payloads = (
                write_payload(store, artifact, "same.bin", b"same"),
                write_payload(store, artifact, "own.bin", f"of writer {who}".encode()),
            )
            try:
                return write_manifest(store, Manifest(artifact, {}, {}, 1, payloads, software={}))
            except Unavailable as error:
                if error.reason != "PAYLOAD_GONE":
                    raise

    return write


def check_whole(store: ObjectStore, manifest: Manifest) -> None:
    for payload in manifest.payloads:
        read_payload(store, manifest, payload.name)


def test_no_finished_artifact_is_lost_to_sweeps(store: ObjectStore) -> None:
    failures = swept = 0
    schedules = SCHEDULES if isinstance(store, MemoryObjectStore) else SCHEDULES_OF_A_SERVER
    for seed in range(schedules):
        artifact = ArtifactName("trials", f"{seed:032x}")
        write_payload(store, artifact, "same.bin", b"same")  # as an earlier attempt has left it
        fail_at = random.Random(seed).randrange(1, LONGEST_SCHEDULE) if seed % 4 == 0 else None
        writers = [writer_of(artifact, who, (seed // 4 * (who + 1)) % 12) for who in range(2)]
        sweeps = [a_sweep] * (1 + seed % 3 // 2)
        results, _ = run_interleaved(store, [*writers, *sweeps], seed=seed, fail_at=fail_at)
        failed = sum(isinstance(result, Failure) for result in results)
        failures += failed
        swept += sum(len(result.keys) for result in results if isinstance(result, Swept))
        finished = [result for result in results if isinstance(result, Manifest)]
        assert finished, "one failure stops one writer"
        if not failed:
            check_whole(store, finished[0])
        a_sweep(store)  # puts right what a failure has interrupted
        for manifest in [*finished, writers[0](store), writers[1](store)]:
            assert manifest == finished[0]
        check_whole(store, finished[0])
        for prefix in (f"{artifact}/", "laid-aside/"):
            store.delete_prefix(prefix)
    assert failures > schedules // 16
    assert swept > schedules // 4


def asker(artifact: ArtifactName, calls_before: int, *, finds: bool) -> Callable[[ObjectStore], None]:
    """As a front end does that is asked for an artifact: it is there by then, or an operation is started for it."""

    def ask(store: ObjectStore) -> None:
        for _ in range(calls_before):
            store.stat("elsewhere")
        if finds:
            write_manifest(store, Manifest(artifact, {}, {}, 1, (), software={}))
        owners.claim(store, artifact, "ada")
        if find_manifest(store, artifact) is None:
            name = OperationName(ADAPTER_TRAINING, artifact.id)
            write_record(store, OperationRecord(name, ADAPTERS, str(artifact), {}, now()))
            owners.claim(store, artifact, "ada")

    return ask


def test_no_claim_is_lost_to_sweeps(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "READS_AT_ONCE", 1)  # a schedule is of one call at a time
    schedules = SCHEDULES if isinstance(store, MemoryObjectStore) else SCHEDULES_OF_A_SERVER
    withdrawn = 0
    for seed in range(schedules):
        artifact = ArtifactName(ADAPTERS, f"{seed:032x}")
        owners.claim(store, artifact, "ada")  # as a deletion that was interrupted has left it
        ask = asker(artifact, seed % 50, finds=seed % 2 == 0)
        results, _ = run_interleaved(store, [ask, a_sweep], seed=seed)
        withdrawn += isinstance(results[1], Swept) and bool(results[1].by_kind().get("claims"))
        assert owners.owners_of(store, artifact) == {"ada"}, f"seed {seed}"
        for prefix in (f"{artifact}/", owners.CLAIMS, "operations/", "laid-aside/"):
            store.delete_prefix(prefix)
    assert withdrawn > schedules // 20


def test_orphans_go_and_what_is_named_stays(store: ObjectStore) -> None:
    artifact = ArtifactName("trials", "a" * 32)
    named, orphan = (write_payload(store, artifact, name, name.encode()) for name in ("named.bin", "orphan.bin"))
    manifest = write_manifest(store, Manifest(artifact, {}, {}, 1, (named,), software={}))
    day = timedelta(days=1, minutes=5)
    assert sweep(store, SweepSettings()).keys == ()
    assert sweep(store, SweepSettings(), lambda: datetime.now(UTC) + day).keys == (f"{artifact}/{orphan.sha256}",)
    assert read_payload(store, manifest, "named.bin") == b"named.bin"
    assert store.stat(f"{artifact}/{orphan.sha256}") is None


@pytest.mark.parametrize("size", [0, 17 * 1024 * 1024])
def test_a_copy_holds_the_same_bytes(store: ObjectStore, size: int) -> None:
    store.put_bytes("copies/source", b"x" * size)
    store.copy("copies/source", "copies/target")
    assert store.get_bytes("copies/target") == b"x" * size


def test_a_large_object_is_copied_in_parts(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_object_store, "COPIED_AT_ONCE_BYTES", 5 << 20)
    data = random.Random(0).randbytes((12 << 20) + 7)
    store.put_bytes("copies/large", data)
    store.copy("copies/large", "copies/target")
    assert store.get_bytes("copies/target") == data
