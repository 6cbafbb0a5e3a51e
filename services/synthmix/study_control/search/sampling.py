"""Which candidate to try next: what one of Optuna's samplers suggests, given all that is known.

For each suggestion a study of Optuna's is made anew and told the history, so that a suggestion depends on the history
alone: one that was interrupted goes on with the suggestions that it would have had.
"""

from collections.abc import Sequence

from synthmix.service_kit.extras import extra
from synthmix.service_kit.seeds import derived_seed
from synthmix.study_control.search.decisions import KID, Candidate, Ended, Rules, State

TPE = "tpe"
RANDOM = "random"

# Before so many have been tried TPE suggests at random: Optuna's own number, or a share of a small grid. Of simulated
# grids of 36 (tests/simulated_searches.py), a sixth found one of the best tenth a little more often than a quarter.
MOST_AT_RANDOM = 10
LEAST_AT_RANDOM = 2
SHARE_AT_RANDOM = 1 / 6


def suggest(candidates: Sequence[Candidate], rules: Rules, state: State, *, sampler: str, seed: int) -> int:
    """A candidate that was not tried: the nearest to the sampler's suggestion, in how many settings agree.

    TPE, Bergstra et al. 2011 (NeurIPS 24): each setting is categorical; a candidate is told as complete if it was
    trained to its end, and as pruned at its highest rung if not, which TPE ranks by rung, then by score. One that
    failed is told as pruned before its first rung: the worst there is. Of equally near candidates the first is taken.

    Args:
        candidates: At least one of them has not been tried.
        sampler: TPE or RANDOM.

    Raises:
        FailedPrecondition: Optuna is not installed.
    """
    with extra("workers", "a search"):
        import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    choices = [range(1 + max(values)) for values in zip(*(item.point for item in candidates), strict=True)]
    space: dict[str, optuna.distributions.BaseDistribution] = {
        f"setting {axis}": optuna.distributions.CategoricalDistribution(numbers) for axis, numbers in enumerate(choices)
    }
    one_seed = derived_seed("search", seed, len(state.tried)) % 2**32
    chosen: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=one_seed)
    if sampler == TPE:
        at_random = min(MOST_AT_RANDOM, max(LEAST_AT_RANDOM, int(SHARE_AT_RANDOM * len(candidates))))
        chosen = optuna.samplers.TPESampler(n_startup_trials=at_random, seed=one_seed)
    study = optuna.create_study(sampler=chosen, direction="minimize" if rules.score == KID else "maximize")
    for number in dict.fromkeys(event.candidate for event in state.started):
        params = dict(zip(space, candidates[number].point, strict=True))
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=space, **_told(candidates[number], rules, state, number)
            )
        )
    suggested = study.ask(space).params
    point = tuple(suggested[name] for name in space)
    return min(
        (number for number in range(len(candidates)) if number not in state.tried),
        key=lambda number: sum(one != other for one, other in zip(candidates[number].point, point, strict=True)),
    )


def _told(candidate: Candidate, rules: Rules, state: State, number: int) -> dict[str, object]:
    """What Optuna is told of a candidate that was tried."""
    from optuna.trial import TrialState

    if number in state.failed:
        return {"state": TrialState.PRUNED}
    result = state.best_result.get(number)
    if result is None:
        return {"state": TrialState.RUNNING}
    scores = {
        candidate.images[event.rung]: _score(rules, event)
        for event in state.ended
        if event.candidate == number and event.scores
    }
    if result.rung == rules.rungs - 1:
        return {"state": TrialState.COMPLETE, "value": _score(rules, result), "intermediate_values": scores}
    return {"state": TrialState.PRUNED, "intermediate_values": scores}


def _score(rules: Rules, event: Ended) -> float:
    assert event.scores is not None, "only what was scored has a score"
    return event.scores.kid if rules.score == KID else event.scores.class_consistency
