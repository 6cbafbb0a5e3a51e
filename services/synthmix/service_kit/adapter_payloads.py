"""What an adapter's files are called, and what is in them: as diffusers and PEFT have it. Without either."""

import json
import math
from typing import Any

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
# Of PEFT's layout, where the text encoder's adapter is: it has a folder for each model.
TEXT_FOLDER = "text_encoder"
# Learned tokens of classes, as textual inversion stores them.
CLASS_TOKENS = "learned_embeds.safetensors"
# A UNet that was trained itself, in diffusers' layout.
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
UNET_CONFIG = "unet/config.json"
# Of an adapter that was trained with captions: those of its train images, by class.
CAPTIONS_FILE = "captions.json"
ADAPTER_FILES = (
    UNET_WEIGHTS,
    UNET_CONFIG,
    CLASS_TOKENS,
    LORA_WEIGHTS,
    PEFT_WEIGHTS,
    PEFT_CONFIG,
    f"{TEXT_FOLDER}/{PEFT_WEIGHTS}",
    f"{TEXT_FOLDER}/{PEFT_CONFIG}",
)
# Of the names of tensors in a LoRA file, and of what its metadata say of them.
LORA_PREFIX = "unet."
TEXT_PREFIX = "text_encoder."
# Of the names in a text encoder's files, which its modules have had until transformers 5.
CLIP_PREFIX = "text_model."
# DoRA's lengths, by PEFT. In a text encoder diffusers leaves it to transformers to read them, which looks for a weight.
LENGTHS = "lora_magnitude_vector"
TEXT_LENGTHS = f"{LENGTHS}.weight"
LORA_CONFIG = "lora_adapter_metadata"
# In PEFT's layout the UNet is the base model of PEFT's model.
PEFT_PREFIX = "base_model.model."
# What an artifact says of an adapter whose base model is an SDXL model; nothing of Stable Diffusion 1.x and 2.x.
SDXL_KIND = "SDXL"
# Methods that train something else than an adapter, so that they have neither rank nor block size: no layer is adapted,
# where classes' tokens are learned alone, or the UNet itself is trained.
NONE, FULL = "none", "full"
WITHOUT_ADAPTER = (NONE, FULL)
# The course of a training.
LOSSES = "losses.json"
# Of sheets of pictures, which are named by the images seen when they were made.
PREVIEWS = "previews/"


def in_folder(folder: str, file: str) -> str:
    """The name of a payload, in the folder that each of an artifact's adapters has; "" is that of the only one."""
    return f"{folder}/{file}" if folder else file


def preview_file(images_seen: int) -> str:
    """What the pictures that an adapter made after so many images seen are called; names in order are so in time."""
    return f"{PREVIEWS}{images_seen:012d}.png"


def images_seen_of(preview: str) -> int:
    """After how many images seen the pictures of a payload were made."""
    return int(preview.rpartition("/")[2].removesuffix(".png"))


def json_object(text: Any, what: str) -> dict[str, Any]:
    """A configuration that is written as JSON. Raises ValueError, which says what is wrong, unless it is an object."""
    try:
        value = json.loads(text)
    except (TypeError, json.JSONDecodeError, RecursionError) as error:  # metadata may be of any type
        raise ValueError(f"its {what} is not valid JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {what} is not a JSON object")
    return value


def divided(side: int, factor: int) -> tuple[int, int]:
    """The sides of the small and of the large factor of a Kronecker product: what PEFT's `factorization` does.

    Args:
        side: Their product.
        factor: What the first is to be, as nearly as the side can be divided; -1 for the root of the side.
    """
    if factor > 0 and side % factor == 0:
        return factor, side // factor
    most = side if factor == -1 else factor
    small = max(size for size in range(1, min(most, math.isqrt(side)) + 1) if side % size == 0)
    return small, side // small
