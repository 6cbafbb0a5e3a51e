"""What a search does next, by hand-computed examples and by whole searches over grids whose worth is known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from simulated_searches import draw, rules_for, search
from synthmix.study_control.search.decisions import (
    CLASS_CONSISTENCY,
    KID,
    WAIT,
    Candidate,
    Ended,
    Event,
    Over,
    Rules,
    Scores,
    Started,
    State,
    kept,
    next_event,
    promotion,
    ranked,
    scale,
)
from synthmix.study_control.search.sampling import RANDOM, TPE, suggest

# Rungs of 600, 1200, 2400 and 4800 images, which take 20, 20, 40 and 80 s: 160 s for a whole training.
ONE = Candidate((0,), (600, 1200, 2400, 4800), (20.0, 20.0, 40.0, 80.0))
RULES = Rules(budget_seconds=10_000.0, keep=1, reduction_factor=2, rungs=4, score=CLASS_CONSISTENCY)


def grid(count: int) -> tuple[Candidate, ...]:
    return tuple(replace(ONE, point=(number,)) for number in range(count))


def scored(candidate: int, rung: int, consistency: float, kid: float = 0.1, seconds: float = 20.0) -> list[Event]:
    """A candidate that went to a rung, and was scored there."""
    return [Started(candidate, rung), Ended(candidate, rung, "scored", seconds, Scores(consistency, kid))]


def failed(candidate: int, rung: int) -> list[Event]:
    return [Started(candidate, rung), Ended(candidate, rung, "failed", 5.0, reason="memory is not enough")]


def after(*events: Sequence[Event]) -> State:
    return State(tuple(event for part in events for event in part))


def first_untried(state: State) -> int:
    return next(number for number in range(100) if number not in state.tried)


def decide(
    state: State, rules: Rules = RULES, count: int = 8, running_seconds: float = 0.0, has_room: bool = True
) -> Event | str:
    return next_event(grid(count), rules, state, first_untried, running_seconds=running_seconds, has_room=has_room)


# Promotion


def test_a_search_begins_with_new_candidates_at_the_first_rung() -> None:
    assert decide(after()) == Started(0, 0)
    assert decide(after([Started(0, 0)])) == Started(1, 0)
    # One of one is not among the best half.
    assert decide(after(scored(0, 0, 0.5))) == Started(1, 0)


def test_the_better_of_two_goes_on() -> None:
    state = after(scored(0, 0, 0.5), scored(1, 0, 0.6))
    assert decide(state) == Started(1, 1)
    # It goes on once, and of three results one half is one.
    state = after(state.history, [Started(1, 1)])
    assert decide(state) == Started(2, 0)
    assert decide(after(state.history, scored(2, 0, 0.1))) == Started(3, 0)
    # Of four it is two: the second best goes on too.
    assert decide(after(state.history, scored(2, 0, 0.1), scored(3, 0, 0.2))) == Started(0, 1)


def test_one_that_was_overtaken_goes_on_though_the_better_one_came_later() -> None:
    """Asynchronously: the first of two went on before the best of four was known."""
    state = after(scored(0, 0, 0.5), scored(1, 0, 0.4), [Started(0, 1)], scored(2, 0, 0.9), scored(3, 0, 0.8))
    assert promotion(RULES, state) == Started(2, 1)
    state = after(state.history, [Started(2, 1)])
    assert promotion(RULES, state) == Started(3, 1)
    assert promotion(RULES, after(state.history, [Started(3, 1)])) is None  # 0 is third of its rung, and was sent on


def test_the_highest_rung_goes_first() -> None:
    low = [scored(number, 0, number / 10) for number in range(8)]
    state = after(*low, scored(7, 1, 0.7), scored(6, 1, 0.8))
    assert promotion(RULES, state) == Started(6, 2)
    assert promotion(RULES, after(state.history, [Started(6, 2)])) == Started(5, 1)


def test_a_reduction_by_three_takes_a_third() -> None:
    rules = replace(RULES, reduction_factor=3)
    two = after(scored(0, 0, 0.5), scored(1, 0, 0.6))
    assert promotion(rules, two) is None
    assert promotion(rules, after(two.history, scored(2, 0, 0.4))) == Started(1, 1)


def test_from_the_last_rung_nothing_goes_on() -> None:
    state = after(*(scored(number, rung, 0.5) for rung in range(4) for number in (0, 1)))
    assert promotion(RULES, state) is None


def test_by_distance_less_is_better() -> None:
    state = after(scored(0, 0, 0.9, kid=0.2), scored(1, 0, 0.1, kid=0.1))
    assert promotion(replace(RULES, score=KID), state) == Started(1, 1)
    assert promotion(RULES, state) == Started(0, 1)


def test_the_other_score_decides_between_equals_and_then_the_order() -> None:
    assert promotion(RULES, after(scored(0, 0, 0.5, kid=0.2), scored(1, 0, 0.5, kid=0.1))) == Started(1, 1)
    equal = [scored(1, 0, 0.5), scored(0, 0, 0.5)]
    assert promotion(RULES, after(*equal)) == Started(0, 1)
    by_kid = replace(RULES, score=KID)
    assert promotion(by_kid, after(scored(0, 0, 0.4, kid=0.1), scored(1, 0, 0.5, kid=0.1))) == Started(1, 1)


# Failures


def test_a_failure_counts_as_the_worst_of_its_rung() -> None:
    state = after(scored(0, 0, 0.0), failed(1, 0))
    assert promotion(RULES, state) == Started(0, 1)
    assert promotion(RULES, after(failed(0, 0), failed(1, 0))) is None
    # Had the three that failed not counted, one of one would not go on.
    assert promotion(RULES, after(scored(3, 0, 0.5), *(failed(number, 0) for number in range(3)))) == Started(3, 1)


def test_what_failed_higher_up_is_not_sent_there_again_and_not_kept() -> None:
    state = after(scored(0, 0, 0.9), scored(1, 0, 0.5), failed(0, 1))
    assert promotion(RULES, state) is None
    assert ranked(RULES, state) == [1]


# The end


def test_the_search_waits_for_what_runs_and_ends_when_nothing_is_left() -> None:
    tried = after(*(scored(number, 0, number / 10) for number in range(2)))
    sent = after(tried.history, [Started(1, 1)])
    assert decide(sent, count=2) == WAIT
    assert decide(after(tried.history, scored(1, 1, 0.7)), count=2) == Over("exhausted")


def test_without_room_nothing_starts() -> None:
    assert decide(after(), has_room=False) == WAIT


def test_the_search_ends_when_its_budget_is_spent_also_while_something_runs() -> None:
    rules = replace(RULES, budget_seconds=600.0)
    state = after(scored(0, 0, 0.5, seconds=300.0), [Started(1, 0)])
    assert decide(state, rules, running_seconds=299.0, has_room=False) == WAIT
    assert decide(state, rules, running_seconds=300.0, has_room=False) == Over("budget")


def test_what_the_best_take_to_their_ends_is_set_aside() -> None:
    """One of 8 is to be kept. Rungs take as long as predicted: 20, 20, 40, 80 s."""
    state = after(scored(0, 0, 0.5))
    # Another candidate (20) and the best's three rungs (140) after the 20 that are spent.
    assert decide(state, replace(RULES, budget_seconds=180.0)) == Started(1, 0)
    assert decide(state, replace(RULES, budget_seconds=179.0)) == Over("budget")
    # Sending the best on takes nothing that was not set aside.
    two = after(scored(0, 0, 0.5), scored(1, 0, 0.6))
    assert decide(two, replace(RULES, budget_seconds=180.0)) == Started(1, 1)
    # Of two that are to be kept, both are finished: 280 beside the 40 that are spent.
    assert decide(two, replace(RULES, budget_seconds=320.0, keep=2)) == Started(1, 1)
    assert decide(two, replace(RULES, budget_seconds=319.0, keep=2)) == Over("budget")
    # At the last rung nothing is left to finish.
    done = after(two.history, scored(1, 1, 0.6), scored(1, 2, 0.6, seconds=40.0), scored(1, 3, 0.6, seconds=80.0))
    assert done.spent_seconds == 180.0
    assert decide(done, replace(RULES, budget_seconds=200.0)) == Started(2, 0)


def test_rungs_that_take_longer_than_predicted_are_reckoned_with() -> None:
    state = after(scored(0, 0, 0.5, seconds=40.0))
    assert scale(grid(8), state) == 2.0
    assert decide(state, replace(RULES, budget_seconds=360.0)) == Started(1, 0)  # 40 + 2 x (20 + 140)
    assert decide(state, replace(RULES, budget_seconds=359.0)) == Over("budget")
    assert scale(grid(8), after(failed(0, 0))) == 1.0  # which tells nothing


def test_what_runs_is_reckoned_with_as_predicted_or_longer() -> None:
    rules = replace(RULES, budget_seconds=220.0)
    state = after(scored(0, 0, 0.5), [Started(1, 0)])
    assert decide(state, rules, running_seconds=5.0) == Started(2, 0)  # 20 + 20 + 20 + 140, with 20 to spare
    assert decide(state, rules, running_seconds=40.0) == Started(2, 0)
    assert decide(state, rules, running_seconds=41.0) == WAIT


def test_as_many_candidates_as_are_to_be_kept_are_tried_whatever_is_left() -> None:
    rules = replace(RULES, budget_seconds=30.0, keep=2)
    assert decide(after(), rules) == Started(0, 0)
    assert decide(after([Started(0, 0)]), rules) == Started(1, 0)
    assert decide(after([Started(0, 0), Started(1, 0)]), rules) == WAIT
    assert decide(after(scored(0, 0, 0.5, seconds=15.0), [Started(1, 0)]), rules, running_seconds=15.0) == Over(
        "budget"
    )


def test_the_best_are_those_that_came_furthest() -> None:
    state = after(scored(0, 0, 0.9), scored(1, 0, 0.8), scored(2, 0, 0.7), scored(1, 1, 0.3), scored(2, 1, 0.4))
    assert ranked(RULES, state) == [2, 1, 0]
    assert kept(RULES, state) == [2]
    assert kept(replace(RULES, keep=2), state) == [2, 1]


def test_fewer_than_are_to_be_kept_are_kept_if_no_more_were_scored() -> None:
    rules = replace(RULES, keep=3)
    assert kept(rules, after(scored(0, 0, 0.9), failed(1, 0))) == [0]
    assert kept(rules, after(failed(1, 0))) == []


def test_what_was_cancelled_counts_by_what_it_had_been_scored_before() -> None:
    state = after(scored(0, 0, 0.9), scored(1, 0, 0.8), [Started(0, 1), Over("budget")])
    state = after(state.history, [Ended(0, 1, "cancelled", 12.0)])
    assert ranked(RULES, state) == [0, 1]
    assert not state.running
    assert state.spent_seconds == 52.0
    assert state.of_rung(1) == ()


# Samplers. The grid is 3 x 2: point (1, 0) is candidate 2.

POINTS = tuple(replace(ONE, point=(first, second)) for first in range(3) for second in range(2))


@pytest.mark.parametrize("sampler", [TPE, RANDOM])
def test_suggestions_are_new_candidates_and_depend_on_the_history_and_the_seed_alone(sampler: str) -> None:

    def order(seed: int) -> list[int]:
        state = after()
        while len(state.tried) < len(POINTS):
            number = suggest(POINTS, RULES, state, sampler=sampler, seed=seed)
            again = suggest(POINTS, RULES, State(tuple(state.history)), sampler=sampler, seed=seed)
            assert again == number
            state = after(state.history, scored(number, 0, number / 10))
        return [event.candidate for event in state.started]

    assert sorted(order(0)) == list(range(6))
    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize("sampler", [TPE, RANDOM])
def test_the_last_candidate_is_what_is_left_whatever_is_suggested(sampler: str) -> None:
    for left in range(6):
        state = after(*(scored(number, 0, 0.5) for number in range(6) if number != left))
        assert suggest(POINTS, RULES, state, sampler=sampler, seed=0) == left


def test_tpe_goes_where_scores_are_good_by_either_score() -> None:
    """The first setting decides in a grid of 5 x 8: its value 3 is good, and half of each other's are known."""
    wide = tuple(replace(ONE, point=(first, second)) for first in range(5) for second in range(8))
    known = [number for number, item in enumerate(wide) if item.point[1] < 4 - (item.point[0] == 3)]

    def share(rules: Rules, consistency: float, kid: float) -> float:
        state = after(
            *(
                scored(
                    number,
                    0,
                    consistency if wide[number].point[0] == 3 else 0.3,
                    kid if wide[number].point[0] == 3 else 0.3,
                )
                for number in known
            )
        )
        found = [suggest(wide, rules, state, sampler=TPE, seed=seed) for seed in range(20)]
        return sum(wide[number].point[0] == 3 for number in found) / len(found)

    assert share(RULES, consistency=0.9, kid=0.3) > 0.8
    assert share(replace(RULES, score=KID), consistency=0.3, kid=0.05) > 0.8
    assert share(replace(RULES, score=KID), consistency=0.3, kid=0.9) < 0.2


def test_tpe_knows_what_failed_and_what_runs() -> None:
    """Everything with the first setting's value 0 has failed, and what was scored is equal: it stays away from it."""
    wide = tuple(replace(ONE, point=(first, second)) for first in range(3) for second in range(12))
    state = after(
        *(
            failed(number, 0) if item.point[0] == 0 else scored(number, 0, 0.5)
            for number, item in enumerate(wide)
            if item.point[1] < 6
        )
    )
    state = after(state.history, [Started(35, 0)])
    found = [suggest(wide, RULES, state, sampler=TPE, seed=seed) for seed in range(20)]
    assert 35 not in found
    assert sum(wide[number].point[0] == 0 for number in found) <= 2


# Replay


def test_an_interrupted_search_goes_on_as_if_it_had_not_been() -> None:
    """Whatever a search decided, its history up to there leads to the same decision again."""
    landscape = draw(3, (3, 4, 3), interactions=0.3, noise=0.02)
    rules = rules_for(landscape, budget_share=0.25, keep=2)
    candidates = landscape.candidates(rules.rungs, rules.reduction_factor)
    once, _ = search(landscape, rules, sampler=TPE, seed=1, workers=3)
    again, _ = search(landscape, rules, sampler=TPE, seed=1, workers=3)
    assert once.history == again.history
    choose = partial(suggest, candidates, rules, sampler=TPE, seed=1)
    decided = 0
    for place, event in enumerate(once.history):
        if isinstance(event, Started):
            before = State(once.history[:place])
            assert next_event(candidates, rules, before, choose, running_seconds=0.0, has_room=True) == event
            decided += 1
    assert decided > 15


# Whole searches


@pytest.mark.parametrize(
    ("sizes", "interactions"),
    [((3, 4, 3), 0.0), ((3, 4, 3), 0.5), ((4, 4, 4), 0.3)],
    ids=["additive", "mixed", "large"],
)
def test_a_quarter_of_the_full_design_s_seconds_finds_one_of_its_best_tenth(
    sizes: tuple[int, ...], interactions: float
) -> None:
    """Twelve grids each, whose worth is spread by 0.1 and scored with a noise of 0.025."""
    found = 0
    for seed in range(12):
        landscape = draw(seed, sizes, interactions=interactions, noise=0.025)
        rules = rules_for(landscape, budget_share=0.25, keep=2)
        state, spent = search(landscape, rules, sampler=TPE, seed=seed, workers=2)
        best = kept(rules, state)
        left = sum(sum(landscape.candidates(4, 2)[number].seconds[_reached(state, number) + 1 :]) for number in best)
        assert len(best) == 2 and spent + left <= 1.1 * rules.budget_seconds
        found += any(number in landscape.within(0.1) for number in best)
    assert found >= 9


def _reached(state: State, candidate: int) -> int:
    return max(event.rung for event in state.ended if event.candidate == candidate and event.outcome == "scored")


def test_a_search_in_which_nothing_fits_still_ends() -> None:
    landscape = draw(0, (2, 2), interactions=0.0, noise=0.0)
    rules = replace(rules_for(landscape, budget_share=0.01), keep=2)
    candidates = landscape.candidates(4, 2)
    state = State()
    for _ in range(2):
        event = next_event(candidates, rules, state, first_untried, running_seconds=0.0, has_room=True)
        assert isinstance(event, Started)
        state = state.with_event(event)
    state = state.with_event(Ended(0, 0, "scored", 100.0, Scores(0.5, math.pi)))
    assert next_event(candidates, rules, state, first_untried, running_seconds=0.0, has_room=True) == Over("budget")
