"""Networks before their training, which stay in a worker's memory for the trials that begin with the same one.

A worker trains one trial of a grid after another. To build timm's network, to load its weights and to try whether it
sees images of this size takes a tenth of a second of a small network, and seconds of a large one. What is given out is
a copy, bit for bit what would be built anew.
"""

import copy
import itertools

from torch import nn

from synthmix.classifier_evaluation.classifiers import build_classifier, seed_matters
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.service_kit.kept_values import KeptValues

MOST_BYTES = 256 * 1024**2
"""Of all kept networks. An EfficientNet-B7 takes almost all of it; a larger one is built anew for each trial."""

NETWORKS: KeptValues[tuple[nn.Module, Preprocessing]] = KeptValues(
    lambda built: sum(value.nbytes for value in itertools.chain(built[0].parameters(), built[0].buffers())),
    lambda kept_bytes: MOST_BYTES,
)


def untrained_classifier(
    architecture: str, class_count: int, *, pretrained: bool, image_size_px: int, seed: int
) -> tuple[nn.Module, Preprocessing]:
    """What build_classifier returns and raises, built only if this process has not kept it."""
    drawn_by = seed if seed_matters(architecture, pretrained=pretrained) else None
    network, preprocessing = NETWORKS.get(
        (architecture, class_count, pretrained, image_size_px, drawn_by),
        lambda: build_classifier(
            architecture, class_count, pretrained=pretrained, image_size_px=image_size_px, seed=seed
        ),
    )
    return copy.deepcopy(network), preprocessing
