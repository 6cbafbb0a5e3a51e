"""What an adapter learns in a step: noise and noise levels as they are drawn, what is predicted, and its loss.

All that is random comes from the seed and the step. What an option draws beyond the rest is drawn last, so that a step
without it stays what it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.seeds import derived_seed

# Of noise levels whose weight tends to 0, of a base model that was trained without any signal at the last one (Lin et
# al. 2024, arXiv:2305.08891, section 3.1): sampling begins there, and it would not be trained at all.
LEAST_WEIGHT = 0.05
NO_SIGNAL = 1e-6


@dataclass(frozen=True)
class Task:
    """What a step has to predict from what.

    Attributes:
        noisy: (batch, channels, height, width).
        target: Of the same shape.
        timesteps: (batch,).
        dropped: (batch,), whether an image goes without its prompt.
        prompts: (batch,), which of the prompts each image has.
    """

    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    dropped: torch.Tensor
    prompts: torch.Tensor

    def part(self, rows: slice) -> "Task":
        """Of some of the batch's images."""
        return Task(self.noisy[rows], self.target[rows], self.timesteps[rows], self.dropped[rows], self.prompts[rows])


def draw(
    settings: AdapterSettings, scheduler: Any, clean: torch.Tensor, step: int, purpose: str = "adapter step"
) -> Task:
    """The task of a step for clean latents, (batch, channels, height, width).

    Noise offset: Guttenberg 2023 ("Diffusion with offset noise"), N(0, 1) for each pixel plus N(0, offset^2) for each
    channel.
    """
    random = torch.Generator().manual_seed(derived_seed(settings.seed, purpose, step))
    count = len(clean)
    noise = torch.randn(clean.shape, generator=random)
    timesteps = _timesteps(settings, scheduler.config.num_train_timesteps, count, random)
    dropped = torch.rand(count, generator=random) < settings.caption_dropout
    prompts = torch.zeros(count, dtype=torch.long)
    if settings.more_prompts:
        prompts = torch.randint(0, 1 + len(settings.more_prompts), (count,), generator=random)
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn((*clean.shape[:2], 1, 1), generator=random)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    return Task(noisy, prediction_target(scheduler, clean, noise, timesteps), timesteps, dropped, prompts)


def noise_levels(settings: AdapterSettings, count: int) -> tuple[int, int]:
    """The first noise level that is trained, and the one after the last, of so many. The range has at least one."""
    first = min(int(settings.least_noise * count), count - 1)
    return first, max(first + 1, round(settings.most_noise * count))


def _timesteps(settings: AdapterSettings, levels: int, count: int, random: torch.Generator) -> torch.Tensor:
    """Uniform, or the logistic function of a normal variable: Esser et al. 2024 (arXiv:2403.03206), section 3.1."""
    first, end = noise_levels(settings, levels)
    if settings.timestep_sampling == "logit_normal":
        shares = torch.sigmoid(torch.randn(count, generator=random))
        return (first + shares * (end - first)).long().clamp(max=end - 1)
    return torch.randint(first, end, (count,), generator=random)


def loss(settings: AdapterSettings, scheduler: Any, predicted: torch.Tensor, task: Task) -> torch.Tensor:
    """The mean squared error, weighed by noise level (min-SNR), with what distribution matching adds to it.

    Distribution matching: Yuan et al. 2024 (arXiv:2310.10402), which compares a batch's sums, so that errors that all
    of its images have in common count more.
    """
    target = task.target.to(predicted.device)
    weights = None
    if settings.HasField("min_snr_gamma"):
        weights = min_snr_weights(scheduler, task.timesteps, settings.min_snr_gamma)[:, None, None, None]
        weights = weights.to(predicted.device)
        value = (weights * (predicted - target) ** 2).mean()
    else:
        value = torch.nn.functional.mse_loss(predicted, target)
    if settings.distribution_matching:
        errors = predicted - target
        together = (errors if weights is None else weights * errors).sum(dim=0)
        value = value + settings.distribution_matching * (together**2).mean()
    return value


def min_snr_weights(scheduler: Any, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights of noise levels, (batch,): Hang et al. 2023 (arXiv:2303.09556), section 3.4.

    min(SNR, gamma) of the clean latents' error is min(SNR, gamma) / SNR of the noise's, which tends to 1 without any
    signal, and min(SNR, gamma) / (SNR + 1) of the velocity's, which tends to 0 there.
    """
    signal: torch.Tensor = scheduler.alphas_cumprod[timesteps]
    ratio = signal / (1 - signal)
    capped = ratio.clamp(max=gamma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return torch.where(ratio > 0, capped / ratio.clamp(min=1e-12), 1.0)
    weights = capped / (ratio + 1) if kind == "v_prediction" else capped
    return weights.clamp(min=LEAST_WEIGHT) if scheduler.alphas_cumprod[-1] < NO_SIGNAL else weights


def training_scheduler(model: LatentDiffusion) -> Any:
    """The base model's noise schedule and prediction type, as a scheduler that adds noise."""
    return DDPMScheduler.from_config(model.pipeline.scheduler.config)


def prediction_target(
    scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the UNet is to predict: noise, velocity (Salimans and Ho 2022, appendix D) or the clean latents."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        velocity: torch.Tensor = scheduler.get_velocity(clean, noise, timesteps)
        return velocity
    if kind == "sample":
        return clean
    raise ValueError(f"unknown prediction type {kind!r} in the base model's scheduler")
