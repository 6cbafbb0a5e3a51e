"""How near synthetic images are to real ones, and whether they are copies, in the features of some network.

Everything here works on features, so that it says nothing without the network's name beside it.
"""

import numpy as np

# Distances are computed in blocks of so many queries: a block times all references is held at once.
_BLOCK_ROWS = 1024


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

    def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        values: np.ndarray = (left @ right.T / left.shape[1] + 1.0) ** 3
        return values

    def mean_of_others(sample: np.ndarray) -> float:
        values = kernel(sample, sample)
        return float((values.sum() - np.trace(values)) / (len(sample) * (len(sample) - 1)))

    return mean_of_others(first) + mean_of_others(second) - 2.0 * float(kernel(first, second).mean())


def nearest_distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Euclidean distance of each query (M, d) to the nearest of the references (N, d), float64 (M,)."""
    references = references.astype(np.float64)
    squares = (references**2).sum(axis=1)
    nearest = [
        ((block**2).sum(axis=1, keepdims=True) + squares - 2.0 * block @ references.T).min(axis=1)
        for block in (
            queries[start : start + _BLOCK_ROWS].astype(np.float64) for start in range(0, len(queries), _BLOCK_ROWS)
        )
    ]
    distances: np.ndarray = np.sqrt(np.clip(np.concatenate(nearest), 0.0, None))
    return distances


def near_copy_distance(train: np.ndarray, test: np.ndarray, percentile: float) -> float:
    """The distance to the nearest train image below which an image counts as a near copy of it.

    Test images were never seen, so their distances to the train images show how near independent images come: only
    `percentile` of them are nearer. A generator that does not copy has about as many within it.

    Args:
        train: Features (N, d) of what the generator was trained on.
        test: Features (T, d) of real images that it was not.
        percentile: 0 to 100.
    """
    return float(np.percentile(nearest_distances(test, train), percentile))
