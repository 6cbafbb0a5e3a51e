"""The adapter recipe: updates of a frozen UNet, trained to denoise the latents of labelled images.

What an update is, methods.py says of each method. Latent diffusion: Rombach et al. 2022 (arXiv:2112.10752), equation 2.
Classifier-free guidance by caption dropout: Ho and Salimans 2022 (arXiv:2207.12598).

Randomness comes from (seed, purpose, index): the order of images from the epoch, noise and timesteps from the step. So
a training that is interrupted anywhere and resumed gives the bytes that an uninterrupted one gives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler

from synthmix.adapter_training.checkpoints import Checkpoint
from synthmix.adapter_training.fresh_adapters import add_fresh_adapter
from synthmix.adapter_training.unet_rewrites import denoiser
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.autoencoder import encode_images
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts
from synthmix.latent_diffusion.prompts import prompt_for
from synthmix.service_kit.seeds import derived_seed
from synthmix.training.learning_rates import learning_rate_share
from synthmix.training.symmetries import symmetry

MOST_VIEWS = 8
ENCODE_BATCH = 32
WARMUP_SHARE = 0.05
FINAL_LEARNING_RATE_SHARE = 0.05
GRADIENT_NORM = 1.0
LOSS_POINTS = 200


class Latents(NamedTuple):
    """Latents of the training images, for each augmentation view.

    Attributes:
        values: (views, images, channels, height, width), float32.
        labels: (images,), class indices.
    """

    values: torch.Tensor
    labels: torch.Tensor


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        first_factors: The parameters as they began, of a method that took them off the base model's weights; else none.
    """

    step: int
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW
    losses: list[float]
    first_factors: dict[str, torch.Tensor]


def cache_latents(model: LatentDiffusion, pixels: np.ndarray, labels: np.ndarray, views: int) -> Latents:
    """Encodes every image once for each view; a view is one of the eight symmetries of the square.

    Cells have no upright orientation, so all eight are as real as the first.

    Args:
        pixels: (images, size, size, 3), uint8.
        labels: (images,), class indices.
        views: 1 to 8.
    """
    values = torch.stack([encode_images(model.vae, symmetry(pixels, view), ENCODE_BATCH) for view in range(views)])
    return Latents(values, torch.from_numpy(labels).long())


def set_up(model: LatentDiffusion, settings: AdapterSettings, checkpoint: Checkpoint | None = None) -> TrainingState:
    """Adds a fresh adapter to the UNet, with weights in float32, and its optimizer; or goes on from a checkpoint.

    Raises KeyError if the checkpoint is another adapter's.
    """
    torch.manual_seed(derived_seed(settings.seed, "adapter weights"))
    known = _tensors_of(checkpoint, "first factor") if checkpoint is not None else {}
    first_factors = add_fresh_adapter(model.unet, settings, known)
    parameters = {name: value for name, value in model.unet.named_parameters() if value.requires_grad}
    for value in parameters.values():
        value.data = value.data.float()  # in the base model's bfloat16, small updates would be lost
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=model.device.type == "cpu",
    )
    state = TrainingState(0, parameters, optimizer, [], first_factors)
    if checkpoint is not None:
        _restore(state, checkpoint, settings)
    return state


def train(
    model: LatentDiffusion,
    state: TrainingState,
    settings: AdapterSettings,
    latents: Latents,
    class_embeddings: torch.Tensor,
    empty_embedding: torch.Tensor,
    after_step: Callable[[TrainingState], None],
) -> None:
    """Trains from state.step to the end.

    Args:
        settings: With all their defaults.
        class_embeddings: (classes, tokens, width): the text embedding of each class's prompt.
        empty_embedding: (1, tokens, width): that of the empty prompt, which caption dropout uses.
        after_step: Called after each optimizer step, for progress and checkpoints.
    """
    noise_scheduler, total_steps = training_scheduler(model), training_steps(settings)
    parameters = list(state.parameters.values())
    autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.device.type == "cuda")
    embeddings = torch.cat([empty_embedding, class_embeddings]).to(model.device)
    warmup_steps = max(1, round(total_steps * WARMUP_SHARE))
    model.unet.train()
    denoise = denoiser(model.unet)
    while state.step < total_steps:
        share = learning_rate_share(
            state.step,
            total_steps,
            warmup_steps=warmup_steps,
            decline_from=warmup_steps,
            final_share=FINAL_LEARNING_RATE_SHARE,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        random = torch.Generator().manual_seed(derived_seed(settings.seed, "adapter step", state.step))
        rows, views = batch_rows(settings, state.step, len(latents.labels), len(latents.values))
        clean = latents.values[views, rows]
        noise = torch.randn(clean.shape, generator=random)
        timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(rows),), generator=random)
        dropped = torch.rand(len(rows), generator=random) < settings.caption_dropout
        noisy = noise_scheduler.add_noise(clean, noise, timesteps)
        target = prediction_target(noise_scheduler, clean, noise, timesteps)
        prompts, prompt_rows = torch.where(dropped, 0, 1 + latents.labels[rows]).unique(return_inverse=True)
        if settings.dropout:  # PEFT draws what it leaves out from torch's own generator
            torch.manual_seed(derived_seed(settings.seed, "adapter dropout", state.step))
        with autocast:
            predicted = denoise(
                noisy.to(model.device, model.dtype),
                timesteps.to(model.device),
                embeddings[prompts.to(model.device)],
                prompt_rows.to(model.device),
            )
        loss = torch.nn.functional.mse_loss(predicted.float(), target.to(model.device))
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        state.optimizer.step()
        state.step += 1
        state.losses.append(loss.item())
        after_step(state)
    model.unet.eval()


def training_steps(settings: AdapterSettings) -> int:
    """Optimizer steps of a whole training, whose length is given in images seen."""
    return math.ceil(settings.images_seen / settings.batch_size)


def batch_rows(settings: AdapterSettings, step: int, images: int, views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images, and which view of each, a step sees: each epoch is a permutation with views of its own."""
    rows, chosen = [], []
    for position in range(step * settings.batch_size, (step + 1) * settings.batch_size):
        epoch, offset = divmod(position, images)
        order, epoch_views = _epoch(settings.seed, epoch, images, views)
        rows.append(order[offset])
        chosen.append(epoch_views[offset])
    return torch.tensor(rows), torch.tensor(chosen)


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch(seed: int, epoch: int, images: int, views: int) -> tuple[list[int], list[int]]:
    random = np.random.default_rng(derived_seed(seed, "adapter epoch", epoch))
    return random.permutation(images).tolist(), random.integers(0, views, images).tolist()


def training_scheduler(model: LatentDiffusion) -> Any:
    """The base model's noise schedule and prediction type, as a scheduler that adds noise."""
    return DDPMScheduler.from_config(model.pipeline.scheduler.config)


def prediction_target(
    scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the UNet is to predict: noise, velocity (Salimans and Ho 2022, appendix D) or the clean latents."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        velocity: torch.Tensor = scheduler.get_velocity(clean, noise, timesteps)
        return velocity
    if kind == "sample":
        return clean
    raise ValueError(f"unknown prediction type {kind!r} in the base model's scheduler")


def state_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    """Parameters, AdamW's moments and first factors as named tensors, for a checkpoint."""
    tensors = {f"parameter.{name}": value.detach().cpu().contiguous() for name, value in state.parameters.items()}
    tensors |= {f"first factor.{name}": value.cpu().contiguous() for name, value in state.first_factors.items()}
    for name, value in state.parameters.items():
        for key, moment in state.optimizer.state[value].items():
            tensors[f"optimizer.{key}.{name}"] = moment.detach().cpu().contiguous()
    return tensors


def _restore(state: TrainingState, checkpoint: Checkpoint, settings: AdapterSettings) -> None:
    """Puts a checkpoint's content into a fresh state. Raises KeyError if it is another adapter's."""
    with torch.no_grad():
        for name, value in state.parameters.items():
            value.copy_(checkpoint.tensors[f"parameter.{name}"])
            state.optimizer.state[value] = {
                key: checkpoint.tensors[f"optimizer.{key}.{name}"].to(value.device if key != "step" else "cpu").clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    state.step = checkpoint.images_seen // settings.batch_size
    state.losses = list(checkpoint.losses)


def _tensors_of(checkpoint: Checkpoint, kind: str) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors of a kind, by the rest of their names."""
    start = f"{kind}."
    return {key.removeprefix(start): value for key, value in checkpoint.tensors.items() if key.startswith(start)}


def prompt_embeddings(
    model: LatentDiffusion, prompt: str, classes: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The text embeddings of each class's prompt, and of the empty one."""
    return encode_prompts(model, [prompt_for(prompt, label) for label in classes]), encode_prompts(model, [""])


def loss_curve(losses: list[float]) -> list[tuple[int, float]]:
    """At most 200 points of (step, mean loss since the last point)."""
    width = max(1, math.ceil(len(losses) / LOSS_POINTS))
    return [
        (min(start + width, len(losses)), float(np.mean(losses[start : start + width])))
        for start in range(0, len(losses), width)
    ]
