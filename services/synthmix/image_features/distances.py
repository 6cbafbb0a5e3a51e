"""How near synthetic images are to real ones, and whether they are copies, in the features of some network.

Everything here works on features, so that it says nothing without the network's name beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from synthmix.service_kit.seeds import derived_rng, derived_seed

# The cost of kernel_inception_distance grows with the square of the images, and its spread hardly shrinks beyond so
# many.
MOST_IMAGES = 2000
# Distances are computed in blocks of so many queries: a block times all references is held at once.
_BLOCK_ROWS = 1024
# A near copy is as near to a train image as so many of 100 independent images are.
NEAR_COPY_PERCENTILE = 1.0
# Random exchanges by which chance is measured.
EXCHANGES = 2000


def kernel_inception_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared maximum mean discrepancy between two samples, unbiased, so that it may fall below 0.

    Binkowski et al. 2018 (arXiv:1801.01401), section 4: the kernel (x.y / d + 1)^3; the estimator is Gretton et al.
    2012 (JMLR 13), lemma 6. Unlike the Frechet distance it is not biased by the number of images, which is small here.

    Args:
        first: Features (M, d), M at least 2.
        second: Features (N, d), N at least 2.

    Raises:
        ValueError: A sample has fewer than two rows, or the widths differ.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(
            f"two samples of at least two rows, of one width, are needed, not {first.shape} and {second.shape}"
        )
    first, second = first.astype(np.float64), second.astype(np.float64)

    def mean_of_others(sample: np.ndarray) -> float:
        values = polynomial_kernel(sample @ sample.T, sample.shape[1])
        return float((values.sum() - np.trace(values)) / (len(sample) * (len(sample) - 1)))

    return (
        mean_of_others(first)
        + mean_of_others(second)
        - 2.0 * float(polynomial_kernel(first @ second.T, first.shape[1]).mean())
    )


def polynomial_kernel(products: np.ndarray, width: int) -> np.ndarray:
    """The kernel inception distance's kernel of features whose products are given, in their shape.

    Args:
        width: Of the features.
    """
    base = products / width + 1.0
    values: np.ndarray = base * base * base  # a tenth of the time of a power
    return values


@dataclass(frozen=True)
class PairedDistance:
    """A kernel inception distance between images and what became of each, of which a few dozen are enough.

    Attributes:
        value: The distance, unbiased, so that it may fall below 0. 0 if the pairs are equal.
        low, high: Its 95 % confidence interval.
        by_chance: What it would be below, in 95 of 100 cases, if nothing but chance told the two of a pair apart.
    """

    value: float
    low: float
    high: float
    by_chance: float


def paired_distance(first: np.ndarray, second: np.ndarray) -> PairedDistance:
    """The kernel inception distance between two samples whose rows are pairs.

    An image is next to what became of it, so that the estimator of two independent samples would be biased downwards,
    to below 0 for equal pairs. Gretton et al. 2012 (JMLR 13), lemma 6, takes pairs that are independent of one another,
    whatever is within one: the mean of h(i, j) = k(xi, xj) + k(yi, yj) - k(xi, yj) - k(xj, yi) over i != j. What images
    differ by among themselves cancels in it, so that its spread at 32 pairs is a fraction of that of 32 images against
    32 others. The interval is the jackknife's (Arvesen 1969, Annals of Mathematical Statistics 40(6)); chance is what
    exchanging the two of a pair at random gives, which flips the sign of h(i, j).

    Args:
        first, second: Features (N, d), N at least 3.

    Raises:
        ValueError: There are fewer than three pairs, or the shapes differ.
    """
    count = len(first)
    if first.ndim != 2 or first.shape != second.shape or count < 3:
        raise ValueError(f"at least three pairs of one width are needed, not {first.shape} and {second.shape}")
    first, second = first.astype(np.float64), second.astype(np.float64)
    width = first.shape[1]
    between = polynomial_kernel(first @ second.T, width)
    terms = polynomial_kernel(first @ first.T, width) + polynomial_kernel(second @ second.T, width)
    terms -= between + between.T
    np.fill_diagonal(terms, 0.0)
    value = float(terms.sum() / (count * (count - 1)))
    without_each = (terms.sum() - 2 * terms.sum(axis=1)) / ((count - 1) * (count - 2))
    deviation = float(np.sqrt((count - 1) / count * np.square(without_each - without_each.mean()).sum()))
    reach = float(student_t.ppf(0.975, count - 1)) * deviation
    signs = derived_rng(0, "paired distance").choice([-1.0, 1.0], (EXCHANGES, count))
    exchanged = np.einsum("si,ij,sj->s", signs, terms, signs, optimize=True) / (count * (count - 1))
    return PairedDistance(value, value - reach, value + reach, float(np.quantile(exchanged, 0.95)))


def nearest_distances(
    queries: np.ndarray, references: np.ndarray, *, without: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
    """The distances of `nearest`."""
    return nearest(queries, references, without=without)[0]


def nearest(
    queries: np.ndarray, references: np.ndarray, *, without: Sequence[Sequence[int]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance of each query (M, d) to the nearest of the references (N, d), float64 (M,), and its row (M,).

    Args:
        without: For each query the rows of references that do not count; infinity where none is left.
    """
    references = references.astype(np.float64)
    squares = (references**2).sum(axis=1)
    distances, rows = [], []
    for start in range(0, len(queries), _BLOCK_ROWS):
        block = queries[start : start + _BLOCK_ROWS].astype(np.float64)
        to_all = (block**2).sum(axis=1, keepdims=True) + squares - 2.0 * block @ references.T
        for row, left_out in enumerate(without[start : start + _BLOCK_ROWS] if without is not None else ()):
            to_all[row, list(left_out)] = np.inf
        distances.append(to_all.min(axis=1))
        rows.append(to_all.argmin(axis=1))
    return np.sqrt(np.clip(np.concatenate(distances), 0.0, None)), np.concatenate(rows)


def own_distances(queries: np.ndarray, references: np.ndarray, own: Sequence[Sequence[int]]) -> np.ndarray:
    """Euclidean distance of each query (M, d) to the nearest of its own references, float64 (M,).

    Args:
        references: (N, d).
        own: For each query the rows of its references, at least one.
    """
    references = references.astype(np.float64)
    return np.array(
        [
            np.linalg.norm(references[list(rows)] - query, axis=1).min()
            for query, rows in zip(queries.astype(np.float64), own, strict=True)
        ]
    )


def near_copy_distance(unseen: np.ndarray, percentile: float) -> float:
    """The distance to the nearest train image below which an image counts as a near copy of it.

    How near independent images come, real images show that the generator was not trained on: only `percentile` of them
    are nearer. A generator that does not copy has about as many within it.

    Args:
        unseen: Distances (T,) of such images to the nearest train image.
        percentile: 0 to 100.
    """
    return float(np.percentile(unseen, percentile))


def balanced_rows(labels: Sequence[int], classes: np.ndarray, *, most_each: int = MOST_IMAGES) -> np.ndarray:
    """Rows of which each of the classes has as many as the rarest, at most MOST_IMAGES in all, in ascending order.

    Args:
        most_each: How many of a class at most: those of fewer are among those of more.
    """
    own = np.asarray(labels)
    members = [rows for rows in (np.flatnonzero(own == label) for label in classes) if len(rows)]
    count = min(most_each, *(len(rows) for rows in members), max(1, MOST_IMAGES // len(classes)))
    chosen = [
        np.random.default_rng(derived_seed(0, "fidelity sample", index)).permutation(rows)[:count]
        for index, rows in enumerate(members)
    ]
    return np.sort(np.concatenate(chosen))
