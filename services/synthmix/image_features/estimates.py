"""A number with what chance makes of it: the intervals of everything that is measured on a sample of images.

A bootstrap draws images with replacement, and an image that is drawn twice is its own nearest neighbour, at distance 0:
a mean distance within the sample falls, a kernel distance rises, covariances lose directions, and the balls to a k-th
neighbour shrink (Abadie and Imbens 2008, Econometrica 76(6), show that the bootstrap of nearest neighbours is wrong
however many images there are). So the kernel distance is resampled without the pairs of an image with itself, which
leaves it unbiased, and all else has the jackknife's interval, which leaves images out and repeats none. On average its
variance is never below the true one of a sample that is smaller by what is left out (Efron and Stein 1981, Annals of
Statistics 9(3)), so that it errs towards caution. All intervals are of images that are drawn independently: images of
one plate or patient resemble each other, and other plates would differ by more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

from synthmix.service_kit.seeds import derived_rng

CONFIDENCE = 0.95
# Of a bootstrap: the ends of a 95 % interval are the 25th of them from either side.
BOOTSTRAP_ROUNDS = 1000
# Into so many parts a sample is divided of which each is left out in turn, where leaving out each image takes too long.
JACKKNIFE_GROUPS = 20


@dataclass(frozen=True)
class Measured:
    """What was measured, and its 95 % confidence interval, which holds it."""

    value: float
    low: float
    high: float

    def within(self, least: float, most: float) -> "Measured":
        """The same, where only values from least to most can be."""
        return Measured(self.value, max(self.low, min(least, self.value)), min(self.high, max(most, self.value)))

    def at_least_as_wide_as(self, other: "Measured") -> "Measured":
        return Measured(self.value, min(self.low, other.low), max(self.high, other.high))


def around(value: float, variance: float, degrees: int) -> Measured:
    """Student's interval.

    Args:
        variance: Of the value.
        degrees: Of freedom, of the variance.
    """
    reach = float(student_t.ppf((1 + CONFIDENCE) / 2, degrees) * np.sqrt(variance))
    return Measured(value, value - reach, value + reach)


def drawn_counts(count: int, purpose: str) -> np.ndarray:
    """How often each of so many images is drawn in each round of a bootstrap, float64 (BOOTSTRAP_ROUNDS, count)."""
    rng = derived_rng(0, "bootstrap", purpose, count)
    return rng.multinomial(count, np.full(count, 1 / count), BOOTSTRAP_ROUNDS).astype(np.float64)


def percentiles(value: float, resampled: np.ndarray) -> Measured:
    """The bootstrap's interval, by the percentiles of what its rounds gave."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Measured(value, min(float(low), value), max(float(high), value))


def jackknife_variance(without_each: np.ndarray) -> np.ndarray:
    """The variance of a value by what it is without each of n images, or of n groups of as many (Tukey 1958).

    Args:
        without_each: (n, ...), n at least 2.

    Returns:
        (...)
    """
    count = len(without_each)
    variance: np.ndarray = (count - 1) / count * np.square(without_each - without_each.mean(axis=0)).sum(axis=0)
    return variance


def group_jackknife(compute: Callable[[np.ndarray, np.ndarray], np.ndarray], first: int, second: int) -> list[Measured]:
    """Values of two samples, with intervals by leaving out a twentieth of one of them at a time.

    Args:
        compute: From the rows of the first and of the second sample that are kept, values of (V,).
        first, second: How many images they have, at least 2 each.
    """
    everything = np.arange(first), np.arange(second)
    parts = [_random_parts(count) for count in (first, second)]
    variance = jackknife_variance(
        np.stack([compute(np.setdiff1d(everything[0], part), everything[1]) for part in parts[0]])
    )
    variance += jackknife_variance(
        np.stack([compute(everything[0], np.setdiff1d(everything[1], part)) for part in parts[1]])
    )
    degrees = min(map(len, parts)) - 1
    return [around(float(value), float(of), degrees) for value, of in zip(compute(*everything), variance, strict=True)]


def _random_parts(count: int) -> list[np.ndarray]:
    order = derived_rng(0, "jackknife groups", count).permutation(count)
    return np.array_split(order, min(JACKKNIFE_GROUPS, count))


def share(right: np.ndarray) -> Measured:
    """In how many images something is so, with Wilson's interval (1927, JASA 22).

    A bootstrap of a share of 0 says that it is 0 for certain; Wilson's interval says how large it may be.

    Args:
        right: Of each image, (N,) bool, N at least 1.
    """
    value = float(np.mean(right))
    found = binomtest(int(np.sum(right)), len(right)).proportion_ci(CONFIDENCE, method="wilson")
    return Measured(value, min(float(found.low), value), max(float(found.high), value))  # rounding may leave it outside
