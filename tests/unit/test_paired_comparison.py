"""Statistics over a grid: known answers, coverage, pairing, verdicts, honesty about small studies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from simulated_studies import Design, simulate
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.evaluations.v1.evaluations_pb2 import Comparison, MixtureResult
from synthmix.classifier_evaluation import intervals, paired_comparison
from synthmix.classifier_evaluation.paired_comparison import MixturePredictions, compare
from synthmix.service_kit import message_json

CLASSES = ("round", "spindle", "flat")


def mixture(key: str, predicted: np.ndarray, validation: float = 0.8) -> MixturePredictions:
    message = evaluations_pb2.Mixture(key=key, label=key.replace("-", " "))
    return MixturePredictions(message, predicted, np.full(len(predicted), validation))


def run(labels: np.ndarray, groups: np.ndarray, mixtures: Sequence[MixturePredictions], **changes: Any) -> Comparison:
    settings: dict[str, Any] = {
        "reference": "real",
        "candidates": [m.key for m in mixtures if m.key.startswith("append")],
        "class_names": CLASSES,
        "confidence": 0.95,
        "margin": 0.02,
    }
    return compare(labels, groups, mixtures, **(settings | changes))


def result(comparison: Comparison, key: str) -> MixtureResult:
    return next(r for r in comparison.mixtures if r.mixture.key == key)


def design(groups: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of `groups` groups that hold `per_class` images of each class."""
    labels = np.tile(np.repeat(np.arange(len(CLASSES)), per_class), groups)
    return labels, np.repeat(np.arange(groups), per_class * len(CLASSES))


def noisy(labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Predictions that are the label where `right`, shape (seeds, images), and another class elsewhere."""
    return np.where(right, labels, (labels + 1) % len(CLASSES))


def simulated(
    rng: np.random.Generator, labels: np.ndarray, groups: np.ndarray, seeds: int, gain: float, spread: float
) -> list[MixturePredictions]:
    """Real only at about 0.7 and a mixture `gain` above it, in expectation.

    `spread` is the gain's standard deviation over groups and over seeds. An image is as hard to both.
    """
    difficulty = rng.random((1, len(labels)))
    base = 0.7 + rng.normal(0.0, 0.05, groups.max() + 1)[groups]
    gains = gain + rng.normal(0.0, spread, groups.max() + 1)[groups] + rng.normal(0.0, spread, (seeds, 1))
    # Half of an image's luck is its own, half the training's: both uniform, so their draw stays calibrated.
    luck = np.where(rng.random((seeds, len(labels))) < 0.5, difficulty, rng.random((seeds, len(labels))))
    return [
        mixture("real", noisy(labels, luck < base)),
        mixture("append-0.25", noisy(labels, luck < np.clip(base + gains, 0.0, 1.0))),
    ]


def test_balanced_accuracy_and_difference_have_the_values_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    groups = np.array([0, 0, 1, 1, 0, 1, 0, 1])
    # Recalls 3/4, 1/2, 1 and 1/4, 1/2, 1; then 1, 1, 1/2 and 3/4, 1/2, 1/2.
    real = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 0, 2, 2]])
    mixed = np.array([[0, 0, 0, 0, 1, 1, 2, 0], [0, 0, 0, 2, 1, 0, 2, 0]])
    comparison = run(labels, groups, [mixture("real", real), mixture("append-0.1", mixed)])
    reference, other = result(comparison, "real"), result(comparison, "append-0.1")
    assert not reference.HasField("difference") and other.HasField("difference")
    assert reference.balanced_accuracy.per_seed == pytest.approx((2.25 / 3, 1.75 / 3))
    assert other.balanced_accuracy.per_seed == pytest.approx((2.5 / 3, 1.75 / 3))
    assert other.difference.per_seed == pytest.approx((0.25 / 3, 0.0))
    assert other.difference.mean == pytest.approx(0.125 / 3)
    assert other.difference.low <= other.difference.mean <= other.difference.high


def test_an_image_of_a_rare_class_weighs_more() -> None:
    labels = np.array([0] * 18 + [1] * 2)
    predicted = np.zeros((1, 20), dtype=int)
    comparison = run(labels, np.arange(20) % 4, [mixture("real", predicted)], class_names=("a", "b"))
    assert result(comparison, "real").balanced_accuracy.mean == 0.5


def test_group_weights_agree_with_resampling_the_images_themselves() -> None:
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 3, 40), rng.integers(0, 5, 40)
    predicted = rng.integers(0, 3, (2, 3, 40))
    weights = np.array([[2, 0, 1, 1, 1], [0, 3, 0, 2, 0]])
    counts = [paired_comparison._class_counts(labels, predicted, groups, c) for c in range(3)]
    scores = paired_comparison._balanced_accuracy(counts, weights.astype(float))
    for b in range(2):
        images = np.concatenate([np.flatnonzero(groups == g) for g in range(5) for _ in range(weights[b, g])])
        drawn = labels[images]
        for m in range(2):
            for s in range(3):
                recalls = [np.mean(predicted[m, s, images][drawn == c] == c) for c in np.unique(drawn)]
                assert scores[b, m, s] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize(
    ("groups", "seeds", "kind"),
    [(12, 3, "inconclusive"), (3, 12, "inconclusive"), (182, 180, "inconclusive"), (183, 183, "equivalent")],
)
def test_what_never_differed_is_known_as_far_as_the_fewer_of_groups_and_seeds_tell(
    groups: int, seeds: int, kind: str
) -> None:
    labels, group_of_image = design(groups, 1)
    same = noisy(labels, np.tile(np.arange(len(labels)) % 4 != 0, (seeds, 1)))
    comparison = run(labels, group_of_image, [mixture("real", same), mixture("append-0.5", same.copy())], resamples=100)
    difference, verdict = result(comparison, "append-0.5").difference, comparison.verdict
    # With none of n units differing, 1 - 0.025 ** (1 / n) is the exact bound on the share that does.
    bound = 1.0 - 0.025 ** (1.0 / min(groups, seeds))
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.0, -bound, bound))
    assert difference.seed_share == (seeds < groups)
    assert verdict.kind == kind
    assert verdict.excludes_gain_of_margin == verdict.excludes_loss_of_margin == (kind == "equivalent")


def test_groups_that_agree_on_a_difference_do_not_make_it_exact() -> None:
    """Each of two groups lost one image of twelve of each class; twelve images by themselves say little."""
    labels, groups = design(2, 12)
    image = np.arange(len(labels)) % 12
    real = noisy(labels, np.tile(image < 10, (5, 1)))
    mixed = noisy(labels, np.tile(image < 9, (5, 1)))
    comparison = run(labels, groups, [mixture("real", real), mixture("append-0.5", mixed)])
    difference = result(comparison, "append-0.5").difference
    assert difference.low < -0.4 and difference.high > 0.2
    assert comparison.verdict.kind == "inconclusive"


def test_one_group_of_many_that_differs_leaves_room_for_others() -> None:
    labels, groups = design(10, 8)
    right = np.tile(np.arange(len(labels)) % 8 < 6, (4, 1))
    one_better = right.copy()
    one_better[:, (groups == 0) & (labels == 0)] = True  # two images of 80 in a class: 2 / 80 / 3
    comparison = run(
        labels, groups, [mixture("real", noisy(labels, right)), mixture("append-0.5", noisy(labels, one_better))]
    )
    difference = result(comparison, "append-0.5").difference
    assert difference.mean == pytest.approx(2 / 80 / 3)
    # All four seeds agree to the image: each may still differ by what a seed can, and no seed did.
    assert difference.high == pytest.approx(min(1.0, difference.mean + (1.0 - 0.025**0.25) * (1.0 - difference.mean)))


@pytest.mark.parametrize(
    ("departures", "arm"),
    [
        # Clopper and Pearson's upper bounds at 97.5 %: 0.3085 of 0 in 10, 0.4450 of 1 in 10, 0.8412 of 0 in 2.
        ([0.0] * 10, 0.3085),
        ([0.0] * 2, 0.8419),
        ([0.2] + [0.0] * 9, (0.4450 - 0.1) * 0.2),
        ([0.2, 0.4] + [0.0] * 8, (0.5561 - 0.2) * 0.3),
        ([0.2] * 10, 0.0),
    ],
)
def test_the_arm_of_what_was_not_seen_has_the_exact_bound(departures: list[float], arm: float) -> None:
    assert intervals._unseen(np.array(departures), 0.025, 1.0) == pytest.approx(arm, abs=1e-4)


def test_a_perfect_classifier_may_still_err_on_groups_not_seen() -> None:
    labels, groups = design(6, 2)
    estimate = result(run(labels, groups, [mixture("real", np.stack([labels] * 8))]), "real").balanced_accuracy
    assert (estimate.mean, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1.0 / 6.0))


@pytest.mark.parametrize(
    "design_",
    [
        Design(groups, seeds, 4, accuracy, -0.05, luck, spread)
        for groups, seeds in ((2, 2), (10, 3), (5, 10))
        for accuracy in (0.5, 0.9, 0.99, 1.0)
        for luck, spread in (("image", 0.0), ("none", 1.0))
    ],
)
def test_equivalence_is_hardly_ever_claimed_of_a_difference_of_the_margin(design_: Design) -> None:
    """`make calibration` does this at length. Of 40 studies, 5 % of wrong claims give 6 or more once in 70 designs."""
    rng = np.random.default_rng(0)
    verdicts = [simulate(rng, design_, margin=0.05, resamples=100).verdict for _ in range(40)]
    assert sum(verdict.kind == "equivalent" for verdict in verdicts) <= 5


def test_pairing_makes_the_difference_surer_than_its_two_parts() -> None:
    labels, groups = design(15, 6)
    real, mixed = simulated(np.random.default_rng(1), labels, groups, 5, gain=0.05, spread=0.01)
    comparison = run(labels, groups, [real, mixed])
    a, b = result(comparison, "real").balanced_accuracy, result(comparison, "append-0.25").balanced_accuracy
    difference = result(comparison, "append-0.25").difference
    unpaired = np.hypot(a.high - a.low, b.high - b.low)
    assert difference.high - difference.low < 0.6 * unpaired


def test_groups_that_differ_widen_the_interval_over_single_images() -> None:
    rng = np.random.default_rng(2)
    labels, groups = design(12, 10)
    right = rng.random((3, len(labels))) < np.where(groups % 2 == 0, 0.95, 0.45)
    predictions = [mixture("real", noisy(labels, right))]
    by_group = result(run(labels, groups, predictions), "real").balanced_accuracy
    by_image = result(run(labels, np.arange(len(labels)), predictions), "real").balanced_accuracy
    assert by_group.high - by_group.low > 2.0 * (by_image.high - by_image.low)


@pytest.mark.parametrize(("groups", "seeds"), [(6, 3), (16, 6)])
def test_intervals_cover_the_true_difference_about_as_often_as_they_say(groups: int, seeds: int) -> None:
    rng = np.random.default_rng(4)
    labels, group_of_image = design(groups, 4)
    studies, covered = 120, 0
    for study in range(studies):
        mixtures = simulated(rng, labels, group_of_image, seeds, gain=0.06, spread=0.06)
        comparison = run(labels, group_of_image, mixtures, confidence=0.9, resamples=300, seed=study)
        difference = result(comparison, "append-0.25").difference
        covered += difference.low <= 0.06 <= difference.high
    # 0.9 less three standard errors of a proportion of 120.
    assert covered / studies > 0.82


@pytest.mark.parametrize(
    ("gain", "spread", "groups", "per_class", "margin", "kind", "words"),
    [
        (0.15, 0.01, 20, 8, 0.02, "improves", "The improvement is at least the 2 points that matter."),
        (0.15, 0.01, 20, 8, 0.14, "improves", "Whether it reaches the 14 points that matter stays open."),
        (0.15, 0.01, 20, 8, 0.5, "improves", "The improvement is smaller than the 50 points"),
        (-0.15, 0.01, 20, 8, 0.02, "harms", "Synthetic images harm the classifier"),
        (0.0, 0.01, 40, 12, 0.06, "equivalent", "A gain and a loss of 6 points or more are both excluded."),
        (0.0, 0.15, 6, 3, 0.02, "inconclusive", "Neither a gain nor a loss of 2 points is excluded."),
    ],
)
def test_each_kind_of_verdict(
    gain: float, spread: float, groups: int, per_class: int, margin: float, kind: str, words: str
) -> None:
    labels, group_of_image = design(groups, per_class)
    mixtures = simulated(np.random.default_rng(6), labels, group_of_image, 6, gain=gain, spread=spread)
    verdict = run(labels, group_of_image, mixtures, margin=margin).verdict
    assert verdict.kind == kind
    assert words in verdict.sentence
    evidence = f"6 seeds, {len(labels):,} test images of {groups} groups)"
    assert evidence in verdict.sentence and "append 0.25" in verdict.sentence


@pytest.mark.parametrize("right_of_mixed", [2, 4, 8])
def test_a_single_seed_claims_nothing(right_of_mixed: int) -> None:
    labels, groups = design(2, 8)
    image = np.arange(len(labels))[None, :] % 8
    real, mixed = noisy(labels, image < 4), noisy(labels, image < right_of_mixed)
    comparison = run(labels, groups, [mixture("real", real), mixture("append-0.5", mixed)], margin=0.02)
    verdict, difference = comparison.verdict, result(comparison, "append-0.5").difference
    assert difference.low < 0.0 < difference.high
    assert (verdict.kind, verdict.excludes_gain_of_margin, verdict.excludes_loss_of_margin) == (
        "inconclusive",
        False,
        False,
    )
    assert verdict.sentence.endswith("groups). More seeds are needed first: one cannot show how much trainings differ.")


def test_an_inconclusive_verdict_says_which_side_is_excluded_and_what_would_help() -> None:
    labels, groups = design(12, 20)
    seeds = np.arange(4)[:, None]
    image = np.arange(len(labels))[None, :] % 20
    real = noisy(labels, image < 14 + 0 * seeds)
    # Seeds disagree, groups do not: 0, 0, 0 and -6 images of each 20.
    mixed = noisy(labels, image < np.where(seeds == 3, 8, 14))
    verdict = run(labels, groups, [mixture("real", real), mixture("append-0.5", mixed)], margin=0.2).verdict
    assert verdict.kind == "inconclusive"
    assert verdict.excludes_gain_of_margin and not verdict.excludes_loss_of_margin
    assert "A gain of 20 points or more is excluded, a loss is not." in verdict.sentence
    assert "Most of the uncertainty comes from the 4 seeds: run more." in verdict.sentence


def test_the_mixture_is_chosen_by_validation_never_by_test() -> None:
    labels, groups = design(10, 4)
    perfect = noisy(labels, np.ones((2, len(labels)), dtype=bool))
    poor = noisy(labels, np.arange(len(labels))[None, :].repeat(2, 0) % 2 == 0)
    mixtures = [
        mixture("real", poor, 0.6),
        mixture("append-0.1", perfect, 0.7),
        mixture("append-0.25", poor, 0.9),
        mixture("append-0.5", perfect, 0.9),
    ]
    comparison = run(labels, groups, mixtures)
    # The earlier, cheaper one of equals.
    assert comparison.verdict.key == "append-0.25"
    assert "(the best of 3 on validation)" in comparison.verdict.sentence
    assert run(labels, groups, mixtures, candidates=[]).HasField("verdict") is False


def test_results_repeat_and_do_not_depend_on_other_mixtures_or_on_block_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, groups = design(9, 5)
    rng = np.random.default_rng(8)
    mixtures = simulated(rng, labels, groups, 3, gain=0.03, spread=0.02)
    alone = run(labels, groups, mixtures)
    assert run(labels, groups, mixtures) == alone
    assert run(labels, groups, mixtures, seed=1) != alone
    more = [mixture(f"append-{r}", noisy(labels, rng.random((3, len(labels))) < 0.6)) for r in (0.5, 0.75)]
    enlarged = run(labels, groups, [more[0], *mixtures, more[1]], candidates=["append-0.25"])
    assert result(enlarged, "append-0.25") == result(alone, "append-0.25")
    monkeypatch.setattr(paired_comparison, "_BLOCK_NUMBERS", 999)
    assert run(labels, groups, mixtures) == alone


def test_one_group_falls_back_to_images_and_says_so() -> None:
    labels = np.tile(np.arange(3), 20)
    mixtures = simulated(np.random.default_rng(9), labels, np.zeros(60, dtype=int), 1, gain=0.0, spread=0.0)
    comparison = run(labels, np.array(["chip-1"] * 60), mixtures)
    assert comparison.resampled == "image"
    assert comparison.test_groups == 1
    interval = result(comparison, "real").balanced_accuracy
    assert interval.low < interval.mean < interval.high
    assert any("resampling single images" in warning for warning in comparison.warnings)
    assert any("One seed" in warning for warning in comparison.warnings)
    assert "1 seed, 60 test images of 1 group)" in comparison.verdict.sentence


def test_a_single_test_group_claims_nothing_however_many_images_it_holds() -> None:
    labels = np.tile(np.arange(3), 400)
    rng = np.random.default_rng(12)
    real = noisy(labels, rng.random((6, 1200)) < 0.6)
    better = noisy(labels, rng.random((6, 1200)) < 0.9)
    verdict = run(labels, np.zeros(1200, dtype=int), [mixture("real", real), mixture("append-0.1", better)]).verdict
    assert verdict.kind == "inconclusive"
    assert not verdict.excludes_gain_of_margin and not verdict.excludes_loss_of_margin
    assert verdict.sentence.endswith("groups are needed first: one cannot show how much groups differ.")


def test_images_without_groups_are_units_of_their_own() -> None:
    labels = np.tile(np.arange(3), 400)
    rng = np.random.default_rng(12)
    real = noisy(labels, rng.random((6, 1200)) < 0.6)
    better = noisy(labels, rng.random((6, 1200)) < 0.9)
    verdict = run(labels, np.arange(1200), [mixture("real", real), mixture("append-0.1", better)]).verdict
    assert verdict.kind == "improves"


@pytest.mark.parametrize(
    ("real_errors", "mixed_errors", "limit"), [(0, 0, "ceiling"), (1, 0, "ceiling"), (0, 1, "ceiling"), (6, 0, "")]
)
def test_two_classifiers_at_the_ceiling_are_said_to_be(real_errors: int, mixed_errors: int, limit: str) -> None:
    labels, groups = design(10, 6)  # an error of each seed is 1 / 60 / 3 of a class: 0.6 points
    position = np.arange(len(labels))

    def wrong(errors: int) -> np.ndarray:
        return noisy(labels, np.tile(position >= errors, (5, 1)))

    mixtures = [mixture("real", wrong(real_errors)), mixture("append-0.1", wrong(mixed_errors))]
    verdict = run(labels, groups, mixtures).verdict
    assert (verdict.kind, verdict.limit) == ("inconclusive", limit)
    assert ("Both classifiers are at the ceiling (" in verdict.sentence) == (limit == "ceiling")
    if limit:
        assert "a gain of 2 points has no room on this test." in verdict.sentence
        assert verdict.sentence.endswith("would tell the classifiers apart.")


@pytest.mark.parametrize("classes", [2, 3])
def test_two_classifiers_at_chance_are_said_to_be(classes: int) -> None:
    labels = np.tile(np.repeat(np.arange(classes), 10), 30)
    groups = np.repeat(np.arange(30), 10 * classes)
    rng = np.random.default_rng(13)
    guesses = [mixture(key, rng.integers(0, classes, (8, len(labels)))) for key in ("real", "append-0.1")]
    verdict = run(labels, groups, guesses, margin=0.1).verdict
    assert (verdict.kind, verdict.limit) == ("inconclusive", "chance")
    assert verdict.sentence.startswith("Inconclusive: both classifiers are at chance (")
    assert f"where guessing gives {100 / classes:.1f} %" in verdict.sentence
    learned = [
        mixture(key, noisy(labels % classes, rng.random((8, len(labels))) < 0.6)) for key in ("real", "append-0.1")
    ]
    verdict = run(labels, groups, learned, margin=0.1, class_names=CLASSES).verdict
    assert verdict.limit == ""


def test_few_groups_few_seeds_and_thin_classes_are_told() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0, 0, 0])
    groups = np.array(["a", "a", "a", "a", "b", "b", "c", "c"])
    warnings = run(labels, groups, [mixture("real", np.stack([labels, labels]))]).warnings
    assert any("only 3 groups" in warning for warning in warnings)
    assert any("Only 2 seeds" in warning for warning in warnings)
    assert any("'spindle' has test images of one group only" in warning for warning in warnings)
    assert any("'flat' has no test image" in warning for warning in warnings)
    labels, groups = design(10, 1)
    assert run(labels, groups, [mixture("real", np.stack([labels] * 5))]).warnings == []


def test_each_image_its_own_group_stays_light() -> None:
    labels = np.arange(30_000) % 3
    rng = np.random.default_rng(10)
    mixtures = [mixture(key, noisy(labels, rng.random((3, 30_000)) < 0.8)) for key in ("real", "append-0.1")]
    comparison = run(labels, np.arange(30_000), mixtures, resamples=100)
    interval = result(comparison, "real").balanced_accuracy
    assert interval.low < 0.8 < interval.high < 0.82
    assert "3 seeds, 30,000 test images without groups)" in comparison.verdict.sentence


def test_a_comparison_is_json() -> None:
    labels, groups = design(4, 2)
    mixtures = simulated(np.random.default_rng(11), labels, groups, 2, gain=0.0, spread=0.2)
    comparison = run(labels, groups, mixtures)
    data = message_json.to_bytes(comparison)
    assert message_json.from_bytes(data, Comparison) == comparison
    assert json.loads(data)["verdict"]["kind"] == "inconclusive"
