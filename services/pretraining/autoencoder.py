"""Recipe of the base model's autoencoder: 64 x 64 pictures to 16 x 16 latents of 12 channels and back.

The objective is the squared error of a picture and of its differences between neighbouring pixels, both relative to
the picture's contrast. (An absolute error leaves a faint thin outline out: its median over the places where the outline
may lie is the background.) A diffusion model hits latents to within some tenths of their deviation at best, and a
decoder that has only seen exact latents makes hatching and scalloped outlines of such errors. So noise of random
strength is added to latents in training (noise-augmented decoding: Zheng et al., 2025, "Diffusion Transformers with
Representation Autoencoders", section 4). Encoder and decoder learn it together: what the picture needs is encoded well
above the noise, which elsewhere a weight on the Kullback-Leibler divergence is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from pretraining.corpus import SIZE_PX, Corpus
from pretraining.training_state import (
    ProgressLog,
    augment,
    cosine_rate,
    load_checkpoint,
    parameter_groups,
    save_checkpoint,
    set_learning_rate,
    step_generators,
    write_grid,
)

LATENT_CHANNELS = 12
DOWNSAMPLING = 4


@dataclass(frozen=True)
class AutoencoderSettings:
    """How the autoencoder is trained."""

    steps: int
    seed: int = 0
    batch_size: int = 8
    peak_learning_rate: float = 1e-3
    output_learning_rate_factor: float = 0.05
    """Of the last normalisation and convolution of encoder and decoder: the linear beginning puts activations of about
    4 there, so that a step as large as elsewhere moves the brightness of whole pictures."""
    warmup_steps: int = 50
    most_noise: float = 0.3
    """Largest deviation of the noise, as a share of the latents' deviation (`draw_noise` says of which)."""
    exact_share: float = 0.25
    """Share of the pictures whose latents get no noise, 0 to 1; a decoder sees by itself how noisy latents are."""
    noise_ramp_steps: int = 300
    """Steps over which the noise grows to its full strength."""
    texture_share: float = 0.2
    """Share of each batch's pictures that are textures, 0 to 1."""
    checkpoint_every_steps: int = 400
    scaled_on: int = 1024
    """On so many views are the latents scaled to mean 0 and deviation 1 at the end."""


def build_autoencoder(seed: int) -> AutoencoderKL:
    """Returns an untrained autoencoder: downsampling 4, 12 latent channels, 0.7 million parameters."""
    torch.manual_seed(seed)
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        scaling_factor=1.0,
    )
    _begin_linear(autoencoder)
    return autoencoder.to(memory_format=torch.channels_last)


def _begin_linear(autoencoder: AutoencoderKL) -> None:
    """Initialises the autoencoder so that it begins as a linear map, in place.

    Pictures are restored well by something near a linear transform: of each 8 x 8 block, the eight leading principal
    components keep 38 dB of fluorescence nuclei. From diffusers' initialisation, 2,800 steps came to 27 dB (measured),
    for two reasons: the residual branches are noise at first, and the last normalisation of encoder and decoder takes
    each picture's brightness and contrast away, which has to be smuggled past it.

    So residual branches begin at zero (Goyal et al., 2017, section 5.1; Zhang et al., 2019, "Fixup"); what is left
    keeps its inputs' scale; and before each last normalisation, large constants stand in some channels of each group,
    so that the group's statistics, and with them the scale of the others, hardly depend on the picture. The log
    variances begin low: from 1, the noise would outweigh the latents for thousands of steps.
    """
    with torch.no_grad():
        for module in autoencoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in autoencoder.modules():
            if isinstance(module, ResnetBlock2D):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attention):
                nn.init.zeros_(module.to_out[0].weight)
                nn.init.zeros_(module.to_out[0].bias)
        _outweigh(autoencoder.encoder, autoencoder.encoder.mid_block.resnets[-1].conv2.bias)
        _outweigh(autoencoder.decoder, autoencoder.decoder.up_blocks[-1].resnets[-1].conv2.bias)
        autoencoder.encoder.conv_out.weight[LATENT_CHANNELS:] = 0.0
        autoencoder.encoder.conv_out.bias[LATENT_CHANNELS:] = -6.0
        autoencoder.quant_conv.weight.copy_(torch.eye(2 * LATENT_CHANNELS)[:, :, None, None])
        autoencoder.post_quant_conv.weight.copy_(torch.eye(LATENT_CHANNELS)[:, :, None, None])


def _outweigh(half: Any, last_bias: Tensor, constant: float = 40.0, offset: float = 4.0) -> None:
    """Makes normalisation, activation and convolution at the end of an encoder or decoder nearly linear, in place.

    Args:
        half: The encoder or decoder.
        last_bias: A bias that is added to the channels before the normalisation.
        constant: Put into the first channel of each group, its negative into the second if there are more than two.
        offset: Where on SiLU the signals lie: at 4 its slope is nearly 1.
    """
    norm: nn.GroupNorm = half.conv_norm_out
    per_group = norm.num_channels // norm.num_groups
    pattern = torch.zeros(per_group)
    pattern[0] = constant
    if per_group > 2:
        pattern[1] = -constant
    last_bias += pattern.repeat(norm.num_groups)
    deviation = pattern.std(correction=0)
    norm.weight.fill_(deviation)
    # (0 - mean) / deviation * weight + bias = offset, for the channels without a constant
    norm.bias.fill_(offset + pattern.mean())
    constants = (pattern != 0).repeat(norm.num_groups)
    half.conv_out.weight[:, constants] = 0.0
    # Signals lie at the offset and the padding at 0: only weights that cancel over the channels show no frame around
    # the picture. They cancel the offset in its middle, too.
    signals = ~constants
    half.conv_out.weight[:, signals] -= half.conv_out.weight[:, signals].mean(dim=1, keepdim=True)


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
    groups = parameter_groups(autoencoder, ("conv_norm_out", "conv_out"), settings.output_learning_rate_factor)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint = out / "autoencoder.safetensors"
    first_step = load_checkpoint(checkpoint, {"autoencoder": autoencoder}, optimizer)
    log = ProgressLog(out / "autoencoder.json", "autoencoder", settings.steps)
    for step in range(first_step, settings.steps):
        rng, generator = step_generators(settings.seed, "autoencoder", step)
        views = draw_views(corpus, settings.batch_size, settings.texture_share, rng)
        pictures = as_tensor(views)
        latents = autoencoder.encode(pictures).latent_dist.mode()
        most = settings.most_noise * min(1.0, step / settings.noise_ramp_steps)
        noise = draw_noise(latents.detach(), most, settings.exact_share, rng, generator)
        restored = autoencoder.decode(latents + noise).sample
        loss = relative_squared_error(restored, pictures)
        rate = cosine_rate(step, settings.steps, settings.peak_learning_rate, settings.warmup_steps)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        log.record(step, {"loss": loss.item(), "psnr_db": psnr_db(restored, pictures)})
        if (step + 1) % settings.checkpoint_every_steps == 0 or step + 1 == settings.steps:
            save_checkpoint(checkpoint, {"autoencoder": autoencoder}, optimizer, step + 1)
            shown = np.concatenate([views, as_views(restored)])
            write_grid(out / "autoencoder.png", shown, settings.batch_size)
    autoencoder.eval().requires_grad_(False)
    _normalise_latents(autoencoder, corpus, settings)
    return autoencoder


def draw_noise(
    latents: Tensor, most: float, exact_share: float, rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """Draws noise of a strength of its own for each picture's latents (N, C, H, W), none for `exact_share` of them.

    Its deviation is a share, of up to `most`, of the geometric mean of two: the channel's over the batch, and the
    picture's own. By the batch's alone, noise that a bright picture hardly feels would drown a faint one, and nothing
    of it would be encoded.
    """
    exact = rng.random(len(latents)) < exact_share
    share = np.where(exact, 0.0, rng.uniform(0.0, 1.0, size=len(latents)) * most)
    deviation = latents.std(dim=(0, 2, 3), keepdim=True)
    own = (latents.std(dim=(2, 3), keepdim=True) / deviation).square().mean(dim=1, keepdim=True).sqrt()
    noise = torch.randn(latents.shape, generator=generator)
    return torch.from_numpy(share).float()[:, None, None, None] * deviation * own.sqrt() * noise


def draw_views(corpus: Corpus, count: int, texture_share: float, rng: np.random.Generator) -> np.ndarray:
    """Draws a batch, float32 (N, 64, 64, 3), -1 to 1: pictures and textures, some faint, negative or discoloured."""
    images = corpus.images[rng.choice(len(corpus.images), size=count, p=corpus.weights)]
    textures = corpus.textures[rng.integers(len(corpus.textures), size=count)]
    views = augment(np.where(rng.random((count, 1, 1, 1)) < texture_share, textures, images), rng)
    # Microscopes differ in contrast and polarity more than the corpus does.
    contrast = np.where(rng.random(count) < 0.4, rng.uniform(0.2, 1.0, size=count), 1.0)
    sign = np.where(rng.random(count) < 0.1, -1.0, 1.0)
    mean = views.mean(axis=(1, 2), keepdims=True)
    sign, contrast = sign[:, None, None, None], contrast[:, None, None, None]
    faded = sign * contrast * (views - mean) + sign * mean
    # Stains and dyes differ in colour more than the corpus does.
    order = np.argsort(rng.random((count, 3)), axis=1)[:, None, None, :]
    recoloured = np.where(rng.random((count, 1, 1, 1)) < 0.3, np.take_along_axis(faded, order, axis=-1), faded)
    colour = np.where(rng.random(count) < 0.4, rng.uniform(0.0, 1.0, size=count), 1.0)[:, None, None, None]
    grey = recoloured.mean(axis=-1, keepdims=True)
    discoloured: np.ndarray = grey + colour * (recoloured - grey)
    return discoloured.astype(np.float32)


def as_tensor(views: np.ndarray) -> Tensor:
    """Returns pictures of shape (N, H, W, 3) as float32 of shape (N, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 1, 2), dtype=np.float32))


def as_views(pictures: Tensor) -> np.ndarray:
    """Returns pictures of shape (N, 3, H, W) as float32 of shape (N, H, W, 3)."""
    return pictures.detach().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, views: np.ndarray, batch_size: int = 32) -> Tensor:
    """Returns mean latents, float32 (N, 12, H / 4, W / 4), of pictures (N, H, W, 3) that span -1 to 1."""
    batches = [views[start : start + batch_size] for start in range(0, len(views), batch_size)]
    pictures = (as_tensor(batch).to(autoencoder.device) for batch in batches)
    return torch.cat([autoencoder.encode(batch).latent_dist.mode() for batch in pictures])


def psnr_db(restored: Tensor, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio, in decibels, of tensors that span -1 to 1."""
    return float(10.0 * torch.log10(4.0 / F.mse_loss(restored.detach(), pictures)))


def contrast_of(pictures: Tensor) -> Tensor:
    """Returns each picture's deviation (N, 1, 1, 1), kept from 0; how large an error is, is relative to it.

    It is that of each colour from its own mean: a lamp's tint is no contrast.
    """
    return pictures.var(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True).sqrt() + 0.05


def relative_squared_error(restored: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared error of pictures and of their differences along rows and columns, relative to their contrast.

    Without the division, bright nuclei on black drown the faint rims of brightfield cells, and those are reconstructed
    as empty fields (seen). Differences weigh an outline more than brightness that is off by little over a large area.
    """
    error = (restored - pictures) / contrast_of(pictures)
    loss = error.square().mean()
    for axis in (2, 3):
        loss = loss + error.diff(dim=axis).square().mean()
    return loss


def _normalise_latents(autoencoder: AutoencoderKL, corpus: Corpus, settings: AutoencoderSettings) -> None:
    """Folds each channel's mean and deviation into the 1 x 1 convolutions around the latents, in place.

    StableDiffusionPipeline applies a single scaling factor and no shift, so the autoencoder itself has to
    give latents of mean 0 and deviation 1.
    """
    rng, _ = step_generators(settings.seed, "normalise", 0)
    chosen = rng.choice(len(corpus.images), size=settings.scaled_on, p=corpus.weights)
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
