"""A service's host without Ray: what runs, what waits, and that no operation's fault is another's."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fake_backend import FakeBackend
from memory_object_store import MemoryObjectStore
from synthmix.service_kit import errors, open_operations, operation_host
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import IMAGE_SYNTHESIS, OperationLimits
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_host import MOST_DEATHS, Observer, OperationHost
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.task_pool import TaskPool
from waiting import wait_until

KIND = "image-sets"
FUNCTIONS = {KIND: "test_operation_host:behave"}

# By what an operation's request says, what its function does.
BEHAVIOURS: dict[str, Callable[[OperationContext], str]] = {}
RUNS: Counter[str] = Counter()


def behave(context: OperationContext) -> str:
    how = context.record.request["how"]
    RUNS[context.record.name.id] += 1
    return BEHAVIOURS[how](context)


def wait_for_the_end(context: OperationContext) -> str:
    while True:
        context.sleep(0.02)


def end_at_once(context: OperationContext) -> str:
    context.update(done=1, total=1)
    return f"image-sets/{context.record.name.id}"


@pytest.fixture(autouse=True)
def behaviours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    RUNS.clear()
    BEHAVIOURS.update(end=end_at_once, wait=wait_for_the_end)
    monkeypatch.setattr(operation_host, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(operation_host, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(operation_host, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(operation_host, "PROGRESS_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(operation_host, "QUEUE_INTERVAL_SECONDS", 0.0)
    yield
    BEHAVIOURS.clear()


@pytest.fixture
def hosts() -> Iterator[Callable[..., OperationHost]]:
    """Starts hosts that leave when the test ends."""
    started: list[OperationHost] = []

    def start(store: MemoryObjectStore, limits: OperationLimits | None = None, **more: Any) -> OperationHost:
        host = OperationHost(IMAGE_SYNTHESIS, store, FUNCTIONS, None, limits or OperationLimits(), **more)
        host.start()
        started.append(host)
        return host

    yield start
    for host in started:
        host.leave()


def counts(**some: int) -> dict[str, int]:
    return {"running": 0, "waiting": 0, "queued": 0, "unreadable": 0} | some


def submit(
    store: MemoryObjectStore, number: int, how: str = "end", owner: str = "local", study: str = ""
) -> records.OperationRecord:
    name = OperationName(IMAGE_SYNTHESIS, f"{number:032x}")
    time_text = f"2026-01-01T00:00:{number // 1000:02d}.{number % 1000:03d}Z"
    record = records.OperationRecord(
        name, KIND, f"image-sets/{number:032x}", {"how": how}, time_text, requested_by=Requester(owner, study)
    )
    open_operations.add(store, record)
    records.write_record(store, record)
    return record


def result_of(store: MemoryObjectStore, record: records.OperationRecord) -> dict[str, Any]:
    wait_until(lambda: records.find_result(store, record) is not None, f"the end of {record.name}", 10, poll_s=0.01)
    wait_until(lambda: record.name not in open_operations.names(store, IMAGE_SYNTHESIS), "its closing", 10, poll_s=0.01)
    result = records.find_result(store, record)
    assert result is not None
    return result


def error_of(store: MemoryObjectStore, record: records.OperationRecord) -> errors.SynthMixError:
    return errors.from_json(result_of(store, record)["error"])


def state_of(store: MemoryObjectStore, record: records.OperationRecord) -> str:
    return records.state_of(records.find_progress(store, record), records.find_result(store, record))


def test_what_is_open_is_done_and_closed(store: MemoryObjectStore, hosts: Callable[..., OperationHost]) -> None:
    ended: list[str] = []
    submitted = [submit(store, number) for number in range(20)]
    host = hosts(store, observer=Observer(ended=ended.append))
    for record in submitted:
        assert result_of(store, record)["target"] == record.target
    late = submit(store, 20)
    host.wake()
    assert result_of(store, late)["target"] == late.target
    wait_until(lambda: host.counts() == counts(), "the host's rest", 5)
    assert ended == ["succeeded"] * 21
    assert set(RUNS.values()) == {1}


def test_what_waits_for_others_is_not_said_to_run(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    """An evaluation may wait for image sets for hours, and an alert is raised where what runs makes no progress."""
    made = threading.Event()

    def wait_for_others(context: OperationContext) -> str:
        context.waits = True
        while not made.is_set():
            context.sleep(0.02)
        context.waits = False
        return wait_for_the_end(context)

    BEHAVIOURS["others"] = wait_for_others
    host = hosts(store)
    record, other = submit(store, 0, "others"), submit(store, 1, "wait")
    wait_until(lambda: host.counts() == counts(running=1, waiting=1), "one that waits", 5)
    wait_until(lambda: state_of(store, record) == "STATE_QUEUED", "its being shown", 5)
    assert state_of(store, other) == "STATE_RUNNING"
    made.set()
    wait_until(lambda: host.counts()["running"] == 2 and state_of(store, record) == "STATE_RUNNING", "both at work", 5)


def test_what_has_succeeded_shows_its_full_count(store: MemoryObjectStore, hosts: Callable[..., OperationHost]) -> None:
    """Also where a single task reported it, as an import does: what a task reports counts until it ends."""

    def tell_the_total_alone(context: OperationContext) -> str:
        context.update(total=720, unit="steps")
        return end_at_once_without_a_count(context)

    def end_at_once_without_a_count(context: OperationContext) -> str:
        return f"image-sets/{context.record.name.id}"

    def fail(context: OperationContext) -> str:
        context.update(done=3, total=720)
        raise errors.FailedPrecondition("no", reason="NO")

    BEHAVIOURS.update(tell=tell_the_total_alone, silent=end_at_once_without_a_count, fail=fail)
    hosts(store)
    for number, (how, done, total) in enumerate([("tell", 720, 720), ("silent", 0, 0), ("fail", 3, 720)]):
        record = submit(store, number, how)
        result_of(store, record)
        progress = records.find_progress(store, record)
        assert progress is not None
        assert (progress["done"], progress["total"]) == (done, total), how


def test_only_so_many_run_at_once_and_the_others_are_said_to_wait(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    submitted = [submit(store, number, "wait") for number in range(6)]
    host = hosts(store, OperationLimits(at_once=4, at_once_each=2))
    wait_until(lambda: host.counts() == counts(running=2, queued=4), "two of one owner's", 5)
    submit(store, 7, "wait", owner="bob")
    wait_until(
        lambda: host.counts() == counts(running=3, queued=4),
        "another owner's besides",
        5,
    )
    assert [state_of(store, record) for record in submitted[:3]] == ["STATE_RUNNING"] * 2 + ["STATE_QUEUED"]
    wait_until(lambda: len(open_operations.read_queue(store, IMAGE_SYNTHESIS)) == 4, "the queue's being shown", 5)
    queue = open_operations.read_queue(store, IMAGE_SYNTHESIS)
    assert [queue[record.name] for record in submitted[2:]] == [0, 1, 2, 3]
    operation = records.read_operation(
        store,
        submitted[5],
        lambda *_: None,
        lambda: open_operations.said_of_queued(queue[submitted[5].name]),  # type: ignore[arg-type,return-value]
    )
    metadata = records.OperationMetadata()
    operation.metadata.Unpack(metadata)
    assert metadata.message == "queued: 3 operations are before it"


def test_what_waits_for_a_worker_is_queued(store: MemoryObjectStore) -> None:
    written: list[records.OperationMetadata] = []

    def work(context: OperationContext) -> str:
        written.append(metadata_of(context.record))
        context.update(message="training", total=10)
        context.run_tasks("module:function", [{}, {}])
        return "image-sets/x"

    def metadata_of(record: records.OperationRecord) -> records.OperationMetadata:
        metadata = records.OperationMetadata()
        records.read_operation(store, record, lambda *_: records.OperationMetadata()).metadata.Unpack(metadata)
        return metadata

    def is_shown(record: records.OperationRecord, state: str, message: str) -> None:
        wait_until(lambda: state_of(store, record) == state and metadata_of(record).message == message, state, 5)

    BEHAVIOURS["work"] = work
    backend = FakeBackend(slots=1)
    host = OperationHost(IMAGE_SYNTHESIS, store, FUNCTIONS, TaskPool(backend), OperationLimits())
    host.start()
    try:
        said, reported, ended = (submit(store, number, "work") for number in range(3))
        for record in (said, reported, ended):
            is_shown(record, "STATE_QUEUED", "waiting for a worker")
        assert {metadata.state for metadata in written} == {records.OperationMetadata(state="STATE_QUEUED").state}
        host.note_begun(str(said.name))
        is_shown(said, "STATE_RUNNING", "training")
        host.report(str(reported.name), 1, 5)
        is_shown(reported, "STATE_RUNNING", "training")
        assert metadata_of(reported).done == 5
        backend.end(call=next(call for call, _ in backend.running if call.operation == str(ended.name)))
        is_shown(ended, "STATE_RUNNING", "training")
    finally:
        host.leave()
    again = OperationContext(store, said, TaskPool(FakeBackend(slots=1)))
    again.resume()
    with again.tasks() as tasks:
        tasks.add("module:function", [{}])
        again.begin()
    assert metadata_of(said).state == records.OperationMetadata(state="STATE_RUNNING").state, "it had begun before"


def test_what_has_not_changed_is_not_written_again(store: MemoryObjectStore) -> None:
    record = submit(store, 1)
    context = OperationContext(store, record)

    def revision() -> int:
        context.write_progress()
        progress = records.find_progress(store, record)
        assert progress is not None
        return int(progress["revision"])

    steps = [{"display_name": "adapter", "done": 1}]
    context.update(message="training", steps=steps, warnings=[])
    first = revision()
    context.update(message="training", steps=[dict(step) for step in steps], warnings=[])
    assert revision() == first
    steps[0]["done"] = 2  # also of a list that was told before
    context.update(steps=steps)
    assert revision() == first + 1
    context.pause("training")
    assert revision() == first + 1, "it never worked"
    context.begin()
    context.pause("training")
    assert revision() == first + 3, "a host that stops to work says so, whatever else it has said"


def test_a_study_runs_while_its_report_waits_for_a_worker(store: MemoryObjectStore) -> None:
    record = submit(store, 1)
    context = OperationContext(store, record, TaskPool(FakeBackend(slots=1)))
    context.update(message="report", steps=[{"display_name": "grid", "state": "STATE_SUCCEEDED"}])
    with context.tasks() as tasks:
        tasks.add("module:function", [{}])
        context.begin()
        assert state_of(store, record) == "STATE_RUNNING"


def test_owners_and_their_studies_take_turns(store: MemoryObjectStore, hosts: Callable[..., OperationHost]) -> None:
    order: list[str] = []
    BEHAVIOURS["note"] = lambda context: (order.append(context.record.requested_by.study), "image-sets/x")[1]
    for number in range(6):
        submit(store, number, "note", owner="ada", study="large")
    submit(store, 10, "note", owner="ada", study="small")
    last = submit(store, 11, "note", owner="bob", study="other")
    hosts(store, OperationLimits(at_once=1, at_once_each=1))
    result_of(store, last)
    wait_until(lambda: len(order) == 8, "the end of all", 10)
    assert {"small", "other"} <= set(order[:3])


@pytest.mark.parametrize(
    "fault",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        MemoryError(),
        RecursionError("deep"),
        KeyError("x" * 10_000_000),
        errors.InvalidArgument("y" * 10_000_000, reason="R"),
        type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_no_operation_s_fault_is_another_s(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost], fault: BaseException, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SYNTHMIX_INCIDENTS_DIR", str(tmp_path))

    def fail(context: OperationContext) -> str:
        raise fault

    BEHAVIOURS["fail"] = fail
    good, bad = submit(store, 1, "wait"), submit(store, 2, "fail")
    host = hosts(store)
    error = error_of(store, bad)
    assert len(error.message) < 2000
    assert error.reason == ("R" if isinstance(fault, errors.SynthMixError) else "INTERNAL")
    wait_until(lambda: state_of(store, good) == "STATE_RUNNING", "the other one's running on", 5)
    wait_until(lambda: host.counts()["running"] == 1, "nothing else's running", 5)


def test_an_outage_delays_an_operation_and_does_not_fail_it(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    def fail_twice(context: OperationContext) -> str:
        if RUNS[context.record.name.id] < 3:
            raise errors.Unavailable("object storage does not answer", reason="OBJECT_STORAGE_UNAVAILABLE")
        return end_at_once(context)

    BEHAVIOURS["outage"] = fail_twice
    record = submit(store, 1, "outage")
    other = submit(store, 2)
    hosts(store)
    assert "error" not in result_of(store, other)
    wait_until(lambda: RUNS[record.name.id] > 1, "the second try", 5)
    assert "error" not in result_of(store, record)
    assert RUNS[record.name.id] == 3


def test_an_outage_is_said(store: MemoryObjectStore, hosts: Callable[..., OperationHost]) -> None:
    def fail(context: OperationContext) -> str:
        raise errors.Unavailable("the service does not answer", reason="SERVICE_UNREACHABLE")

    BEHAVIOURS["outage"] = fail
    record = submit(store, 1, "outage")
    hosts(store)

    def said() -> str:
        return str((records.find_progress(store, record) or {}).get("message"))

    wait_until(lambda: said() == "waiting: the service does not answer", "the message", 5)
    wait_until(lambda: RUNS[record.name.id] > 4, "more tries", 10)
    assert records.find_result(store, record) is None
    open_operations.request_cancellation(store, record)
    BEHAVIOURS["outage"] = wait_for_the_end  # the service is back
    assert isinstance(error_of(store, record), errors.Cancelled)


def test_running_and_queued_operations_are_cancelled_in_a_moment(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    running, queued = submit(store, 1, "wait"), submit(store, 2, "wait")
    host = hosts(store, OperationLimits(at_once=1, at_once_each=1))
    wait_until(lambda: host.counts() == counts(running=1, queued=1), "one to run", 5)
    open_operations.request_cancellation(store, queued)
    host.wake()
    assert isinstance(error_of(store, queued), errors.Cancelled), "it does not wait for a place to stop at"
    open_operations.request_cancellation(store, running)
    host.wake()
    assert isinstance(error_of(store, running), errors.Cancelled)


def test_a_host_that_leaves_ends_nothing_and_the_next_goes_on(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    cleaned: list[str] = []

    def wait_and_clean(context: OperationContext) -> str:
        try:
            return wait_for_the_end(context)
        except errors.SynthMixError:
            cleaned.append("a study would cancel its steps here")
            raise

    BEHAVIOURS["clean"] = wait_and_clean
    record = submit(store, 1, "clean")
    first = hosts(store)
    wait_until(lambda: RUNS[record.name.id] == 1, "it runs", 5)
    first.leave()
    assert first.counts()["running"] == 0
    assert records.find_result(store, record) is None and not cleaned
    BEHAVIOURS["clean"] = end_at_once
    hosts(store)
    assert "error" not in result_of(store, record)
    progress = records.find_progress(store, record)
    assert progress is not None and progress["deaths"] == 0, "leaving is no death"


def test_two_hosts_at_once_lose_nothing(store: MemoryObjectStore, hosts: Callable[..., OperationHost]) -> None:
    submitted = [submit(store, number) for number in range(40)]
    for _ in range(2):
        hosts(store)
    for record in submitted:
        assert result_of(store, record)["target"] == record.target
    assert open_operations.names(store, IMAGE_SYNTHESIS) == {}


# What dies again and again


def died(store: MemoryObjectStore, record: records.OperationRecord, deaths: int, done: int = 0) -> None:
    """As a host leaves an operation at which it dies."""
    progress = {"done": done, "revision": 1, "working": True, "deaths": deaths, "mark": done}
    records.write_progress(store, record, progress)


def test_an_operation_that_its_hosts_die_of_fails_in_the_end(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    record, other = submit(store, 1, "end"), submit(store, 2, "end")
    died(store, record, MOST_DEATHS - 1)
    hosts(store)
    error = error_of(store, record)
    assert error.reason == "HOST_DIED"
    assert f"died {MOST_DEATHS} times in a row" in error.message
    assert RUNS[record.name.id] == 0
    assert "error" not in result_of(store, other)


def test_deaths_are_counted_by_what_did_not_come_further(store: MemoryObjectStore) -> None:
    record = submit(store, 1)
    for deaths in range(1, 4):
        context = OperationContext(store, record)
        context.resume()
        assert context.deaths == deaths - 1
        context.begin()  # and its host dies
    context = OperationContext(store, record)
    context.resume()
    context.begin()
    context.update(done=5)
    context.write_progress()
    context = OperationContext(store, record)
    context.resume()
    assert context.deaths == 1, "it came further"
    context.begin()
    context.pause("waiting")
    context = OperationContext(store, record)
    context.resume()
    assert context.deaths == 1, "nothing died"


def test_a_suspect_starts_alone(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_host, "PROBATION_SECONDS", 0.3)
    suspects = [submit(store, number, "wait") for number in range(2)]
    for record in suspects:
        died(store, record, operation_host.SUSPECT_DEATHS)
    fine = submit(store, 9, "wait")
    hosts(store)
    wait_until(lambda: RUNS[fine.name.id] == 1 and sum(RUNS.values()) == 2, "one suspect and the other operation", 5)
    wait_until(lambda: sum(RUNS.values()) == 3, "the second, once the first has lasted", 5)

    def forgiven() -> bool:
        return any((records.find_progress(store, record) or {}).get("deaths") == 0 for record in suspects)

    wait_until(forgiven, "the first one's being forgiven", 5)


# Records that are odd


def test_an_operation_that_is_opened_and_not_recorded_yet_waits_for_its_record(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = OperationName(IMAGE_SYNTHESIS, "a" * 32)
    record = records.OperationRecord(name, KIND, "image-sets/x", {"how": "end"}, records.now())
    open_operations.add(store, record)
    hosts(store)
    time.sleep(0.3)
    assert RUNS[name.id] == 0
    records.write_record(store, record)
    assert result_of(store, record)["target"] == f"image-sets/{name.id}"


def test_one_that_was_never_recorded_is_forgotten(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    name = OperationName(IMAGE_SYNTHESIS, "a" * 32)
    open_operations.add(store, records.OperationRecord(name, KIND, "", {}, "2026-01-01T00:00:00.000Z"))
    hosts(store)
    wait_until(lambda: not open_operations.names(store, IMAGE_SYNTHESIS), "its being forgotten", 5)


def test_one_that_has_ended_and_was_not_closed_is_closed(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    record = submit(store, 1)
    records.write_success(store, record, record.target)
    hosts(store)
    wait_until(lambda: not open_operations.names(store, IMAGE_SYNTHESIS), "its being closed", 5)
    assert RUNS[record.name.id] == 0


def test_what_another_version_wrote_keeps_nothing_else_from_being_done(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    later, odd, broken, timeless = (OperationName(IMAGE_SYNTHESIS, letter * 32) for letter in "abcd")
    store.put_json(f"open-operations/{IMAGE_SYNTHESIS}/{later.id}.json", {"schema": 9, "what": ["else"]})
    open_operations.add(store, records.OperationRecord(odd, "films", "", {}, records.now()))
    store.put_bytes(f"open-operations/{IMAGE_SYNTHESIS}/{broken.id}.json", b"\xff{")
    open_operations.add(store, records.OperationRecord(timeless, KIND, "", {}, "yesterday"))
    bad_record = submit(store, 7)
    store.put_bytes(f"{bad_record.name}/request.json", b"[1]")
    tomorrow = submit(store, 1)
    for key in (f"{tomorrow.name}/request.json", f"open-operations/{IMAGE_SYNTHESIS}/{tomorrow.name.id}.json"):
        store.put_json(key, store.get_json(key) | {"priority": {"new": [1]}, "requested_by": "ada"})
    host = hosts(store)
    assert result_of(store, tomorrow)["target"] == tomorrow.target
    wait_until(lambda: host.counts()["unreadable"] == 5, "the others' being counted", 5)
    assert set(open_operations.names(store, IMAGE_SYNTHESIS)) == {later, odd, broken, timeless, bad_record.name}


@pytest.mark.parametrize("time_text", ["", "yesterday", "2026-01-01T00:00:00", 7, None])
def test_a_time_that_cannot_be_read_makes_a_record_unreadable(time_text: Any, store: MemoryObjectStore) -> None:
    """Taken for now, it would never have been long ago: what is open without a record would stay open for ever."""
    record = submit(store, 1)
    for key in (f"{record.name}/request.json", f"open-operations/{IMAGE_SYNTHESIS}/{record.name.id}.json"):
        store.put_json(key, store.get_json(key) | {"create_time": time_text})
    for read in (records.find_record, open_operations.find):
        with pytest.raises(errors.FailedPrecondition, match=r"\.json in object storage is damaged") as raised:
            read(store, record.name)
        assert raised.value.reason == "RECORD_UNREADABLE"
    store.put_json(f"{record.name}/result.json", {"attempt": record.attempt, "end_time": time_text, "target": "x"})
    with pytest.raises(errors.FailedPrecondition, match="is damaged"):
        records.find_result(store, record)


def test_a_thousand_that_wait_cost_no_thread_each(
    store: MemoryObjectStore, hosts: Callable[..., OperationHost]
) -> None:
    before = threading.active_count()
    for number in range(1000):
        submit(store, number, "wait", owner=f"owner-{number % 7}", study=f"study-{number % 31}")
    host = hosts(store, OperationLimits(at_once=10, at_once_each=10))
    wait_until(lambda: host.counts() == counts(running=10, queued=990), "ten to run", 20)
    assert threading.active_count() - before < 10 + 20
    wait_until(lambda: len(open_operations.read_queue(store, IMAGE_SYNTHESIS)) == 990, "the queue", 10)
    places = json.loads(store.get_bytes(f"operation-hosts/{IMAGE_SYNTHESIS}/queue.json"))["before"]
    assert sorted(places.values()) == list(range(990))
    by_owner = defaultdict(list)
    for name, place in open_operations.read_queue(store, IMAGE_SYNTHESIS).items():
        by_owner[int(name.id, 16) % 7].append(place)
    assert all(min(found) < 14 for found in by_owner.values()), "no owner waits for the end of another's"
