"""Prior preservation: a part of the loss that keeps what the base model knows, on images of the classes' prior.

Ruiz et al. 2023 (DreamBooth, arXiv:2208.12242), section 3.3. The prior's images are the base model's own, or the train
images once more, with noise of their own, as Zhang et al. 2023 (GIF, arXiv:2211.13976) have it for medical images. In
either case nothing but the train part's images and the names of its classes is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from synthmix.adapter_training import objective
from synthmix.adapter_training.sampling_defaults import GUIDANCE_SCALE, STEPS
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.denoising import Guidance, denoise
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts
from synthmix.latent_diffusion.prompts import prompt_for
from synthmix.service_kit.seeds import derived_seed

# Of random numbers: which images a step sees, what noise they get, and what noise they are sampled from.
EPOCH, STEP, SAMPLE = "adapter prior epoch", "adapter prior step", "adapter prior image"
SAMPLED_AT_ONCE = 16


@dataclass(frozen=True)
class Prior:
    """Images of the prior.

    Attributes:
        values: Latents, (views, images, channels, height, width), float32.
        labels: (images,), as the train images' latents have them.
    """

    values: torch.Tensor
    labels: torch.Tensor

    def drawn(
        self, settings: AdapterSettings, scheduler: Any, step: int, rows: torch.Tensor, views: torch.Tensor
    ) -> tuple[objective.Task, torch.Tensor]:
        """The task of a step on these rows, and each image's class, (batch,), or -1 for one without its prompt."""
        task = objective.draw(settings, scheduler, self.values[views, rows], step, STEP)
        return task, torch.where(task.dropped, -1, self.labels[rows])


def base_models_latents(
    model: LatentDiffusion,
    settings: AdapterSettings,
    names: Sequence[str],
    labels: Sequence[int],
    original_px: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a base model without an adapter, as many of each class as settings say.

    They are not decoded and encoded again: what its UNet is to keep is how it denoises these.

    Args:
        names: Of all classes.
        labels: Indices of those that are wanted. The images of a class do not depend on which others there are.
        original_px: As `denoise` takes it: as the train images have it, so that the prior's are told apart by nothing.

    Returns:
        Their latents, (1, images, channels, height, width), float32 on the CPU, and their labels.
    """
    texts = ["", *(prompt_for(settings.prior_prompt, names[label]) for label in labels)]
    conditions = encode_prompts(model, texts)
    [empty, *prompts] = (conditions.rows(slice(row, row + 1)) for row in range(len(texts)))
    values = []
    for label, prompt in zip(labels, prompts, strict=True):
        seeds = [derived_seed(settings.seed, SAMPLE, names[label], number) for number in range(settings.prior_images)]
        for start in range(0, len(seeds), SAMPLED_AT_ONCE):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + SAMPLED_AT_ONCE]]
            latents = denoise(
                model,
                [prompt] * len(generators),
                [empty] * len(generators),
                generators,
                size_px=settings.image_size,
                steps=STEPS,
                guidance=Guidance(GUIDANCE_SCALE),
                original_px=original_px,
            )
            values.append(latents.cpu().clone())  # a tensor of inference mode may not be trained on
    return torch.cat(values)[None], torch.tensor(labels).repeat_interleave(settings.prior_images)
