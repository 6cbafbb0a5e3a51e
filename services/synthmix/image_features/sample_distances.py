"""Distances between two samples of images, and within one, from the products of their features.

Every pair's product is computed once, and serves the kernel distance, the Frechet distance and the distances to
neighbours, of the whole samples and of each class.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import svd

from synthmix.image_features.distances import polynomial_kernel
from synthmix.image_features.estimates import Measured, around, drawn_counts, jackknife_variance, percentiles


@dataclass(frozen=True)
class Products:
    """Of two samples' features, (N, d) and (M, d), the products of each pair, in float64.

    Attributes:
        own: Of the first sample with itself, (N, N).
        reference: Of the second with itself, (M, M).
        between: (N, M).
        width: d.
    """

    own: np.ndarray
    reference: np.ndarray
    between: np.ndarray
    width: int

    def of(self, rows: np.ndarray, references: np.ndarray) -> "Products":
        """Those of some rows of each."""
        return Products(
            self.own[np.ix_(rows, rows)],
            self.reference[np.ix_(references, references)],
            self.between[np.ix_(rows, references)],
            self.width,
        )

    def squared_distances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squared Euclidean distances within the first sample, within the second, and between them."""
        first, second = np.diagonal(self.own), np.diagonal(self.reference)
        return (
            _squares(self.own, first, first),
            _squares(self.reference, second, second),
            _squares(self.between, first, second),
        )


def self_products(features: np.ndarray) -> np.ndarray:
    """(N, d) to (N, N), float64."""
    features = features.astype(np.float64)
    products: np.ndarray = features @ features.T
    return products


def products_of(first: np.ndarray, second: np.ndarray, *, of_second: np.ndarray | None = None) -> Products:
    """Of the features of two samples, (N, d) and (M, d).

    Args:
        of_second: The second's self_products, if they are known.
    """
    between = first.astype(np.float64) @ second.astype(np.float64).T
    of_second = self_products(second) if of_second is None else of_second
    return Products(self_products(first), of_second, between, first.shape[1])


def _squares(products: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.clip(first[:, None] + second[None, :] - 2.0 * products, 0.0, None)
    return squares


def kernel_distance(products: Products) -> Measured:
    """kernel_inception_distance, with a bootstrap's interval.

    Images are drawn with replacement from either sample, and the pairs that an image forms with itself are left out, as
    they are of the distance: drawn values have the distance itself as their mean. Near 0 the distance is a mean of
    terms of second order, whose spread any bootstrap overstates: a real-to-real floor is surer than it looks.
    """
    own, reference = (polynomial_kernel(of, products.width) for of in (products.own, products.reference))
    between = polynomial_kernel(products.between, products.width)
    np.fill_diagonal(own, 0.0)
    np.fill_diagonal(reference, 0.0)

    def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """By how often each image counts in each of R rounds, (R, N) and (R, M)."""
        across = ((first @ between) * second).sum(axis=1) / (first.sum(axis=1) * second.sum(axis=1))
        found: np.ndarray = _mean_of_pairs(own, first) + _mean_of_pairs(reference, second) - 2 * across
        return found

    first, second = between.shape
    [value] = distances(np.ones((1, first)), np.ones((1, second)))
    return percentiles(float(value), distances(drawn_counts(first, "first"), drawn_counts(second, "second")))


def _mean_of_pairs(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over pairs of different images, (N, N) with zeros on the diagonal, by counts (R, N), as (R,)."""
    pairs = np.square(counts.sum(axis=1)) - np.square(counts).sum(axis=1)
    means: np.ndarray = ((counts @ values) * counts).sum(axis=1) / pairs
    return means


def frechet_distance(products: Products) -> Measured:
    """The squared Frechet distance between normal distributions of the samples' means and covariances.

    Heusel et al. 2017 (arXiv:1706.08500) after Dowson and Landau 1982 (Journal of Multivariate Analysis 12(3)):
    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). The eigenvalues of S1 S2 are the squared singular values of the
    products of the two centred samples, A B^T / sqrt((N - 1) (M - 1)), so that their sum is the last trace: no
    root of a matrix is taken, which of fewer images than features would be of a singular one.

    It is biased upwards, by the more the fewer images there are (Chong and Forsyth 2020, arXiv:1911.07023): it compares
    with distances of as many images alone, and so does its interval. That is the infinitesimal jackknife's (Jaeckel
    1972; Efron 1982), which asks what a little more weight of each image would change: the derivative of the sum of
    singular values sigma with respect to image i's is N times half of sum_j U_ij^2 sigma_j. So it needs one
    decomposition, and repeats no image as a bootstrap would, which would look like fewer images.
    """
    first, second = products.between.shape
    mean_of_rows, mean_of_columns = products.between.mean(axis=1), products.between.mean(axis=0)
    mean = mean_of_rows.mean()
    centred = products.between - mean_of_rows[:, None] - mean_of_columns[None, :] + mean
    left, singular, right = svd(centred / np.sqrt((first - 1) * (second - 1)), full_matrices=False)
    common = singular.sum()
    shift = products.own.mean() + products.reference.mean() - 2 * mean
    value, variance = shift - 2 * common, 0.0
    for own, across, shares in (
        (products.own, mean_of_rows, (left**2) @ singular),
        (products.reference, mean_of_columns, (right.T**2) @ singular),
    ):
        count = len(own)
        rows = own.mean(axis=1)
        squares = np.diagonal(own) - 2 * rows + rows.mean()  # distances from the sample's mean
        spread = squares.sum() / (count - 1)
        towards = (rows - rows.mean()) - (across - mean)
        influence = 2 * towards + count / (count - 1) * squares - spread - (count * shares - common)
        value += spread
        variance += float(np.square(influence).sum() / (count * (count - 1)))
    return around(float(value), variance, min(first, second) - 1).within(0.0, np.inf)


def mean_pairwise_distance(products: np.ndarray, labels: np.ndarray) -> Measured:
    """The mean Euclidean distance between two images of a class, and the mean of that over classes.

    How different a generator's images of one thing are, as Zhu et al. 2017 (arXiv:1711.11586) measure it by LPIPS: one
    that makes the same image over and over has 0. The interval is the jackknife's.

    Args:
        products: self_products of the features, (N, N).
        labels: (N,), at least 3 of each that there is.
    """
    squares = np.diagonal(products)
    means, variances, fewest = [], [], len(labels)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = len(rows)
        distances = np.sqrt(_squares(products[np.ix_(rows, rows)], squares[rows], squares[rows]))
        np.fill_diagonal(distances, 0.0)
        without_each = (distances.sum() - 2 * distances.sum(axis=1)) / ((count - 1) * (count - 2))
        means.append(distances.sum() / (count * (count - 1)))
        variances.append(jackknife_variance(without_each))
        fewest = min(fewest, count)
    variance = float(np.sum(variances)) / len(means) ** 2
    return around(float(np.mean(means)), variance, fewest - 1).within(0.0, np.inf)
