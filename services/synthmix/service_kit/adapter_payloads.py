"""What an adapter's files are called, and what is in them: as diffusers and PEFT have it. Without either."""

import math

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
ADAPTER_FILES = (LORA_WEIGHTS, PEFT_WEIGHTS, PEFT_CONFIG)
# Of the names of tensors in a LoRA file, and of what its metadata say of them.
LORA_PREFIX = "unet."
LORA_CONFIG = "lora_adapter_metadata"
# In PEFT's layout the UNet is the base model of PEFT's model.
PEFT_PREFIX = "base_model.model."
# The course of a training.
LOSSES = "losses.json"


def in_folder(folder: str, file: str) -> str:
    """The name of a payload, in the folder that each of an artifact's adapters has; "" is that of the only one."""
    return f"{folder}/{file}" if folder else file


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
