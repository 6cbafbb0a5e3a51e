"""How often a study claims what isn't so: equivalence where the true difference is the margin.

Usage: ``python tests/benchmarks/calibration.py --out FOLDER [--studies 200]``.

Draws studies of 2 to 10 groups, 2 to 10 seeds and real-only accuracies of 50, 90, 99 and 100 %, whose true difference
is +margin or -margin, in every combination of what else may differ, and counts verdicts of `equivalent`; beside them,
how often the interval covers the truth. Of so many designs some look bad by chance: the ten worst are measured again,
with other draws and five times as many studies. Writes calibration.json and tables in calibration.md.
"""

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from simulated_studies import Design, simulate

UNITS = (2, 3, 5, 10)
ACCURACIES = (0.5, 0.9, 0.99, 1.0)
MARGINS = (0.02, 0.05)
IMAGES = (3, 20)
SPREADS = (0.0, 1.0)
WORST = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=200, help="of each design (%(default)s)")
    arguments = parser.parse_args()
    everything = designs()
    rows = [
        measured(design, margin, arguments.studies, seed)
        for seed, (design, margin) in enumerate(track(everything, description="simulating studies"))
    ]
    worst = sorted(range(len(rows)), key=lambda index: -rows[index]["equivalent"])[:WORST]
    again = [
        measured(*everything[index], 5 * arguments.studies, len(everything) + index)
        for index in track(worst, description="the worst again")
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "calibration.json").write_text(json.dumps({"designs": rows, "worst_again": again}, indent=1))
    text = table(rows, arguments.studies) + worst_table([rows[index] for index in worst], again, 5 * arguments.studies)
    (arguments.out / "calibration.md").write_text(text)
    print(text)


def designs() -> list[tuple[Design, float]]:
    """Every design and its margin. A classifier that is right 99 or 100 % of the time can't gain a margin."""
    found = []
    for groups, seeds, accuracy, margin, images, spread in itertools.product(
        UNITS, UNITS, ACCURACIES, MARGINS, IMAGES, SPREADS
    ):
        for luck in ("image", "seed", "none"):
            for sign in (-1, 1) if accuracy + margin <= 1.0 else (-1,):
                found.append((Design(groups, seeds, images, accuracy, sign * margin, luck, spread), margin))
    return found


def measured(design: Design, margin: float, studies: int, seed: int) -> dict[str, Any]:
    """Shares of the studies, 0 to 1."""
    rng = np.random.default_rng(seed)
    equivalent = covered = 0
    for _ in range(studies):
        comparison = simulate(rng, design, margin)
        verdict, difference = comparison.verdict, comparison.mixtures[1].difference
        equivalent += verdict.kind == "equivalent"
        covered += difference.low <= design.difference <= difference.high
    return {**vars(design), "margin": margin, "equivalent": equivalent / studies, "covered": covered / studies}


def table(rows: list[dict[str, Any]], studies: int) -> str:
    """Of each accuracy, groups and seeds: the share of wrong claims over all its designs, and in the worst one."""
    cells: dict[tuple[float, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["accuracy"], row["groups"], row["seeds"]].append(row)
    lines = [
        "# Equivalence claimed where the true difference is the margin",
        "",
        f"`make calibration`: {len(rows):,} designs of {studies:,} simulated studies each. Share of wrong claims over",
        "all designs of a row, in its worst design, and how often the 95 % interval covered the true difference.",
        "",
        "| real only | groups | seeds | wrong claims | in the worst design | covered |",
        "|---|---|---|---|---|---|",
    ]
    for (accuracy, groups, seeds), found in sorted(cells.items()):
        wrong = [row["equivalent"] for row in found]
        covered = np.mean([row["covered"] for row in found])
        lines.append(
            f"| {accuracy:.0%} | {groups} | {seeds} | {np.mean(wrong):.1%} | {max(wrong):.1%} | {covered:.1%} |"
        )
    return "\n".join(lines) + "\n"


def worst_table(first: list[dict[str, Any]], again: list[dict[str, Any]], studies: int) -> str:
    """The designs with the most wrong claims, as they were and measured again."""
    lines = [
        "",
        f"The {len(first)} designs with the most wrong claims, again with other draws ({studies:,} studies each):",
        "",
        "| real only | difference | groups | seeds | images a class | luck | wrong claims | again | covered again |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, repeat in zip(first, again, strict=True):
        lines.append(
            f"| {row['accuracy']:.0%} | {100 * row['difference']:+.0f} points | {row['groups']} | {row['seeds']} | "
            f"{row['images']} | {row['luck']} | {row['equivalent']:.1%} | {repeat['equivalent']:.1%} | "
            f"{repeat['covered']:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
