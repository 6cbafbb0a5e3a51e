"""From an image back to the noise that it would be made of, and noise between that of two images.

Song et al. 2021 (DDIM, arXiv:2010.02502), section 4.3, and Wang and Chen 2024 (Diff-II, arXiv:2408.16266).

It is a loop of its own beside diffusers' DDIMInverseScheduler, which asks the UNet of a latent as if it were one noise
level noisier than it is, spreads steps that don't divide the levels wrongly, and divides by zero where the UNet answers
with the image.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from synthmix.latent_diffusion.conditions import Conditions, joined
from synthmix.latent_diffusion.denoising import known_scale
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.schedulers import EPSILON, SAMPLE, VELOCITY

# Of two vectors of length 1: what sets them apart from parallel ones in float32.
_PARALLEL = 1e-6


def inversion_levels(last: int, steps: int) -> list[int]:
    """The noise levels that an inversion comes to, evenly spread from the image, which has none, to the last."""
    return [round((last + 1) * number / steps) - 1 for number in range(1, steps + 1)]


@torch.inference_mode()
def inverted(
    model: LatentDiffusion,
    latents: torch.Tensor,
    prompts: Sequence[Conditions],
    *,
    size_px: int,
    steps: int,
    last: int,
    original_px: int | None = None,
) -> torch.Tensor:
    """The noise (images, channels, size, size), float32, that DDIM makes the images of, the better the more steps.

    There is no guidance, and nothing is drawn. Where the last level is noise alone (zero terminal SNR, Lin et al. 2024,
    arXiv:2305.08891) the result is the noise that the UNet finds at the level before: nothing of the image itself is
    left beside it, as in the noise that the base model was trained on there.

    Args:
        latents: (images, channels, size, size), float32: clean ones.
        prompts: Of each image.
        steps: At least 1; with more than there are levels some change nothing.
        last: The noise level of the result, counted from 0 as the base model's timesteps are.
        original_px: As `denoise` takes it.
    """
    scheduler, unet = model.pipeline.scheduler, model.unet
    signals = scheduler.alphas_cumprod.to(torch.float64)
    kind = scheduler.config.prediction_type
    context = joined(prompts).to(model.device, unet.dtype).of_size(original_px or size_px, size_px)
    scale = known_scale(model, 1.0, len(prompts))
    latents = latents.to(model.device, torch.float32)
    level = None
    for following in inversion_levels(last, steps):
        if following < 0:
            continue
        # The UNet knows no level without noise: of the image itself it is asked at the one with the least.
        asked = level or 0
        answer = unet(
            latents.to(unet.dtype),
            torch.tensor(asked, device=model.device),
            context.embeddings,
            timestep_cond=scale,
            added_cond_kwargs=context.added,
            return_dict=False,
        )[0].float()
        clean, noise = clean_and_noise(answer, latents, float(signals[asked]), kind)
        if level is None:
            clean = latents
        signal = float(signals[following])
        latents, level = math.sqrt(signal) * clean + math.sqrt(1 - signal) * noise, following
    return latents


def clean_and_noise(
    answer: torch.Tensor, latents: torch.Tensor, signal: float, prediction_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image and the noise that latents consist of by a UNet's answer.

    Args:
        signal: The level's alphas_cumprod; more than 0 for epsilon, and less than 1 for sample.

    Raises:
        ValueError: The prediction type is not known.
    """
    of_clean, of_noise = math.sqrt(signal), math.sqrt(1 - signal)
    parts: dict[str, Any] = {
        EPSILON: lambda: ((latents - of_noise * answer) / of_clean, answer),
        VELOCITY: lambda: (of_clean * latents - of_noise * answer, of_clean * answer + of_noise * latents),
        SAMPLE: lambda: (answer, (latents - of_clean * answer) / of_noise),
    }
    if prediction_type not in parts:
        raise ValueError(f"{prediction_type!r} is no prediction type; there are {', '.join(parts)}")
    clean, noise = parts[prediction_type]()
    return clean, noise


def on_circle(first: torch.Tensor, second: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Latents on the circle through two, of each pair one: at the angle 0 it is the first, at theta the second.

    Theta is the angle between the two. The circle is that of spherical interpolation, sin((1 - a) theta) / sin(theta)
    z1 + sin(a theta) / sin(theta) z2 with a theta as the angle, and gone round as a whole, as Diff-II does, it has
    latents that are not between the two. Diff-II takes both to be equally long; where they are not, its circle is an
    ellipse that reaches far beyond either. Here the length goes evenly from the first's to the second's on the arc
    between them, and evenly back on the rest. Two that are parallel span no circle: it is the first.

    Args:
        first, second: (pairs, ...).
        angles: (pairs,), in radians.
    """
    starts, ends = first.double().flatten(1), second.double().flatten(1)
    lengths, other_lengths = starts.norm(dim=1, keepdim=True), ends.norm(dim=1, keepdim=True)
    starts, ends = starts / lengths, ends / other_lengths
    cosines = (starts * ends).sum(dim=1, keepdim=True)
    across = ends - cosines * starts
    sines = across.norm(dim=1, keepdim=True)
    thetas = torch.atan2(sines, cosines)
    turned = angles.double().to(first.device)[:, None] % math.tau
    share = torch.where(turned <= thetas, turned / thetas, (math.tau - turned) / (math.tau - thetas))
    lengths = lengths + share * (other_lengths - lengths)
    found = lengths * (turned.cos() * starts + turned.sin() * across / sines)
    return torch.where(sines > _PARALLEL, found, first.double().flatten(1)).to(first.dtype).reshape(first.shape)
