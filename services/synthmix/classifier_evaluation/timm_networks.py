"""Networks of timm as it makes them, with its errors told at the field of the request that they are of. For workers."""

from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch import nn

from synthmix.classifier_evaluation.architectures import weight_repositories
from synthmix.classifier_evaluation.pretrained_weights import CLASSIFIER, NetworkFields, weights_missing
from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.hub_cache import held
from synthmix.service_kit.memory_errors import is_out_of_memory


def create_network(
    architecture: str,
    class_count: int,
    *,
    pretrained: bool,
    image_size_px: int,
    fields: NetworkFields = CLASSIFIER,
) -> Any:
    """A network on the CPU.

    Args:
        class_count: Of its last layer; 0 for the pooled features that this would see.
        pretrained: Whether to load the weights that timm knows.

    Raises:
        FailedPrecondition: The weights cannot be had.
        InvalidArgument: It cannot be built for images of this size.
    """
    options = size_options(architecture, image_size_px)
    repository = weight_repositories().get(architecture) if pretrained else None
    try:
        with held(repository) if repository else nullcontext():
            return timm.create_model(architecture, pretrained=pretrained, num_classes=class_count, **options)
    except OSError as error:
        raise weights_missing(
            architecture,
            "cannot be downloaded",
            "make the Hugging Face hub reachable from the workers, or put the weights into their HF_HOME",
            fields=fields,
        ) from error
    except Exception as error:  # safetensors and HTTP clients raise kinds of their own
        if is_out_of_memory(error):
            raise
        if pretrained:
            # Raises if it is not the weights.
            create_network(architecture, class_count, pretrained=False, image_size_px=image_size_px, fields=fields)
            raise weights_missing(
                architecture,
                f"cannot be loaded ({type(error).__name__}: {str(error)[:200]})",
                "remove them from the workers' HF_HOME, so that they are downloaded again",
                fields=fields,
            ) from error
        if not isinstance(error, AssertionError | RuntimeError | TypeError | ValueError):
            raise
        raise _wrong_size(architecture, image_size_px, error, fields) from error


def size_options(architecture: str, image_size_px: int) -> dict[str, int]:
    """Transformers with one position embedding a patch are built for a size; other networks take any."""
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_size_px:
        return {}
    return {"img_size": image_size_px}


def try_forward(model: nn.Module, architecture: str, image_size_px: int, *, fields: NetworkFields = CLASSIFIER) -> None:
    """Raises InvalidArgument if the network cannot see images of this size: small ones vanish within some."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, image_size_px, image_size_px))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _wrong_size(architecture, image_size_px, error, fields) from error


def _wrong_size(architecture: str, image_size_px: int, error: Exception, fields: NetworkFields) -> InvalidArgument:
    return invalid_field(
        fields.image_size,
        image_size_px,
        f"is not a size that {architecture} can see ({str(error) or type(error).__name__})",
        "use another, such as the one it was made for",
        reason="IMAGE_SIZE_UNSUPPORTED",
    )
