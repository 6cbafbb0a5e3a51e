"""What a function that coordinates an operation works with: its record, its progress, and tasks on workers."""

import importlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import worker_settings
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, SynthMixError
from synthmix.service_kit.memory_errors import OUT_OF_MEMORY
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.ray_connection import NAMESPACE
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.storage_space import disk_full, says_full

PROGRESS_INTERVAL_SECONDS = 0.5
TASK_RETRIES = 5


class OperationContext:
    """What a coordinating function works with.

    Attributes:
        store: Object storage.
        record: The operation: its request, and the target that it is to make.
    """

    def __init__(self, store: ObjectStore, record: records.OperationRecord):
        self.store = store
        self.record = record
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._progress: dict[str, Any] = {"state": "STATE_RUNNING", "done": 0, "total": 0, "revision": 0}
        self._running: dict[str, int] = {}  # what each task that runs has done
        self._dirty = True
        self.worker_seconds = 0.0
        self.gpu_seconds = 0.0
        # Units found done when this attempt began; None until it is known, and kept if the coordinator is restarted.
        self.reused: int | None = None
        # The steps as a coordinator that died left them.
        self.earlier_steps: list[dict[str, Any]] = []

    @property
    def service(self) -> str:
        return self.record.name.service

    def update(self, **fields: Any) -> None:
        """Changes fields of OperationMetadata: done, total, unit, message, steps."""
        with self._lock:
            self._progress.update(fields)
            self._dirty = True

    def note_reused(self, units: int) -> None:
        """Tells how much was done before this attempt began. A restarted coordinator's own work is not that."""
        if self.reused is None:
            self.reused = units
            self._dirty = True

    def report(self, task: str, done: int, total: int | None = None) -> None:
        """What a running task has done so far; counts beside `done` until the task ends.

        Args:
            total: Of the whole operation, if only the task knows it.
        """
        with self._lock:
            if task not in self._running:
                return  # a report that came after its task's result
            self._running[task] = done
            if total is not None:
                self._progress["total"] = total
            self._dirty = True

    def cancel(self) -> None:
        self._cancelled.set()

    def raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(
                f"{self.record.name} was cancelled; submit it again to go on from what is done",
                reason="CANCELLED",
            )

    def sleep(self, seconds: float) -> None:
        """Waits, less long if the operation is cancelled."""
        self._cancelled.wait(seconds)
        self.raise_if_cancelled()

    def run_tasks(
        self,
        function: str,
        arguments: Sequence[Mapping[str, Any]],
        on_result: Callable[[int, Any], None] = lambda index, value: None,
    ) -> list[Any]:
        """Runs `function`, as "module:name", once for each keyword arguments, on the service's worker group.

        A task whose worker dies is run again. The first error cancels the other tasks and is raised.

        Args:
            on_result: Called with (index, value) as each task ends, in the order of ending.

        Returns:
            What the tasks returned, in the order of the arguments.
        """
        import ray

        self.raise_if_cancelled()
        settings = worker_settings(self.service)
        # By default a worker process is thrown away after one task that holds a GPU, and its imports with it.
        remote = ray.remote(max_calls=0)(run_task).options(
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            max_retries=TASK_RETRIES,
            label_selector={f"synthmix.io/{self.service}": "true"},
            name=function,
        )
        threads = max(1, int(settings.cpus))
        with self._lock:
            self._running = {str(index): 0 for index in range(len(arguments))}
        pending = {
            remote.remote(str(self.record.name), str(index), function, dict(keywords), threads, settings.gpus): index
            for index, keywords in enumerate(arguments)
        }
        values: list[Any] = [None] * len(pending)
        try:
            while pending:
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=PROGRESS_INTERVAL_SECONDS)
                self.raise_if_cancelled()
                for reference in ready:
                    value, seconds = _task_result(ray, reference)
                    index = pending.pop(reference)
                    values[index] = value
                    self.worker_seconds += seconds
                    self.gpu_seconds += seconds * settings.gpus
                    with self._lock:
                        del self._running[str(index)]
                    on_result(index, value)
            return values
        finally:
            for reference in pending:
                ray.cancel(reference, force=True, recursive=True)

    def write_progress(self) -> None:
        """Writes progress.json if anything changed. Called by the coordinator's own thread."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            self._progress["revision"] += 1
            self._progress["update_time"] = records.now()
            value = self._progress | {
                "create_time": self.record.create_time,
                "worker_seconds": self.worker_seconds,
                "gpu_seconds": self.gpu_seconds,
                "reused": self.reused,
            }
            value["done"] += sum(self._running.values())
            if value["total"]:
                value["done"] = min(value["done"], value["total"])
        records.write_progress(self.store, self.record.name, value)

    def resume(self) -> None:
        """Goes on where a coordinator that died stopped: revisions, for watchers, and the account of seconds."""
        before = records.find_progress(self.store, self.record.name)
        if before is None:
            return
        self._progress["revision"] = int(before["revision"])
        if before.get("create_time") == self.record.create_time:
            self.worker_seconds = before["worker_seconds"]
            self.gpu_seconds = before["gpu_seconds"]
            self.reused = before["reused"]
            self.earlier_steps = before.get("steps", [])


def run_task(
    operation: str, task: str, function: str, keywords: dict[str, Any], threads: int, gpus: float
) -> tuple[Any, float]:
    """Runs one task on a worker. Besides its keywords the function gets `report(done, total)` and `threads`.

    Returns what it returned, and the wall seconds that it took.
    """
    import ray

    name = OperationName.parse(operation)
    try:
        coordinator = ray.get_actor(operation, namespace=NAMESPACE)
    except ValueError:
        raise Cancelled(f"{operation} has ended; submit it again if it is wanted", reason="CANCELLED") from None
    module, _, attribute = function.partition(":")
    call = getattr(importlib.import_module(module), attribute)
    start_s = time.perf_counter()
    try:
        value = call(
            **keywords,
            report=lambda done, total=None: coordinator.report.remote(task, done, total),
            threads=threads,
        )
    except Exception as error:
        if isinstance(error, SynthMixError) or not says_full(error):
            raise
        raise disk_full(Path(tempfile.gettempdir())) from error
    finally:
        seconds = time.perf_counter() - start_s
        count_on_worker("synthmix_worker_seconds", seconds, name.service)
        count_on_worker("synthmix_gpu_seconds", seconds * gpus, name.service)
    return value, seconds


def _task_result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SynthMixError):
            raise error.cause from None
        raise
    except ray.exceptions.OutOfMemoryError as error:
        raise FailedPrecondition(
            "a worker took more memory than its node has, and was ended for it, again and again; give it smaller "
            "images or batches, fewer tasks a node, or a node with more memory",
            reason=OUT_OF_MEMORY,
        ) from error
