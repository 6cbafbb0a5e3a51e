"""soak.json and soak.md: what was done, what came of it, and what went wrong."""

import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak.disturbances import Disturbance
from soak.evidence import Account
from soak.measures import (
    IMPORTING_SERVICES,
    MIB,
    SHORTEST_MINUTES,
    SHOWN_ONLY,
    ProcessMemory,
    Trend,
    importing_workers,
    trend,
)
from soak.schedule import Kind

Series = Mapping[str, Sequence[tuple[float, float]]]


@dataclass
class Outcome:
    """What a run came to; `failures` has what must not happen, and gets what is not flat."""

    seed: int
    minutes: float
    callers: int
    every_s: float
    left_out: list[Kind]
    counts: dict[str, int]
    excused: dict[str, int]
    disturbances: list[Disturbance]
    durations_s: list[float]
    compared: int
    undisturbed_s: float
    account: Account
    memory: Series
    disk: Series
    processes: Sequence[tuple[float, Sequence[ProcessMemory]]]
    failures: list[str]
    most_workers: int = field(init=False)
    workers_allowed: int = field(init=False)
    memory_trends: dict[str, Trend] = field(init=False)
    disk_trends: dict[str, Trend] = field(init=False)

    def __post_init__(self) -> None:
        self.memory_trends = self._trends(self.memory)
        self.disk_trends = self._trends(self.disk)
        self.most_workers = max((importing_workers(found) for _, found in self.processes), default=0)
        self.workers_allowed = IMPORTING_SERVICES * (os.cpu_count() or 1)
        if self.most_workers > self.workers_allowed:
            self.failures.append(
                f"{self.most_workers} workers held what they train and sample with at once; each of "
                f"{IMPORTING_SERVICES} services has use for one a processor, which are {self.workers_allowed}"
            )
        if self.minutes < SHORTEST_MINUTES:
            return
        for kind, trends in (("memory", self.memory_trends), ("disk", self.disk_trends)):
            self.failures += [
                f"{kind} is not flat: that of {name} grew by {found.growth / MIB:.0f} MiB after the warm-up, to "
                f"{found.largest / MIB:.0f} MiB at most; {found.bound / MIB:.0f} MiB are allowed"
                for name, found in trends.items()
                if not found.is_flat and not (kind == "memory" and name in SHOWN_ONLY)
            ]

    def _trends(self, series: Series) -> dict[str, Trend]:
        found = {}
        for name, samples in series.items():
            try:
                found[name] = trend(samples, 60 * self.minutes)
            except ValueError:  # a run of a minute
                continue
        return found


def write_results(outcome: Outcome, out: Path) -> None:
    (out / "soak.json").write_text(json.dumps(as_json(outcome), indent=1) + "\n")
    (out / "soak.md").write_text(as_markdown(outcome))


def as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "minutes": outcome.minutes,
        "callers": outcome.callers,
        "seconds_between_disturbances": outcome.every_s,
        "left_out": list(outcome.left_out),
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "load": os.getloadavg()[2],
        "counts": dict(sorted(outcome.counts.items())),
        "excused_errors": dict(sorted(outcome.excused.items())),
        "disturbances": [
            {"kind": item.kind, "what": item.what, "recovery_seconds": item.recovery_s} for item in outcome.disturbances
        ],
        "study_seconds": _spread(outcome.durations_s),
        "studies_compared": outcome.compared,
        "undisturbed_seconds": outcome.undisturbed_s,
        "made": outcome.account.made(),
        "made_again": [{"key": item.key, "seconds_late": item.seconds} for item in outcome.account.again.values()],
        "kept": outcome.account.kept,
        "most_workers": outcome.most_workers,
        "memory_bytes": {name: vars(found) for name, found in outcome.memory_trends.items()},
        "disk_bytes": {name: vars(found) for name, found in outcome.disk_trends.items()},
        "samples": {
            "memory": outcome.memory,
            "disk": outcome.disk,
            "processes": [
                [round(at_s, 1), [[item.role, item.pid, round(item.age_s, 1), item.bytes] for item in found]]
                for at_s, found in outcome.processes
            ],
        },
        "failures": outcome.failures,
    }


def as_markdown(outcome: Outcome) -> str:
    value = as_json(outcome)
    counts, waited = outcome.counts, value["study_seconds"]
    of_kind = Counter(item.kind for item in outcome.disturbances)
    recovered: dict[Kind, list[float]] = {}
    for item in outcome.disturbances:
        recovered.setdefault(item.kind, []).append(float("inf") if item.recovery_s is None else item.recovery_s)
    left_out = f" Left out: {', '.join(outcome.left_out)}." if outcome.left_out else ""
    flat = (
        "must be flat"
        if outcome.minutes >= SHORTEST_MINUTES
        else f"are shown only: runs of less than {SHORTEST_MINUTES:g} minutes say nothing of them"
    )
    lines = [
        "# Is anything lost when something breaks each minute?",
        "",
        f"`make soak MINUTES={outcome.minutes:g} EVERY={outcome.every_s:g} CALLERS={outcome.callers} "
        f"SEED={outcome.seed}`: {outcome.callers} callers for "
        f"{outcome.minutes:g} minutes, with a disturbance each {outcome.every_s:g} s, then the same {outcome.compared} "
        f"studies on a stack that nothing disturbs ({outcome.undisturbed_s / 60:.1f} minutes); {value['processor']}, "
        f"load {value['load']:.0f}."
        f"{left_out}",
        "",
        f"**{len(outcome.failures) or 'No'} failure{'' if len(outcome.failures) == 1 else 's'}.** "
        f"{outcome.compared} studies were finished at least once, {counts.get('studies finished', 0)} times in all, "
        "and the digests of each time compared with those of the undisturbed run; "
        f"{len(outcome.account.again)} artifacts were made again although they were finished.",
        "",
        "| disturbance | times | median seconds until the stack was whole again | most |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {of_kind[kind]} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |"
            for kind, seconds in recovered.items()
        ),
        "",
        "| what callers did | times |",
        "|---|---|",
        *(f"| {what} | {number:,} |" for what, number in sorted(counts.items())),
        "",
        "Errors that a disturbance excused: "
        + (", ".join(f"{reason} {number:,}" for reason, number in sorted(outcome.excused.items())) or "none")
        + f". From asking for a study to having it: median {waited['median']:.0f} s, "
        f"at most {waited['largest']:.0f} s.",
        "",
        "Made, one that was deleted and made anew as often as that: "
        + ", ".join(f"{number:,} {collection}" for collection, number in value["made"].items())
        + ".",
        "",
        f"After the first quarter of the time, memory (what no file backs) and disk {flat}. Growth is along "
        "Theil's and Sen's line. All workers together take what one takes, times how many have had work since Ray was "
        "last killed, which is chance: sums with them are shown only, and the largest worker, those that have imported "
        "nothing, and the number of the others are judged. Of these there were at most "
        f"{outcome.most_workers} at once; {outcome.workers_allowed} are allowed, one a processor for each of "
        f"{IMPORTING_SERVICES} services.",
        "",
        "| | median MiB | largest MiB | growth MiB | allowed MiB |",
        "|---|---|---|---|---|",
        *(
            f"| {kind}: {name} | {found.median / MIB:.0f} | {found.largest / MIB:.0f} | {found.growth / MIB:+.1f} "
            f"| {'' if kind == 'memory' and name in SHOWN_ONLY else f'{found.bound / MIB:.0f}'} |"
            for kind, trends in (("memory", outcome.memory_trends), ("disk", outcome.disk_trends))
            for name, found in trends.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values) if values else 0.0,
        "largest": max(values, default=0.0),
        "number": len(values),
    }
