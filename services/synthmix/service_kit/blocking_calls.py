"""Blocking work of a front end: threads by purpose, so that none waits for another, and the time that each may take.

`asyncio.to_thread` uses the event loop's default executor. It is this one in a front end: it looks at which method is
being answered, and at its caller's deadline, and lets object storage know how much time is left.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, ParamSpec, TypeVar

from synthmix.service_kit.errors import Unavailable

REQUEST_SECONDS = 60.0
"""For a piece of blocking work of a request whose caller gave no deadline."""
# What is left of a caller's time when storage gives up, so that the reason still reaches it.
MARGIN_SHARE = 0.1
LARGEST_MARGIN_SECONDS = 1.0


class Purpose(Enum):
    """What blocking work is for."""

    CONTROL = "control"
    """What stops work, and must not wait for anything."""
    REQUESTS = "requests"
    TRANSFERS = "transfers"
    """Uploads and downloads, whose time depends on their size."""
    BACKGROUND = "background"
    """What no caller waits for."""


THREADS = {Purpose.CONTROL: 8, Purpose.REQUESTS: 32, Purpose.TRANSFERS: 16, Purpose.BACKGROUND: 16}


@dataclass(frozen=True)
class _Call:
    purpose: Purpose
    deadline_s: float | None


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_call: ContextVar[_Call | None] = ContextVar("call", default=None)
_of_thread = threading.local()


def begin_call(method: str, time_remaining_s: float | None) -> None:
    """Says for which method, as /package.Service/Method, this task works from now on, and how long its caller waits."""
    name = method.rpartition("/")[2]
    if name.startswith("Cancel"):
        purpose = Purpose.CONTROL
    elif name in ("UploadFile", "DownloadPayload"):
        purpose = Purpose.TRANSFERS
    else:
        purpose = Purpose.REQUESTS
    deadline_s = None
    if time_remaining_s is not None:
        margin_s = min(LARGEST_MARGIN_SECONDS, MARGIN_SHARE * time_remaining_s)
        deadline_s = time.monotonic() + time_remaining_s - margin_s
    _call.set(_Call(purpose, deadline_s))


def remaining_seconds() -> float | None:
    """How long this thread's work may still take; None if it has no deadline."""
    deadline_s: float | None = getattr(_of_thread, "deadline_s", None)
    return None if deadline_s is None else deadline_s - time.monotonic()


class CallThreads(ThreadPoolExecutor):
    """An event loop's default executor, with threads for each purpose.

    Work that finds as much waiting before it as there are threads is refused: it would wait for longer than its caller.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._pools = {
            purpose: ThreadPoolExecutor(THREADS[purpose], thread_name_prefix=purpose.value) for purpose in Purpose
        }
        self._lock = threading.Lock()
        self._pending = dict.fromkeys(Purpose, 0)

    def submit(
        self, function: Callable[Arguments, Result], /, *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Future[Result]:
        """Raises Unavailable if too much is waiting already."""
        call = _call.get()
        purpose = Purpose.BACKGROUND if call is None else call.purpose
        with self._lock:
            if call is not None and self._pending[purpose] >= 2 * THREADS[purpose]:
                raise Unavailable(
                    "the service has more requests than it can answer at once, which may be because object storage "
                    "answers slowly; try again in a moment",
                    reason="SERVICE_BUSY",
                )
            self._pending[purpose] += 1
        try:
            future = self._pools[purpose].submit(_within, _deadline(call), function, *arguments, **keywords)
        except BaseException:
            self._ended(purpose)
            raise
        future.add_done_callback(lambda _: self._ended(purpose))
        return future

    def _ended(self, purpose: Purpose) -> None:
        with self._lock:
            self._pending[purpose] -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for threads in self._pools.values():
            threads.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)


def _deadline(call: _Call | None) -> float | None:
    """When a piece of work that is begun now has to end; None if it may take as long as it needs."""
    if call is None:
        return None
    if call.deadline_s is None and call.purpose != Purpose.TRANSFERS:
        return time.monotonic() + REQUEST_SECONDS
    return call.deadline_s


def _within(deadline_s: float | None, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    _of_thread.deadline_s = deadline_s
    try:
        return function(*arguments, **keywords)
    finally:
        _of_thread.deadline_s = None
