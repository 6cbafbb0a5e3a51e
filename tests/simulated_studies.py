"""Studies drawn with a known true difference: what is claimed of them shows whether the statistics are calibrated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation.paired_comparison import MixturePredictions, compare

CLASSES = ("a", "b")


@dataclass(frozen=True)
class Design:
    """A kind of study.

    Attributes:
        groups: Of the test part.
        seeds: Of each mixture.
        images: Test images of each class in a group.
        accuracy: Of real only, 0 to 1, in expectation.
        difference: Of the mixture from real only, in expectation over groups and seeds.
        luck: Whether an image is as hard under every seed and to both mixtures ("image"), under one seed to both
            ("seed"), or always anew ("none").
        spread: Standard deviation of the difference over groups and over seeds, as a multiple of the difference.
        one_class_groups: Whether each group holds images of one class alone.
    """

    groups: int
    seeds: int
    images: int
    accuracy: float
    difference: float
    luck: Literal["image", "seed", "none"] = "image"
    spread: float = 0.0
    one_class_groups: bool = False


def simulate(
    rng: np.random.Generator, design: Design, margin: float, resamples: int = 300
) -> evaluations_pb2.Comparison:
    """Draws a study and compares its two mixtures with 95 % intervals."""
    if design.one_class_groups:
        labels = np.repeat(np.arange(design.groups) % 2, 2 * design.images)
    else:
        labels = np.tile(np.repeat([0, 1], design.images), design.groups)
    groups = np.repeat(np.arange(design.groups), 2 * design.images)
    shape = (design.seeds, len(labels))
    deviations = (
        rng.normal(0.0, design.spread, design.groups)[groups] + rng.normal(0.0, design.spread, shape[:1])[:, None]
    )
    mixed_accuracy = np.clip(design.accuracy + design.difference * (1.0 + deviations), 0.0, 1.0)
    real_luck = np.broadcast_to(rng.random(shape[1]), shape) if design.luck == "image" else rng.random(shape)
    mixed_luck = rng.random(shape) if design.luck == "none" else real_luck
    mixtures = [
        MixturePredictions(
            evaluations_pb2.Mixture(key=key, label=key),
            np.where(right, labels, 1 - labels),
            np.full(design.seeds, 0.8),
        )
        for key, right in (("real", real_luck < design.accuracy), ("append-0.25", mixed_luck < mixed_accuracy))
    ]
    return compare(
        labels,
        groups,
        mixtures,
        reference="real",
        candidates=["append-0.25"],
        class_names=CLASSES,
        confidence=0.95,
        margin=margin,
        resamples=resamples,
    )
