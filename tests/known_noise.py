"""A base model whose right answer to any noise is known: what samplers and inversions are measured against."""

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch

from synthmix.latent_diffusion.schedulers import EPSILON, SAMPLE, VELOCITY

# Latents that are all of one normal distribution: the UNet's right answer to any of them is known.
MEAN, DEVIATION = 0.6, 0.5
OF_STABLE_DIFFUSION: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
OF_BUILTIN: dict[str, Any] = OF_STABLE_DIFFUSION | {"prediction_type": VELOCITY, "rescale_betas_zero_snr": True}


class Oracle:
    """A UNet that knows the distribution of what it is shown: it answers with the mean of what there may have been."""

    dtype = torch.float32

    def __init__(self, scheduler: Any):
        self.config = SimpleNamespace(in_channels=1, time_cond_proj_dim=None)
        self._kind = scheduler.config.prediction_type
        signal = scheduler.alphas_cumprod.double()
        # Of noise levels between two, as diffusers has them: even in the logarithm of the noise's deviation.
        self._log_sigmas = (((1 - signal) / signal.clamp(min=1e-12)).sqrt()).log().numpy()

    def __call__(self, latents: torch.Tensor, timestep: Any, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        level = np.interp(float(timestep), np.arange(len(self._log_sigmas)), self._log_sigmas)
        signal = 1 / np.sqrt(1 + np.exp(2 * level))
        noise = np.sqrt(1 - signal**2)
        values = latents.double()
        gain = signal * DEVIATION**2 / (signal**2 * DEVIATION**2 + noise**2)
        clean = MEAN + gain * (values - signal * MEAN)
        of_noise = (values - signal * clean) / noise
        answers = {EPSILON: of_noise, VELOCITY: signal * of_noise - noise * clean, SAMPLE: clean}
        return (answers[self._kind].float(),)


def model_of(config: dict[str, Any]) -> Any:
    """As much of a base model as `denoise` asks for: its scheduler, and the oracle."""
    scheduler = diffusers.DDIMScheduler(**config)
    pipeline = SimpleNamespace(scheduler=scheduler, vae_scale_factor=1)
    return SimpleNamespace(pipeline=pipeline, unet=Oracle(scheduler), device=torch.device("cpu"))
