"""Recipe of the base model's autoencoder: 64 x 64 grey pictures to 8 x 8 latents of 8 channels and back.

The objective is the variational one of Kingma and Welling (2014, section 2.3) with an L1 likelihood at three
scales and, as in latent diffusion (Rombach et al., 2022, section 3.1), so small a weight on the KL term that
it only keeps latents bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from latent_diffusion.pretraining.corpus import SIZE_PX, Corpus
from latent_diffusion.pretraining.training_state import (
    ProgressLog,
    augment,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    step_generators,
    write_grid,
)

LATENT_CHANNELS = 8


@dataclass(frozen=True)
class AutoencoderSettings:
    """How the autoencoder is trained."""

    steps: int
    seed: int = 0
    batch_size: int = 8
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 60
    kl_weight: float = 1e-6
    texture_share: float = 0.2
    """Share of each batch's pictures that are textures, 0 to 1."""
    checkpoint_every_steps: int = 400


def build_autoencoder(seed: int) -> AutoencoderKL:
    """Returns an untrained autoencoder: downsampling 8, 8 latent channels, 1.7 million parameters."""
    torch.manual_seed(seed)
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        scaling_factor=1.0,
    )
    # The log variances begin near a deviation of 0.1: from 1, as they would without this, the noise outweighs the
    # latents for thousands of steps, and pictures never get sharp (measured: 5 dB).
    with torch.no_grad():
        autoencoder.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
        autoencoder.quant_conv.bias[LATENT_CHANNELS:] = -4.6
    return autoencoder


def train_autoencoder(corpus: Corpus, out: Path, settings: AutoencoderSettings) -> AutoencoderKL:
    """Trains the autoencoder, going on from `out`/autoencoder.safetensors if it is there.

    Args:
        corpus: Pictures to reconstruct.
        out: Folder for the checkpoint, autoencoder.json and autoencoder.png (pictures over reconstructions).
        settings: How.

    Returns:
        The trained autoencoder, its latents normalised.
    """
    autoencoder = build_autoencoder(settings.seed)
    parameters = list(autoencoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.peak_learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint = out / "autoencoder.safetensors"
    first_step = load_checkpoint(checkpoint, {"autoencoder": autoencoder}, optimizer)
    log = ProgressLog(out / "autoencoder.json", "autoencoder", settings.steps)
    for step in range(first_step, settings.steps):
        rng, generator = step_generators(settings.seed, "autoencoder", step)
        views = _draw_views(corpus, settings, rng)
        pictures = as_rgb(views)
        posterior = autoencoder.encode(pictures).latent_dist
        restored = autoencoder.decode(posterior.sample(generator=generator)).sample
        reconstruction = _multiscale_l1(restored, pictures)
        divergence = posterior.kl().mean()
        loss = reconstruction + settings.kl_weight * divergence
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings.steps, settings.peak_learning_rate, settings.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        log.record(
            step,
            {"l1": reconstruction.item(), "kl": divergence.item(), "psnr_db": psnr_db(restored, pictures)},
        )
        if (step + 1) % settings.checkpoint_every_steps == 0 or step + 1 == settings.steps:
            save_checkpoint(checkpoint, {"autoencoder": autoencoder}, optimizer, step + 1)
            shown = np.concatenate([views, restored.detach().mean(dim=1).numpy()])
            write_grid(out / "autoencoder.png", shown, settings.batch_size)
    autoencoder.eval().requires_grad_(False)
    _normalise_latents(autoencoder, corpus, settings.seed)
    return autoencoder


def _draw_views(corpus: Corpus, settings: AutoencoderSettings, rng: np.random.Generator) -> np.ndarray:
    """Draws a batch, float32 (N, 64, 64), -1 to 1: pictures and textures, some of them faint, some negative."""
    count = settings.batch_size
    images = corpus.images[rng.choice(len(corpus.images), size=count, p=corpus.weights)]
    textures = corpus.textures[rng.integers(len(corpus.textures), size=count)]
    views = augment(np.where(rng.random((count, 1, 1)) < settings.texture_share, textures, images), rng)
    # Microscopes differ in contrast and polarity more than the corpus does.
    contrast = np.where(rng.random(count) < 0.4, rng.uniform(0.2, 1.0, size=count), 1.0)
    sign = np.where(rng.random(count) < 0.1, -1.0, 1.0)
    mean = views.mean(axis=(1, 2), keepdims=True)
    faded: np.ndarray = (sign * contrast)[:, None, None] * (views - mean) + sign[:, None, None] * mean
    return faded.astype(np.float32)


def as_rgb(views: np.ndarray) -> Tensor:
    """Returns grey pictures of shape (N, H, W) as float32 of shape (N, 3, H, W) with equal channels."""
    return torch.from_numpy(views)[:, None].expand(-1, 3, -1, -1).contiguous()


@torch.inference_mode()
def encode(autoencoder: AutoencoderKL, views: np.ndarray, batch_size: int = 32) -> Tensor:
    """Returns mean latents, float32 (N, 8, H / 8, W / 8), of grey pictures (N, H, W) that span -1 to 1."""
    batches = [views[start : start + batch_size] for start in range(0, len(views), batch_size)]
    return torch.cat([autoencoder.encode(as_rgb(batch)).latent_dist.mode() for batch in batches])


def psnr_db(restored: Tensor, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio, in decibels, of tensors that span -1 to 1."""
    return float(10.0 * torch.log10(4.0 / F.mse_loss(restored.detach(), pictures)))


def _multiscale_l1(restored: Tensor, pictures: Tensor) -> Tensor:
    """L1 at full, half and quarter size, each picture's divided by its contrast.

    The coarse terms keep brightness and shape right while fine detail is learned. Without the division,
    bright nuclei on black drown the faint rims of brightfield cells, and those are reconstructed as empty
    fields (seen).
    """
    contrast = pictures.std(dim=(1, 2, 3), keepdim=True)
    error = (restored - pictures) / (contrast + 0.05)
    loss = error.abs().mean()
    for factor in (2, 4):
        loss = loss + 0.5 * F.avg_pool2d(error, factor).abs().mean()
    return loss


def _normalise_latents(autoencoder: AutoencoderKL, corpus: Corpus, seed: int) -> None:
    """Folds each channel's mean and deviation into the 1 x 1 convolutions around the latents, in place.

    StableDiffusionPipeline applies a single scaling factor and no shift, so the autoencoder itself has to
    give latents of mean 0 and deviation 1.
    """
    rng, _ = step_generators(seed, "normalise", 0)
    chosen = rng.choice(len(corpus.images), size=1024, p=corpus.weights)
    latents = encode(autoencoder, augment(corpus.images[chosen], rng))
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    with torch.no_grad():
        before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
        before.weight[:channels] /= deviation[:, None, None, None]
        before.bias[:channels] = (before.bias[:channels] - mean) / deviation
        before.bias[channels:] -= 2.0 * deviation.log()
        after.bias += after.weight[:, :, 0, 0] @ mean
        after.weight *= deviation[None, :, None, None]
