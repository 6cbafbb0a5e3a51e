"""The interval of a balanced accuracy, or of a difference of two, from its resamples; and the least that it may be.

The percentile interval of few groups or seeds is too narrow: its spread lacks a factor n / (n - 1), and a normal
quantile stands where Student's belongs. Hesterberg (2015, the expanded percentile interval) moves the percentiles
outward for it; with 3 seeds these run off the end of the resamples, so here the interval's arms are stretched by the
same factor instead, its degrees of freedom after Satterthwaite (1946).

Resamples of units that are all alike are all alike too: the bootstrap takes what has not been seen for what cannot be.
So no arm is shorter than any of these:

- the noise of single images. Whole groups cannot vary less than the images in them would by themselves: Student's
  interval of the images' own variance, with the degrees of freedom of the groups. Two groups that lost one image of
  twelve each agree, but not because 1/12 is known. Likewise the noise of an image from seed to seed.
- what unseen units allow. Where k of n groups differ in anything from what is typical, the share that does is at most
  the exact bound of Clopper and Pearson (1934), for k = 0 the "rule of three" (Hanley and Lippman-Hand, 1983), about
  3.7 / n on each side of a 95 % interval. The groups beyond k / n differ by as much as those that were seen to; if
  none was, by anything. Seeds likewise.

What no rule can see is a rare group or seed that would lose everything while all that were seen differ a little.
`make calibration` simulates whole studies and counts how often an equivalence is claimed wrongly.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from synthmix.api.evaluations.v1 import evaluations_pb2


@dataclass(frozen=True, eq=False)
class TestImages:
    """The test images as the intervals see them.

    Attributes:
        class_of: Class index of each image, among the classes that have images, shape (images,).
        unit_of: Index of each image's unit, which is its group, or itself where there are no groups, shape (images,).
        weight: Each image's share of a balanced accuracy, shape (images,); their sum is 1.
        units: How many units there are, 2 or more.
    """

    __test__ = False  # not pytest's

    class_of: np.ndarray
    unit_of: np.ndarray
    weight: np.ndarray
    units: int

    @classmethod
    def of(cls, labels: np.ndarray, unit_of: np.ndarray) -> "TestImages":
        """From the images' labels and units."""
        present, class_of = np.unique(labels, return_inverse=True)
        return cls(class_of, unit_of, 1.0 / (len(present) * np.bincount(class_of))[class_of], int(unit_of.max()) + 1)


def estimate(
    images: TestImages,
    scores: np.ndarray,
    per_seed: np.ndarray,
    joint: np.ndarray,
    units_only: np.ndarray,
    confidence: float,
    bounds: tuple[float, float],
) -> evaluations_pb2.Estimate:
    """The mean over seeds and its interval.

    Args:
        images: The test images.
        scores: Of each image under each seed: 1 for right, 0 for wrong; or the difference of two such, shape
            (seeds, images).
        per_seed: The balanced mean of `scores`, shape (seeds,).
        joint: Means with units and seeds resampled, shape (resamples,).
        units_only: Means with units alone resampled, shape (resamples,).
        confidence: Of the interval.
        bounds: The least and the greatest possible value.
    """
    mean, seeds, units = float(per_seed.mean()), len(per_seed), images.units
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(joint, [tail, 1.0 - tail])
    # The variance of the mean as the bootstrap sees it, without n / (n - 1).
    from_units, from_seeds = float(units_only.var()), float(per_seed.var()) / seeds
    seen = from_units + from_seeds
    if seen > 0.0:
        components = [(from_units * units / (units - 1), units - 1)]
        if seeds > 1:
            components.append((from_seeds * seeds / (seeds - 1), seeds - 1))
        variance = sum(component for component, _ in components)
        degrees_of_freedom = variance**2 / sum(component**2 / freedom for component, freedom in components)
        stretch = np.sqrt(variance / seen) * stdtrit(degrees_of_freedom, 1.0 - tail) / ndtri(1.0 - tail)
        # A skewed distribution can lie to one side of the mean; an arm has no negative length.
        low = mean - stretch * max(mean - low, 0.0)
        high = mean + stretch * max(high - mean, 0.0)
    noise = _noise_arm(images, scores, tail)
    low = min(low, mean - max(noise, _unseen_arm(images, scores, tail, mean - bounds[0])))
    high = max(high, mean + max(noise, _unseen_arm(images, scores, tail, bounds[1] - mean)))
    return evaluations_pb2.Estimate(
        mean=mean,
        low=float(np.clip(low, *bounds)),
        high=float(np.clip(high, *bounds)),
        per_seed=per_seed.tolist(),
        seed_share=from_seeds / seen if seen > 0.0 else float(seeds < units),
    )


def _noise_arm(images: TestImages, scores: np.ndarray, tail: float) -> float:
    """The arm of an interval if images were independent, and the luck of each independent from seed to seed."""
    by_image, seeds = scores.mean(axis=0), len(scores)
    class_mean = np.bincount(images.class_of, by_image) / np.bincount(images.class_of)
    of_images = float(images.weight**2 @ (by_image - class_mean[images.class_of]) ** 2)
    arm = float(stdtrit(images.units - 1, 1.0 - tail) * np.sqrt(of_images))
    if seeds == 1:
        return arm
    of_seeds = float(images.weight**2 @ scores.var(axis=0)) / (seeds - 1)
    return float(np.hypot(arm, stdtrit(seeds - 1, 1.0 - tail) * np.sqrt(of_seeds)))


def _unseen_arm(images: TestImages, scores: np.ndarray, tail: float, room: float) -> float:
    """The arm that groups and seeds allow which were not seen.

    Args:
        images: The test images.
        scores: As `estimate` has them.
        tail: Probability beyond the arm.
        room: From the mean to the bound on the arm's side.
    """
    by_image = scores.mean(axis=0)
    typical = np.array([np.median(by_image[images.class_of == index]) for index in range(images.class_of.max() + 1)])
    departures = images.weight * np.abs(by_image - typical[images.class_of])
    of_units = np.bincount(images.unit_of, departures, images.units) * images.units
    of_seeds = np.abs(scores - np.median(scores, axis=0)) @ images.weight
    # A single seed cannot depart from what is typical of seeds. Nothing is claimed by it (see verdict).
    axes = [of_units, of_seeds] if len(scores) > 1 else [of_units]
    return max(_unseen(departure, tail, room) for departure in axes)


def _unseen(departures: np.ndarray, tail: float, room: float) -> float:
    """How far the mean may lie from where it was seen, on one side, by units that differ and were not drawn.

    Args:
        departures: How far each unit departs from what is typical, 0 or more, shape (units,).
        tail: Probability that more units differ than is reckoned with.
        room: The most that the mean can move.
    """
    count, differing = len(departures), int(np.count_nonzero(departures))
    if differing == count:
        return 0.0
    most = float(betaincinv(differing + 1, count - differing, 1.0 - tail))  # Clopper and Pearson's upper bound
    size = float(departures.sum()) / differing if differing else room
    return (most - differing / count) * min(size, room)
