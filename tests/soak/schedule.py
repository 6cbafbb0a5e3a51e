"""What is done to the stack, and when. The same seed gives the same schedule."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

HANG_SECONDS = 60.0


class Kind(StrEnum):
    SERVICE = "a service is killed"
    RAY_NODE = "the Ray node is killed"
    WORKER = "a worker is killed"
    STORAGE = "object storage is killed"
    HANG = "object storage hangs"
    DISK = "the disk is full"


LASTING = (Kind.HANG, Kind.DISK)
"""What lasts for a while; the rest happens in an instant."""


@dataclass(frozen=True)
class Planned:
    """What happens at a time, counted in seconds from the start, and how long it lasts."""

    kind: Kind
    at_s: float
    seconds: float


def schedule(seed: int, minutes: float, every_s: float, kinds: Sequence[Kind] = tuple(Kind)) -> list[Planned]:
    """One disturbance each `every_s`, of kinds that are dealt like cards: each comes up before any comes again."""
    rng = random.Random(f"{seed} schedule")
    planned: list[Planned] = []
    deck: list[Kind] = []
    at_s = every_s
    while at_s < 60 * minutes:
        if not deck:
            deck = list(kinds)
            rng.shuffle(deck)
        kind = deck.pop()
        seconds = min(HANG_SECONDS, every_s, 60 * minutes - at_s) if kind in LASTING else 0.0
        planned.append(Planned(kind, at_s, seconds))
        at_s += every_s
    return planned
