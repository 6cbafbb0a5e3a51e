"""What each replica of a front end does for operations: it starts them, and sees that there is a host for them."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.service_kit import audit, errors, metrics, open_operations, operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.operation_hosts import Live
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.requesters import Requester, requester_of, set_requester
from synthmix.service_kit.resource_names import OperationName

IDS = [f"{number:032x}" for number in range(5)]
NAMES = [OperationName(STUDY_CONTROL, operation_id) for operation_id in IDS]


class FakeHosts:
    """Counts how often it is woken, and says what it is told to."""

    def __init__(self) -> None:
        self.woken = 0
        self.live = Live(1, 0, 0, 0.0)
        self.error: Exception | None = None

    def wake(self) -> Live:
        self.woken += 1
        if self.error is not None:
            raise self.error
        return self.live


class Replica(Operations):
    def __init__(self, store: MemoryObjectStore):
        super().__init__(STUDY_CONTROL, store, None, {}, lambda name, request: None)  # type: ignore[arg-type]
        self.hosts = FakeHosts()
        self._hosts = self.hosts  # type: ignore[assignment]


@pytest.fixture
def store(store: MemoryObjectStore) -> MemoryObjectStore:
    """Two unfinished operations and a finished one, which no replica that runs was asked for."""
    for name in NAMES[:3]:
        record = records.OperationRecord(name, "studies", "", {}, records.now())
        open_operations.add(store, record)
        records.write_record(store, record)
    records.write_success(store, record, "studies/done")
    open_operations.close(store, record)
    return store


def counted(state: str) -> float | None:
    labels = {"service": STUDY_CONTROL, "state": state}
    return metrics.REGISTRY.get_sample_value("synthmix_operations", labels)


def run(replicas: list[Replica], body: Callable[[], Any]) -> None:
    """Runs `body` while the replicas keep their operations going."""

    async def main() -> None:
        tasks = [asyncio.create_task(replica.keep_going()) for replica in replicas]
        async with asyncio.timeout(10):
            await body()
        for task in tasks:
            task.cancel()

    asyncio.run(main())


def test_every_replica_sees_that_there_is_a_host_and_counts(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "RECONCILE_SECONDS", 0.05)
    first, second = Replica(store), Replica(store)
    first.hosts.error = errors.Unavailable("Ray does not answer", reason="RAY_UNAVAILABLE")

    async def body() -> None:
        while min(first.hosts.woken, second.hosts.woken) < 3:
            await asyncio.sleep(0.01)

    run([first, second], body)
    second.reconcile()
    assert (counted("running"), counted("queued")) == (1, 1)
    with pytest.raises(errors.Unavailable):
        first.reconcile()
    assert (counted("running"), counted("queued")) == (0, 2), "what no host runs is queued"


def test_a_round_reads_what_is_open_only(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    found = store.list
    monkeypatch.setattr(store, "list", lambda prefix: (listed.append(prefix), found(prefix))[1])
    monkeypatch.setattr(store, "get_bytes", lambda key: pytest.fail(f"a round reads {key}"))
    Replica(store).reconcile()
    assert listed == [f"open-operations/{STUDY_CONTROL}/"]


def test_a_record_says_by_which_call_it_was_asked_for(store: MemoryObjectStore) -> None:
    async def body() -> None:
        audit.begin("CreateStudy", [(audit.REQUEST_ID_KEY, "r-1")], None, is_change=True)
        await Replica(store).start(IDS[3], "studies", "", {})

    asyncio.run(body())
    assert records.read_record(store, NAMES[3]).request_id == "r-1"


def test_a_service_without_open_operations_starts_no_host() -> None:
    replica = Replica(MemoryObjectStore.created())
    replica.reconcile()
    assert replica.hosts.woken == 0


def test_what_a_replica_is_asked_for_starts_at_once_even_during_a_round(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(store)
    in_round, end_round = threading.Event(), threading.Event()
    monkeypatch.setattr(replica, "reconcile", lambda: (in_round.set(), end_round.wait(10)))

    async def body() -> None:
        while not in_round.is_set():
            await asyncio.sleep(0.01)
        began_s = time.monotonic()
        operation = await replica.start(IDS[3], "studies", "", {})
        assert not operation.done
        while not replica.hosts.woken:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began_s < 2.0
        end_round.set()

    run([replica], body)
    assert open_operations.find(store, NAMES[3]) is not None


def test_an_operation_says_who_asked_for_it_first(store: MemoryObjectStore) -> None:
    replica = Replica(store)

    async def submit(owner: str) -> None:
        set_requester(Requester(owner, "studies/x"))
        await replica.start(IDS[4], "studies", "", {})

    asyncio.run(submit("ada"))
    asyncio.run(submit("bob"))
    assert records.read_record(store, NAMES[4]).requested_by == Requester("ada", "studies/x")
    opened = open_operations.find(store, NAMES[4])
    assert opened is not None and opened.requested_by == Requester("ada", "studies/x")


def test_a_service_says_for_whom_it_asks_and_nobody_else_may() -> None:
    said = Requester("ada", "studies/x").metadata()
    assert requester_of(said, "synthmix", names_others=True) == Requester("ada", "studies/x")
    assert requester_of(said, "eve", names_others=False) == Requester("eve", "studies/x")
    assert requester_of((), "local", names_others=False) == Requester("local", "")
    assert requester_of((), "synthmix", names_others=True) == Requester("", "")  # nobody in particular
    for name in ("línea\n", "x" * 500):  # whole, in any alphabet: two owners are never taken for one
        assert requester_of(Requester(name, "").metadata(), "synthmix", names_others=True) == Requester(name, "")


def test_too_many_open_operations_are_refused(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MOST_OPEN", 2)
    replica = Replica(store)
    replica.reconcile()
    with pytest.raises(errors.ResourceExhausted, match="2 operations of study-control have not ended") as caught:
        asyncio.run(replica.start(IDS[3], "studies", "", {}))
    assert caught.value.reason == "TOO_MANY_OPERATIONS"
    assert not asyncio.run(replica.start(IDS[0], "studies", "", {})).done, "one that is open is answered"


def test_one_that_is_open_no_more_is_opened_when_it_is_asked_for(store: MemoryObjectStore) -> None:
    open_operations.forget(store, NAMES[0])
    asyncio.run(Replica(store).start(IDS[0], "studies", "", {}))
    assert open_operations.find(store, NAMES[0]) is not None


# Races, by every order of what two processes do to object storage


class SteppedStore(MemoryObjectStore):
    """Of threads that are registered, one does one call at a time, in an order that is given."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: dict[int, threading.Semaphore] = {}
        self.idle = threading.Semaphore(0)

    def _bucket(self) -> dict[str, bytes]:
        turn = self.turns.get(threading.get_ident())
        if turn is not None:
            self.idle.release()
            turn.acquire()
        return super()._bucket()


def in_order(store: SteppedStore, order: str, actions: dict[str, Callable[[], object]]) -> None:
    """Runs each action in a thread of its own, one store call at a time: whose turn it is says `order`."""
    turns = {who: threading.Semaphore(0) for who in actions}
    ended: set[str] = set()

    def run(who: str) -> None:
        store.turns[threading.get_ident()] = turns[who]
        try:
            actions[who]()
        finally:
            ended.add(who)
            store.idle.release()

    threads = [threading.Thread(target=run, args=(who,), daemon=True) for who in actions]
    for thread in threads:
        thread.start()
        assert store.idle.acquire(timeout=10)
    for who in itertools.chain(order, itertools.cycle(sorted(actions))):
        if len(ended) == len(actions):
            break
        if who not in ended:
            turns[who].release()
            assert store.idle.acquire(timeout=10)
    store.turns.clear()


def orders(first: str, second: str) -> Iterator[str]:
    if not first or not second:
        yield first + second
        return
    for rest in orders(first[1:], second):
        yield first[0] + rest
    for rest in orders(first, second[1:]):
        yield second[0] + rest


def test_no_order_of_ending_and_starting_again_loses_an_operation() -> None:
    """A host closes an attempt that has ended while a front end begins the next one."""
    for order in orders("h" * 4, "f" * 9):
        store = SteppedStore()
        store.create_bucket()
        replica = Replica(store)
        old = replica._record(NAMES[0], "studies", "studies/x", {})
        records.write_failure(store, old, errors.Cancelled("stopped", reason="CANCELLED"))
        actions: dict[str, Callable[[], object]] = {
            "h": lambda store=store, old=old: open_operations.close(store, old),
            "f": lambda replica=replica: replica._record(NAMES[0], "studies", "studies/x", {}),
        }
        in_order(store, order, actions)
        record, opened = records.read_record(store, NAMES[0]), open_operations.find(store, NAMES[0])
        assert record.attempt != old.attempt
        assert opened is not None and opened.attempt == record.attempt, order
        assert records.find_result(store, record) is None


def test_no_order_of_two_submissions_leaves_an_operation_that_no_host_takes_up() -> None:
    for order in itertools.islice(orders("a" * 7, "b" * 7), 0, None, 7):
        store = SteppedStore()
        store.create_bucket()
        replicas = {who: Replica(store) for who in "ab"}
        actions: dict[str, Callable[[], object]] = {
            who: lambda replica=replica: replica._record(NAMES[0], "studies", "studies/x", {})
            for who, replica in replicas.items()
        }
        in_order(store, order, actions)
        record, opened = records.read_record(store, NAMES[0]), open_operations.find(store, NAMES[0])
        assert opened is not None and opened.attempt == record.attempt, order
