"""The host of a service's operations: it takes up what is open, gives each its turn, and sees it to its end.

Whatever is finished lies in object storage, so that a host which is killed and started again goes on from there. Each
operation that runs has a thread; those that wait for their turn have none. An outage of object storage or of another
service delays an operation and does not fail it. tests/unit/test_operation_host.py runs this without Ray, of which it
knows nothing; operation_hosts.py makes an actor of it.
"""

import contextlib
import heapq
import importlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from synthmix.service_kit import incidents, open_operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import OperationLimits
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, Internal, SynthMixError, Unavailable
from synthmix.service_kit.fair_queue import FairQueue
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.open_operations import OpenOperation
from synthmix.service_kit.operation_context import HostLeaves, OperationContext
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.task_pool import TaskPool

log = logging.getLogger(__name__)

# A host hears of new operations and of cancellations at once; this is for what it was not told.
ROUND_SECONDS = 1.0
SHORTEST_ROUND_SECONDS = 0.05
PROGRESS_INTERVAL_SECONDS = 0.5
QUEUE_INTERVAL_SECONDS = 2.0
STORE_CALLS_AT_ONCE = 8
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0
# What worked for so long before it met an outage met a new one.
HEALTHY_SECONDS = 60.0
# How often in a row a host may die while an operation runs that does not come further, before the operation fails.
MOST_DEATHS = 8
# From so many deaths on, an operation starts alone, and has to last for a while before the next such one starts.
SUSPECT_DEATHS = 3
PROBATION_SECONDS = 30.0
# An open operation without a record is one that a front end is about to record, unless it is older than this.
ABANDONED_SECONDS = 600.0
LEAVE_SECONDS = 5.0


class _Later(Exception):
    """The operation is to be tried again after a while."""

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(eq=False)
class _Live:
    """An open operation that the host has taken up."""

    opened: OpenOperation
    context: OperationContext | None = None
    cancelled: bool = False
    running: bool = False
    pauses: int = 0
    waited_for_deaths: bool = False
    begun: bool = False


@dataclass(frozen=True)
class Observer:
    """Where a host says what it sees. Each is called from any thread."""

    ended: Callable[[str], None] = lambda state: None
    seconds: Callable[[str, float], None] = lambda name, seconds: None


@dataclass
class _Schedule:
    """Who waits for what. Guarded by the host's lock."""

    live: dict[OperationName, _Live] = field(default_factory=dict)
    queues: dict[str, FairQueue[OperationName]] = field(default_factory=dict)
    due: list[tuple[float, int, OperationName]] = field(default_factory=list)


class OperationHost:
    """Runs the operations of one service.

    Args:
        functions: For each kind of operation, the function that does it as "module:name". It takes an OperationContext
            and returns the name of what it made.
        tasks: The service's workers; None if no function needs any.
        limits: How many operations of a kind run at once.
    """

    def __init__(
        self,
        service: str,
        store: ObjectStore,
        functions: Mapping[str, str],
        tasks: TaskPool | None,
        limits: OperationLimits,
        observer: Observer | None = None,
    ):
        self.service = service
        self._store = store
        self._functions = dict(functions)
        self._tasks = tasks
        self._limits = limits
        self._observer = observer or Observer()
        self._lock = threading.RLock()
        self._schedule = _Schedule()
        self._count = itertools.count()
        self._unreadable: set[OperationName] = set()
        self._woken = threading.Event()
        self._leaving = threading.Event()
        self._probation = threading.Lock()
        self._pool = ThreadPoolExecutor(STORE_CALLS_AT_ONCE, thread_name_prefix="records")
        self._being_written: set[OperationName] = set()
        self._shown: dict[OperationName, int] = {}
        self._next_queue_s = 0.0

    def start(self) -> None:
        """Works in threads of its own until `leave`."""
        for work in (self._look, self._write_progress):
            threading.Thread(target=work, name=work.__name__.strip("_"), daemon=True).start()

    def wake(self) -> None:
        """There is something new among the open operations."""
        self._woken.set()

    def report(self, operation: str, task: int, done: int, total: int | None = None, message: str = "") -> None:
        """What a task says that it has done."""
        context = self._context_of(operation)
        if context is not None:
            context.report(task, done, total, message)

    def note_begun(self, operation: str) -> None:
        """A worker says that it has begun a task of an operation."""
        context = self._context_of(operation)
        if context is not None:
            context.note_begun()

    def _context_of(self, operation: str) -> OperationContext | None:
        with self._lock:
            live = self._schedule.live.get(OperationName.parse(operation))
            return live.context if live is not None else None

    def counts(self) -> dict[str, int]:
        """How many operations have begun here, wait for what others make, for their turn, and cannot be read."""
        with self._lock:
            live = self._schedule.live.values()
            waiting = sum(item.context is not None and item.context.waits for item in live)
            running = sum(item.running or item.begun for item in live) - waiting
            return {
                "running": running,
                "waiting": waiting,
                "queued": len(live) - running - waiting,
                "unreadable": len(self._unreadable),
            }

    def leave(self, timeout_s: float = LEAVE_SECONDS) -> None:
        """Stops all work where it is, for another host to go on with, and returns when it has, or after this time."""
        self._leaving.set()
        self._woken.set()
        with self._lock:
            contexts = [live.context for live in self._schedule.live.values() if live.context is not None]
        for context in contexts:
            context.leave()
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            with self._lock:
                if not any(live.running for live in self._schedule.live.values()):
                    return
            time.sleep(0.05)

    # What is open

    def _look(self) -> None:
        while not self._leaving.is_set():
            try:
                self.look_once()
            except SynthMixError as error:
                log.warning("%s", error.message)
            except Exception:
                log.exception(
                    "the operations of %s could not be looked through; they are again in a second", self.service
                )
            with self._lock:
                until_due_s = self._schedule.due[0][0] - time.monotonic() if self._schedule.due else ROUND_SECONDS
            self._woken.wait(min(ROUND_SECONDS, max(SHORTEST_ROUND_SECONDS, until_due_s)))
            self._woken.clear()

    def look_once(self) -> None:
        """Takes up what is open and new, passes on what is to stop, and starts whose turn it is."""
        opened = open_operations.names(self._store, self.service)
        with self._lock:
            known = self._schedule.live
            new = [name for name in opened if name not in known]
            gone = [name for name, live in known.items() if name not in opened and not live.running]
            for name in gone:
                self._forget(name)
            for name, live in known.items():
                if live.opened.attempt in opened.get(name, ()) and not live.cancelled:
                    self._cancel(name, live)
        self._unreadable &= set(opened)
        found = [item for item in self._pool.map(self._find, new) if item is not None]
        with self._lock:
            for item in sorted(found, key=lambda item: item.create_time):
                live = self._schedule.live[item.name] = _Live(item)
                self._wait_for_turn(item.name, live)
                if item.attempt in opened[item.name]:
                    self._cancel(item.name, live)
        self._start_due()
        self._show_queue()

    def _find(self, name: OperationName) -> OpenOperation | None:
        """What is open of an operation that is to be taken up; None if this host cannot do it, which is said once."""
        try:
            opened = open_operations.find(self._store, name)
        except FailedPrecondition as error:
            self._leave_alone(name, f"cannot read what is open of it ({error.message})")
            return None
        if opened is not None and opened.kind not in self._functions:
            self._leave_alone(name, f"has nothing that makes {opened.kind!r}")
            return None
        return opened

    def _leave_alone(self, name: OperationName, why: str) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            log.warning("%s is left alone: this version %s", name, why)

    def _forget(self, name: OperationName) -> None:
        live = self._schedule.live.pop(name, None)
        if live is not None:
            self._queue_of(live).leave(name)

    def _queue_of(self, live: _Live) -> FairQueue[OperationName]:
        """A kind has a queue of its own: an import does not wait for the end of studies."""
        kind = live.opened.kind
        if kind not in self._schedule.queues:
            limits = self._limits
            self._schedule.queues[kind] = FairQueue(lambda: limits.at_once, lambda: limits.at_once_each)
        return self._schedule.queues[kind]

    def _wait_for_turn(self, name: OperationName, live: _Live) -> None:
        self._queue_of(live).add(name, live.opened.requested_by.path)

    def _cancel(self, name: OperationName, live: _Live) -> None:
        """What is to stop does not wait for its turn: a study has steps to cancel."""
        live.cancelled = True
        if live.context is not None:
            live.context.cancel()
        elif not live.running:
            self._queue_of(live).leave(name)
            self._start(name, live)

    def _start_due(self) -> None:
        with self._lock:
            due = self._schedule.due
            while due and due[0][0] <= time.monotonic():
                name = heapq.heappop(due)[2]
                live = self._schedule.live.get(name)
                if live is not None and not live.running:
                    if live.cancelled:
                        self._start(name, live)
                    else:
                        self._wait_for_turn(name, live)
            if self._leaving.is_set():
                return
            for queue in self._schedule.queues.values():
                while queue.waiting and (taken := queue.take()) is not None:
                    self._start(taken, self._schedule.live[taken])

    def _start(self, name: OperationName, live: _Live) -> None:
        live.running = True
        threading.Thread(target=self._run, args=(name, live), name=str(name), daemon=True).start()

    def _show_queue(self) -> None:
        """Says who waits behind how many. Only operations that no host has begun yet are shown as queued."""
        if time.monotonic() < self._next_queue_s:
            return
        self._next_queue_s = time.monotonic() + QUEUE_INTERVAL_SECONDS
        with self._lock:
            before = {
                name: place for queue in self._schedule.queues.values() for place, name in enumerate(queue.order())
            }
        if before != self._shown:
            open_operations.write_queue(self._store, self.service, before)
            self._shown = before

    # What runs

    def _run(self, name: OperationName, live: _Live) -> None:
        began_s = time.monotonic()
        pause_s: float | None = None
        try:
            self._attempt(name, live)
        except HostLeaves:
            self._pause(live, "goes on in another host")
        except _Later as later:
            pause_s = later.seconds
        except Unavailable as error:
            if time.monotonic() - began_s > HEALTHY_SECONDS:
                live.pauses = 0
            pause_s = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**live.pauses)
            live.pauses += 1
            log.warning("%s waits for %.0f s: %s", name, pause_s, error.message)
            self._pause(live, f"waiting: {error.message}")
        except SynthMixError as error:  # such as a record that cannot be read
            log.warning("%s: %s", name, error.message)
            self._unreadable.add(name)
            pause_s = LONGEST_PAUSE_SECONDS
        except BaseException:
            log.exception("%s could not be seen to its end; it is tried again", name)
            pause_s = LONGEST_PAUSE_SECONDS
        finally:
            with self._lock:
                live.running, live.context = False, None
                self._queue_of(live).leave(name)
                if pause_s is None:
                    self._schedule.live.pop(name, None)
                else:
                    heapq.heappush(self._schedule.due, (time.monotonic() + pause_s, next(self._count), name))
            self._start_due()

    def _pause(self, live: _Live, why: str) -> None:
        """If object storage is what is away, the progress stays as it is."""
        if live.context is not None:
            with contextlib.suppress(SynthMixError):
                live.context.pause(why)

    def _attempt(self, name: OperationName, live: _Live) -> None:
        record = records.find_record(self._store, name)
        ended = record is not None and records.find_result(self._store, record) is not None
        if record is None or (ended and record.attempt != live.opened.attempt):
            self._wait_for_record(name, live)
            return
        if ended:
            open_operations.close(self._store, record)
            return
        self._unreadable.discard(name)
        if record.attempt != live.opened.attempt:  # two front ends began attempts at once
            open_operations.make_sure(self._store, record)
        context = OperationContext(self._store, record, self._tasks)
        context.resume()
        with self._lock:
            if live.cancelled:
                context.cancel()
            cancelled = live.cancelled
        failure: SynthMixError | None = None
        target: object = ""
        if context.deaths >= MOST_DEATHS and not cancelled:
            failure = _died_too_often(name, context.deaths)
        else:
            if context.deaths > 1 and not live.waited_for_deaths and not cancelled:
                live.waited_for_deaths = True
                raise _Later(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (context.deaths - 2)))
            with self._on_probation(context):
                target, failure = self._do(name, live, context)
        if failure is None:
            context.complete()
        context.write_progress()
        if failure is None:
            records.write_success(self._store, record, str(target))
        else:
            records.write_failure(self._store, record, failure)
        open_operations.close(self._store, record)
        self._observer.ended(_state_of(failure))

    def _wait_for_record(self, name: OperationName, live: _Live) -> None:
        """A front end writes the record after it has opened the operation, unless it dies in between."""
        opened = open_operations.find(self._store, name)
        if opened is None:
            return  # deleted meanwhile
        if time.time() - _seconds(opened.create_time) < ABANDONED_SECONDS:
            with self._lock:
                live.cancelled = live.cancelled and opened.attempt == live.opened.attempt
                live.opened = opened  # it may be another attempt by now
            raise _Later(ROUND_SECONDS)
        log.warning("%s was opened and never recorded; whoever asked for it was told so", name)
        open_operations.forget(self._store, name)

    def _do(self, name: OperationName, live: _Live, context: OperationContext) -> tuple[object, SynthMixError | None]:
        """What the operation's function returns, or the error that it ends with."""
        start_s = time.time()
        if not live.begun:
            live.begun = True
            waited_s = max(0.0, start_s - _seconds(context.record.create_time))
            self._observer.seconds("synthmix_operation_queue_seconds", waited_s)
        context.begin()
        with self._lock:
            live.context = context
            if live.cancelled:
                context.cancel()
        if self._leaving.is_set():
            context.leave()
        try:
            # A cancelled operation is done as well: a study has steps to cancel.
            module, _, attribute = self._functions[context.record.kind].partition(":")
            return getattr(importlib.import_module(module), attribute)(context), None
        except (HostLeaves, Unavailable):
            raise
        except SynthMixError as error:
            return "", error
        except BaseException as error:  # SystemExit among them: it is to end no other operation
            incident = incidents.record(str(name), error)
            return "", Internal(
                f"{name} failed unexpectedly ({type(error).__name__}: {_last_line(error)}); the stack trace of "
                f"incident {incident.number} is {incident.place}; submit it again, and report it if it fails again",
                reason="INTERNAL",
                metadata=incident.metadata,
            )
        finally:
            self._observer.seconds("synthmix_operation_run_seconds", time.time() - start_s)

    @contextlib.contextmanager
    def _on_probation(self, context: OperationContext) -> Any:
        """What hosts died of, again and again, starts alone, so that the next death is laid to nobody else."""
        if context.deaths < SUSPECT_DEATHS:
            yield
            return
        if not self._probation.acquire(blocking=False):
            raise _Later(FIRST_PAUSE_SECONDS)
        released = threading.Lock()

        def release() -> None:
            if released.acquire(blocking=False):
                self._probation.release()

        def survive() -> None:
            context.survived()
            release()

        timer = threading.Timer(PROBATION_SECONDS, survive)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            release()

    def _write_progress(self) -> None:
        """Writes progress that has changed, of all that runs."""
        while not self._leaving.wait(PROGRESS_INTERVAL_SECONDS):
            with self._lock:
                contexts = {
                    name: live.context
                    for name, live in self._schedule.live.items()
                    if live.context is not None and name not in self._being_written
                }
                self._being_written |= contexts.keys()
            for name, context in contexts.items():
                self._pool.submit(self._write_progress_of, name, context)

    def _write_progress_of(self, name: OperationName, context: OperationContext) -> None:
        try:
            context.write_progress()
        except SynthMixError as error:
            log.warning("%s: progress is not written: %s", name, error.message)
        except Exception:
            log.exception("%s: progress is not written", name)
        finally:
            with self._lock:
                self._being_written.discard(name)


def _state_of(failure: SynthMixError | None) -> str:
    if failure is None:
        return "succeeded"
    return "cancelled" if isinstance(failure, Cancelled) else "failed"


def _died_too_often(name: OperationName, deaths: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"the process that ran {name} died {deaths} times in a row without the operation's coming further; look at the "
        "memory and the logs of Ray's head, and submit it again to go on from what is done",
        reason="HOST_DIED",
    )


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()


def _last_line(error: BaseException) -> str:
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # an error may have any __str__
        return "it has no message"
    return lines[-1][:200] if lines else ""
