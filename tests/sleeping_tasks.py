"""A service's host with one operation, whose tasks do nothing but take time. Workers import this module alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from memory_object_store import MemoryObjectStore
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION, WorkerSettings
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_hosts import host_name
from synthmix.service_kit.operation_records import OperationRecord, now
from synthmix.service_kit.ray_tasks import RayTasks
from synthmix.service_kit.resource_names import EVALUATIONS, OperationName
from synthmix.service_kit.task_pool import TaskPool

HOST = host_name(CLASSIFIER_EVALUATION, "benchmark")
SETTINGS = WorkerSettings(cpus=1, gpus=1)


@dataclass(frozen=True)
class Took:
    """What tasks took: wall seconds of all together, the sum of each one's own on its worker, and processor time."""

    wall_s: float
    worker_s: float
    processor_s: dict[str, float] = field(default_factory=dict)


class Host:
    """A host as its tasks know it."""

    def __init__(self) -> None:
        self._pool = TaskPool(RayTasks(HOST, CLASSIFIER_EVALUATION, SETTINGS))
        self._context: OperationContext | None = None

    def run(self, number: int, tasks: int, seconds: float) -> Took:
        """Runs so many tasks of an operation with this number."""
        name = OperationName(CLASSIFIER_EVALUATION, f"{number:032x}")
        record = OperationRecord(name, EVALUATIONS, "", {}, now())
        self._context = OperationContext(MemoryObjectStore.created(), record, self._pool)
        start_s = time.perf_counter()
        self._context.run_tasks("sleeping_tasks:sleep", [{"seconds": seconds}] * tasks)
        return Took(time.perf_counter() - start_s, self._context.worker_seconds)

    def report(self, operation: str, task: int, done: int, total: int | None = None) -> None:
        if self._context is not None:
            self._context.report(task, done, total)

    def note_begun(self, operation: str) -> None:
        if self._context is not None:
            self._context.note_begun()


def sleep(seconds: float, report: Callable[[int], None], threads: int) -> None:
    """A task of the host."""
    time.sleep(seconds)


def bare_sleep(seconds: float) -> float:
    """The same without a host, and how long it took."""
    start_s = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start_s
