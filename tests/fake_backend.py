"""Workers that hold tasks until a test ends them."""

import threading
from collections.abc import Callable
from typing import Any

from synthmix.service_kit.errors import Cancelled
from synthmix.service_kit.task_pool import Outcome, TaskCall, TaskResult


class FakeBackend:
    """Holds tasks until a test ends them, in the order in which they were handed over."""

    def __init__(self, slots: int):
        self._slots = slots
        self._lock = threading.Lock()
        self.running: list[tuple[TaskCall, Callable[[Outcome], None]]] = []
        self.submitted: list[TaskCall] = []
        self.most_at_once = 0
        self.cancelled: list[TaskCall] = []

    def submit(self, call: TaskCall, ended: Callable[[Outcome], None]) -> Any:
        with self._lock:
            self.submitted.append(call)
            self.running.append((call, ended))
            self.most_at_once = max(self.most_at_once, len(self.running))
        return call

    def cancel(self, handle: TaskCall) -> None:
        self.cancelled.append(handle)
        self.end(Cancelled("ended", reason="CANCELLED"), handle)

    def slots(self) -> int:
        return self._slots

    def end(self, outcome: Outcome | None = None, call: TaskCall | None = None) -> TaskCall:
        """Ends the first task, or a certain one; it returns its index."""
        with self._lock:
            place = 0 if call is None else [running for running, _ in self.running].index(call)
            found, ended = self.running.pop(place)
        ended(TaskResult(found.index, 0.5) if outcome is None else outcome)
        return found
