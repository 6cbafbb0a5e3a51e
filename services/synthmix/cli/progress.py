"""Live progress on standard error: bars on a terminal, a line now and then elsewhere."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.operations.v1.operations_pb2 import Step
from synthmix.client.downloads import Transfer
from synthmix.service_kit.quantities import byte_size, duration

LINE_INTERVAL_S = 10.0
BAR_WIDTH = 16
REFRESHES_PER_SECOND = 4
# Enough changes to smooth over units that take unequal time, few enough to follow a cluster that grows.
RATE_CHANGES = 60
SHORTEST_RATE_S = 1.0

RUNNING = operations_pb2.STATE_RUNNING
# What a state is called, and how it looks.
_STATES = {
    operations_pb2.STATE_UNSPECIFIED: ("waiting", "dim"),
    operations_pb2.STATE_QUEUED: ("queued", "dim"),
    operations_pb2.STATE_RUNNING: ("running", "bold"),
    operations_pb2.STATE_SUCCEEDED: ("done", "green"),
    operations_pb2.STATE_FAILED: ("failed", "red"),
    operations_pb2.STATE_CANCELLED: ("cancelled", "yellow"),
}

Show = Callable[[Sequence[Step], str], None]
"""Shows steps, and a word on what is being done now."""


def shown_operation(show: Show) -> Callable[[operations_pb2.OperationMetadata], None]:
    """Shows an operation's steps, or the operation itself as one if it has none."""

    def shown(metadata: operations_pb2.OperationMetadata) -> None:
        alone = Step(
            display_name=metadata.target or "operation",
            state=metadata.state,
            done=metadata.done,
            total=metadata.total,
            unit=metadata.unit,
            reused=metadata.reused,
        )
        show(metadata.steps or [alone], metadata.message)

    return shown


def shown_transfer(show: Show) -> Callable[[Transfer], None]:
    """Shows a stage of an import or a download as a step."""

    def shown(transfer: Transfer) -> None:
        ended = transfer.total and transfer.done >= transfer.total
        state = operations_pb2.STATE_SUCCEEDED if ended else RUNNING
        step = Step(
            display_name=transfer.stage, state=state, done=transfer.done, total=transfer.total, unit=transfer.unit
        )
        show([step], "")

    return shown


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Show]:
    """Yields a function that shows progress until the block ends."""
    stream = stream or sys.stderr
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        yield Lines(stream)
        return
    view = Bars()
    with Live(get_renderable=view.render, console=Console(file=stream), refresh_per_second=REFRESHES_PER_SECOND):
        yield view


@dataclass
class Rate:
    """Units a second, over the latest changes. What was done before the first observation doesn't count."""

    changes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_CHANGES))

    def observe(self, now_s: float, done: int) -> None:
        if not self.changes or done != self.changes[-1][1]:
            self.changes.append((now_s, done))

    def per_second(self, now_s: float) -> float | None:
        """None until there is something to tell."""
        if len(self.changes) < 2:
            return None
        start_s, start = self.changes[0]
        grown, passed_s = self.changes[-1][1] - start, now_s - start_s
        return grown / passed_s if grown > 0 and passed_s >= SHORTEST_RATE_S else None


Key = tuple[int, str]
"""Tells rows apart from one update to the next: place and label, since two steps may have one label."""


class Rates:
    """The rate of each row."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._rates: dict[Key, Rate] = {}

    def observe(self, rows: Sequence[Step]) -> None:
        for key, row in _keyed(rows):
            if row.state == RUNNING:
                self._rates.setdefault(key, Rate()).observe(self._clock(), row.done)

    def describe(self, key: Key, row: Step) -> tuple[str, str]:
        """The row's rate and time left, each "" if unknown."""
        per_second = self._rates[key].per_second(self._clock()) if key in self._rates else None
        if per_second is None or row.state != RUNNING:
            return "", ""
        left = f"{duration((row.total - row.done) / per_second)} left" if row.total else ""
        return human_rate(per_second, row.unit), left


class Lines:
    """For logs and pipes: a line when a row's state changes, and every ten seconds for what runs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream, self._clock = stream, clock
        self._start_s = clock()
        self._rates = Rates(clock)
        self._states: dict[Key, int] = {}
        self._next_line_s: dict[Key, float] = {}

    def __call__(self, rows: Sequence[Step], message: str) -> None:
        self._rates.observe(rows)
        now_s = self._clock()
        for key, row in _keyed(rows):
            changed = self._states.get(key) != row.state
            due = row.state == RUNNING and now_s >= self._next_line_s.get(key, 0.0)
            if (changed and row.state not in (operations_pb2.STATE_UNSPECIFIED, operations_pb2.STATE_QUEUED)) or due:
                self._next_line_s[key] = now_s + LINE_INTERVAL_S
                elapsed = f"{int(now_s - self._start_s)} s"
                print(f"{elapsed:>7}  {self._line(key, row)}", file=self._stream, flush=True)
            self._states[key] = row.state

    def _line(self, key: Key, row: Step) -> str:
        parts = [_look(row)[0], human_count(row), *self._rates.describe(key, row), _reused(row)]
        return f"{row.display_name}: {', '.join(part for part in parts if part)}"


class Bars:
    """For a terminal: a bar for each row, drawn anew several times a second so that times go on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start_s = clock()
        self._rates = Rates(clock)
        self._rows: Sequence[Step] = ()
        self._message = ""

    def __call__(self, rows: Sequence[Step], message: str) -> None:
        self._rates.observe(rows)
        self._rows, self._message = rows, message

    def render(self) -> Group:
        grid = Table.grid(padding=(0, 2))
        for column in ("label", "bar", "count", "rate", "note"):
            # Where a terminal is narrow, labels give way first.
            grid.add_column(no_wrap=column != "label", justify="right" if column == "count" else "left")
        for key, row in _keyed(self._rows):
            rate, left = self._rates.describe(key, row)
            word, style = _look(row)
            note = ", ".join(part for part in (left or ("" if row.state == RUNNING else word), _reused(row)) if part)
            bar = ProgressBar(
                total=row.total or None,
                completed=row.done,
                width=BAR_WIDTH,
                pulse=row.state == RUNNING and not row.total,
            )
            grid.add_row(Text(row.display_name, style=style), bar, human_count(row), rate, note)
        elapsed = duration(round(self._clock() - self._start_s)) if self._rows else ""
        return Group(grid, Text(f"{elapsed}  {self._message}".strip(), style="dim"))


def human_count(row: Step) -> str:
    """Such as 1200/4800 images seen."""
    if row.unit == "bytes":
        return f"{byte_size(row.done)}/{byte_size(row.total)}" if row.total else byte_size(row.done)
    if not row.total:
        return f"{row.done} {row.unit}" if row.done else ""
    return f"{row.done}/{row.total} {row.unit}".rstrip()


def human_rate(per_second: float, unit: str) -> str:
    """Such as 14.2/s, 3.1/min, 2.5 MiB/s."""
    if unit == "bytes":
        return f"{byte_size(per_second)}/s"
    scale, name = next(((s, n) for s, n in ((1, "s"), (60, "min")) if per_second * s >= 1), (3600, "h"))
    rate = per_second * scale
    return f"{rate:.0f}/{name}" if rate >= 100 else f"{rate:.1f}/{name}"


def _keyed(rows: Sequence[Step]) -> list[tuple[Key, Step]]:
    return [((index, row.display_name), row) for index, row in enumerate(rows)]


def _look(row: Step) -> tuple[str, str]:
    return _STATES.get(row.state, ("unknown", "dim"))


def _reused(row: Step) -> str:
    return f"{row.reused} reused" if row.reused else ""
