"""Recipe of the decoder's second training, against a discriminator; the encoder, and so the latents, stay.

Squared error makes a decoder that leaves out what it can't know: the grain of a camera, chromatin finer than a latent.
Its pictures are smooth, the more so the less sure the latents are, and those of a diffusion model are never exact. So
the decoder goes on learning with a discriminator of patches (Isola et al., 2017, section 3.2.2) that tells its pictures
from real ones, as the decoder of Rombach et al. (2022, section 3.1) learns; hinge loss (Lim and Ye, 2017), spectral
normalisation (Miyato et al., 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pretraining.autoencoder import (
    as_tensor,
    as_views,
    contrast_of,
    draw_noise,
    draw_views,
    psnr_db,
    relative_squared_error,
)
from pretraining.corpus import Corpus
from pretraining.training_state import (
    ProgressLog,
    cosine_rate,
    load_checkpoint,
    parameter_groups,
    save_checkpoint,
    set_learning_rate,
    step_generators,
    write_grid,
)


@dataclass(frozen=True)
class DecoderSettings:
    """How the decoder is trained on."""

    steps: int
    seed: int = 0
    batch_size: int = 8
    peak_learning_rate: float = 4e-4
    output_learning_rate_factor: float = 0.05
    """As AutoencoderSettings'."""
    discriminator_learning_rate_factor: float = 2.5
    adversarial_weight: float = 0.1
    """Of the discriminator's verdict, beside the relative squared error."""
    warmup_steps: int = 200
    most_noise: float = 0.4
    """As AutoencoderSettings'; somewhat more, since now there is something to put into what the noise hides."""
    exact_share: float = 0.25
    texture_share: float = 0.2
    checkpoint_every_steps: int = 400


def build_discriminator(seed: int) -> nn.Sequential:
    """Returns an untrained discriminator: (N, 3, H, W) to a verdict on each patch, (N, 1, H / 4, W / 4), real above 0.

    A patch is 26 pixels wide: the reconstruction's error sees to shapes, this to what is finer.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after, kernel, stride in ((3, 32, 4, 2), (32, 64, 4, 2), (64, 64, 3, 1)):
        layers += [spectral_norm(nn.Conv2d(before, after, kernel, stride, padding=1)), nn.LeakyReLU(0.2)]
    layers.append(spectral_norm(nn.Conv2d(64, 1, 3, padding=1)))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def train_decoder(autoencoder: AutoencoderKL, corpus: Corpus, out: Path, settings: DecoderSettings) -> None:
    """Trains the decoder of a trained autoencoder, in place, going on from `out`/decoder.safetensors if it is there.

    Args:
        autoencoder: Of which the decoder and the convolution before it change.
        corpus: Pictures to restore.
        out: Folder for the checkpoint, decoder.json and decoder.png (pictures over what noisy latents give).
        settings: How.
    """
    decoder = nn.ModuleDict({"decoder": autoencoder.decoder, "post_quant_conv": autoencoder.post_quant_conv})
    decoder.requires_grad_(True)
    discriminator = build_discriminator(settings.seed)
    parameters, its_parameters = list(decoder.parameters()), list(discriminator.parameters())
    groups = parameter_groups(decoder, ("conv_norm_out", "conv_out"), settings.output_learning_rate_factor)
    groups.append({"params": its_parameters, "factor": settings.discriminator_learning_rate_factor})
    optimizer = torch.optim.AdamW(groups, betas=(0.5, 0.98), weight_decay=0.0)
    checkpoint = out / "decoder.safetensors"
    modules = {"decoder": decoder, "discriminator": discriminator}
    first_step = load_checkpoint(checkpoint, modules, optimizer)
    log = ProgressLog(out / "decoder.json", "decoder", settings.steps)
    for step in range(first_step, settings.steps):
        rng, generator = step_generators(settings.seed, "decoder", step)
        views = draw_views(corpus, settings.batch_size, settings.texture_share, rng)
        pictures = as_tensor(views)
        with torch.no_grad():
            latents = autoencoder.encode(pictures).latent_dist.mode()
        noise = draw_noise(latents, settings.most_noise, settings.exact_share, rng, generator)
        restored = autoencoder.decode(latents + noise).sample
        real, made = _contrasted(pictures, pictures), _contrasted(restored, pictures)
        error = relative_squared_error(restored, pictures)
        loss = error - settings.adversarial_weight * discriminator(made).mean()
        its_loss = F.relu(1.0 - discriminator(real)).mean() + F.relu(1.0 + discriminator(made.detach())).mean()
        rate = cosine_rate(step, settings.steps, settings.peak_learning_rate, settings.warmup_steps)
        set_learning_rate(optimizer, rate)
        for owned, objective in ((parameters, loss), (its_parameters, its_loss)):
            for parameter, gradient in zip(owned, torch.autograd.grad(objective, owned), strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(owned, 1.0)
        optimizer.step()
        figures = {"error": error.item(), "discriminator": its_loss.item(), "psnr_db": psnr_db(restored, pictures)}
        log.record(step, figures)
        if (step + 1) % settings.checkpoint_every_steps == 0 or step + 1 == settings.steps:
            save_checkpoint(checkpoint, modules, optimizer, step + 1)
            shown = np.concatenate([views, as_views(restored)])
            write_grid(out / "decoder.png", shown, settings.batch_size)
    decoder.requires_grad_(False)


def _contrasted(images: Tensor, pictures: Tensor) -> Tensor:
    """Returns images (N, 3, H, W) less colour and contrast of their pictures: faint ones count as bright ones."""
    return (images - pictures.mean(dim=(2, 3), keepdim=True)) / contrast_of(pictures)
