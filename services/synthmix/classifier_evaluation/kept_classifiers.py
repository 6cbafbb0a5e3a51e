"""Networks before their training, which stay in a worker's memory for the trials that begin with the same one.

A worker trains one trial of a grid after another. To build timm's network, to load its weights and to try whether it
sees images of this size takes a tenth of a second of a small network, and seconds of a large one. What is given out is
a copy, bit for bit what would be built anew.

Not safe to share between threads: a worker runs one task at a time.
"""

import copy
import itertools
from collections import OrderedDict

from torch import nn

from synthmix.classifier_evaluation.classifiers import Preprocessing, build_classifier, seed_matters

MOST_BYTES = 256 * 1024**2
"""Of all kept networks. An EfficientNet-B7 takes almost all of it; a larger one is built anew for each trial."""

_kept: OrderedDict[tuple[str, int, bool, int, int | None], tuple[nn.Module, Preprocessing]] = OrderedDict()


def untrained_classifier(
    architecture: str, class_count: int, *, pretrained: bool, image_size_px: int, seed: int
) -> tuple[nn.Module, Preprocessing]:
    """What build_classifier returns and raises, built only if this process has not kept it."""
    drawn_by = seed if seed_matters(architecture, pretrained=pretrained) else None
    key = (architecture, class_count, pretrained, image_size_px, drawn_by)
    if key not in _kept:
        built = build_classifier(
            architecture, class_count, pretrained=pretrained, image_size_px=image_size_px, seed=seed
        )
        if _bytes(built[0]) > MOST_BYTES:
            return built
        _kept[key] = built
        while sum(_bytes(network) for network, _ in _kept.values()) > MOST_BYTES:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    network, preprocessing = _kept[key]
    return copy.deepcopy(network), preprocessing


def forget_all() -> None:
    """Gives the memory of all kept networks back."""
    _kept.clear()


def _bytes(network: nn.Module) -> int:
    return sum(value.nbytes for value in itertools.chain(network.parameters(), network.buffers()))
