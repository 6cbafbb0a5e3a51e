"""Live progress on standard error: bars on a terminal, a line now and then elsewhere.

A step has a row of its own, unless there are many of its kind: forty adapters are one row, which counts those that are
done, running and queued, and those that failed follow by name.
"""

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.operations.v1.operations_pb2 import Step
from synthmix.cli.output import note
from synthmix.client.downloads import Transfer
from synthmix.service_kit.quantities import byte_size, duration
from synthmix.service_kit.resource_names import collection_of

# How the message of a step begins that does nothing now.
WAITING = "waiting"
# So many steps of a kind have a row each; of more, so many that failed are named.
MOST_ROWS = 4
MOST_NAMED = 3
LINE_INTERVAL_S = 10.0
# Where a terminal is narrow, bars give way first, then labels, and then rows become lines that wrap.
BAR_WIDTH = 16
NARROWEST_BAR = 4
NARROWEST_LABEL = 16
GAP = 2
REFRESHES_PER_SECOND = 4
# Enough changes to smooth over units that take unequal time, few enough to follow a cluster that grows.
RATE_CHANGES = 60
SHORTEST_RATE_S = 1.0

RUNNING = operations_pb2.STATE_RUNNING
SUCCEEDED = operations_pb2.STATE_SUCCEEDED
FAILED = operations_pb2.STATE_FAILED
NOT_BEGUN = (operations_pb2.STATE_UNSPECIFIED, operations_pb2.STATE_QUEUED)
# What a state is called, and how it looks; in the order in which steps of a kind are counted.
_STATES = {
    SUCCEEDED: ("done", "green"),
    RUNNING: ("running", "bold"),
    operations_pb2.STATE_QUEUED: ("queued", "dim"),
    operations_pb2.STATE_UNSPECIFIED: ("waiting", "dim"),
    FAILED: ("failed", "red"),
    operations_pb2.STATE_CANCELLED: ("cancelled", "yellow"),
}

Show = Callable[[Sequence[Step], str], None]
"""Shows steps, and a word on what is being done now."""


def shown_operation(show: Show, told: Sequence[str] = ()) -> Callable[[operations_pb2.OperationMetadata], None]:
    """Shows an operation's steps, or the operation itself as one if it has none, and says each warning once.

    Args:
        told: Warnings that were said before.
    """
    said = set(told)

    def shown(metadata: operations_pb2.OperationMetadata) -> None:
        for warning in metadata.warnings:
            if warning not in said:
                said.add(warning)
                note(f"warning: {warning}")
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
        state = SUCCEEDED if ended else RUNNING
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
    with Live(view, console=Console(file=stream), refresh_per_second=REFRESHES_PER_SECOND):
        yield view


Key = tuple[object, ...]


@dataclass(frozen=True)
class Row:
    """A step, or all steps of a kind.

    Attributes:
        key: Tells it from other rows, from one update to the next.
        state: Of a kind: whether none of it has begun, some has, or all has ended, and how.
        word: The state in words; "" of a kind, whose count says the states.
        waits: For what it waits, in words; "" if it does not.
        count: How far it is, in words.
        done, total: How far it is, in units.
        made: What of `done` is new.
        rate_unit, units_each: What its rate counts, and how many units that is.
        reused: What is not new, in words.
    """

    key: Key
    label: str
    state: operations_pb2.State
    word: str
    waits: str
    count: str
    done: int
    total: int
    made: int
    rate_unit: str
    units_each: float
    reused: str


def rows_of(steps: Sequence[Step], most: int = MOST_ROWS) -> list[Row]:
    """A row for each step; one for a kind that has more than `most`, and for those of it that failed."""
    kinds: dict[str, list[Step]] = {}
    for step in steps:
        kinds.setdefault(collection_of(step.target), []).append(step)
    rows: dict[Key, Row] = {}
    named: Counter[str] = Counter()
    for place, step in enumerate(steps):
        kind = collection_of(step.target)
        if kind and len(kinds[kind]) > most:
            if (kind,) not in rows:
                rows[(kind,)] = _row_of_kind(kind, kinds[kind])
            if step.state != FAILED or named[kind] == MOST_NAMED:
                continue
            named[kind] += 1
        row = _row_of_step(place, step)
        rows[row.key] = row
    return list(rows.values())


def _row_of_step(place: int, step: Step) -> Row:
    return Row(
        key=(place, step.display_name),
        label=step.display_name,
        state=step.state,
        word=_look(step.state)[0],
        waits=step.message if step.message.startswith(WAITING) else "",
        count=human_count(step),
        done=step.done,
        total=step.total,
        made=step.done,
        rate_unit=step.unit,
        units_each=1.0,
        reused=f"{step.reused} reused" if step.reused else "",
    )


def _row_of_kind(kind: str, steps: Sequence[Step]) -> Row:
    """Its rate counts steps, and comes of what is done of all of them: whole ones end too seldom to tell it by."""
    states = Counter(step.state for step in steps)
    found = sum(step.reused >= step.total > 0 for step in steps)
    done, reused, total = states[SUCCEEDED], found, len(steps)
    if len({step.unit for step in steps}) == 1 and all(step.total for step in steps):
        done = sum(step.done for step in steps)
        reused = sum(step.reused for step in steps)
        total = sum(step.total for step in steps)
    others = (f"{states[state]} {word}" for state, (word, _) in _STATES.items() if state != SUCCEEDED and states[state])
    return Row(
        key=(kind,),
        label=kind.replace("-", " "),
        state=_state_of_kind(states),
        word="",
        waits="",
        count=", ".join([f"{states[SUCCEEDED]}/{len(steps)} done", *others]),
        done=done,
        total=total,
        made=done - reused,
        rate_unit="",
        units_each=total / len(steps),
        reused=f"{found} reused" if found else "",
    )


def _state_of_kind(states: Counter[operations_pb2.State]) -> operations_pb2.State:
    if states.keys() <= set(NOT_BEGUN):
        return operations_pb2.STATE_QUEUED
    if states[RUNNING] or any(states[state] for state in NOT_BEGUN):
        return RUNNING
    return next(state for state in (FAILED, operations_pb2.STATE_CANCELLED, SUCCEEDED) if states[state])


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


class Rates:
    """The rate of each row."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._rates: dict[Key, Rate] = {}

    def observe(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.state == RUNNING:
                self._rates.setdefault(row.key, Rate()).observe(self._clock(), row.made)

    def describe(self, row: Row) -> tuple[str, str]:
        """The row's rate and time left, each "" if unknown."""
        per_second = self._rates[row.key].per_second(self._clock()) if row.key in self._rates else None
        if per_second is None or row.state != RUNNING or row.waits:
            return "", ""
        left = f"{duration((row.total - row.done) / per_second)} left" if row.total else ""
        return human_rate(per_second / row.units_each, row.rate_unit), left

    def line(self, row: Row) -> str:
        """All that is said of a row."""
        parts = (row.waits or row.word, row.count, *self.describe(row), row.reused)
        return f"{row.label}: {', '.join(part for part in parts if part)}"


class Lines:
    """For logs and pipes: a line when a row's state changes, and every ten seconds for what runs.

    A kind has a line when the first of it begins, when the last has ended, and every ten seconds in which it changes.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream, self._clock = stream, clock
        self._start_s = clock()
        self._rates = Rates(clock)
        self._states: dict[Key, int] = {}
        self._next_line_s: dict[Key, float] = {}
        self._said: dict[Key, Row] = {}

    def __call__(self, steps: Sequence[Step], message: str) -> None:
        rows = rows_of(steps)
        self._rates.observe(rows)
        now_s = self._clock()
        for row in rows:
            due = row.state == RUNNING and now_s >= self._next_line_s.get(row.key, 0.0)
            # What waits in between and goes on is no news.
            changed = self._states.get(row.key) != row.state and not (row.state == RUNNING and row.key in self._said)
            still = not row.word and self._said.get(row.key) == row
            if (changed and row.state not in NOT_BEGUN) or (due and not still):
                self._next_line_s[row.key] = now_s + LINE_INTERVAL_S
                self._said[row.key] = row
                elapsed = f"{int(now_s - self._start_s)} s"
                print(f"{elapsed:>7}  {self._rates.line(row)}", file=self._stream, flush=True)
            self._states[row.key] = row.state


class Bars:
    """For a terminal: a bar for each row, drawn anew several times a second so that times go on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start_s = clock()
        self._rates = Rates(clock)
        self._steps: Sequence[Step] = ()
        self._message = ""

    def __call__(self, steps: Sequence[Step], message: str) -> None:
        for most in (MOST_ROWS, 1):  # either may be shown, by the terminal's height
            self._rates.observe(rows_of(steps, most))
        self._steps, self._message = steps, message

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._shown(rows_of(self._steps), options.max_width)
        if len(console.render_lines(shown, options, pad=False)) > console.height:
            shown = self._shown(rows_of(self._steps, most=1), options.max_width)
        yield shown

    def _shown(self, rows: Sequence[Row], width: int) -> Group:
        elapsed = duration(round(self._clock() - self._start_s)) if rows else ""
        # A study names some of those that run: the row of a kind says how many there are.
        hidden = {step.display_name for step in self._steps} - {row.label for row in rows}
        message = "" if any(name in self._message for name in hidden) else self._message
        return Group(*self._rows(rows, width), Text(f"{elapsed}  {message}".strip(), style="dim"))

    def _rows(self, rows: Sequence[Row], width: int) -> Iterator[Table | Text]:
        """A table; where it does not fit, lines that wrap."""
        cells = [(row.label, row.count, *self._rate_and_note(row)) for row in rows]
        label, *others = (max(map(cell_len, column)) + GAP for column in zip(*cells, strict=True)) if cells else (0,)
        room = width + GAP - sum(others)
        if room < min(label, NARROWEST_LABEL + GAP):
            yield from (Text(self._rates.line(row), style=_look(row.state)[1]) for row in rows)
            return
        bar_width = min(BAR_WIDTH, room - label - GAP)
        grid = Table.grid(padding=(0, GAP))
        columns = ("label", "bar", "count", "rate", "note")
        for column in columns if bar_width >= NARROWEST_BAR else (columns[0], *columns[2:]):
            grid.add_column(no_wrap=column != "label", justify="right" if column == "count" else "left")
        for row, (_, *rest) in zip(rows, cells, strict=True):
            bar = ProgressBar(
                total=row.total or None,
                completed=row.done,
                width=bar_width,
                pulse=row.state == RUNNING and not row.total,
            )
            bars = [bar] if bar_width >= NARROWEST_BAR else []
            grid.add_row(Text(row.label, style=_look(row.state)[1]), *bars, *rest)
        yield grid

    def _rate_and_note(self, row: Row) -> tuple[str, str]:
        rate, left = self._rates.describe(row)
        word = "" if row.state == RUNNING else row.word
        return rate, ", ".join(part for part in (row.waits or left or word, row.reused) if part)


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


def _look(state: operations_pb2.State) -> tuple[str, str]:
    return _STATES.get(state, ("unknown", "dim"))
