"""A base model's parts in memory, and the few things that training and sampling both do with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class LatentDiffusion:
    """The parts of a base model, frozen, in evaluation mode, on one device.

    Attributes:
        pipeline: The diffusers pipeline that holds the parts.
        device: Where they are.
        dtype: Of the frozen weights: bfloat16 on CUDA, float32 on a CPU.
    """

    pipeline: StableDiffusionPipeline
    device: torch.device
    dtype: torch.dtype

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def vae(self) -> Any:
        return self.pipeline.vae


def select_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folder: Path, device: torch.device) -> LatentDiffusion:
    """Loads a folder in the diffusers layout from safetensors."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder,
        dtype=dtype,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        use_safetensors=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return LatentDiffusion(pipeline, device, dtype)


@torch.no_grad()
def encode_prompts(model: LatentDiffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings, (prompts, tokens, width)."""
    tokenizer = model.pipeline.tokenizer
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    embeddings: torch.Tensor = model.pipeline.text_encoder(tokens.input_ids.to(model.device))[0]
    return embeddings


@torch.no_grad()
def encode_images(model: LatentDiffusion, pixels: np.ndarray, batch_size: int) -> torch.Tensor:
    """Latents as the UNet sees them: the mean of the posterior, times the autoencoder's scaling factor.

    The mean and not a sample: autoencoders trained with next to no KL term (Rombach et al. 2022, section 3.1) leave the
    deviation without meaning. Stable Diffusion's is negligible; the embedded model's is as large as the latents.

    Args:
        pixels: (images, height, width, 3), uint8.

    Returns:
        (images, channels, height / f, width / f), float32, on the CPU.
    """
    latents = []
    for start in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(np.array(pixels[start : start + batch_size])).permute(0, 3, 1, 2)
        posterior = model.vae.encode(batch.to(model.device, model.dtype) / 127.5 - 1).latent_dist
        latents.append(posterior.mean.float().cpu())
    scaled: torch.Tensor = torch.cat(latents) * model.vae.config.scaling_factor
    return scaled
