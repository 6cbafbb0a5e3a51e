"""What a worker's process keeps in memory for its next tasks, within a bound, and gives back once it has none.

Base models, encoded images and networks take seconds to make, and one task after another needs the same. What is kept
is what would be made again, bit for bit: whatever changes it is in its key. Nobody changes it in place.
"""

import ctypes
import gc
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

# A worker that had nothing to do for so long gives back what it keeps.
IDLE_SECONDS = 300.0

Value = TypeVar("Value")

_all: list["KeptValues[Any]"] = []
_working = threading.Lock()
_timer: threading.Timer | None = None


class KeptValues(Generic[Value]):
    """Values by key, of which those used the longest ago go when there is not room for all. Used by one task at a time.

    Args:
        size_bytes: Of a value.
        most_bytes: Of all together, from what they take now; asked whenever one is made.
        newest_always: Whether the newest is kept even if it is larger, since it is in use anyway; its room is then made
            before it is.
    """

    def __init__(
        self,
        size_bytes: Callable[[Value], int],
        most_bytes: Callable[[int], float],
        *,
        newest_always: bool = False,
    ):
        self._size_bytes = size_bytes
        self._most_bytes = most_bytes
        self._newest_always = newest_always
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        _all.append(self)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def bytes(self) -> int:
        """What all values take."""
        return sum(map(self._size_bytes, self._values.values()))

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` returns, which is called unless its value is kept. What does not fit is not kept."""
        if key not in self._values:
            most = self._most_bytes(self.bytes)
            if self._newest_always:
                self._shrink(most)
            made = make()
            if not self._newest_always:
                if self._size_bytes(made) > most:
                    return made
                self._shrink(most - self._size_bytes(made))
            self._values[key] = made
        self._values.move_to_end(key)
        return self._values[key]

    def forget(self) -> None:
        """Gives the memory of all values back."""
        self._values.clear()

    def _shrink(self, most_bytes: float) -> None:
        while self._values and self.bytes > most_bytes:
            self._values.popitem(last=False)


@contextmanager
def at_work() -> Iterator[None]:
    """A task's time. Some minutes after the last one, what is kept is given back."""
    global _timer
    with _working:
        if _timer is not None:
            _timer.cancel()
        try:
            yield
        finally:
            if any(len(values) for values in _all):  # a thread takes a tenth of a millisecond, and tasks may be short
                _timer = threading.Timer(IDLE_SECONDS, _give_back_if_idle)
                _timer.daemon = True
                _timer.start()


def give_back() -> None:
    """Forgets everything that is kept, and returns its memory to the system."""
    for values in _all:
        values.forget()
    gc.collect()
    torch = sys.modules.get("torch")  # which most processes never import
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library: it returns memory by itself, or not at all
        log.info("this system's C library has no way to return memory that was freed")


def _give_back_if_idle() -> None:
    if _working.acquire(blocking=False):  # otherwise a task has just begun
        try:
            give_back()
        finally:
            _working.release()
