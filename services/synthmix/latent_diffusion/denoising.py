"""From noise to pixels: the loop of steps over any scheduler of diffusers, with classifier-free guidance.

It gives what StableDiffusionPipeline and StableDiffusionXLPipeline give, and leaves out what these do in every call:
the text encoders' work for each image of a prompt, and a copy of what does not change. Guidance is of Ho and Salimans
2022, arXiv:2207.12598.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from synthmix.latent_diffusion.conditions import Conditions, joined
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts


@dataclass(frozen=True)
class Guidance:
    """How far images are led to their prompts and away from the others, and at which noise levels.

    Attributes:
        scale: 1 + w in Ho and Salimans' equation 6; up to 1 there is none.
        least_noise, most_noise: Shares of the base model's noise levels, both included: Kynkaanniemi et al. 2024
            (arXiv:2404.07724).
        rescale: phi in Lin et al. 2024 (arXiv:2305.08891), section 3.4.
    """

    scale: float
    least_noise: float = 0.0
    most_noise: float = 1.0
    rescale: float = 0.0

    def is_at(self, timestep: Any, levels: int) -> bool:
        """Whether it is at a noise level, a timestep of a base model that was trained on so many."""
        share = min(float(timestep) / max(1, levels - 1), 1.0)
        return self.scale > 1.0 and self.least_noise <= share <= self.most_noise

    def of(self, unconditional: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        """What is predicted with it."""
        predicted = unconditional + self.scale * (conditional - unconditional)
        if self.rescale:
            predicted = rescale_noise_cfg(predicted, conditional, guidance_rescale=self.rescale)
        return predicted


@dataclass(frozen=True)
class Start:
    """What images begin from instead of noise alone: Meng et al. 2022 (arXiv:2108.01073).

    Attributes:
        latents: (images, channels, height, width), float32: clean ones, which are taken to the first noise level.
        steps: The last ones, which are taken; 1 to all.
    """

    latents: torch.Tensor
    steps: int


@dataclass(frozen=True)
class StartNoise:
    """The noise that images begin from, in the place of noise that is drawn: what an inversion found, or is made of it.

    Attributes:
        latents: (images, channels, height, width), float32.
    """

    latents: torch.Tensor


@dataclass(frozen=True)
class LaterPrompts:
    """Prompts that take over from the first ones where there is less noise.

    Attributes:
        prompts: Of each image.
        first_share: Of the base model's noise levels, from the one with the most noise on, those of the first prompts.
    """

    prompts: Sequence[Conditions]
    first_share: float

    def are_at(self, timestep: Any, levels: int) -> bool:
        """Whether they are used at a noise level of a base model that was trained on so many."""
        return float(timestep) < levels * (1 - self.first_share)


@dataclass(frozen=True)
class Sampler:
    """What takes the steps.

    Attributes:
        scheduler: Of diffusers. It remembers the steps that it took, and is for one batch at a time.
        eta: How much new noise each step adds, of those that have a choice.
    """

    scheduler: Any
    eta: float = 0.0


def named_sampler(model: LatentDiffusion, name: str, options: Mapping[str, Any], eta: float) -> Sampler:
    """A scheduler of diffusers for the noise that a base model was trained with.

    Args:
        name: Its class.
        options: What it is made with, beside what the base model's scheduler says.
    """
    kind = getattr(diffusers, name)
    own = model.pipeline.scheduler.config
    taken = inspect.signature(kind).parameters
    # What diffusers would choose is for images in pixels, and for the method that PNDM's authors had before.
    chosen = {"clip_sample": own.get("clip_sample", False), "skip_prk_steps": own.get("skip_prk_steps", True)}
    return Sampler(
        kind.from_config(own, **{key: value for key, value in chosen.items() if key in taken}, **options), eta
    )


@torch.inference_mode()
def encoded(model: LatentDiffusion, prompts: Sequence[str]) -> dict[str, Conditions]:
    """What each prompt is to the UNet, once for those that are equal, and the empty one."""
    wanted = list(dict.fromkeys(["", *prompts]))
    conditions = encode_prompts(model, wanted)
    return {prompt: conditions.rows(slice(row, row + 1)) for row, prompt in enumerate(wanted)}


@torch.inference_mode()
def denoise(
    model: LatentDiffusion,
    prompts: Sequence[Conditions],
    others: Sequence[Conditions],
    generators: list[torch.Generator],
    *,
    size_px: int,
    steps: int,
    guidance: Guidance,
    original_px: int | None = None,
    start: Start | StartNoise | None = None,
    sampler: Sampler | None = None,
    later: LaterPrompts | None = None,
) -> torch.Tensor:
    """Latents (images, channels, size, size) in float32.

    They and the scheduler's arithmetic are float32 whatever the UNet computes in: an error of each of 25 steps adds up.

    Args:
        prompts: Of each image.
        others: What guidance leads each image away from: the empty prompt, or a negative one.
        generators: On the CPU, one for each image, whose noise is the same in any batch and on any device.
        original_px: The side from which a UNet that is told of sizes is to take images to be resized; size_px if None.
        start: What each image begins from; noise that its generator draws if None.
        sampler: The base model's own if None.
        later: Prompts for less noise; the same at all levels if None.

    Raises:
        ValueError: The scheduler cannot take so many steps.
    """
    sampler = sampler or Sampler(model.pipeline.scheduler)
    pipeline, unet, scheduler = model.pipeline, model.unet, sampler.scheduler
    scheduler.set_timesteps(steps, device=model.device)
    side = size_px // pipeline.vae_scale_factor
    shape = (1, unet.config.in_channels, side, side)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    latents, timesteps = _begun(scheduler, noise.to(model.device), steps, start)
    scale = known_scale(model, guidance.scale, len(prompts))
    # One tensor each for all steps: attention knows it again.
    sides = original_px or size_px, size_px

    def contexts(wanted: Sequence[Conditions]) -> list[Conditions]:
        """Of the prompts alone, and of the others before them."""
        of_both = (wanted, [*others, *wanted])
        return [joined(of_one).to(model.device, unet.dtype).of_size(*sides) for of_one in of_both]

    alone, both = contexts(prompts)
    later_alone, later_both = contexts(later.prompts) if later else (alone, both)
    taken = inspect.signature(scheduler.step).parameters
    arguments = {name: value for name, value in {"generator": generators, "eta": sampler.eta}.items() if name in taken}
    for timestep in timesteps:
        levels = scheduler.config.num_train_timesteps
        guided = scale is None and guidance.is_at(timestep, levels)
        context = both if guided else alone
        if later is not None and later.are_at(timestep, levels):
            context = later_both if guided else later_alone
        scaled = scheduler.scale_model_input(latents, timestep).to(unet.dtype)
        predicted = unet(
            torch.cat([scaled, scaled]) if guided else scaled,
            timestep,
            context.embeddings,
            timestep_cond=scale,
            added_cond_kwargs=context.added,
            return_dict=False,
        )[0].float()
        if guided:
            predicted = guidance.of(*predicted.chunk(2))
        latents = scheduler.step(predicted, timestep, latents, **arguments, return_dict=False)[0]
    return latents


def known_scale(model: LatentDiffusion, scale: float, count: int) -> torch.Tensor | None:
    """What a UNet that was distilled to know guidance's scale is told of it for so many images; None for any other.

    Such a one has no empty prompt beside the images' own (Meng et al. 2023, arXiv:2210.03142).
    """
    width = model.unet.config.time_cond_proj_dim
    if width is None:
        return None
    told: torch.Tensor = model.pipeline.get_guidance_scale_embedding(
        torch.full((count,), scale - 1.0), width, dtype=model.unet.dtype
    )
    return told.to(model.device)


def first_level(model: LatentDiffusion, sampler: Sampler, steps: int) -> int:
    """The noise level at which a sampler begins, counted from 0 as the base model's timesteps are.

    Raises:
        ValueError: The scheduler cannot take so many steps.
    """
    sampler.scheduler.set_timesteps(steps, device=model.device)
    return round(float(sampler.scheduler.timesteps[0]))


def _begun(
    scheduler: Any, noise: torch.Tensor, steps: int, start: Start | StartNoise | None
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Latents at the first noise level, and the timesteps from there, as diffusers' image-to-image pipelines count."""
    if isinstance(start, StartNoise):
        noise, start = start.latents.to(noise.device), None
    first = 0 if start is None else (steps - start.steps) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # or it looks for the timestep, of which there may be two that are equal
        scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    if start is None:
        return noise * scheduler.init_noise_sigma, timesteps
    latents = scheduler.add_noise(start.latents.to(noise.device), noise, timesteps[:1].repeat(len(noise)))
    return latents, timesteps


@torch.inference_mode()
def decode(model: LatentDiffusion, latents: torch.Tensor) -> torch.Tensor:
    """Pixels (images, height, width, 3), black at 0 and white at 1, or a little beyond; float32, on the device."""
    vae = model.vae
    decoded: torch.Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
    return decoded.float().mul(0.5).add(0.5).permute(0, 2, 3, 1)
