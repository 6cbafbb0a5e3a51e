"""What an evaluation measures of image sets and of real images: a table of measures, and their values for one source.

A measure is one entry of MEASURES and one value of `_values`. The same is measured of all images and of each class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthmix.api.evaluations.v1.evaluations_pb2 import FidelityMeasure, MeasuredImages, MeasuredValue
from synthmix.image_features.estimates import Measured, share
from synthmix.image_features.neighbourhoods import neighbourhood_measures
from synthmix.image_features.sample_distances import (
    Products,
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    products_of,
    self_products,
)

# Fewer of a sample or of the reference are not measured: neighbours up to the fifth are counted, and the intervals of a
# handful of images would reach over everything.
LEAST_IMAGES = 10
# Of a class, for its mean distance: without one image there still has to be a pair.
LEAST_OF_A_CLASS = 3

MEASURES = tuple(
    FidelityMeasure(name=name, label=label, sentence=sentence, is_share=is_share)
    for name, label, is_share, sentence in (
        (
            "kernel_inception_distance",
            "Kernel distance",
            False,
            "the kernel inception distance from the test images, unbiased, so that it may fall below 0, which is none "
            "(Binkowski et al. 2018)",
        ),
        (
            "frechet_distance",
            "Frechet distance",
            False,
            "the distance from the test images of normal distributions (Heusel et al. 2017), which is the larger the "
            "fewer images there are: it compares with the other rows alone, which have as many",
        ),
        (
            "precision",
            "Precision",
            True,
            "the share of images that are as near to a test image as its third neighbour is: whether they look real "
            "(Kynkäänniemi et al. 2019)",
        ),
        (
            "recall",
            "Recall",
            True,
            "the share of test images that are as near to an image as its third neighbour is: whether they show all "
            "that there is (Kynkäänniemi et al. 2019)",
        ),
        (
            "density",
            "Density",
            False,
            "how many test images an image is as near to as their fifth neighbours are, by five: precision that one "
            "odd test image changes little, and that may exceed 1 (Naeem et al. 2020)",
        ),
        (
            "coverage",
            "Coverage",
            True,
            "the share of test images to which an image is as near as their fifth neighbour is: recall that odd images "
            "of the generator change little (Naeem et al. 2020)",
        ),
        (
            "class_consistency",
            "Right class",
            True,
            "the share of images in which a classifier of train images, which was trained without the groups of those "
            "that an image is made from, sees its class",
        ),
        (
            "diversity",
            "Diversity",
            False,
            "the mean distance between two images of a class: 0 if a generator makes the same image over and over",
        ),
        (
            "near_copies",
            "Near copies",
            True,
            "the share of images that are nearer to a train image than nearly all test images are",
        ),
    )
)


@dataclass(frozen=True)
class Images:
    """Features (N, d) of images, and their labels (N,)."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Reference(Images):
    """The real images that all others are compared with."""

    @cached_property
    def products(self) -> np.ndarray:
        return self_products(self.features)


@dataclass(frozen=True)
class Sample(Images):
    """Images of one source.

    Attributes:
        as_many: Rows of as many images of each class as every source has, for measures that depend on how many there
            are.
        judged: Labels (J,) of those that what follows is of: the images themselves, or others of the same source.
        near: Whether each is a near copy, (J,).
        right: Whether a judge of train images sees the class of each, (J,). None if there is no judge.
    """

    as_many: np.ndarray
    judged: np.ndarray
    near: np.ndarray
    right: np.ndarray | None


def measured_images(sample: Sample, reference: Reference, classes: Sequence[str]) -> list[MeasuredImages]:
    """All measures of a source's images, and of those of each class, as far as there are enough.

    Args:
        classes: Their names, by label.
    """
    products = products_of(sample.features, reference.features, of_second=reference.products)
    found = []
    for label, name in ((None, ""), *enumerate(classes)):
        rows, references, judged = (
            np.flatnonzero(np.ones_like(labels) if label is None else labels == label)
            for labels in (sample.labels, reference.labels, sample.judged)
        )
        values = _values(sample, products, rows, references, judged)
        if values:
            ordered = [(measure.name, *values[measure.name]) for measure in MEASURES if measure.name in values]
            found.append(
                MeasuredImages(
                    class_name=name,
                    values=[
                        MeasuredValue(name=of, value=value.value, low=value.low, high=value.high, images=images)
                        for of, value, images in ordered
                    ],
                )
            )
    return found


def _values(
    sample: Sample, products: Products, rows: np.ndarray, references: np.ndarray, judged: np.ndarray
) -> dict[str, tuple[Measured, int]]:
    """The measures of some rows of the sample, of the reference, and of those that are judged; of how many images."""
    found: dict[str, tuple[Measured, int]] = {}
    if min(len(rows), len(references)) >= LEAST_IMAGES:
        found["kernel_inception_distance"] = kernel_distance(products.of(rows, references)), len(rows)
    as_many = np.intersect1d(rows, sample.as_many)
    if min(len(as_many), len(references)) >= LEAST_IMAGES:
        own = products.of(as_many, references)
        found["frechet_distance"] = frechet_distance(own), len(as_many)
        found |= {name: (value, len(as_many)) for name, value in neighbourhood_measures(own).items()}
    _, of_classes = np.unique(sample.labels[rows], return_counts=True)
    if len(rows) >= LEAST_IMAGES and of_classes.min() >= LEAST_OF_A_CLASS:
        distance = mean_pairwise_distance(products.own[np.ix_(rows, rows)], sample.labels[rows])
        found["diversity"] = distance, len(rows)
    if len(judged) >= LEAST_IMAGES:
        found["near_copies"] = share(sample.near[judged]), len(judged)
        if sample.right is not None:
            found["class_consistency"] = share(sample.right[judged]), len(judged)
    return found
