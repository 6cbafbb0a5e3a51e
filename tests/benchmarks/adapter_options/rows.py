"""What was measured of each adapter, as rows of a CSV file."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from synthmix.api.adapters.v1 import adapters_pb2

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS = RESULTS / "adapter-options.csv"


@dataclass(frozen=True, order=True)
class Option:
    """What tells one adapter of the design from the others; 0 or "" is what its method does not have."""

    method: str
    targets: str
    rank: int
    block_size: int
    factor: int

    @classmethod
    def of(cls, settings: adapters_pb2.AdapterSettings) -> Self:
        return cls(*(getattr(settings, item.name) for item in fields(cls)))

    @property
    def size(self) -> str:
        """Its rank or block size, as a table has it."""
        if self.block_size:
            return f"blocks of {self.block_size}"
        if not self.rank:
            return ""
        return f"rank {self.rank}" + (f", factor {self.factor}" if self.factor else "")


@dataclass(frozen=True)
class Row:
    """One adapter of one seed, and the images that were made with it."""

    seed: int
    option: Option
    parameters: int
    images_seen: int
    seconds: float
    held_out_loss: float
    class_consistency: float
    """The share of its images in which a classifier of real train images sees the class that was asked for."""
    real_class_consistency: float
    """That of real validation images."""
    kid: float
    """Kernel inception distance from the test images."""
    real_kid: float
    """That of real train images."""
    near_copy_share: float
    image_seconds: float
    score_seconds: float

    @property
    def all_seconds(self) -> float:
        return self.seconds + self.image_seconds + self.score_seconds


OPTION = [item.name for item in fields(Option)]
FIGURES = [item.name for item in fields(Row) if item.name != "option"]
TYPES = {item.name: item.type for item in (*fields(Option), *fields(Row)) if callable(item.type)}


def read_rows() -> list[Row]:
    if not ROWS.exists():
        return []
    with ROWS.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [
        Row(
            option=Option(**{name: TYPES[name](line[name]) for name in OPTION}),
            **{name: TYPES[name](line[name]) for name in FIGURES},
        )
        for line in lines
    ]


def write_rows(rows: Iterable[Row]) -> None:
    lines = [asdict(row.option) | {name: getattr(row, name) for name in FIGURES} for row in rows]
    with ROWS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*OPTION, *FIGURES], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def by_option(rows: Sequence[Row]) -> dict[Option, list[Row]]:
    """The rows of each option, the best by class consistency first."""
    found: dict[Option, list[Row]] = {}
    for row in rows:
        found.setdefault(row.option, []).append(row)
    return dict(sorted(found.items(), key=lambda item: -mean(item[1], "class_consistency")))


def mean(rows: Sequence[Row], name: str) -> float:
    return statistics.fmean(getattr(row, name) for row in rows)
