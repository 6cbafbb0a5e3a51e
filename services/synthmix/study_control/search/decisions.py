"""What a search does next: a function of its candidates, its rules and its history, and of nothing else.

Asynchronous successive halving, Li et al. 2020 (arXiv:1810.05934), algorithm 2, over images seen: a candidate is
trained and scored at rungs, each `reduction_factor` times as many images as the one before. Whenever there is room for
one more, the best of a rung that is among its first 1 / reduction_factor goes on to the next one, the highest rung
first; if there is none, another candidate begins. Two things are added. A search has a budget of worker time. And what
it would take to train the best `keep` to their ends is set aside from it: they go on, whatever the search came to.

A history is a list of events in their order. So a search that was interrupted goes on with the same next decision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

CLASS_CONSISTENCY = "class_consistency"
KID = "kid"

Outcome = Literal["scored", "failed", "cancelled"]
"""cancelled: it ran when the budget came to its end."""

EndReason = Literal["budget", "exhausted"]
"""budget: what is left does not suffice for another rung. exhausted: nothing is left that is worth training."""


@dataclass(frozen=True)
class Rules:
    """What a search is held to.

    Attributes:
        budget_seconds: Of worker time.
        keep: How many candidates it is to find.
        reduction_factor: A rung's best 1 / reduction_factor go on to the next one, which has as many times the images.
        rungs: How many there are; at the last one a candidate is trained to its end.
        score: By which candidates are ranked: CLASS_CONSISTENCY, of which more is better, or KID, of which less is. The
            other one decides between equals.
    """

    budget_seconds: float
    keep: int
    reduction_factor: int
    rungs: int
    score: str


@dataclass(frozen=True)
class Candidate:
    """One adapter that could be trained.

    Attributes:
        point: Its place in the grid: for each setting in which candidates differ, the number of its value.
        images: Images seen at each rung.
        seconds: The predicted worker time of each rung, beyond the one before: training, images and their score.
    """

    point: tuple[int, ...]
    images: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """What the images of a candidate are worth.

    Attributes:
        class_consistency: The share of images that a classifier of real ones takes for the class that was asked for.
        kid: Kernel inception distance from real images of the validation part.
    """

    class_consistency: float
    kid: float


@dataclass(frozen=True)
class Started:
    """A candidate was sent to a rung."""

    candidate: int
    rung: int


@dataclass(frozen=True)
class Ended:
    """A candidate's rung has ended. A failure is a result too: the worst of its rung.

    Attributes:
        scores: None unless it was scored.
        seconds: Worker time that it took, also of what was there already: else a search would come to something else
            where another study had been.
        reason: What it failed with; "" if it did not.
        made: The names of its adapter, its images and their score, as far as they were made.
        found: Those that were there already, and cost nothing.
    """

    candidate: int
    rung: int
    outcome: Outcome
    seconds: float
    scores: Scores | None = None
    reason: str = ""
    made: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class Over:
    """The search came to its end. What still runs is cancelled, and said to be after this."""

    reason: EndReason


Event: TypeAlias = Started | Ended | Over

Wait = Literal["wait"]
WAIT: Wait = "wait"


@dataclass(frozen=True)
class State:
    """What a history comes to."""

    history: tuple[Event, ...] = ()

    @cached_property
    def started(self) -> tuple[Started, ...]:
        """In the order of starting."""
        return tuple(event for event in self.history if isinstance(event, Started))

    @cached_property
    def ended(self) -> tuple[Ended, ...]:
        """In the order of ending."""
        return tuple(event for event in self.history if isinstance(event, Ended))

    @cached_property
    def over(self) -> Over | None:
        return next((event for event in self.history if isinstance(event, Over)), None)

    @cached_property
    def running(self) -> tuple[Started, ...]:
        """In the order of starting."""
        done = {(event.candidate, event.rung) for event in self.ended}
        return tuple(event for event in self.started if (event.candidate, event.rung) not in done)

    @cached_property
    def tried(self) -> frozenset[int]:
        """The candidates that were sent to a rung."""
        return frozenset(event.candidate for event in self.started)

    @cached_property
    def spent_seconds(self) -> float:
        """Worker time of all that has ended."""
        return sum(event.seconds for event in self.ended)

    @cached_property
    def made(self) -> tuple[str, ...]:
        """All that was made, in the order in which rungs ended."""
        return tuple(dict.fromkeys(name for event in self.ended for name in event.made))

    @cached_property
    def failed(self) -> frozenset[int]:
        return frozenset(event.candidate for event in self.ended if event.outcome == "failed")

    @cached_property
    def best_result(self) -> dict[int, Ended]:
        """Of each candidate that was scored, its highest rung that was."""
        found: dict[int, Ended] = {}
        for event in sorted(self.ended, key=lambda event: event.rung):
            if event.outcome == "scored":
                found[event.candidate] = event
        return found

    def of_rung(self, rung: int) -> tuple[Ended, ...]:
        """The results of a rung: what was cancelled there is none."""
        return tuple(event for event in self.ended if event.rung == rung and event.outcome != "cancelled")

    def with_event(self, event: Event) -> "State":
        return State((*self.history, event))


Suggest = Callable[[State], int]
"""Which of the candidates that were not tried to try next. There is one."""


def next_event(
    candidates: Sequence[Candidate],
    rules: Rules,
    state: State,
    suggest: Suggest,
    *,
    running_seconds: float,
    has_room: bool,
) -> Started | Over | Wait:
    """What to do next: send a candidate to a rung, end the search, or wait for what runs.

    Args:
        running_seconds: Worker time that what runs has taken so far.
        has_room: Whether there is a worker for one more.
    """
    assert state.over is None, "the search is over"
    if state.spent_seconds + running_seconds >= rules.budget_seconds:
        return Over("budget")
    if not has_room:
        return WAIT
    step = promotion(rules, state)
    if step is None and len(state.tried) < len(candidates):
        step = Started(suggest(state), 0)
    if step is None:
        return WAIT if state.running else Over("exhausted")
    if _fits(candidates, rules, state, step, running_seconds):
        return step
    if len(state.tried) < min(rules.keep, len(candidates)):
        return Started(suggest(state), 0)  # a search that ends with nothing to go on with is none
    return WAIT if state.running else Over("budget")


def promotion(rules: Rules, state: State) -> Started | None:
    """The candidate that goes on to a next rung, from the highest rung that has one; None if no rung has."""
    sent = {(event.candidate, event.rung) for event in state.started}
    for rung in reversed(range(rules.rungs - 1)):
        results = state.of_rung(rung)
        scored = sorted((event for event in results if event.scores), key=lambda event: order(rules, event))
        for event in scored[: len(results) // rules.reduction_factor]:
            if (event.candidate, rung + 1) not in sent:
                return Started(event.candidate, rung + 1)
    return None


def order(rules: Rules, event: Ended) -> tuple[float, float, int]:
    """What results of one rung are sorted by, the best first. Among equals in both scores the first candidate is."""
    assert event.scores is not None, "only what was scored has an order"
    consistency, kid = -event.scores.class_consistency, event.scores.kid
    return (kid, consistency, event.candidate) if rules.score == KID else (consistency, kid, event.candidate)


def ranked(rules: Rules, state: State) -> list[int]:
    """The candidates that were scored and have not failed, the best first: by their highest rung, then by its score.

    Scores of different rungs are not compared: a candidate came to a higher one since it was better at the lower one.
    """
    results = [event for event in state.best_result.values() if event.candidate not in state.failed]
    return [event.candidate for event in sorted(results, key=lambda event: (-event.rung, order(rules, event)))]


def kept(rules: Rules, state: State) -> list[int]:
    """The candidates that the study goes on with, the best first; fewer than `keep` if no more were scored."""
    return ranked(rules, state)[: rules.keep]


def scale(candidates: Sequence[Candidate], state: State) -> float:
    """How many times as long as predicted rungs took, all together; 1 until one has been scored."""
    scored = [event for event in state.ended if event.outcome == "scored"]
    predicted = sum(candidates[event.candidate].seconds[event.rung] for event in scored)
    took = sum(event.seconds for event in scored)
    return took / predicted if predicted > 0 and took > 0 else 1.0


def _fits(candidates: Sequence[Candidate], rules: Rules, state: State, step: Started, running_seconds: float) -> bool:
    """Whether the budget suffices for a rung more, for what runs, and for training the best to their ends then."""
    factor = scale(candidates, state)
    after = state.with_event(step)
    runs = sum(candidates[event.candidate].seconds[event.rung] for event in state.running)
    committed = max(running_seconds, factor * runs) + factor * candidates[step.candidate].seconds[step.rung]
    set_aside = factor * _seconds_to_finish(candidates, rules, after)
    return state.spent_seconds + committed + set_aside <= rules.budget_seconds


def _seconds_to_finish(candidates: Sequence[Candidate], rules: Rules, state: State) -> float:
    """The predicted time of training the best to their ends from where they are, beyond what runs.

    Where fewer were scored than are to be kept, those that run are taken, the furthest first, and then the cheapest of
    those that were not tried.
    """
    highest: dict[int, int] = {}
    for event in state.started:
        highest[event.candidate] = max(event.rung, highest.get(event.candidate, 0))
    best = kept(rules, state)
    others = sorted(
        (candidate for candidate in highest if candidate not in best and candidate not in state.failed),
        key=lambda candidate: (-highest[candidate], candidate),
    )
    chosen = [*best, *others][: rules.keep]
    untried = sorted(sum(item.seconds) for number, item in enumerate(candidates) if number not in state.tried)
    return sum(sum(candidates[candidate].seconds[highest[candidate] + 1 :]) for candidate in chosen) + sum(
        untried[: rules.keep - len(chosen)]
    )
