"""How a training step computes: in which precision, and what it keeps for the backward pass.

The weights that are trained are in float32 in any case. Mixed precision: Micikevicius et al. 2018 (arXiv:1710.03740),
without a scaled loss, which bfloat16 does not need: it has the exponents of float32. Recomputation: Chen et al. 2016
(arXiv:1604.06174).
"""

import torch

from synthmix.adapter_training.unet_rewrites import Denoiser, denoiser
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.loading import LatentDiffusion


def in_bfloat16(settings: AdapterSettings, device: torch.device) -> bool:
    """Whether products and convolutions of a step are in bfloat16, by autocast."""
    return settings.precision == "bfloat16" or (settings.precision == "automatic" and device.type == "cuda")


def compute_dtype(model: LatentDiffusion, settings: AdapterSettings) -> torch.dtype:
    """Of latents and prompts as the UNet gets them: its frozen weights', or float32 where all is to be."""
    return model.dtype if in_bfloat16(settings, model.device) else torch.float32


def prepared_denoiser(model: LatentDiffusion, settings: AdapterSettings) -> Denoiser:
    """What the UNet predicts, as settings want it computed. Changes the UNet, which has to be a copy of the kept one.

    Recomputation is by blocks, as diffusers has it.
    """
    bfloat16 = in_bfloat16(settings, model.device)
    if not bfloat16 and model.dtype != torch.float32:
        # On a GPU the base model is loaded in bfloat16. Its values stay; what is computed with them is in float32.
        model.unet.float()
    if settings.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    return denoiser(model.unet, bfloat16=bfloat16)
