"""The loss on train images that an adapter is not trained on: always of the same noise, so that it can be followed.

They are some of the train part's, never the study's validation part: what is chosen by their loss is chosen without any
image that a classifier is judged by (leakage rule 6).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from synthmix.adapter_training import objective
from synthmix.adapter_training.held_out_rows import NOISE_LEVELS
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.service_kit.seeds import derived_seed

# What the UNet answers to noisy latents at timesteps, with which prompts, and which of these each image has.
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class HeldOutLoss(NamedTuple):
    """The mean squared error, unweighted, after so many images seen."""

    images_seen: int
    loss: float


@dataclass(frozen=True)
class HeldOut:
    """What the loss is measured on.

    Attributes:
        clean: Latents, (images, channels, height, width).
        labels: (images,), as the train images' latents have them.
    """

    settings: AdapterSettings
    scheduler: Any
    clean: torch.Tensor
    labels: torch.Tensor

    @torch.no_grad()
    def loss(self, predict: Predict) -> float:
        """The mean over images and noise levels, of the first prompt. Draws nothing from torch's own generator."""
        first, end = objective.noise_levels(self.settings, self.scheduler.config.num_train_timesteps)
        total = 0.0
        for level in range(NOISE_LEVELS):
            timestep = first + int((level + 0.5) / NOISE_LEVELS * (end - first))
            random = torch.Generator().manual_seed(derived_seed(self.settings.seed, "held-out noise", level))
            noise = torch.randn(self.clean.shape, generator=random)
            for start in range(0, len(self.clean), self.settings.batch_size):
                rows = slice(start, start + self.settings.batch_size)
                clean, of_noise = self.clean[rows], noise[rows]
                timesteps = torch.full((len(clean),), timestep)
                target = objective.prediction_target(self.scheduler, clean, of_noise, timesteps)
                labels, prompt_rows = (1 + self.labels[rows]).unique(return_inverse=True)
                noisy = self.scheduler.add_noise(clean, of_noise, timesteps)
                errors = (predict(noisy, timesteps, labels, prompt_rows).cpu() - target) ** 2
                total += errors.mean(dim=(1, 2, 3)).sum().item()
        return total / (NOISE_LEVELS * len(self.clean))
