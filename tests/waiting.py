"""Waiting for what other processes do."""

import time
from collections.abc import Callable

from synthmix.service_kit.asking_again import ask_until


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 120.0, *, poll_s: float = 0.02) -> None:
    """Asks again and again. Raises TimeoutError if it does not hold in time."""
    if not ask_until(holds, end_s=time.monotonic() + timeout_s, pause_s=poll_s, will_do=bool):
        raise TimeoutError(f"after {timeout_s:g} s still not: {what}")
