"""The tasks of a service's operations on their way to workers: in windows, taken round robin over operations.

What is handed to Ray is worked off in the order in which it came. So no more is handed over than the workers can run
at once and as much again, or as all those that an autoscaler may start would run, since it starts one for what it sees
waiting. The rest waits here, where each owner, each study of theirs and each operation of it takes its turn.
"""

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.fair_queue import FairQueue
from synthmix.service_kit.memory_errors import OUT_OF_MEMORY

log = logging.getLogger(__name__)

# How often a task is tried that dies without an error of its own, and without having come further in between.
TASK_ATTEMPTS = 6
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
# Tasks that wait at Ray while there is no worker yet, or only a few.
FEWEST_WAITING = 8
SLOTS_VALID_SECONDS = 2.0


@dataclass(frozen=True)
class TaskResult:
    """What a task returned, and the wall seconds that it took on its worker."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class TaskDied:
    """A task that ended without a result or an error of its own.

    Attributes:
        reason: What ended it, in words.
        memory: Whether it was ended because its node had no memory left.
    """

    reason: str
    memory: bool = False


@dataclass(frozen=True)
class TaskCall:
    """What is to be run on a worker: `function`, as "module:name", with keyword arguments.

    Attributes:
        makes: Names what it makes and others may make as well; "" if that is nobody else's.
        rank: Of those of one operation that wait, the lowest goes first.
    """

    operation: str
    index: int
    function: str
    keywords: Mapping[str, Any]
    makes: str = ""
    rank: int = 0


Outcome = TaskResult | TaskDied | BaseException


class Backend(Protocol):
    """Runs tasks on workers."""

    def submit(self, call: TaskCall, ended: Callable[[Outcome], None]) -> Any:
        """Hands a task over and returns its handle; `ended` is called once, from any thread."""
        ...

    def cancel(self, handle: Any) -> None:
        """Ends a task. What becomes of it is not asked any more."""
        ...

    def slots(self) -> int:
        """How many tasks the workers that there are can run at once."""
        ...


@dataclass(eq=False)
class _Task:
    call: TaskCall
    batch: "Batch"
    deaths: int = 0
    done: int = 0
    handle: Any = None


@dataclass(eq=False)
class Batch:
    """Tasks of one operation.

    Attributes:
        path: Whose turn they take: owner, study and operation.
        outcomes: (index, TaskResult or an error) of each task, in the order of ending.
        done_by_task: What running tasks say that they have done: one that comes further may die again.
    """

    path: tuple[str, ...]
    done_by_task: Callable[[int], int]
    outcomes: "queue.SimpleQueue[tuple[int, TaskResult | BaseException]]" = field(default_factory=queue.SimpleQueue)
    tasks: set[_Task] = field(default_factory=set)


class TaskPool:
    """The tasks of all operations of one host. Safe to share between threads.

    Args:
        fewest_waiting: See FEWEST_WAITING; of an autoscaled group what it runs at once when it is at its largest. It
            may be changed at any time.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        fewest_waiting: int = FEWEST_WAITING,
        first_backoff_s: float = FIRST_BACKOFF_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._backend = backend
        self.fewest_waiting = fewest_waiting
        self._first_backoff_s = first_backoff_s
        self._clock = clock
        self._lock = threading.RLock()
        self._queue: FairQueue[_Task] = FairQueue(self._window)
        self._slots = 0
        self._slots_until_s = 0.0
        self._due: list[tuple[float, int, _Task]] = []
        # What tasks that run make, and those that wait for it: they find it made, or make it if it was not.
        self._being_made: dict[str, list[_Task]] = {}
        self._count = itertools.count()
        self._events: queue.SimpleQueue[tuple[_Task, Outcome] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="tasks", daemon=True).start()

    def add(self, batch: Batch, calls: Sequence[TaskCall]) -> None:
        """Puts tasks of an operation into the queue. Of those that make the same, not two are run at once."""
        with self._lock:
            for call in calls:
                task = _Task(call, batch)
                batch.tasks.add(task)
                self._enqueue(task)
        self._events.put(None)

    def stop(self, batch: Batch) -> None:
        """Takes out what waits of a batch, and ends what runs of it."""
        with self._lock:
            tasks, batch.tasks = batch.tasks, set()
            for made, waiting in self._being_made.items():
                self._being_made[made] = [task for task in waiting if task.batch is not batch]
            for task in tasks:
                self._queue.leave(task)
                if task.handle is not None:
                    self._backend.cancel(task.handle)
        self._events.put(None)

    @property
    def waiting(self) -> int:
        """How many are not handed over."""
        with self._lock:
            return self._queue.waiting + len(self._due) + sum(map(len, self._being_made.values()))

    def _enqueue(self, task: _Task) -> None:
        self._queue.add(task, task.batch.path, task.call.rank)

    def _window(self) -> int:
        if self._clock() >= self._slots_until_s:
            try:
                self._slots = self._backend.slots()
            except Exception as error:  # Ray raises many kinds; the last number will do
                log.warning("the workers cannot be counted: %s", error)
            self._slots_until_s = self._clock() + SLOTS_VALID_SECONDS
        return self._slots + max(self.fewest_waiting, self._slots)

    def _work(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=self._pause_s())
            except queue.Empty:
                event = None
            try:
                with self._lock:
                    if event is not None:
                        self._end(*event)
                    self._submit_what_may()
            except Exception:
                log.exception("the tasks of this host could not be looked after; they are again in a second")
                time.sleep(1.0)

    def _pause_s(self) -> float:
        with self._lock:
            until_due_s = self._due[0][0] - self._clock() if self._due else SLOTS_VALID_SECONDS
        return min(max(0.0, until_due_s), SLOTS_VALID_SECONDS)

    def _submit_what_may(self) -> None:
        while self._due and self._due[0][0] <= self._clock():
            _, _, task = heapq.heappop(self._due)
            if task in task.batch.tasks:
                self._enqueue(task)
        while self._queue.waiting and (next_task := self._queue.take()) is not None:
            if not self._waits_for_another(next_task):
                self._submit(next_task)

    def _waits_for_another(self, task: _Task) -> bool:
        """Whether a task that runs makes the same; then this one gives its place back until that one has ended."""
        if not task.call.makes:
            return False
        if task.call.makes not in self._being_made:
            self._being_made[task.call.makes] = []
            return False
        self._queue.leave(task)
        self._being_made[task.call.makes].append(task)
        return True

    def _submit(self, task: _Task) -> None:
        def ended(outcome: Outcome) -> None:
            self._events.put((task, outcome))

        try:
            task.handle = self._backend.submit(task.call, ended)
        except Exception as error:  # such as arguments that cannot be sent
            self._end(task, error)

    def _end(self, task: _Task, outcome: Outcome) -> None:
        self._queue.leave(task)
        for other in self._being_made.pop(task.call.makes, ()):
            if other in other.batch.tasks:
                self._enqueue(other)
        task.handle = None
        if task not in task.batch.tasks:
            return  # its operation has ended
        if isinstance(outcome, TaskDied):
            done = task.batch.done_by_task(task.call.index)
            task.deaths = 1 if done > task.done else task.deaths + 1
            task.done = done
            if task.deaths < TASK_ATTEMPTS:
                pause_s = min(LONGEST_BACKOFF_SECONDS, self._first_backoff_s * 2 ** (task.deaths - 1))
                log.warning(
                    "%s of %s died (%s), %d times in a row; it is tried again in %.0f s",
                    task.call.function,
                    task.call.operation,
                    outcome.reason,
                    task.deaths,
                    pause_s,
                )
                heapq.heappush(self._due, (self._clock() + pause_s, next(self._count), task))
                return
            outcome = given_up(task.call, outcome)
        task.batch.tasks.discard(task)
        task.batch.outcomes.put((task.call.index, outcome))


def given_up(call: TaskCall, death: TaskDied) -> FailedPrecondition:
    """The error of a task that died too often."""
    if death.memory:
        return FailedPrecondition(
            f"a worker took more memory than its node has, and was ended for it, in each of {TASK_ATTEMPTS} attempts; "
            "give it smaller images or batches, fewer tasks a node, or a node with more memory",
            reason=OUT_OF_MEMORY,
        )
    return FailedPrecondition(
        f"the worker that ran {call.function} died in each of {TASK_ATTEMPTS} attempts without coming further "
        f"({death.reason}); look at why in Ray's logs and the node's events, and submit it again to go on from what "
        "is done",
        reason="WORKER_DIED",
    )
