"""What the scripts of this folder share: ours and a peer's loop in turns, and the row that comes of it.

Every script measures the rows of one comparison: ``python tests/benchmarks/performance/SCRIPT.py --out FOLDER
[--quick]`` writes SCRIPT.json there. ``python tests/benchmarks/performance`` (`make bench`) runs them all and writes
the table.

Processor time is what is compared where a loop has one thread: it does not count what else the machine does. Neighbours
still take cache and memory from it, and from the peer in the same minute: hence pairs, and the median of their ratios.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

FEWEST_PAIRS = 5
PACKAGES = ("torch", "diffusers", "peft", "transformers", "timm", "ray", "accelerate")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: What is compared.
        peer: With what.
        unit: What a loop makes, such as "image".
        at_least: The ratio that is asked of it: how many times as many of the units ours makes in the same time.
        ratios: Of each pair, in processor time or wall time.
        wall_ratios: Of each pair, in wall time, other work of the machine included.
        ours_s, peer_s: Median seconds of a unit, of the same clock as the ratios.
        peak_share: Of the multiplications that the machine makes in matrices of 1024, what share ours makes.
        note: What the reader has to know.
    """

    what: str
    peer: str
    unit: str
    at_least: float
    ratios: Sequence[float]
    wall_ratios: Sequence[float]
    ours_s: float
    peer_s: float
    peak_share: float | None = None
    note: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seconds:
    """What a unit took."""

    processor: float
    wall: float


def timed(loop: Callable[[], int]) -> Seconds:
    """A unit's seconds of a loop that returns how many units it made."""
    wall_s, processor_s = time.perf_counter(), time.process_time()
    units = loop()
    return Seconds((time.process_time() - processor_s) / units, (time.perf_counter() - wall_s) / units)


def in_turns(loops: Mapping[str, Callable[[], int]], pairs: int) -> dict[str, list[Seconds]]:
    """Seconds of each loop in each round, after a round that isn't counted. Every other round goes backwards."""
    assert pairs >= FEWEST_PAIRS
    names = list(loops)
    for name in names:
        timed(loops[name])
    found: dict[str, list[Seconds]] = {name: [] for name in names}
    for number in range(pairs):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(timed(loops[name]))
    return found


def compared(
    what: str,
    peer: str,
    unit: str,
    at_least: float,
    *,
    ours: Sequence[Seconds],
    others: Sequence[Seconds],
    flops: float | None = None,
    dtype: torch.dtype = torch.float32,
    note: str = "",
) -> Row:
    """A row in processor time.

    Args:
        flops: Of a unit, as the peer computes it: what ours leaves out counts as done.
        dtype: Of ours, for the machine's peak.
    """
    ours_s = statistics.median(item.processor for item in ours)
    return Row(
        what,
        peer,
        unit,
        at_least,
        [other.processor / own.processor for own, other in zip(ours, others, strict=True)],
        [other.wall / own.wall for own, other in zip(ours, others, strict=True)],
        ours_s,
        statistics.median(item.processor for item in others),
        None if flops is None else flops / ours_s / peak_flops(dtype),
        note,
        environment(),
    )


def peak_flops(dtype: torch.dtype) -> float:
    """Floating-point operations a second of one thread in a product of two matrices of 1024 x 1024, at best."""
    left, right = torch.randn(2, 1024, 1024).to(dtype)
    best_s = min(timed(lambda: int(torch.mm(left, right).shape[0] > 0)).processor for _ in range(20))
    return float(2 * 1024**3 / best_s)


def environment() -> dict[str, str]:
    names = {line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    return {
        "processor": f"{', '.join(sorted(names)) or platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        **versions,
        "load": f"{os.getloadavg()[0]:.0f}",
    }


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def run(measure: Callable[[bool], Sequence[Row]], about: str | None) -> None:
    """What a script's main does: options, measurement, JSON and the rows on the terminal."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/performance"))
    parser.add_argument("--quick", action="store_true", help="less work in each loop, and five pairs all the same")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [asdict(row) for row in measure(arguments.quick)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{Path(sys.argv[0]).stem}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| what | peer | ratio (median; range; pairs) | at least | in wall time | ours | peer's | share of the peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios, share = row["ratios"], row["peak_share"]
        lines.append(
            f"| {row['what']} | {row['peer']} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
            f"{max(ratios):.2f}; {len(ratios)}) | {row['at_least']:g} | {statistics.median(row['wall_ratios']):.2f} | "
            f"{row['ours_s'] * 1000:.1f} ms / {row['unit']} | {row['peer_s'] * 1000:.1f} ms | "
            f"{'-' if share is None else f'{share:.0%}'} |"
        )
    notes = [f"- {row['what']}: {row['note']}" for row in rows if row["note"]]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"
