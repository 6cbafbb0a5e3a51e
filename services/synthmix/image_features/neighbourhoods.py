"""How much two samples overlap: precision, recall, density and coverage, by balls to the k-th nearest neighbour."""

import numpy as np

from synthmix.image_features.estimates import Measured, group_jackknife, share
from synthmix.image_features.sample_distances import Products

# The papers' own. A ball around an image reaches to so many others of its sample.
PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5

Radii = tuple[np.ndarray, np.ndarray]


def neighbourhood_measures(products: Products) -> dict[str, Measured]:
    """Precision, recall, density and coverage of a first sample, such as synthetic images, beside real ones.

    Kynkaanniemi et al. 2019 (arXiv:1904.06991): precision is the share of the first sample's images that are in the
    ball of a reference, recall the share of references that are in the ball of one of the sample's images. Naeem et al.
    2020 (arXiv:2002.09797): density is the mean number of references' balls that an image of the sample is in, by k,
    and may exceed 1; coverage is the share of references in whose ball an image of the sample is. All of them depend on
    how many images there are, and compare with those of as many images alone.

    Intervals leave out a twentieth of a sample at a time; those of shares are never narrower than Wilson's.

    Args:
        products: Of samples of more than DENSITY_NEIGHBOURS + 1 images each.
    """
    within, reference, between = products.squared_distances()
    np.fill_diagonal(within, 0.0)
    np.fill_diagonal(reference, 0.0)

    of_first, of_reference = _squared_radii(within), _squared_radii(reference)

    def radii_of(squares: np.ndarray, of_all: Radii, kept: np.ndarray) -> Radii:
        return of_all if len(kept) == len(squares) else _squared_radii(squares[np.ix_(kept, kept)])

    def of_each(rows: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What each image adds to the mean that is a measure."""
        near, wide = radii_of(reference, of_reference, references)
        own, _ = radii_of(within, of_first, rows)
        across = between[np.ix_(rows, references)]
        return (
            (across <= near).any(axis=1),
            (across <= own[:, None]).any(axis=0),
            (across <= wide).sum(axis=1) / DENSITY_NEIGHBOURS,
            across.min(axis=0) <= wide,
        )

    def means(rows: np.ndarray, references: np.ndarray) -> np.ndarray:
        return np.array([np.mean(values) for values in of_each(rows, references)])

    first, second = between.shape
    found = dict(
        zip(("precision", "recall", "density", "coverage"), group_jackknife(means, first, second), strict=True)
    )
    precise, recalled, _, covered = of_each(np.arange(first), np.arange(second))
    for name, images in (("precision", precise), ("recall", recalled), ("coverage", covered)):
        found[name] = found[name].at_least_as_wide_as(share(images)).within(0.0, 1.0)
    return found | {"density": found["density"].within(0.0, np.inf)}


def _squared_radii(squares: np.ndarray) -> Radii:
    """From squared distances within a sample, (N, N), to the neighbours that precision's and density's balls reach to.

    An image is the nearest to itself, at place 0.
    """
    ordered = np.partition(squares, (PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS), axis=1)
    return ordered[:, PRECISION_NEIGHBOURS], ordered[:, DENSITY_NEIGHBOURS]
