"""The parts of `make soak` that decide: what is asked for and disturbed, what is excused, and what is a failure."""

import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.longrunning import operations_proto_pb2

from soak.callers import Caller, Ledger
from soak.catalogue import Request, dataset_names, requests_of, write_images
from soak.disturbances import AFTERMATH_SECONDS, Excuses
from soak.evidence import Account, differences
from soak.measures import MIB, ProcessMemory, anonymous_bytes, importing_workers, memory_of, taken_bytes, trend
from soak.results import Outcome, as_markdown
from soak.schedule import HANG_SECONDS, LASTING, Kind, schedule
from soak.stack import bounded_disk
from synthmix.service_kit.errors import (
    Cancelled,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    SynthMixError,
    Unavailable,
    to_status,
)
from synthmix.service_kit.object_store import ObjectInfo
from synthmix.service_kit.storage_space import storage_full

MODEL = Path("/models/tiny")
AWAY = Unavailable("object storage is away; try again")


def test_a_schedule_follows_from_its_seed() -> None:
    assert schedule(7, 120, 60) == schedule(7, 120, 60) != schedule(8, 120, 60)


def test_every_kind_comes_up_before_any_comes_again() -> None:
    planned = schedule(7, 120, 60)
    assert [item.at_s for item in planned] == [60.0 * number for number in range(1, 120)]
    for first in range(0, len(planned) - 5, 6):
        assert {item.kind for item in planned[first : first + 6]} == set(Kind)


def test_the_form_for_ci_has_every_kind() -> None:
    for seed in range(20):
        assert {item.kind for item in schedule(seed, 5, 45)} == set(Kind)


def test_what_lasts_ends_before_the_next_and_before_the_end() -> None:
    for minutes, every_s in ((5, 45), (120, 60), (10, 300)):
        planned = schedule(7, minutes, every_s)
        for item in planned:
            assert (item.seconds > 0) == (item.kind in LASTING)
            assert item.seconds <= min(HANG_SECONDS, every_s)
            assert item.at_s + item.seconds <= 60 * minutes


def test_a_kind_that_is_left_out_never_comes_up() -> None:
    kinds = [kind for kind in Kind if kind != Kind.DISK]
    assert {item.kind for item in schedule(7, 120, 60, kinds)} == set(kinds)


def test_requests_follow_from_the_seed_and_no_two_are_one_study() -> None:
    callers = [requests_of(7, caller, MODEL) for caller in range(8)]
    assert callers == [requests_of(7, caller, MODEL) for caller in range(8)]
    assert callers != [requests_of(8, caller, MODEL) for caller in range(8)]
    without_names = set()
    for request in itertools.chain(*callers):
        spec = type(request.spec)()
        spec.CopyFrom(request.spec)
        spec.name = ""
        without_names.add(spec.SerializeToString(deterministic=True))
    assert len(without_names) == sum(map(len, callers)) > 8 * 6
    assert {request.dataset for request in itertools.chain(*callers)} <= set(dataset_names(8))


def test_callers_want_the_same_trials_at_the_same_time() -> None:
    def grids(caller: int) -> set[tuple[str, bytes]]:
        found = set()
        for request in requests_of(7, caller, MODEL):
            spec = type(request.spec)()
            spec.CopyFrom(request.spec)
            spec.ClearField("name")
            spec.ClearField("claim")
            found.add((request.dataset, spec.SerializeToString(deterministic=True)))
        return found

    assert len(grids(0) & grids(1)) > 1


def test_a_dataset_has_the_same_images_each_time_and_none_of_another(tmp_path: Path) -> None:
    def images(folder: str, name: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(write_images(tmp_path / folder, name).rglob("*.png"))]

    assert images("a", "own-0") == images("b", "own-0")
    assert not set(images("a", "own-0")) & set(images("a", "own-1"))


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (AWAY, set(Kind)),
        (storage_full("object storage", ""), {Kind.DISK}),
        (ResourceExhausted("too many; wait", reason="TOO_MANY_OPERATIONS"), set()),
        (Internal("a defect"), set()),
        (NotFound("it is not there"), set()),
    ],
    ids=lambda value: value.reason if isinstance(value, SynthMixError) else "",
)
def test_what_a_disturbance_excuses(error: SynthMixError, kinds: set[Kind]) -> None:
    for kind in Kind:
        excuses = Excuses()
        assert not excuses.excuse(error, time.monotonic())
        disturbance = excuses.begin(kind)
        assert excuses.excuse(error, time.monotonic()) == (kind in kinds)
        disturbance.ended_s = time.monotonic()
        assert excuses.excuse(error, disturbance.ended_s + AFTERMATH_SECONDS - 1) == (kind in kinds)
        assert not excuses.excuse(error, disturbance.ended_s + AFTERMATH_SECONDS + 1)


def item(key: str, time_text: str) -> ObjectInfo:
    return ObjectInfo(key, 10, "", f"2026-11-29T{time_text}+00:00")


TRIAL, PAYLOAD = "trials/" + "a" * 32, "b" * 64
MADE = [item(f"{TRIAL}/{PAYLOAD}", "10:00:00"), item(f"{TRIAL}/manifest.json", "10:00:01")]


def test_what_is_finished_once_was_made_once() -> None:
    account = Account()
    for _ in range(3):
        account.add([*MADE, item("uploads/" + PAYLOAD, "11:00:00")])
    assert account.made() == {"trials": 1} and not account.again
    assert account.kept == {"trials": (2, 20), "uploads": (1, 10)}


def test_a_payload_that_was_written_after_its_manifest_was_made_again() -> None:
    account = Account()
    account.add(MADE)
    account.add([item(f"{TRIAL}/{PAYLOAD}", "10:05:00"), MADE[1]])
    [again] = account.again.values()
    assert again.key == f"{TRIAL}/{PAYLOAD}" and again.seconds == 299
    account.add([])  # deleted: what was done again was done again
    assert account.again


def test_what_was_deleted_and_made_anew_has_two_lives() -> None:
    account = Account()
    account.add(MADE)
    account.add([item(f"{TRIAL}/{PAYLOAD}", "10:05:00"), item(f"{TRIAL}/manifest.json", "10:05:00")])
    assert account.made() == {"trials": 2} and not account.again


def test_what_the_sweep_put_back_was_not_made_again() -> None:
    account = Account()
    account.add(
        [
            item(f"{TRIAL}/{PAYLOAD}", "10:05:00"),
            MADE[1],
            item(f"laid-aside/{TRIAL}/{PAYLOAD}", "10:04:59"),
        ]
    )
    assert not account.again


def test_differences_name_what_differs_and_what_is_missing() -> None:
    assert differences({"a": "1"}, {"a": "1"}) == []
    assert differences({"a": "1", "b": "2"}, {"a": "3", "c": "4"}) == [
        "a is 1 instead of 3",
        "b is 2 instead of missing",
        "c is missing instead of 4",
    ]


def samples(value: Callable[[float], float]) -> list[tuple[float, float]]:
    return [(float(at_s), value(at_s)) for at_s in range(0, 7200, 10)]


def test_what_is_killed_and_comes_back_is_flat() -> None:
    rng = random.Random(7)
    found = trend(samples(lambda at_s: (200 + 100 * (at_s % 360 / 360) + rng.uniform(0, 20)) * MIB), 7200)
    assert found.is_flat and abs(found.growth) < 20 * MIB


def test_a_leak_is_found_under_what_is_killed_and_comes_back() -> None:
    found = trend(samples(lambda at_s: (200 + 100 * (at_s % 360 / 360) + 80 * at_s / 3600) * MIB), 7200)
    assert not found.is_flat and 100 * MIB < found.growth < 140 * MIB


def test_the_largest_worker_is_measured_apart_from_all() -> None:
    processes = [
        ProcessMemory(role, pid, 1.0, bytes)
        for pid, (role, bytes) in enumerate([("workers", 3), ("workers", 5), ("hosts", 7)])
    ]
    found = memory_of([*processes, *workers([300])])
    large = 300 * MIB
    assert found == {
        "workers": 8 + large,
        "largest worker": large,
        "small workers": 8,
        "hosts": 7,
        "all but workers": 7,
        "all": 15 + large,
    }
    assert set(memory_of([]).values()) == {0}


def workers(sizes_mib: Sequence[int]) -> list[ProcessMemory]:
    return [ProcessMemory("workers", pid, 1.0, size * MIB) for pid, size in enumerate(sizes_mib)]


def test_workers_are_counted_that_have_imported_something() -> None:
    others = [ProcessMemory("hosts", 99, 1.0, 900 * MIB)]
    assert importing_workers([*workers([90, 40, 590, 610, 199]), *others]) == 2


def test_more_workers_than_there_is_use_for_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    as_many, more = workers([600] * 6 + [80]), workers([600] * 7)
    assert outcome(120, lambda at_s: 1.0, [as_many]).failures == []
    [failure] = outcome(120, lambda at_s: 1.0, [as_many, more, as_many]).failures
    assert failure.startswith("7 workers held") and failure.endswith("which are 6")


def test_the_first_quarter_is_warm_up() -> None:
    assert trend(samples(lambda at_s: min(at_s, 1700) * MIB), 7200).growth == 0


def test_a_trend_takes_samples() -> None:
    with pytest.raises(ValueError, match="no trend"):
        trend([(0.0, 1.0), (10.0, 1.0)], 7200)


def outcome(
    minutes: float, value: Callable[[float], float], processes: Sequence[Sequence[ProcessMemory]] = ()
) -> Outcome:
    return Outcome(
        seed=7,
        minutes=minutes,
        callers=8,
        every_s=60,
        left_out=[Kind.DISK],
        counts={"studies finished": 3},
        excused={"SERVICE_UNREACHABLE": 2},
        disturbances=[],
        durations_s=[2.0],
        compared=3,
        undisturbed_s=60.0,
        account=Account(),
        memory={"study-control": samples(value)},
        processes=[(float(number), found) for number, found in enumerate(processes)],
        disk={"logs": samples(lambda at_s: MIB)},
        failures=[],
    )


def test_memory_that_grows_fails_a_run_that_is_long_enough() -> None:
    leak = outcome(120, lambda at_s: at_s * MIB)
    [failure] = leak.failures
    assert failure.startswith("memory is not flat: that of study-control grew by 5")
    assert "**1 failure.**" in as_markdown(leak)
    assert outcome(120, lambda at_s: 100 * MIB).failures == []
    short = outcome(5, lambda at_s: at_s * MIB)
    assert short.failures == [] and "shown only" in as_markdown(short)
    assert "Left out: the disk is full." in as_markdown(short)


def test_memory_is_measured_and_a_process_that_ended_has_none() -> None:
    import subprocess

    assert anonymous_bytes(os.getpid()) > MIB
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert anonymous_bytes(process.pid) == 0


def test_the_disk_is_measured(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= taken_bytes(tmp_path) < 200_000


def test_a_large_disk_is_never_filled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("soak.stack.shutil.disk_usage", lambda path: SimpleNamespace(total=1 << 40))
    with pytest.raises(SystemExit, match="would be filled"), bounded_disk(tmp_path, print):
        pass


def test_a_study_that_is_made_again_must_be_the_same() -> None:
    ledger = Ledger()
    request = requests_of(7, 0, MODEL)[0]
    ledger.finish("studies/a", request, {"report.json": "1"}, 2.0)
    assert ledger.withdraw({"studies/a", "studies/b"}) == {"studies/a"} and not ledger.standing
    ledger.finish("studies/a", request, {"report.json": "1"}, 2.0)
    assert not ledger.failures and ledger.counts["studies finished"] == 2
    ledger.finish("studies/a", request, {"report.json": "2"}, 2.0)
    [failure] = ledger.failures
    assert "report.json is 2 instead of 1" in failure
    assert ledger.counts["studies finished"] == 2, "it was there already"


class FakeClient:
    """Answers in turn: an error is raised."""

    def __init__(self, **answers: list[Any]):
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any, **keywords: Any) -> Any:
            given = self._answers[name].pop(0)
            if isinstance(given, Exception):
                raise given
            return given

        return answer


def caller(client: FakeClient, monkeypatch: pytest.MonkeyPatch, *disturbances: Kind) -> tuple[Caller, Ledger, Request]:
    monkeypatch.setattr("soak.callers.PAUSES_SECONDS", (0.0, 0.0))
    excuses, ledger, [request] = Excuses(), Ledger(), requests_of(7, 0, MODEL, 1)
    for kind in disturbances:
        excuses.begin(kind)
    stopping: Any = SimpleNamespace(wait=lambda seconds: None)
    made: Any = (0, client, None, [request], Path("/images"), ledger, excuses, stopping, 7)
    return Caller(*made), ledger, request


def ended_with(error: SynthMixError) -> Any:
    return operations_proto_pb2.Operation(name="operations/study-control/a", done=True, error=to_status(error))


def test_a_caller_asks_again_what_a_disturbance_excuses(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(get_dataset=[AWAY, AWAY, object()], submit_study=[ended_with(Internal("a defect"))])
    asking, ledger, _ = caller(client, monkeypatch, Kind.SERVICE)
    with pytest.raises(Internal, match="a defect"):
        asking._run_study()
    assert ledger.excused == {AWAY.reason: 2}


def test_a_caller_asks_nothing_again_that_no_disturbance_excuses(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, _, _ = caller(FakeClient(get_dataset=[AWAY]), monkeypatch)
    with pytest.raises(Unavailable):
        asking._run_study()


def test_a_study_that_had_no_room_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    full = ended_with(storage_full("object storage", ""))
    client = FakeClient(get_dataset=[object()] * 2, submit_study=[full, ended_with(Internal("a defect"))])
    asking, ledger, _ = caller(client, monkeypatch, Kind.DISK)
    with pytest.raises(Internal, match="a defect"):
        asking._run_study()
    assert ledger.counts["studies that failed for want of room, and were asked for again"] == 1


def test_a_study_that_nobody_cancelled_and_that_ends_as_cancelled_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(get_dataset=[object()], submit_study=[ended_with(Cancelled("it was cancelled"))])
    asking, _, _ = caller(client, monkeypatch, Kind.SERVICE)
    with pytest.raises(Cancelled):
        asking._run_study()


def test_a_refused_deletion_leaves_the_study_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(delete_study=[FailedPrecondition("wait", reason="OPERATION_RUNNING")])
    asking, ledger, request = caller(client, monkeypatch)
    asking._finished["studies/a"] = request
    ledger.standing.add("studies/a")
    asking._delete_study()
    assert ledger.standing == {"studies/a"} and "studies/a" in asking._finished


def test_a_study_that_is_there_after_its_deletion_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, failures in ((NotFound("it is gone"), 0), (object(), 1)):
        asking, ledger, request = caller(FakeClient(delete_study=[object()], get_study=[answer]), monkeypatch)
        asking._finished["studies/a"] = request
        ledger.standing.add("studies/a")
        asking._delete_study()
        assert not ledger.standing and len(ledger.failures) == failures
