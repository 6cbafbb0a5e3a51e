"""Real servers as children of a test."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from synthmix.local.children import Child, stop_children, wait_until_ready

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 5.0


@contextmanager
def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, is_ready: Callable[[], bool]
) -> Iterator[None]:
    """A child for the length of a `with` block, from when it is ready."""
    child = Child(name, command, environment, folder=folder, log=folder / f"{name}.log")
    child.start()
    try:
        wait_until_ready(
            {child: is_ready}, timeout_s=START_TIMEOUT_S, say_ready=lambda _: None, check_stop=lambda: None
        )
        yield
    finally:
        stop_children([child], STOP_GRACE_S)
