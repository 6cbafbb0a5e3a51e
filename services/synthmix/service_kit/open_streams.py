"""Bounds on the streams that anybody may open without a token and keep open: health's Watch, and reflection."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from synthmix.service_kit.errors import ResourceExhausted

# A load balancer watches once on each connection; a tool that reflects has one stream.
MOST_OF_A_CONNECTION = 4
MOST = 256


class OpenStreams:
    """Counts those of a server, by connection."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def another(self, method: str, connection: str) -> Iterator[None]:
        """One stream for the length of the block. Raises ResourceExhausted if there are too many."""
        if self._open[connection] >= MOST_OF_A_CONNECTION or self._open.total() >= MOST:
            raise ResourceExhausted(
                f"{method} has {self._open.total()} streams open, {self._open[connection]} of them of this connection; "
                f"a connection may have {MOST_OF_A_CONNECTION} and all together {MOST}, so end some and try again",
                reason="TOO_MANY_STREAMS",
            )
        self._open[connection] += 1
        try:
            yield
        finally:
            self._open[connection] -= 1
            if not self._open[connection]:
                del self._open[connection]
