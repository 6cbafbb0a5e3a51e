"""The verdict: what a study may claim, and the sentence that says it."""

from __future__ import annotations

from typing import Literal

from synthmix.api.evaluations.v1.evaluations_pb2 import Comparison, Estimate, MixtureResult, Verdict
from synthmix.service_kit.quantities import plural

VerdictKind = Literal["improves", "harms", "equivalent", "inconclusive"]
Limit = Literal["ceiling", "chance", ""]
# Of the way from guessing to no error: a classifier that has come no further, and may be guessing by its interval, has
# learned nothing that this test shows.
_NEAR_CHANCE = 0.1


def decide(comparison: Comparison) -> Verdict:
    """The verdict over the comparison's candidates, at least one.

    The candidate of the highest mean validation score is chosen, the earlier one of equals; its test interval decides.
    `improves`: it lies above 0. `harms`: below 0. `equivalent`: it contains 0 and lies within the margin on both sides:
    the two one-sided tests of Schuirmann (1987) by inclusion, for which an interval of confidence 1 - 2 alpha would do
    at level alpha; ours has 1 - alpha and is the stricter. Otherwise `inconclusive`.

    A claim needs something that could have varied: a single seed, or test images of a single group, are `inconclusive`
    whatever their interval, which leaves out how trainings or groups differ. So are two classifiers that guess.

    Choice and estimate share the trained classifiers, so a seed's luck that helps on validation and on test alike stays
    in the chosen mixture's difference; the more seeds, the less of it.
    """
    by_key = {result.mixture.key: result for result in comparison.mixtures}
    reference, chosen = by_key[comparison.reference], by_key[chosen_key(comparison)]
    difference, margin = chosen.difference, comparison.margin
    limit = _limit(reference, chosen, comparison)
    varied = comparison.seeds > 1 and comparison.test_groups > 1
    below, above = varied and difference.high < margin, varied and difference.low > -margin
    kind: VerdictKind
    if not varied or limit == "chance":
        kind = "inconclusive"
    elif difference.low > 0.0:
        kind = "improves"
    elif difference.high < 0.0:
        kind = "harms"
    elif below and above:
        kind = "equivalent"
    else:
        kind = "inconclusive"
    return Verdict(
        kind=kind,
        key=chosen.mixture.key,
        sentence=_sentence(kind, limit, reference, chosen, comparison),
        excludes_gain_of_margin=below,
        excludes_loss_of_margin=above,
        limit=limit,
    )


def chosen_key(comparison: Comparison) -> str:
    """Of the candidates the one that did best on validation, the earlier one of equals."""
    scores = {result.mixture.key: result.validation_balanced_accuracy for result in comparison.mixtures}
    return max(comparison.candidates, key=lambda key: scores[key])


def _limit(reference: MixtureResult, chosen: MixtureResult, comparison: Comparison) -> Limit:
    both = (reference.balanced_accuracy, chosen.balanced_accuracy)
    if all(1.0 - accuracy.mean < comparison.margin for accuracy in both):
        return "ceiling"
    chance = 1.0 / comparison.test_classes
    if all(accuracy.low <= chance and accuracy.mean < chance + _NEAR_CHANCE * (1.0 - chance) for accuracy in both):
        return "chance"
    return ""


def _sentence(
    kind: VerdictKind,
    limit: Limit,
    reference: MixtureResult,
    chosen: MixtureResult,
    comparison: Comparison,
) -> str:
    """The verdict for people, in points (hundredths) of balanced accuracy."""
    margin, difference = plural(100.0 * comparison.margin, "point"), chosen.difference
    label, candidates = chosen.mixture.label, len(comparison.candidates)
    levels = f"({_percent(reference)} with real images only, {_percent(chosen)} with {label})"
    if candidates > 1:
        label = f"{label} (the best of {candidates} on validation)"
    scores = f"scores {_signed(difference.mean)} points of balanced accuracy against real images only"
    evidence = _evidence(difference, comparison)
    if limit == "chance":
        guess = f"{100.0 / comparison.test_classes:.1f} %"
        return (
            f"Inconclusive: both classifiers are at chance {levels}, where guessing gives {guess}: {label} {scores} "
            f"{evidence}. A classifier that has learned nothing cannot show what synthetic images add: train longer, "
            "on more or larger images, first."
        )
    ceiling = f"Both classifiers are at the ceiling {levels}: a gain of {margin} has no room on this test."
    if kind == "improves":
        if difference.low >= comparison.margin:
            claim = f"The improvement is at least the {margin} that matter."
        elif difference.high < comparison.margin:
            claim = f"The improvement is smaller than the {margin} that would matter."
        else:
            claim = f"Whether it reaches the {margin} that matter stays open."
        sentence = f"Synthetic images improve the classifier: {label} {scores} {evidence}. {claim}"
    elif kind == "harms":
        sentence = f"Synthetic images harm the classifier: even {label} {scores} {evidence}."
    elif kind == "equivalent":
        claim = f"A gain and a loss of {margin} or more are both excluded."
        sentence = f"No improvement: {label} {scores} {evidence}. {claim}"
    else:
        claim = f"{_excluded(difference, comparison, margin)} {_remedy(difference, comparison, limit)}".lstrip()
        if limit == "ceiling":
            return f"Inconclusive: {label} {scores} {evidence}. {ceiling} {claim}"
        return f"Inconclusive: {label} {scores} {evidence}. {claim}"
    return f"{sentence} {ceiling}" if limit == "ceiling" else sentence


def _evidence(difference: Estimate, comparison: Comparison) -> str:
    text = (
        f"({100.0 * comparison.confidence:g} % CI {_signed(difference.low)} to {_signed(difference.high)}; "
        f"{plural(comparison.seeds, 'seed')}, {plural(comparison.test_images, 'test image')} "
    )
    if comparison.test_groups == comparison.test_images:
        return f"{text}without groups)"
    return f"{text}of {plural(comparison.test_groups, 'group')})"


def _excluded(difference: Estimate, comparison: Comparison, margin: str) -> str:
    """Which side an inconclusive interval excludes; nothing where no interval says it."""
    if comparison.seeds == 1 or comparison.test_groups == 1:
        return ""
    if difference.high < comparison.margin:
        return f"A gain of {margin} or more is excluded, a loss is not."
    if difference.low > -comparison.margin:
        return f"A loss of {margin} or more is excluded, a gain is not."
    return f"Neither a gain nor a loss of {margin} is excluded."


def _remedy(difference: Estimate, comparison: Comparison, limit: Limit) -> str:
    """What would narrow the interval most."""
    units = "images" if comparison.test_groups == comparison.test_images else "groups"
    if comparison.test_groups == 1:
        return "Test images of more groups are needed first: one cannot show how much groups differ."
    if comparison.seeds == 1:
        return "More seeds are needed first: one cannot show how much trainings differ."
    if limit == "ceiling":
        return f"Harder test images, or many more of them in more {units}, would tell the classifiers apart."
    if difference.seed_share > 0.5:
        return f"Most of the uncertainty comes from the {comparison.seeds} seeds: run more."
    return f"Most of the uncertainty comes from the {comparison.test_groups:,} test {units}: more would help."


def _percent(result: MixtureResult) -> str:
    return f"{100.0 * result.balanced_accuracy.mean:.1f} %"


def _signed(value: float) -> str:
    """A difference in points, such as +1.8; nothing is 0.0."""
    text = f"{100.0 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
