"""What each replica of a front end does for operations: those asked of it, and those that have lost their actor."""

import asyncio

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.service_kit import metrics, operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.resource_names import OperationName

IDS = [f"{number:032x}" for number in range(4)]
NAMES = [OperationName(STUDY_CONTROL, operation_id) for operation_id in IDS]


class Replica(Operations):
    """Operations that note what they would launch, and fail at the first of them."""

    def __init__(self, store: MemoryObjectStore):
        super().__init__(STUDY_CONTROL, store, None, {}, lambda name: None)  # type: ignore[arg-type]
        self.launched: list[OperationName] = []

    def _launch(self, name: OperationName) -> None:
        self.launched.append(name)
        if name == NAMES[0]:
            raise Unavailable("Ray doesn't answer", reason="RAY_UNAVAILABLE")


@pytest.fixture
def store(store: MemoryObjectStore) -> MemoryObjectStore:
    """Two unfinished operations and a finished one, which no replica that runs was asked for."""
    for name in NAMES[:3]:
        records.write_record(store, records.OperationRecord(name, "studies", "", {}, records.now()))
    records.write_success(store, NAMES[2], "studies/done")
    return store


def counted(state: str) -> float | None:
    labels = {"service": STUDY_CONTROL, "state": state}
    return metrics.REGISTRY.get_sample_value("synthmix_operations", labels)


def test_every_replica_looks_after_all_that_is_unfinished(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "RECONCILE_SECONDS", 0.05)
    first, second = Replica(store), Replica(store)

    async def main() -> None:
        tasks = [asyncio.create_task(replica.keep_going()) for replica in (first, second)]
        async with asyncio.timeout(10):
            while not all(NAMES[1] in replica.launched for replica in (first, second)):
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()

    asyncio.run(main())
    assert {*first.launched, *second.launched} == set(NAMES[:2])
    assert (counted("queued"), counted("succeeded")) == (2, 1)


def test_what_a_replica_is_asked_for_starts_at_once(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "RECONCILE_SECONDS", 3600.0)
    replica = Replica(store)

    async def main() -> None:
        task = asyncio.create_task(replica.keep_going())
        async with asyncio.timeout(10):
            while len(replica.launched) < 2:
                await asyncio.sleep(0.01)
            await replica.start(IDS[3], "studies", "", {})
            while NAMES[3] not in replica.launched:
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(main())
    assert replica.launched[-1] == NAMES[3]
