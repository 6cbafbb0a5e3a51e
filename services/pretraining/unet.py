"""Recipe of the base model's UNet, trained on the latents of views that are new at every step, and on cached text.

The objective is v-prediction (Salimans and Ho, 2022, section 4) on a noise schedule with zero terminal
signal-to-noise ratio (Lin et al., 2024, section 3.1): pictures on black and on light backgrounds differ most
in their mean, which an ordinary schedule leaks to the model through the last step's noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pretraining.autoencoder import DOWNSAMPLING, LATENT_CHANNELS, encode
from pretraining.corpus import SIZE_PX, Corpus
from pretraining.pipeline import GRID_PROMPTS, assemble, build_scheduler, sample
from pretraining.text import encode_captions
from pretraining.training_state import (
    ProgressLog,
    augment,
    load_checkpoint,
    parameter_groups,
    save_checkpoint,
    set_learning_rate,
    step_generators,
    warp,
    write_grid,
)
from synthmix.training.learning_rates import learning_rate_share


@dataclass(frozen=True)
class UnetSettings:
    """How the UNet is trained."""

    steps: int
    seed: int = 0
    batch_size: int = 16
    peak_learning_rate: float = 1e-3
    cross_attention_factor: float = 2.5
    """By how much faster cross-attention learns; left to itself it hardly begins before the rest is done."""
    warmup_steps: int = 200
    constant_steps: int = 8000
    """Steps after which the learning rate falls with the root of the steps."""
    cooldown_share: float = 0.2
    """Share of the steps, the last ones, over which the learning rate falls to a hundredth of what it would be."""
    caption_dropout: float = 0.1
    ema_decay: float = 0.9995
    checkpoint_every_steps: int = 250
    grid_every_steps: int = 2500
    grid_columns: int = 4
    """Samples a prompt of the grid."""
    larger_share: float = 0.2
    """Share of the steps that see a larger corpus, with as much smaller a batch."""
    warped_share: float = 0.5
    """Share of the views of pictures that are drawn more often than the average one, the real ones, that are bent and
    turned by any angle, too: a long training might learn 1,060 nuclei by heart otherwise. The price is that
    interpolation makes them smoother."""


def build_unet(seed: int) -> UNet2DConditionModel:
    """Returns an untrained UNet for latents of shape (12, 16, 16) and text of width 128, 10.0 million parameters.

    The finest level has no self-attention, which would cost most there, but reads the prompt: without, the same
    training is slow at everything and ten times slower at telling classes apart (decision 13).
    """
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SIZE_PX // DOWNSAMPLING,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        only_cross_attention=(True, False, False),
        block_out_channels=(64, 128, 176),
        layers_per_block=1,
        attention_head_dim=(2, 4, 4),  # heads, not their width: diffusers keeps the field's old name
        cross_attention_dim=128,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def train_unet(
    corpora: Sequence[Corpus],
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    out: Path,
    settings: UnetSettings,
    device: torch.device,
) -> UNet2DConditionModel:
    """Trains the UNet, going on from `out`/unet.safetensors if it is there.

    Until the last `cooldown_share` of the steps, nothing depends on how many there will be: a training may be made
    longer or shorter when it is resumed, and ends as one that was meant to be so from the start.

    Args:
        corpora: Pictures and captions; first those of the native size, then larger ones.
        autoencoder: Trained autoencoder, frozen, with latents of mean 0 and deviation 1.
        tokenizer: The base model's tokenizer.
        text_encoder: Trained text encoder, frozen.
        out: Folder for the checkpoint, unet.json and unet-<steps>.png (a row a prompt of `GRID_PROMPTS`).
        settings: How.
        device: Where; all parts are there afterwards. On CUDA the UNet computes in bfloat16.

    Returns:
        The averaged UNet.
    """
    autoencoder.to(device)
    text_encoder.to(device)
    unique_captions = sorted({caption for corpus in corpora for caption in corpus.captions.tolist()})
    text = encode_captions(text_encoder, tokenizer, ["", *unique_captions])
    row_of = {caption: row for row, caption in enumerate(unique_captions, 1)}  # row 0 is the empty prompt
    rows = [np.array([row_of[caption] for caption in corpus.captions.tolist()]) for corpus in corpora]
    batch_sizes = [max(1, round(settings.batch_size * (SIZE_PX / corpus.images.shape[1]) ** 2)) for corpus in corpora]
    larger = len(corpora) - 1
    corpus_chances = [1.0 - settings.larger_share] + [settings.larger_share / larger] * larger if larger else [1.0]

    scheduler = build_scheduler()
    model = build_unet(settings.seed).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    parameters = list(model.parameters())
    groups = parameter_groups(model, ("attn2",), settings.cross_attention_factor)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    checkpoint = out / "unet.safetensors"
    first_step = load_checkpoint(checkpoint, {"model": model, "average": average}, optimizer)
    denoisers = [
        _denoiser(model, (batch_size, LATENT_CHANNELS, *2 * (corpus.images.shape[1] // DOWNSAMPLING,)), text)
        for corpus, batch_size in zip(corpora, batch_sizes, strict=True)
    ]
    log = ProgressLog(out / "unet.json", "unet", settings.steps)
    for step in range(first_step, settings.steps):
        rng, generator = step_generators(settings.seed, "unet", step, device)
        which = rng.choice(len(corpora), p=corpus_chances)
        chosen = rng.choice(len(corpora[which].images), size=batch_sizes[which], p=corpora[which].weights)
        prompts = np.where(rng.random(len(chosen)) < settings.caption_dropout, 0, rows[which][chosen])
        clean = encode(autoencoder, draw_views(corpora[which], chosen, settings.warped_share, rng))
        noise = torch.randn(clean.shape, generator=generator, device=device)
        timesteps = torch.from_numpy(_draw_timesteps(rng, len(chosen))).to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        velocity = denoisers[which](noisy, timesteps, text[prompts])
        loss = F.mse_loss(velocity, scheduler.get_velocity(clean, noise, timesteps))
        set_learning_rate(optimizer, settings.peak_learning_rate * _rate_share(step, settings))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        _follow(average, model, min(settings.ema_decay, (1 + step) / (10 + step)))
        log.record(step, {"loss": loss.detach()})
        if (step + 1) % settings.checkpoint_every_steps == 0 or step + 1 == settings.steps:
            save_checkpoint(checkpoint, {"model": model, "average": average}, optimizer, step + 1)
        if (step + 1) % settings.grid_every_steps == 0 or step + 1 == settings.steps:
            pipeline = assemble(autoencoder, tokenizer, text_encoder, average)
            columns = settings.grid_columns
            write_grid(
                out / f"unet-{step + 1:06d}.png", sample(pipeline, GRID_PROMPTS, columns, settings.seed), columns
            )
    return average.eval()


class _Denoiser(nn.Module):
    """The UNet's prediction, float32 whatever it computes in."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        on_cuda = noisy.device.type == "cuda"
        # Weights cast once and kept would be stale in a replayed graph.
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=on_cuda, cache_enabled=False):
            velocity: Tensor = self.unet(noisy, timesteps, text).sample
        return velocity.float()


def _denoiser(unet: UNet2DConditionModel, shape: tuple[int, ...], text: Tensor) -> nn.Module:
    """Returns the UNet as a module for batches of latents of a shape.

    On CUDA it replays a graph captured for their shape (torch.cuda.make_graphed_callables): a model of this size leaves
    the GPU waiting for the launch of some thousand small kernels a step.
    """
    denoiser = _Denoiser(unet)
    if text.device.type != "cuda":
        return denoiser
    timesteps = torch.zeros(shape[0], dtype=torch.int64, device=text.device)
    latents = torch.zeros(shape, device=text.device)
    example = (latents, timesteps, text[:1].expand(shape[0], -1, -1).contiguous())
    return cast(nn.Module, torch.cuda.make_graphed_callables(denoiser, example))


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Half of them even over the schedule, so that its noisy end is known; half logit-normal (Esser et al., 2024,
    section 3.1), most at the noise levels where shapes are decided."""
    even = rng.integers(0, 1000, size=count)
    middle = 1000.0 / (1.0 + np.exp(-rng.normal(0.0, 1.0, size=count)))
    return np.where(rng.random(count) < 0.5, even, middle.astype(np.int64))


def _rate_share(step: int, settings: UnetSettings) -> float:
    """What a step takes of the peak learning rate: warm-up, a plateau, the inverse root (Karras et al., 2024, "EDM2",
    equation 67), and a cosine at the end."""
    cooldown_from = settings.steps - round(settings.cooldown_share * settings.steps)
    share = min(1.0, (step + 1) / settings.warmup_steps, math.sqrt(settings.constant_steps / (step + 1)))
    if step < cooldown_from:
        return share
    return share * learning_rate_share(
        step, settings.steps, warmup_steps=0, decline_from=cooldown_from, final_share=0.01
    )


def draw_views(corpus: Corpus, chosen: np.ndarray, warped_share: float, rng: np.random.Generator) -> np.ndarray:
    """Augmented views, float32 (N, H, H, 3), of the chosen pictures; some of those that come often are warped, too."""
    views = augment(corpus.images[chosen], rng)
    often = corpus.weights[chosen] * len(corpus.weights) > 1.0
    warped = np.flatnonzero(often & (rng.random(len(chosen)) < warped_share))
    if len(warped):
        views[warped] = warp(views[warped], rng)
    return views


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the averaged parameters towards the model's: average <- decay average + (1 - decay) model."""
    kept: list[Tensor] = list(average.parameters())
    current = [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(kept, current, 1.0 - decay)
