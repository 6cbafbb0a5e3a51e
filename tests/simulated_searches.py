"""Searches over grids whose every adapter's worth is known, by the search's own decisions, without any training."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from synthmix.study_control.search import sampling
from synthmix.study_control.search.decisions import (
    CLASS_CONSISTENCY,
    WAIT,
    Candidate,
    Ended,
    Over,
    Rules,
    Scores,
    Started,
    State,
    next_event,
)

IMAGES_SEEN = 4800
START_SECONDS = 10.0
SCORING_SECONDS = 30.0


@dataclass(frozen=True)
class Landscape:
    """A grid of adapters.

    Attributes:
        worth: Of each candidate, the class consistency that it comes to if it is trained to its end.
        slowness: Of each candidate, how much of that it lacks after no training at all, relative to the others.
        noise: Standard deviation of a score.
        full_seconds: Of each candidate, what a whole training takes.
    """

    points: tuple[tuple[int, ...], ...]
    worth: tuple[float, ...]
    slowness: tuple[float, ...]
    noise: float
    full_seconds: tuple[float, ...]

    def score(self, candidate: int, share: float, rng: np.random.Generator) -> float:
        """After a share of the training."""
        lacks = 0.4 * self.slowness[candidate] * np.exp(-4.0 * share)
        return float(np.clip(self.worth[candidate] - lacks + rng.normal(0.0, self.noise), 0.0, 1.0))

    def candidates(self, rungs: int, reduction_factor: int) -> tuple[Candidate, ...]:
        shares = [reduction_factor ** -(rungs - 1 - rung) for rung in range(rungs)]
        steps = np.diff([0.0, *shares])
        return tuple(
            Candidate(
                point,
                tuple(round(share * IMAGES_SEEN) for share in shares),
                tuple(START_SECONDS + float(step) * full + SCORING_SECONDS for step in steps),
            )
            for point, full in zip(self.points, self.full_seconds, strict=True)
        )

    def within(self, share: float) -> frozenset[int]:
        """The best candidates, so many of all."""
        order = sorted(range(len(self.worth)), key=lambda number: -self.worth[number])
        return frozenset(order[: max(1, round(share * len(order)))])


def draw(seed: int, sizes: Sequence[int], *, interactions: float, noise: float) -> Landscape:
    """A grid of random worth: each setting's values have effects of their own, and pairs of them together.

    Args:
        interactions: Their standard deviation, as a multiple of that of the settings' own effects.
    """
    rng = np.random.default_rng(seed)
    points = tuple(product(*(range(size) for size in sizes)))
    total = np.zeros(len(points))
    for axis, size in enumerate(sizes):
        effects = rng.normal(0.0, 1.0, size)
        total += effects[[point[axis] for point in points]]
    for first in range(len(sizes)):
        for second in range(first):
            effects = rng.normal(0.0, interactions, (sizes[first], sizes[second]))
            total += np.array([effects[point[first], point[second]] for point in points])
    worth = 0.55 + 0.10 * (total - total.mean()) / total.std()
    return Landscape(
        points,
        tuple(worth.tolist()),
        tuple(rng.uniform(0.5, 1.0, len(points)).tolist()),
        noise,
        tuple((400.0 * rng.uniform(0.8, 1.2, len(points))).tolist()),
    )


def search(landscape: Landscape, rules: Rules, *, sampler: str, seed: int, workers: int) -> tuple[State, float]:
    """Runs a search, and returns what it did and the worker time of all of it."""
    candidates = landscape.candidates(rules.rungs, rules.reduction_factor)
    suggest = partial(sampling.suggest, candidates, rules, sampler=sampler, seed=seed)
    rng = np.random.default_rng(seed)
    state, now_s, running = State(), 0.0, []
    while True:
        elapsed = sum(now_s - began_s for _, began_s, _ in running)
        event = next_event(candidates, rules, state, suggest, running_seconds=elapsed, has_room=len(running) < workers)
        if isinstance(event, Over):
            state = state.with_event(event)
            for _, began_s, started in running:
                state = state.with_event(Ended(started.candidate, started.rung, "cancelled", now_s - began_s))
            return state, state.spent_seconds
        if event != WAIT:
            assert isinstance(event, Started)
            state = state.with_event(event)
            took = candidates[event.candidate].seconds[event.rung] * rng.uniform(0.8, 1.5)
            heapq.heappush(running, (now_s + took, now_s, event))
            continue
        end_s, began_s, started = heapq.heappop(running)
        now_s = end_s
        share = candidates[started.candidate].images[started.rung] / IMAGES_SEEN
        scores = Scores(landscape.score(started.candidate, share, rng), 0.1)
        state = state.with_event(Ended(started.candidate, started.rung, "scored", end_s - began_s, scores))


def rules_for(landscape: Landscape, *, budget_share: float, keep: int = 1) -> Rules:
    """With a share of what all candidates would take to be trained and scored."""
    candidates = landscape.candidates(4, 2)
    whole = sum(START_SECONDS + full + SCORING_SECONDS for full in landscape.full_seconds)
    assert len(candidates) == len(landscape.full_seconds)
    return Rules(budget_share * whole, keep, 2, 4, CLASS_CONSISTENCY)
