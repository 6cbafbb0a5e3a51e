"""The autoencoder of a base model, alone: without the UNet, which is thirty times as large in some."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from synthmix.latent_diffusion.model_folder import variant_to_load
from synthmix.latent_diffusion.model_kinds import ModelKind, kind_of_folder
from synthmix.service_kit.machine_memory import available_memory_bytes

BATCH_IMAGES = 32
# Of what is free: other tasks run beside it, and theirs is not taken yet.
MEMORY_SHARE = 0.25
# Tensors that are there at once at an autoencoder's largest, each as large as one of its first level.
AUTOENCODER_TENSORS = 6


def select_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def frozen_dtype(device: torch.device) -> torch.dtype:
    """Of a base model's weights: bfloat16 on CUDA, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def autoencoder_dtype(kind: ModelKind, device: torch.device) -> torch.dtype:
    """Of an autoencoder's weights, and of what it computes."""
    return torch.float32 if kind.autoencoder_in_float32 else frozen_dtype(device)


def free_memory_bytes(device: torch.device) -> int:
    """What may still be taken of a device's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes()


def autoencoder_bytes(vae: Any, size_px: int) -> int:
    """What an image takes at most while it is encoded or decoded."""
    # The decoder's last level but one works on the whole size too, before it narrows.
    channels = max(vae.config.block_out_channels[:2])
    return int(AUTOENCODER_TENSORS * size_px**2 * channels * vae.dtype.itemsize)


def load_autoencoder(folder: Path) -> Any:
    """The frozen AutoencoderKL of a folder in the diffusers layout, whose files were verified, in evaluation mode."""
    device = select_device()
    vae = AutoencoderKL.from_pretrained(
        folder,
        subfolder="vae",
        torch_dtype=autoencoder_dtype(kind_of_folder(folder), device),
        use_safetensors=True,
        variant=variant_to_load(folder, ["vae"]),
    )
    return vae.to(device).requires_grad_(False).eval()


@torch.no_grad()
def encode_images(vae: Any, pixels: np.ndarray, batch_size: int) -> torch.Tensor:
    """Latents as the UNet sees them: the mean of the posterior, times the autoencoder's scaling factor.

    The mean and not a sample: autoencoders trained with next to no KL term (Rombach et al. 2022, section 3.1) leave the
    deviation without meaning. Stable Diffusion's is negligible; the built-in model's is as large as the latents.

    Args:
        pixels: (images, height, width, 3), uint8.

    Returns:
        (images, channels, height / f, width / f), float32, on the CPU.
    """
    latents = []
    for start in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(np.array(pixels[start : start + batch_size])).permute(0, 3, 1, 2)
        posterior = vae.encode(batch.to(vae.device, vae.dtype) / 127.5 - 1).latent_dist
        latents.append(posterior.mean.float().cpu())
    scaled: torch.Tensor = torch.cat(latents) * vae.config.scaling_factor
    return scaled


@torch.no_grad()
def reconstruct(vae: Any, pixels: np.ndarray, *, grey: bool) -> np.ndarray:
    """What the autoencoder makes of images: the best that a generator which works on its latents can do.

    At most BATCH_IMAGES at once, and as many as the memory has room for.

    Args:
        pixels: (images, height, width, 3), uint8.
        grey: Whether the images are grey, so that the channels are to be equal again, as those of synthetic ones are.

    Returns:
        The same shape and type.
    """
    room = MEMORY_SHARE * free_memory_bytes(vae.device) // autoencoder_bytes(vae, pixels.shape[1])
    at_once = int(max(1, min(BATCH_IMAGES, room)))
    latents = encode_images(vae, pixels, at_once) / vae.config.scaling_factor
    images = []
    for start in range(0, len(latents), at_once):
        decoded = vae.decode(latents[start : start + at_once].to(vae.device, vae.dtype)).sample
        values = decoded.float().cpu()
        values = values.mean(dim=1, keepdim=True).expand_as(values) if grey else values
        images.append(((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    reconstructed: np.ndarray = torch.cat(images).numpy()
    return reconstructed
