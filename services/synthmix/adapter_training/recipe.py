"""The adapter recipe: updates of a frozen base model, trained to denoise the latents of labelled images.

What an update is, methods.py says of each method. Latent diffusion: Rombach et al. 2022 (arXiv:2112.10752), equation 2.
Classifier-free guidance by caption dropout: Ho and Salimans 2022 (arXiv:2207.12598).

Randomness comes from (seed, purpose, index): the order of images from the epoch, noise and timesteps from the step. So
a training that is interrupted anywhere and resumed gives the bytes that an uninterrupted one gives.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from synthmix.adapter_training import objective
from synthmix.adapter_training.checkpoints import Checkpoint
from synthmix.adapter_training.computation import compute_dtype, in_bfloat16, prepared_denoiser
from synthmix.adapter_training.fresh_adapters import add_fresh_adapter, trained_parameters
from synthmix.adapter_training.held_out import HeldOut, HeldOutLoss
from synthmix.adapter_training.held_out_rows import measured_rows
from synthmix.adapter_training.optimizer_states import (
    for_evaluation,
    for_training,
    fresh_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from synthmix.adapter_training.prior_images import EPOCH, Prior
from synthmix.adapter_training.prior_options import all_prompts
from synthmix.adapter_training.stopped import end_of, steps_for
from synthmix.adapter_training.training_prompts import TrainingPrompts
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.adapters import PARTS
from synthmix.latent_diffusion.autoencoder import encode_images
from synthmix.latent_diffusion.class_tokens import add_class_tokens, first_vectors
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.part_layers import EMBEDDING, TEXT_ENCODER
from synthmix.service_kit.memory_errors import is_out_of_memory
from synthmix.service_kit.seeds import derived_seed
from synthmix.training.learning_rates import learning_rate_share
from synthmix.training.symmetries import symmetry

MOST_VIEWS = 8
ENCODE_BATCH = 32
FINAL_LEARNING_RATE_SHARE = 0.05
GRADIENT_NORM = 1.0
LOSS_POINTS = 200
# Kinds of tensors in a checkpoint besides parameters and the optimizer's.
FIRST_FACTOR, AVERAGE, BEST = "first factor", "average", "best"
# The parameter that all learned tokens are, by its name among the adapter's.
VECTORS = f"{PARTS[TEXT_ENCODER]}{EMBEDDING}.vectors"


class Latents(NamedTuple):
    """Latents of the training images, for each augmentation view.

    Attributes:
        values: (views, images, channels, height, width), float32.
        labels: (images,), class indices; where images have captions, positions among the training's subjects
            (training_prompts.Subjects).
    """

    values: torch.Tensor
    labels: torch.Tensor


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        first_factors: The parameters as they began, of a method that took them off the base model's weights; else none.
        averages: Of the parameters, where a running average becomes the adapter; else none.
        held_out: The losses on held-out images so far.
        best: The weights of the lowest of them, where the training may end early; else none.
        micro_batch: How many images are in memory at once; 0 for as many as a batch has.
    """

    step: int
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    first_factors: dict[str, torch.Tensor] = field(default_factory=dict)
    averages: dict[str, torch.Tensor] = field(default_factory=dict)
    held_out: list[HeldOutLoss] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    micro_batch: int = 0


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


def chosen(
    model: LatentDiffusion,
    settings: AdapterSettings,
    latents: Latents,
    rows: Sequence[int],
    held_out: Sequence[int],
) -> tuple[Latents, HeldOut | None]:
    """The latents of the images that are trained on, and what the loss is measured on besides; None if on nothing."""
    of_rows = latents
    if len(rows) < len(latents.labels):
        of_rows = Latents(latents.values[:, list(rows)], latents.labels[list(rows)])
    if not held_out:
        return of_rows, None
    measured = measured_rows(held_out, settings.seed)
    clean, labels = latents.values[0, measured], latents.labels[measured]
    return of_rows, HeldOut(settings, objective.training_scheduler(model), clean, labels)


def set_up(
    model: LatentDiffusion,
    settings: AdapterSettings,
    checkpoint: Checkpoint | None = None,
    classes: Sequence[str] = (),
) -> TrainingState:
    """Adds a fresh adapter to the model, with weights in float32, and its optimizer; or goes on from a checkpoint.

    Args:
        classes: Those that may have learned tokens.

    Raises:
        KeyError: The checkpoint is another adapter's.
    """
    torch.manual_seed(derived_seed(settings.seed, "adapter weights"))
    known = _tensors_of(checkpoint, FIRST_FACTOR) if checkpoint is not None else {}
    first_factors = add_fresh_adapter(model, settings, known)
    # PEFT takes all but its own parameters for frozen: the tokens come after them.
    if settings.class_tokens:
        words = [settings.class_token_word or label for label in classes]
        add_class_tokens(model, classes, first_vectors(model, words, settings.class_tokens))
    parameters = trained_parameters(model)
    for value in parameters.values():
        value.data = value.data.float()  # in the base model's bfloat16, small updates would be lost
    optimizer = fresh_optimizer(settings, _parameter_groups(parameters, settings), model.device)
    averages = {name: value.detach().clone() for name, value in parameters.items()} if settings.ema_decay else {}
    state = TrainingState(0, parameters, optimizer, first_factors=first_factors, averages=averages)
    if checkpoint is not None:
        _restore(state, checkpoint, settings)
    return state


def _parameter_groups(parameters: dict[str, torch.nn.Parameter], settings: AdapterSettings) -> list[dict[str, Any]]:
    """By their learning rates, as multiples (`ratio`) of the settings'.

    LoRA+ lets the factors that begin as zero learn faster: Hayou et al. 2024 (arXiv:2402.12354), section 4.
    """
    tokens: list[torch.nn.Parameter] = []
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, value in parameters.items():
        if name == VECTORS:
            tokens.append(value)
            continue
        ratio = 1.0
        if name.startswith(PARTS[TEXT_ENCODER]):
            ratio = settings.text_encoder_learning_rate / settings.learning_rate
        if ".lora_B." in name:
            ratio *= max(1.0, settings.loraplus_ratio)
        groups.setdefault(ratio, []).append(value)
    found: list[dict[str, Any]] = [{"params": values, "ratio": ratio} for ratio, values in groups.items()]
    if tokens:
        # A decay would draw them to zero, where no word is.
        ratio = settings.class_token_learning_rate / settings.learning_rate
        found.append({"params": tokens, "ratio": ratio, "weight_decay": 0.0})
    return found


def train(
    model: LatentDiffusion,
    state: TrainingState,
    settings: AdapterSettings,
    latents: Latents,
    prompts: TrainingPrompts,
    after_step: Callable[[TrainingState], None],
    held_out: HeldOut | None = None,
    prior: Prior | None = None,
    draw: Callable[[int, int], None] | None = None,
    original_px: int | None = None,
) -> None:
    """Trains from state.step until it is over. The model then has the adapter's weights: last, average or best.

    Args:
        settings: With all their defaults.
        after_step: Called after each optimizer step, for progress and checkpoints.
        held_out: What the loss is measured on besides, where images are held out.
        prior: What a part of the loss is of, where the base model's prior is preserved.
        draw: Called at each evaluation, when the model has the weights that would be the adapter, with the number of
            images seen, and of images that the memory is enough for. Nothing that it does may change the training.
        original_px: The side that a UNet which is told of sizes is to take for the images' before they were resized;
            the one that they have if None.
    """
    noise_scheduler, total_steps = objective.training_scheduler(model), training_steps(settings)
    parameters = list(state.parameters.values())
    autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=in_bfloat16(settings, model.device))
    dtype = compute_dtype(model, settings)
    classes = (prompts.count - 1) // len(all_prompts(settings))
    _in_training(model, True)
    denoise = prepared_denoiser(model, settings)

    def predict(
        noisy: torch.Tensor, timesteps: torch.Tensor, numbers: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        with autocast:
            device = model.device
            conditions = prompts.encode(numbers).to(device, dtype)
            conditions = conditions.of_size(original_px or settings.image_size, settings.image_size)
            predicted = denoise(noisy.to(device, dtype), timesteps.to(device), conditions, rows.to(device))
        return predicted.float()

    def evaluate(images_seen: int) -> None:
        if held_out is not None:
            measured = HeldOutLoss(images_seen, held_out.loss(predict))
            if settings.patience and all(measured.loss < earlier.loss for earlier in state.held_out):
                state.best = {name: value.detach().clone() for name, value in state.parameters.items()}
            state.held_out.append(measured)
        if draw is not None:
            with autocast:
                draw(images_seen, state.micro_batch or settings.batch_size)

    while not is_over(state, settings):
        share = _learning(state, settings, total_steps)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share * group.get("ratio", 1.0)
        rows, views = batch_rows(settings, state.step, len(latents.labels), len(latents.values))
        task = objective.draw(settings, noise_scheduler, latents.values[views, rows], state.step)
        # The empty prompt is the first, then come each prompt's classes.
        wanted = torch.where(task.dropped, 0, 1 + task.prompts * classes + latents.labels[rows])
        tasks = [(1.0, task, wanted)]
        if prior is not None:
            rows, views = batch_rows(settings, state.step, len(prior.labels), len(prior.values), EPOCH)
            task, labels = prior.drawn(settings, noise_scheduler, state.step, rows, views)
            of_prior = 1 + (len(all_prompts(settings)) - 1) * classes + labels
            tasks.append((settings.prior_preservation, task, torch.where(labels < 0, 0, of_prior)))

        def backward(part: slice, tasks: Sequence[tuple[float, objective.Task, torch.Tensor]] = tuple(tasks)) -> float:
            """Adds the gradients of some of the batch's images, and returns what they add to its loss."""
            added = []
            for weight, task, wanted in tasks:  # one after another, or the memory would have to be enough for both
                of_part = task.part(part)
                predicted = predict(of_part.noisy, of_part.timesteps, *wanted[part].unique(return_inverse=True))
                loss = objective.loss(settings, noise_scheduler, predicted, of_part)
                loss = loss * (weight * len(of_part.timesteps) / len(wanted))
                loss.backward()
                added.append(loss.item())
            return math.fsum(added)

        losses = _gradients(state, settings, backward)
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        state.optimizer.step()
        state.step += 1
        state.losses.append(math.fsum(losses))
        _average(state, settings)
        looked_at = held_out is not None or draw is not None
        if looked_at and _is_evaluated(state.step, total_steps, settings):
            with _as_it_would_be(model, state):
                evaluate(_images_seen(state, settings))
        after_step(state)
    _in_training(model, False)
    for_evaluation(state.optimizer)
    with torch.no_grad():
        for name, value in (state.best or state.averages).items():
            state.parameters[name].copy_(value)


def _in_training(model: LatentDiffusion, training: bool) -> None:
    for part in PARTS:
        getattr(model, part).train(training)


def _gradients(state: TrainingState, settings: AdapterSettings, backward: Callable[[slice], float]) -> list[float]:
    """The gradients of a batch, by as many images at once as the memory is enough for. Returns the parts' losses.

    A smaller number changes last bits alone. It is the rest of the training's, and in its checkpoints. Where a batch's
    images count together (distribution matching), the whole batch has to fit.
    """
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        # PEFT, and a base model with dropout, draw what they leave out from torch's own generator.
        torch.manual_seed(derived_seed(settings.seed, "adapter dropout", state.step))
        at_once = state.micro_batch or settings.batch_size
        try:
            return [
                backward(slice(start, min(start + at_once, settings.batch_size)))
                for start in range(0, settings.batch_size, at_once)
            ]
        except Exception as error:
            if not is_out_of_memory(error) or at_once == 1 or settings.distribution_matching:
                raise
        # Outside of the handler, whose error holds on to the tensors of what failed.
        state.micro_batch = -(-at_once // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _learning(state: TrainingState, settings: AdapterSettings, total_steps: int) -> float:
    """Lets those parameters learn whose turn it is in this step, and returns its share of the peak learning rates.

    Class tokens may come first, alone. Each of the two trainings has the whole course of the learning rate.
    """
    first = steps_for(settings.class_token_images_seen, settings)
    if not first:
        return learning_rate_share_of(settings, state.step, total_steps)
    for name, value in state.parameters.items():
        value.requires_grad_((name == VECTORS) == (state.step < first))
    if state.step < first:
        return learning_rate_share_of(settings, state.step, first)
    return learning_rate_share_of(settings, state.step - first, total_steps - first)


def learning_rate_share_of(settings: AdapterSettings, step: int, steps: int) -> float:
    """What a step, counted from 0, takes of the peak learning rate."""
    warmup_steps = max(1, round(steps * settings.warmup))
    if settings.learning_rate_schedule == "cosine" or step < warmup_steps:
        return learning_rate_share(
            step, steps, warmup_steps=warmup_steps, decline_from=warmup_steps, final_share=FINAL_LEARNING_RATE_SHARE
        )
    if settings.learning_rate_schedule == "constant":
        return 1.0
    if settings.learning_rate_schedule == "linear":
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 1 - (1 - FINAL_LEARNING_RATE_SHARE) * progress
    raise ValueError(f"no learning rate schedule {settings.learning_rate_schedule!r}: settings have to be filled")


def _average(state: TrainingState, settings: AdapterSettings) -> None:
    """A running average whose decay rises to the one that was asked for, as torch-ema and diffusers have it."""
    decay = min(settings.ema_decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for name, average in state.averages.items():
            average.lerp_(state.parameters[name], 1 - decay)


def _is_evaluated(step: int, steps: int, settings: AdapterSettings) -> bool:
    """At equal intervals, the last of which ends with the training."""
    return step * settings.evaluations // steps > (step - 1) * settings.evaluations // steps


@contextmanager
def _as_it_would_be(model: LatentDiffusion, state: TrainingState) -> Iterator[None]:
    """The model with the weights that would be the adapter now, and after it those that learn on."""
    now = {name: value.detach().clone() for name, value in state.parameters.items()}
    for_evaluation(state.optimizer)
    with torch.no_grad():
        for name, value in state.averages.items():
            state.parameters[name].copy_(value)
        _in_training(model, False)
        yield
        _in_training(model, True)
        for_training(state.optimizer)
        for name, value in now.items():
            state.parameters[name].copy_(value)


def is_over(state: TrainingState, settings: AdapterSettings) -> bool:
    """Whether all steps are done, or those up to stop_at, or the loss on held-out images ends the training."""
    return state.step >= steps_for(end_of(settings), settings) or _ends_early(state, settings)


def _ends_early(state: TrainingState, settings: AdapterSettings) -> bool:
    """Whether the lowest loss on held-out images is `patience` evaluations ago."""
    losses = [measured.loss for measured in state.held_out]
    if not (settings.patience and losses):
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= settings.patience


def kept_images_seen(state: TrainingState, settings: AdapterSettings) -> int:
    """After how many images seen, counted with repetition, the weights that are kept were the training's."""
    if state.best:
        return min(state.held_out, key=lambda measured: measured.loss).images_seen
    return _images_seen(state, settings)


def _images_seen(state: TrainingState, settings: AdapterSettings) -> int:
    """As many as were asked for at the whole training's end, whose batch may be larger than what was left."""
    return min(state.step * settings.batch_size, settings.images_seen)


def training_steps(settings: AdapterSettings) -> int:
    """Optimizer steps of a whole training, whose length is given in images seen, wherever it is to stop."""
    return steps_for(settings.images_seen, settings)


def batch_rows(
    settings: AdapterSettings, step: int, images: int, views: int, purpose: str = "adapter epoch"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images, and which view of each, a step sees: each epoch is a permutation with views of its own."""
    rows, chosen = [], []
    for position in range(step * settings.batch_size, (step + 1) * settings.batch_size):
        epoch, offset = divmod(position, images)
        order, epoch_views = _epoch(settings.seed, purpose, epoch, images, views)
        rows.append(order[offset])
        chosen.append(epoch_views[offset])
    return torch.tensor(rows), torch.tensor(chosen)


@lru_cache(maxsize=4)  # a batch may span two epochs, and so may the prior's
def _epoch(seed: int, purpose: str, epoch: int, images: int, views: int) -> tuple[list[int], list[int]]:
    random = np.random.default_rng(derived_seed(seed, purpose, epoch))
    return random.permutation(images).tolist(), random.integers(0, views, images).tolist()


def state_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    """Everything of it that is a tensor, by name, for a checkpoint."""
    kinds: dict[str, Mapping[str, torch.Tensor]] = {
        "parameter": state.parameters,
        FIRST_FACTOR: state.first_factors,
        AVERAGE: state.averages,
        BEST: state.best,
    }
    tensors = {
        f"{kind}.{name}": value.detach().cpu().contiguous()
        for kind, values in kinds.items()
        for name, value in values.items()
    }
    return tensors | optimizer_tensors(state.optimizer, state.parameters)


def _restore(state: TrainingState, checkpoint: Checkpoint, settings: AdapterSettings) -> None:
    """Puts a checkpoint's content into a fresh state. Raises KeyError if it is another adapter's."""
    with torch.no_grad():
        for name, value in state.parameters.items():
            value.copy_(checkpoint.tensors[f"parameter.{name}"])
        for name, average in _tensors_of(checkpoint, AVERAGE).items():
            state.averages[name].copy_(average)
    restore_optimizer(state.optimizer, state.parameters, checkpoint.tensors)
    best = _tensors_of(checkpoint, BEST)
    state.best = {name: value.to(state.parameters[name].device) for name, value in best.items()}
    state.step = checkpoint.images_seen // settings.batch_size
    state.losses = list(checkpoint.losses)
    state.held_out = [HeldOutLoss(*measured) for measured in checkpoint.held_out]
    state.micro_batch = checkpoint.micro_batch


def _tensors_of(checkpoint: Checkpoint, kind: str) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors of a kind, by the rest of their names."""
    start = f"{kind}."
    return {key.removeprefix(start): value for key, value in checkpoint.tensors.items() if key.startswith(start)}


def loss_curve(losses: list[float]) -> list[tuple[int, float]]:
    """At most 200 points of (step, mean loss since the last point)."""
    width = max(1, math.ceil(len(losses) / LOSS_POINTS))
    return [
        (min(start + width, len(losses)), float(np.mean(losses[start : start + width])))
        for start in range(0, len(losses), width)
    ]
