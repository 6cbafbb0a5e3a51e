"""A base model's parts in memory, and the few things that training and sampling both do with them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from synthmix.latent_diffusion.autoencoder import autoencoder_dtype, encode_images, frozen_dtype
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.model_folder import variant_to_load
from synthmix.latent_diffusion.model_kinds import SDXL, STABLE_DIFFUSION, ModelKind, kind_of_folder
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET
from synthmix.service_kit.errors import SynthMixError, invalid_field
from synthmix.service_kit.memory_errors import is_out_of_memory, out_of_memory

FIELD = "adapter.settings.base_model"
PROBE_PX = 64
# The class of pipeline that a kind is loaded as, without what looks at its images or marks them.
PIPELINES: Mapping[ModelKind, tuple[Any, Mapping[str, Any]]] = MappingProxyType(
    {
        STABLE_DIFFUSION: (
            StableDiffusionPipeline,
            {
                "safety_checker": None,
                "feature_extractor": None,
                "image_encoder": None,
                "requires_safety_checker": False,
            },
        ),
        SDXL: (
            StableDiffusionXLPipeline,
            {"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
        ),
    }
)


@dataclass(frozen=True)
class LatentDiffusion:
    """The parts of a base model, frozen, in evaluation mode, on one device.

    Attributes:
        pipeline: The diffusers pipeline that holds the parts.
        device: Where they are.
        dtype: Of the frozen weights: bfloat16 on CUDA, float32 on a CPU. The autoencoder may have another.
    """

    pipeline: Any
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
        """The first, or the only one."""
        return self.pipeline.text_encoder

    @property
    def text_encoders(self) -> list[Any]:
        """Those whose answers are joined, in order."""
        return self._those_of(SDXL.text_encoders)

    @property
    def tokenizers(self) -> list[Any]:
        """Of each text encoder."""
        return self._those_of(SDXL.tokenizers)

    def _those_of(self, names: Sequence[str]) -> list[Any]:
        return [getattr(self.pipeline, name) for name in names if hasattr(self.pipeline, name)]


def load(folder: Path, device: torch.device) -> LatentDiffusion:
    """Loads a folder in the diffusers layout from safetensors, and runs it once, on nothing.

    Raises:
        InvalidArgument: The weights don't make the model that the small files say, or give no numbers.
        FailedPrecondition: The memory isn't enough.
    """
    dtype, kind = frozen_dtype(device), kind_of_folder(folder)
    pipeline_class, options = PIPELINES[kind]
    with _told_of(folder):
        pipeline = pipeline_class.from_pretrained(
            folder,
            dtype={"vae": autoencoder_dtype(kind, device), "default": dtype},
            use_safetensors=True,
            variant=variant_to_load(folder, kind.components),
            **options,
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
        model = LatentDiffusion(pipeline, device, dtype)
        for part in (model.unet, model.vae, *model.text_encoders):
            part.requires_grad_(False).eval()
        # What an SDXL model has for the empty prompt may be zeros, whatever its text encoders answer.
        of_text = encode_tokens(model, prompt_tokens(model, [""]))
        answers = {
            "UNet": probe(model),
            "text encoder": torch.cat([value.flatten() for value in of_text.tensors]),
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
    width = sum(encoder.config.hidden_size for encoder in model.text_encoders)
    conditions = Conditions(torch.randn(1, 4, width, generator=random))
    if len(model.text_encoders) > 1:
        pooled = torch.randn(1, model.text_encoders[-1].config.projection_dim, generator=random)
        conditions = Conditions(conditions.embeddings, pooled)
    conditions = conditions.to(model.device, model.dtype).of_size(PROBE_PX, PROBE_PX)
    answer: torch.Tensor = model.unet(
        latents.to(model.device, model.dtype),
        torch.tensor([500], device=model.device),
        conditions.embeddings,
        added_cond_kwargs=conditions.added,
    ).sample
    return answer.float().cpu()


def answers(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """What the parts that adapters may be in answer to what is always the same."""
    return {UNET: probe(model), TEXT_ENCODER: encode_prompts(model, [""]).embeddings.float().cpu()}


@torch.no_grad()
def encode_prompts(model: LatentDiffusion, prompts: Sequence[str]) -> Conditions:
    """What prompts are to the UNet, each by itself. The empty one is the one that guidance leads away from."""
    conditions = encode_tokens(model, prompt_tokens(model, prompts))
    if not model.pipeline.config.get("force_zeros_for_empty_prompt", False):
        return conditions
    # What diffusers' pipeline takes for the prompt that is not given.
    empty = torch.tensor([not prompt for prompt in prompts], device=model.device)
    return conditions.each(lambda value: value.masked_fill(empty.view(-1, *[1] * (value.dim() - 1)), 0.0))


def encode_tokens(model: LatentDiffusion, tokens: Sequence[torch.Tensor]) -> Conditions:
    """What prompts in tokens are to the UNet; gradients reach the text encoder.

    Stable Diffusion's text encoder answers for itself. Of SDXL's two the answers before their last layers are joined,
    and the second's projection is the whole prompt's: Podell et al. 2023 (arXiv:2307.01952), section 2.1.

    Args:
        tokens: For each text encoder, (prompts, tokens), as `prompt_tokens` returns them.
    """
    encoders, on_device = model.text_encoders, [item.to(model.device) for item in tokens]
    if len(encoders) == 1:
        return Conditions(encoders[0](on_device[0])[0])
    answers = [encoder(item, output_hidden_states=True) for encoder, item in zip(encoders, on_device, strict=True)]
    return Conditions(torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1), answers[-1].text_embeds)


def prompt_tokens(model: LatentDiffusion, prompts: Sequence[str]) -> list[torch.Tensor]:
    """What each text encoder gets, (prompts, tokens): cut and padded to the length that its tokenizer keeps."""
    return [
        tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for tokenizer in model.tokenizers
    ]
