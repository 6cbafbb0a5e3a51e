"""Recipe of the base model's UNet, trained on cached latents and cached text.

The objective is v-prediction (Salimans and Ho, 2022, section 4) on a noise schedule with zero terminal
signal-to-noise ratio (Lin et al., 2024, section 3.1): pictures on black and on light backgrounds differ most
in their mean, which an ordinary schedule leaks to the model through the last step's noise.
"""

from __future__ import annotations

import copy
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
    caption_dropout: float = 0.1
    ema_decay: float = 0.999
    checkpoint_every_steps: int = 1200
    grid_columns: int = 4
    """Samples a prompt of the grid that is drawn at each checkpoint."""
    larger_share: float = 0.2
    """Share of the steps that see a larger corpus, with as much smaller a batch."""
    views: int = 1
    """Augmented views of the average picture whose latents are kept; a picture drawn more often has more."""
    most_views: int = 8
    """Most of one picture."""
    warped_share: float = 0.0
    """Share of the views that are bent and turned by any angle, too: a long training might learn 1,060 nuclei by heart
    otherwise. The price is that interpolation makes them smoother."""


@dataclass(frozen=True)
class CachedLatents:
    """A corpus as the UNet sees it.

    Attributes:
        latents: float32, (M, 8, H / 4, W / 4).
        prompt_of: Row of the prompt's text, int64 (M,).
        chances: Of being drawn, float64 (M,), sum 1.
        batch_size: Of a step.
    """

    latents: Tensor
    prompt_of: np.ndarray
    chances: np.ndarray
    batch_size: int


def build_unet(seed: int) -> UNet2DConditionModel:
    """Returns an untrained UNet for latents of shape (8, 16, 16) and text of width 128, 10.0 million parameters.

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

    Args:
        corpora: Pictures and captions; first those of the native size, then larger ones.
        autoencoder: Trained autoencoder, frozen, with latents of mean 0 and deviation 1.
        tokenizer: The base model's tokenizer.
        text_encoder: Trained text encoder, frozen.
        out: Folder for the checkpoint, unet.json and unet.png (a row a prompt of `GRID_PROMPTS`).
        settings: How.
        device: Where; all parts are there afterwards. On CUDA the UNet computes in bfloat16.

    Returns:
        The averaged UNet.
    """
    autoencoder.to(device)
    text_encoder.to(device)
    unique_captions = sorted({caption for corpus in corpora for caption in corpus.captions.tolist()})
    text = encode_captions(text_encoder, tokenizer, ["", *unique_captions])
    sources = [_cache_latents(corpus, autoencoder, unique_captions, settings) for corpus in corpora]
    larger = len(sources) - 1
    source_chances = [1.0 - settings.larger_share] + [settings.larger_share / larger] * larger if larger else [1.0]

    scheduler = build_scheduler()
    model = build_unet(settings.seed).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    parameters = list(model.parameters())
    groups = parameter_groups(model, ("attn2",), settings.cross_attention_factor)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    checkpoint = out / "unet.safetensors"
    first_step = load_checkpoint(checkpoint, {"model": model, "average": average}, optimizer)
    denoisers = [_denoiser(model, source, text) for source in sources]
    log = ProgressLog(out / "unet.json", "unet", settings.steps)
    for step in range(first_step, settings.steps):
        rng, generator = step_generators(settings.seed, "unet", step, device)
        which = rng.choice(len(sources), p=source_chances)
        source = sources[which]
        chosen = rng.choice(len(source.latents), size=source.batch_size, p=source.chances)
        # Row 0 is the empty prompt.
        prompts = np.where(rng.random(len(chosen)) < settings.caption_dropout, 0, source.prompt_of[chosen])
        clean = source.latents[chosen]
        noise = torch.randn(clean.shape, generator=generator, device=device)
        timesteps = torch.from_numpy(_draw_timesteps(rng, len(chosen))).to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        velocity = denoisers[which](noisy, timesteps, text[prompts])
        loss = F.mse_loss(velocity, scheduler.get_velocity(clean, noise, timesteps))
        set_learning_rate(optimizer, step, settings.steps, settings.peak_learning_rate, settings.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        _follow(average, model, min(settings.ema_decay, (1 + step) / (10 + step)))
        log.record(step, {"loss": loss.detach()})
        if (step + 1) % settings.checkpoint_every_steps == 0 or step + 1 == settings.steps:
            save_checkpoint(checkpoint, {"model": model, "average": average}, optimizer, step + 1)
            pipeline = assemble(autoencoder, tokenizer, text_encoder, average)
            columns = settings.grid_columns
            write_grid(out / "unet.png", sample(pipeline, GRID_PROMPTS, columns, settings.seed), columns)
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


def _denoiser(unet: UNet2DConditionModel, source: CachedLatents, text: Tensor) -> nn.Module:
    """Returns the UNet as a module for a source's batches.

    On CUDA it replays a graph captured for their shape (torch.cuda.make_graphed_callables): a model of this size leaves
    the GPU waiting for the launch of some thousand small kernels a step.
    """
    denoiser = _Denoiser(unet)
    if text.device.type != "cuda":
        return denoiser
    count = source.batch_size
    timesteps = torch.zeros(count, dtype=torch.int64, device=text.device)
    example = (torch.zeros_like(source.latents[:count]), timesteps, text[:1].expand(count, -1, -1).contiguous())
    return cast(nn.Module, torch.cuda.make_graphed_callables(denoiser, example))


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Half of them even over the schedule, so that its noisy end is known; half logit-normal (Esser et al., 2024,
    section 3.1), most at the noise levels where shapes are decided."""
    even = rng.integers(0, 1000, size=count)
    middle = 1000.0 / (1.0 + np.exp(-rng.normal(0.0, 1.0, size=count)))
    return np.where(rng.random(count) < 0.5, even, middle.astype(np.int64))


def _cache_latents(
    corpus: Corpus, autoencoder: AutoencoderKL, captions: list[str], settings: UnetSettings
) -> CachedLatents:
    """Encodes augmented views of a corpus; prompts are numbered as `captions` are, from 1."""
    wanted = np.ceil(settings.views * corpus.weights * len(corpus.weights)).astype(int)
    picture_of = np.repeat(np.arange(len(wanted)), np.clip(wanted, 1, settings.most_views))
    size_px = corpus.images.shape[-1]
    rng, _ = step_generators(settings.seed, "views", size_px)
    views = augment(corpus.images[picture_of], rng)
    warped = np.flatnonzero(rng.random(len(views)) < settings.warped_share)
    for start in range(0, len(warped), 256):
        some = warped[start : start + 256]
        views[some] = warp(views[some], rng)
    latents = encode(autoencoder, views)
    number_of = {caption: number for number, caption in enumerate(captions, 1)}
    numbers = np.array([number_of[caption] for caption in corpus.captions.tolist()])
    chances = corpus.weights[picture_of] / np.bincount(picture_of)[picture_of]
    return CachedLatents(
        latents=latents.clone(),  # since autograd refuses tensors made in inference mode
        prompt_of=numbers[picture_of],
        chances=chances / chances.sum(),
        batch_size=max(1, round(settings.batch_size * (SIZE_PX / size_px) ** 2)),
    )


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the averaged parameters towards the model's: average <- decay average + (1 - decay) model."""
    kept: list[Tensor] = list(average.parameters())
    current = [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(kept, current, 1.0 - decay)
