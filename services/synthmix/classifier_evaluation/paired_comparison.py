"""Statistics over a grid: balanced accuracy, paired differences from real only, intervals, and the verdict.

Every mixture is evaluated with the same seeds on the same test images, so a mixture is compared with the
reference seed by seed and image by image. Two things are random, and crossed rather than nested: which groups
(chips, plates, patients) were imaged for the test, and which seeds were run. A resample draws both anew with
replacement, the same draw for all mixtures:

- groups, whole: the cluster bootstrap of Davison and Hinkley (1997, section 3.8) and Field and Welsh (2007).
  Images of a group resemble each other, and resampling single images would pass that off as certainty.
- seeds: with groups, the pigeonhole bootstrap of Owen (2007), whose variance errs to the wide side.

The interval over the resamples is intervals.py's, the verdict verdict.py's. On simulated studies of 4 to 30 groups and
3 to 10 seeds, plain 95 % percentile intervals covered the true difference in 83 to 99 % of cases, these in 94 to 100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation.intervals import TestImages, estimate
from synthmix.classifier_evaluation.verdict import decide
from synthmix.service_kit.seeds import derived_rng

FEW_GROUPS = 10
FEW_SEEDS = 5
# Numbers held at once while resampling: 32 MB of float64.
_BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True, eq=False)
class MixturePredictions:
    """What the classifiers of one mixture said. Images and seeds come in the same order for all mixtures.

    Attributes:
        mixture: Its key is unique; sentences call it by its label.
        predicted: Class indices, (seeds, images).
        validation_balanced_accuracy: Of the epoch that was kept, 0 to 1, (seeds,).
    """

    mixture: evaluations_pb2.Mixture
    predicted: np.ndarray
    validation_balanced_accuracy: np.ndarray

    @property
    def key(self) -> str:
        return self.mixture.key


def compare(
    labels: np.ndarray,
    groups: np.ndarray,
    mixtures: Sequence[MixturePredictions],
    *,
    reference: str,
    candidates: Sequence[str],
    class_names: Sequence[str],
    confidence: float,
    margin: float,
    resamples: int = 2000,
    seed: int = 0,
) -> evaluations_pb2.Comparison:
    """Compares mixtures with the reference and decides what may be claimed.

    The rule of the verdict is verdict.decide's. A mixture's results do not depend on which others there are.

    Args:
        labels: True class indices of the test images, shape (images,).
        groups: Group of each test image, any sortable type, shape (images,).
        mixtures: Predictions; keys are unique and hold the reference's.
        reference: Key of real only.
        candidates: Keys among which the verdict's mixture is chosen, cheapest first; empty for no verdict.
        class_names: Name of each class index.
        confidence: Of the intervals, 0 to 1 exclusive.
        margin: The smallest difference of balanced accuracy that matters, 0 to 1 exclusive.
        resamples: Bootstrap resamples.
        seed: Of the resampling.

    Returns:
        Scores, differences, verdict and warnings.
    """
    group_names, group_of_image = np.unique(groups, return_inverse=True)
    by_group = len(group_names) > 1
    unit_of_image = group_of_image if by_group else np.arange(len(labels))
    units = len(group_names) if by_group else len(labels)
    seeds = mixtures[0].predicted.shape[0]

    predicted = np.stack([mixture.predicted for mixture in mixtures])
    counts = [_class_counts(labels, predicted, unit_of_image, index) for index in range(len(class_names))]
    counts = [count for count in counts if len(count.units)]
    observed = _balanced_accuracy(counts, np.ones((1, units)))[0]
    joint, units_only = _resample(counts, units, predicted.shape[:2], resamples, seed)
    base = [mixture.key for mixture in mixtures].index(reference)
    images = TestImages.of(labels, unit_of_image)
    right = (predicted == labels).astype(np.int8)

    def accuracy(m: int) -> evaluations_pb2.Estimate:
        return estimate(images, right[m], observed[m], joint[:, m], units_only[:, m], confidence, (0.0, 1.0))

    def difference(m: int) -> evaluations_pb2.Estimate:
        return estimate(
            images,
            right[m] - right[base],
            observed[m] - observed[base],
            joint[:, m] - joint[:, base],
            units_only[:, m] - units_only[:, base],
            confidence,
            (-1.0, 1.0),
        )

    results = [
        evaluations_pb2.MixtureResult(
            mixture=mixture.mixture,
            validation_balanced_accuracy=float(np.mean(mixture.validation_balanced_accuracy)),
            balanced_accuracy=accuracy(m),
            difference=None if m == base else difference(m),
        )
        for m, mixture in enumerate(mixtures)
    ]
    comparison = evaluations_pb2.Comparison(
        reference=reference,
        candidates=candidates,
        confidence=confidence,
        margin=margin,
        seeds=seeds,
        test_images=len(labels),
        test_groups=len(group_names),
        test_classes=len(counts),
        resampled="group" if by_group else "image",
        resamples=resamples,
        mixtures=results,
        warnings=_warnings(labels, group_of_image, class_names, seeds, len(group_names)),
    )
    if candidates:
        comparison.verdict.CopyFrom(decide(comparison))
    return comparison


@dataclass(frozen=True)
class _ClassCounts:
    """Test images of one class, by resampled unit (a group, or an image), for units that have any."""

    units: np.ndarray  # shape (held,)
    total: np.ndarray  # shape (held,)
    correct: np.ndarray  # shape (held, mixtures, seeds)


def _class_counts(labels: np.ndarray, predicted: np.ndarray, unit_of_image: np.ndarray, index: int) -> _ClassCounts:
    """Counts a class's images and right predictions; `predicted` has shape (mixtures, seeds, images)."""
    members = np.flatnonzero(labels == index)
    members = members[np.argsort(unit_of_image[members], kind="stable")]
    units, first, total = np.unique(unit_of_image[members], return_index=True, return_counts=True)
    right = (predicted[:, :, members] == index).astype(np.float64)
    correct = np.add.reduceat(right, first, axis=2) if len(units) else right
    return _ClassCounts(units, total.astype(np.float64), np.moveaxis(correct, 2, 0))


def _balanced_accuracy(counts: Sequence[_ClassCounts], weights: np.ndarray) -> np.ndarray:
    """Mean recall of the classes that a resample holds.

    Args:
        counts: Of each class that has images.
        weights: How often a resample holds each unit, shape (resamples, units).

    Returns:
        Balanced accuracy, shape (resamples, mixtures, seeds). Its sums are of integers, so exact: a mixture's
        values are the same whatever is computed beside it.
    """
    recall_sum: np.ndarray | float = 0.0
    present = np.zeros((len(weights), 1, 1))
    for count in counts:
        weight = weights[:, count.units]
        total = (weight @ count.total)[:, None, None]
        correct = np.tensordot(weight, count.correct, axes=1)
        # A class that no drawn group holds has nothing correct either: 0 / 1 adds nothing.
        recall_sum = recall_sum + correct / np.maximum(total, 1.0)
        present += total > 0
    return recall_sum / present


def _resample(
    counts: Sequence[_ClassCounts], units: int, shape: tuple[int, int], resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Balanced accuracy over resampled seeds, and over the seeds as they are; each (resamples, mixtures)."""
    mixtures, seeds = shape
    unit_rng, seed_rng = derived_rng("statistics", seed, "test groups"), derived_rng("statistics", seed, "seeds")
    block = max(1, _BLOCK_NUMBERS // (units + mixtures * seeds))
    joint, units_only = np.empty((resamples, mixtures)), np.empty((resamples, mixtures))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = slice(start, start + size)
        weights = unit_rng.multinomial(units, np.full(units, 1.0 / units), size=size).astype(np.float64)
        seed_weights = seed_rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=size) / seeds
        scores = _balanced_accuracy(counts, weights)
        joint[drawn] = np.einsum("bms,bs->bm", scores, seed_weights)
        units_only[drawn] = scores.mean(axis=2)
    return joint, units_only


def _warnings(
    labels: np.ndarray, group_of_image: np.ndarray, class_names: Sequence[str], seeds: int, groups: int
) -> tuple[str, ...]:
    """What a reader must know before trusting the intervals."""
    warnings = []
    if groups == 1:
        warnings.append(
            "All test images are of one group: intervals come from resampling single images, and say nothing "
            "about how results vary from group to group. Import images of more groups."
        )
    elif groups < FEW_GROUPS:
        warnings.append(
            f"The test part has only {groups} groups: intervals over so few are rough. "
            f"{FEW_GROUPS} or more would make them reliable."
        )
    if seeds == 1:
        warnings.append(
            "One seed was run: intervals leave out how much results vary from one training to the next. "
            f"Run {FEW_SEEDS} or more."
        )
    elif seeds < FEW_SEEDS:
        warnings.append(
            f"Only {seeds} seeds were run: how much results vary between trainings is known roughly, and "
            f"intervals are widened for it. {FEW_SEEDS} or more would narrow them."
        )
    for index, name in enumerate(class_names):
        held = np.unique(group_of_image[labels == index])
        if len(held) == 0:
            warnings.append(f"Class {name!r} has no test image: balanced accuracy is the mean recall of the others.")
        elif len(held) == 1 and groups > 1:
            warnings.append(
                f"Class {name!r} has test images of one group only: resamples without it leave the class out."
            )
    return tuple(warnings)
