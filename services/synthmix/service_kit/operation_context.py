"""What a function that does an operation works with: its record, its progress, and tasks on workers."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import worker_settings
from synthmix.service_kit.error_limits import bounded_text
from synthmix.service_kit.errors import Cancelled
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.task_pool import Batch, TaskCall, TaskPool, TaskResult

POLL_SECONDS = 0.2
LONGEST_PROGRESS_BYTES = 2000
WAITS_FOR_WORKER = "waiting for a worker"


class HostLeaves(BaseException):
    """The operation stops here, and goes on in another host. Nothing that handles errors is to handle this."""


class OperationContext:
    """What the function of an operation works with.

    Attributes:
        store: Object storage.
        record: The operation: its request, and the target that it is to make.
        deaths: How often in a row the host has died while this operation ran, without its having come further.
    """

    def __init__(self, store: ObjectStore, record: records.OperationRecord, tasks: TaskPool | None = None):
        self.store = store
        self.record = record
        self._tasks = tasks
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self._cancelled = False
        self._left = False
        self._progress: dict[str, Any] = {"done": 0, "total": 0, "revision": 0}
        self._running: dict[int, int] = {}  # what each task that has not ended has done
        # Whether a worker has begun a task of it. Where there are no workers nothing waits for one.
        self._begun = tasks is None
        self._waits = False
        self._dirty = True
        self._written: dict[str, Any] = {}
        self.worker_seconds = 0.0
        self.gpu_seconds = 0.0
        # Units found done when this attempt began; None until it is known, and kept if the host is restarted.
        self.reused: int | None = None
        # The steps as a host that died left them.
        self.earlier_steps: list[dict[str, Any]] = []
        self.deaths = 0
        self._working = False
        self._mark = 0

    @property
    def service(self) -> str:
        return self.record.name.service

    def update(self, **fields: Any) -> None:
        """Changes fields of OperationMetadata: done, total, unit, message, steps, warnings."""
        if "message" in fields:
            fields["message"] = bounded_text(str(fields["message"]), LONGEST_PROGRESS_BYTES)
        with self._lock:
            self._progress.update(fields)
            self._dirty = True

    def note_reused(self, units: int) -> None:
        """Tells how much was done before this attempt began. A restarted host's own work is not that."""
        if self.reused is None:
            self.reused = units
            self._dirty = True

    def note_begun(self) -> None:
        """A worker has begun a task of it."""
        if not self._begun:
            self._begun = True
            self._dirty = True

    @property
    def waits(self) -> bool:
        """Whether it waits for what other operations make, and gives workers nothing to do meanwhile."""
        return self._waits

    @waits.setter
    def waits(self, waits: bool) -> None:
        with self._lock:
            self._dirty = self._dirty or waits != self._waits
            self._waits = waits

    def report(self, task: int, done: int, total: int | None = None, message: str = "") -> None:
        """What a running task has done so far; counts beside `done` until the task ends.

        Args:
            total: Of the whole operation, if only the task knows it.
            message: What the operation is at, if only the task knows it.
        """
        with self._lock:
            if task not in self._running:
                return  # a report that came after its task's result
            self._begun = True
            self._running[task] = done
            if total is not None:
                self._progress["total"] = total
            if message:
                self._progress["message"] = message
            self._dirty = True

    def complete(self) -> None:
        """All is done, also of what a task reported without its being counted when the task ended."""
        with self._lock:
            self._progress["done"] = self._progress["total"]
            self._running.clear()
            self._dirty = True

    def cancel(self) -> None:
        self._cancelled = True
        self._stopped.set()

    def leave(self) -> None:
        """The operation is to stop, and goes on in another host."""
        self._left = True
        self._stopped.set()

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled, and whatever else is to end the work here."""
        if self._left:
            raise HostLeaves
        if self._cancelled:
            raise Cancelled(
                f"{self.record.name} was cancelled; submit it again to go on from what is done",
                reason="CANCELLED",
            )

    def sleep(self, seconds: float) -> None:
        """Waits, less long if the operation is cancelled."""
        self._stopped.wait(seconds)
        self.raise_if_cancelled()

    def run_tasks(
        self,
        function: str,
        arguments: Sequence[Mapping[str, Any]],
        on_result: Callable[[int, Any], None] = lambda index, value: None,
        makes: Sequence[str] = (),
    ) -> list[Any]:
        """Runs `function`, as "module:name", once for each keyword arguments, on the service's worker group.

        A task whose worker dies is run again, a number of times. The first error cancels the other tasks and is raised.

        Args:
            on_result: Called with (index, value) as each task ends, in the order of ending.
            makes: As Tasks.add.

        Returns:
            What the tasks returned, in the order of the arguments.
        """
        values: list[Any] = [None] * len(arguments)
        with self.tasks() as tasks:
            tasks.add(function, arguments, makes)
            while tasks.left:
                for index, value in tasks.ended():
                    values[index] = value
                    on_result(index, value)
        return values

    @contextmanager
    def tasks(self) -> Iterator["Tasks"]:
        """Tasks on the service's worker group, of which more may be added while others run; at the end none runs on."""
        assert self._tasks is not None, "this context has no workers"
        self.raise_if_cancelled()
        with self._lock:
            self._running = {}
        batch = Batch((*self.record.requested_by.path, str(self.record.name)), self._done_by)
        try:
            yield Tasks(self, self._tasks, batch)
        finally:
            self._tasks.stop(batch)
        self.note_begun()

    def _started(self, tasks: range) -> None:
        with self._lock:
            self._running |= dict.fromkeys(tasks, 0)

    def _ended(self, task: int, result: TaskResult) -> None:
        self.worker_seconds += result.seconds
        self.gpu_seconds += result.seconds * worker_settings(self.service).gpus
        self.note_begun()
        with self._lock:
            self._running.pop(task, None)

    def _done_by(self, task: int) -> int:
        with self._lock:
            return self._running.get(task, 0)

    def write_progress(self) -> None:
        """Writes progress.json if anything changed.

        A study says what it knows twice a second, however little has changed, and object storage would have to write
        down each time that nothing has.
        """
        with self._writing:
            with self._lock:
                if not self._dirty:
                    return
                self._dirty = False
                value = {
                    **self._progress,
                    "create_time": self.record.create_time,
                    "worker_seconds": self.worker_seconds,
                    "gpu_seconds": self.gpu_seconds,
                    "reused": self.reused,
                    "working": self._working,
                    "deaths": self.deaths,
                    "mark": self._mark,
                    # Steps tell for themselves what has begun.
                    "begun": self._begun or bool(self._progress.get("steps")),
                    "waits": self._waits,
                }
                if self._working and not self._begun and self._running:
                    value["message"] = WAITS_FOR_WORKER
                value["done"] += sum(self._running.values())
                if value["total"]:
                    value["done"] = min(value["done"], value["total"])
                if value == self._written:
                    return
                self._progress["revision"] += 1
                number = {"revision": self._progress["revision"], "update_time": records.now()}
            records.write_progress(self.store, self.record, value | number)
            self._written = deepcopy(value | {"revision": number["revision"]})

    def resume(self) -> None:
        """Goes on where a host that died stopped: revisions, for watchers, the account of seconds, and of deaths."""
        before = records.find_progress(self.store, self.record)
        if before is None:
            self._progress["revision"] = records.last_revision(self.store, self.record.name)
            return
        self._progress["revision"] = int(before.get("revision", 0))
        self.worker_seconds = before.get("worker_seconds", 0.0)
        self.gpu_seconds = before.get("gpu_seconds", 0.0)
        self.reused = before.get("reused")
        self._begun = before.get("begun") is not False
        self.earlier_steps = before.get("steps", [])
        self._mark = int(before.get("done", 0)) + sum(int(step.get("done", 0)) for step in self.earlier_steps)
        self.deaths = int(before.get("deaths", 0))
        if before.get("working"):
            self.deaths = self.deaths + 1 if self._mark == before.get("mark") else 1

    def begin(self) -> None:
        """Writes down that the work begins: a host that finds this has died at it."""
        self._working = True
        self._dirty = True
        self.update(start_time=records.now())
        self.write_progress()

    def survived(self) -> None:
        """The host has not died of this operation."""
        if self.deaths:
            self.deaths = 0
            self._dirty = True

    def pause(self, why: str) -> None:
        """Writes down that the work stops for now, which is nobody's death."""
        self._working = False
        self.update(message=why)
        self.write_progress()


class Tasks:
    """Tasks of one operation, while it waits for them. See OperationContext.tasks.

    Attributes:
        left: How many have not ended.
    """

    def __init__(self, context: OperationContext, pool: TaskPool, batch: Batch):
        self._context = context
        self._pool = pool
        self._batch = batch
        self._count = 0
        self.left = 0

    def add(
        self,
        function: str,
        arguments: Sequence[Mapping[str, Any]],
        makes: Sequence[str] = (),
        ranks: Sequence[int] = (),
    ) -> range:
        """Runs `function` as run_tasks does, and returns the tasks' numbers, which go on from those before.

        Args:
            makes: Of each task, what it makes and other operations' tasks may make as well. While one of them runs the
                others wait, so that they find it made.
            ranks: Of each task. The lowest of those that wait goes first, whenever it was added.
        """
        numbers = range(self._count, self._count + len(arguments))
        self._count, self.left = numbers.stop, self.left + len(numbers)
        self._context._started(numbers)
        operation = str(self._context.record.name)
        each = zip(numbers, arguments, makes or [""] * len(numbers), ranks or [0] * len(numbers), strict=True)
        self._pool.add(
            self._batch,
            [
                TaskCall(operation, number, function, dict(keywords), made, rank)
                for number, keywords, made, rank in each
            ],
        )
        return numbers

    def ended(self, timeout_s: float = POLL_SECONDS) -> Iterator[tuple[int, Any]]:
        """Yields number and value of each that has ended by now, after waiting for so long for the first.

        Raises:
            SynthMixError: One failed, or the operation is to stop.
        """
        while True:
            try:
                index, outcome = self._batch.outcomes.get(timeout=timeout_s)
            except queue.Empty:
                self._context.raise_if_cancelled()
                return
            self._context.raise_if_cancelled()
            if not isinstance(outcome, TaskResult):
                raise outcome
            self.left -= 1
            self._context._ended(index, outcome)
            yield index, outcome.value
            timeout_s = 0.0
