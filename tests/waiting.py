"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 120.0, *, poll_s: float = 0.1) -> None:
    """Asks again and again. Raises TimeoutError if it doesn't hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {timeout_s:g} s still not: {what}")
        time.sleep(poll_s)
