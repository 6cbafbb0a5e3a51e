"""A base model's parts in memory, and the few things that training and sampling both do with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from synthmix.latent_diffusion.autoencoder import encode_images, frozen_dtype
from synthmix.latent_diffusion.model_folder import variant_to_load
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET
from synthmix.service_kit.errors import SynthMixError, invalid_field
from synthmix.service_kit.memory_errors import is_out_of_memory, out_of_memory

FIELD = "adapter.settings.base_model"
PROBE_PX = 64


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

    @property
    def text_encoder(self) -> Any:
        return self.pipeline.text_encoder


def load(folder: Path, device: torch.device) -> LatentDiffusion:
    """Loads a folder in the diffusers layout from safetensors, and runs it once, on nothing.

    Raises:
        InvalidArgument: The weights don't make the model that the small files say, or give no numbers.
        FailedPrecondition: The memory isn't enough.
    """
    dtype = frozen_dtype(device)
    with _told_of(folder):
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            use_safetensors=True,
            variant=variant_to_load(folder),
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        model = LatentDiffusion(pipeline, device, dtype)
        answers = {
            "UNet": probe(model),
            "text encoder": encode_prompts(model, [""]),
            "autoencoder": encode_images(model.vae, np.zeros((1, PROBE_PX, PROBE_PX, 3), np.uint8), 1),
        }
    for part, answer in answers.items():
        if not torch.isfinite(answer).all():
            raise _unusable(folder, f"its {part} answers with what are no numbers (NaN or infinite)")
    return model


@contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    """Errors of the libraries that load a model and run it, as errors of the field that names it."""
    try:
        yield
    except SynthMixError:
        raise
    except torch.AcceleratorError:
        raise  # the device's fault or ours, not the model's
    # The libraries raise any of these, and safetensors an Exception of its own; what they were given is the folder.
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(FIELD, "this base model", "use a smaller one") from error
        raise _unusable(folder, _first_line(error)) from error


def _unusable(folder: Path, problem: str) -> SynthMixError:
    return invalid_field(
        FIELD,
        str(folder),
        f"cannot be loaded and run ({problem})",
        "copy or download the model again, or use another",
        reason="BASE_MODEL_UNUSABLE",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@torch.no_grad()
def probe(model: LatentDiffusion) -> torch.Tensor:
    """What the UNet answers to fixed noise and a random text of four tokens, on the CPU.

    As large as the latents that it was trained on, which every UNet takes.
    """
    config, random = model.unet.config, torch.Generator().manual_seed(0)
    size = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
    latents = torch.randn(1, config.in_channels, size, size, generator=random)
    tokens = torch.randn(1, 4, model.pipeline.text_encoder.config.hidden_size, generator=random)
    answer: torch.Tensor = model.unet(
        latents.to(model.device, model.dtype),
        torch.tensor([500], device=model.device),
        tokens.to(model.device, model.dtype),
    ).sample
    return answer.float().cpu()


def answers(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """What the parts that adapters may be in answer to what is always the same."""
    return {UNET: probe(model), TEXT_ENCODER: encode_prompts(model, [""]).float().cpu()}


@torch.no_grad()
def encode_prompts(model: LatentDiffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings, (prompts, tokens, width)."""
    embeddings: torch.Tensor = model.text_encoder(prompt_tokens(model, prompts).to(model.device))[0]
    return embeddings


def prompt_tokens(model: LatentDiffusion, prompts: Sequence[str]) -> torch.Tensor:
    """What the text encoder gets, (prompts, tokens): cut and padded to the length that the tokenizer keeps."""
    tokenizer = model.pipeline.tokenizer
    tokens: torch.Tensor = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens
