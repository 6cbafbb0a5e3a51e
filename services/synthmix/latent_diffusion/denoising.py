"""From noise to pixels: the loop of steps over any scheduler of diffusers, with classifier-free guidance.

It gives what StableDiffusionPipeline and StableDiffusionXLPipeline give, and leaves out what these do in every call:
the text encoders' work for each image of a prompt, and a copy of what does not change. Guidance is of Ho and Salimans
2022, arXiv:2207.12598.
"""

import inspect
from collections.abc import Sequence

import torch

from synthmix.latent_diffusion.conditions import Conditions, joined
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts


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
    empty_prompt: Conditions,
    generators: list[torch.Generator],
    *,
    size_px: int,
    steps: int,
    guidance_scale: float,
    original_px: int | None = None,
) -> torch.Tensor:
    """Latents (images, channels, size, size) in float32.

    They and the scheduler's arithmetic are float32 whatever the UNet computes in: an error of each of 25 steps adds up.

    Args:
        prompts: Of each image.
        generators: On the CPU, one for each image, whose noise is the same in any batch and on any device.
        original_px: The side from which a UNet that is told of sizes is to take images to be resized; size_px if None.

    Raises:
        ValueError: The scheduler cannot take so many steps.
    """
    pipeline, unet, scheduler = model.pipeline, model.unet, model.pipeline.scheduler
    scheduler.set_timesteps(steps, device=model.device)
    side = size_px // pipeline.vae_scale_factor
    shape = (1, unet.config.in_channels, side, side)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    latents: torch.Tensor = noise.to(model.device) * scheduler.init_noise_sigma
    context = joined(prompts)
    # A UNet that was distilled to know the scale has no empty prompt beside it (Meng et al. 2023, arXiv:2210.03142).
    knows_scale = unet.config.time_cond_proj_dim is not None
    scale = None
    if knows_scale:
        scale = pipeline.get_guidance_scale_embedding(
            torch.full((len(prompts),), guidance_scale - 1.0), unet.config.time_cond_proj_dim, dtype=unet.dtype
        ).to(model.device)
    guided = guidance_scale > 1.0 and not knows_scale
    if guided:
        context = joined([*[empty_prompt] * len(prompts), context])
    # One tensor for all steps: attention knows it again.
    context = context.to(model.device, unet.dtype).of_size(original_px or size_px, size_px)
    taken = inspect.signature(scheduler.step).parameters
    arguments = {name: value for name, value in {"generator": generators, "eta": 0.0}.items() if name in taken}
    for timestep in scheduler.timesteps:
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
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(predicted, timestep, latents, **arguments, return_dict=False)[0]
    return latents


@torch.inference_mode()
def decode(model: LatentDiffusion, latents: torch.Tensor) -> torch.Tensor:
    """Pixels (images, height, width, 3), black at 0 and white at 1, or a little beyond; float32, on the device."""
    vae = model.vae
    decoded: torch.Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
    return decoded.float().mul(0.5).add(0.5).permute(0, 2, 3, 1)
