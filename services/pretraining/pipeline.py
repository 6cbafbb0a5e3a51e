"""The trained parts as one Stable Diffusion pipeline: assembled, sampled from, and written for shipping."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

GRID_STEPS = 20
GRID_PROMPTS: tuple[str, ...] = (
    "a fluorescence image of a Metaphase nucleus",
    "a fluorescence image of a Grape nucleus",
    "a fluorescence image of a Hole nucleus",
    "a fluorescence image of a Large nucleus",
    "a brightfield image of sim-epithelial cells",
    "a brightfield image of sim-fibroblast cells",
    "a brightfield image of sim-macrophage cells",
    "a brightfield image of a large round granular cell with round nucleus",
    "a phase contrast image of medium round granular cells with oval nucleus",
    "a multichannel fluorescence image of touching medium round clear cells with oval nucleus",
    "a stained image of a large round granular cell with segmented nucleus",
    "a stained image of touching medium round clear cells with round nucleus",
)
"""Prompts of the sample grid, one a row."""


def build_scheduler() -> DDIMScheduler:
    """Returns the sampler (Song et al., 2021) with the schedule that the UNet is trained on.

    Stable Diffusion's (Rombach et al., 2022). On 16 x 16 latents shapes stand out of more noise than on 8 x 8, as
    neighbours repeat them (Hoogeboom et al., 2023, "simple diffusion", section 3.1), so that the cosine schedule would
    leave few steps to them.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused with trailing spacing; the pipeline warns about any other value
    )


def assemble(
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """Returns the parts as a Stable Diffusion pipeline without safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_base_model(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Writes a pipeline in the diffusers layout with float16 weights that load as float32.

    Args:
        pipeline: The assembled pipeline; its parts are float16 afterwards.
        folder: Where to write; made if absent.
    """
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    # diffusers loads its parts as float32, transformers as what the config names: the two must agree.
    config_file = folder / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")


def sample(pipeline: StableDiffusionPipeline, prompts: tuple[str, ...], count: int, seed: int) -> np.ndarray:
    """Samples `count` pictures a prompt, float32 of shape (prompts * count, 64, 64, 3), -1 to 1."""
    pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(
            prompt=prompt,
            num_images_per_prompt=count,
            num_inference_steps=GRID_STEPS,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(seed + index) for index in range(count)],
            output_type="np",
        ).images
        for prompt in prompts
    ]
    views: np.ndarray = np.concatenate(pictures).astype(np.float32) * 2.0 - 1.0
    return views
