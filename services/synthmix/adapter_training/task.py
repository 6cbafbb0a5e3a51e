"""What a worker does for one adapter: data and base model in, checkpoints on the way, the adapter's payloads out."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from synthmix.adapter_training import recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.checkpoints import Checkpoint, read_newest_checkpoint, write_checkpoint
from synthmix.adapter_training.held_out_rows import held_out_rows
from synthmix.adapter_training.kept_inputs import INPUTS
from synthmix.image_data.generators import recorded_adapter_settings
from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.kept_models import lend
from synthmix.service_kit.artifacts import write_payload
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import open_object_store

CHECKPOINT_INTERVAL_SECONDS = 15.0
REPORT_INTERVAL_SECONDS = 0.5


def train(
    operation: str,
    target: str,
    request: dict[str, Any],
    names: dict[str, Any],
    report: Callable[[int, int | None, str], None],
    threads: int,
) -> dict[str, Any]:
    """Trains an adapter, from its newest checkpoint if there is one, and writes its payloads.

    Returns:
        The payloads and the summary for the manifest, which the operation writes.
    """
    store = open_object_store()
    name = OperationName.parse(operation)
    checkpoint = read_newest_checkpoint(store, name)
    if checkpoint is not None and checkpoint.threads is not None:
        threads = checkpoint.threads
    torch.set_num_threads(threads)
    part = open_train_part(store, names["train_split"], field="adapter.train_split")
    if part.digest != request["train_split"]:
        raise FailedPrecondition(
            f"{part.name} is not the train split that was asked for; split the dataset again, and ask for that one",
            reason="SPLIT_DIFFERS",
        )
    found = base_model.resolve(names["base_model"], field="adapter.settings.base_model")
    base_model.verify(found, request["base_model"])
    model = lend(found)
    settings = recorded_adapter_settings(request)
    steps = recipe.training_steps(settings)

    images = pixels(store, part, settings.image_size)
    memory = partial(
        memory_told_at,
        "adapter.settings.batch_size",
        f"batches of {settings.batch_size} images of {settings.image_size} pixels",
        "lower the adapter's batch_size or image_size",
    )
    held_out_ones = held_out_rows(part, settings.held_out, settings.seed)
    epochs = -(-steps * settings.batch_size // (len(images) - len(held_out_ones)))
    prompts = (settings.prompt, *settings.more_prompts)
    with memory():
        # The number of threads is in the keys: it decides about last bits.
        views = min(recipe.MOST_VIEWS, epochs)
        encoded = INPUTS.get(
            ("latents", found.digest, part.digest, settings.image_size, views, threads),
            lambda: recipe.cache_latents(model, images, np.asarray(part.labels), views),
        )
        latents, held_out = recipe.set_aside(model, settings, recipe.Latents(*encoded), held_out_ones)
        (embeddings,) = INPUTS.get(
            ("prompts", found.digest, prompts, part.classes, threads),
            lambda: (recipe.prompt_embeddings(model, prompts, part.classes),),
        )
        state = recipe.set_up(model, settings, checkpoint)

    last = {"checkpoint_s": time.monotonic(), "report_s": 0.0}

    def after_step(state: recipe.TrainingState) -> None:
        count_on_worker("synthmix_training_steps", 1, ADAPTER_TRAINING)
        count_on_worker("synthmix_training_images", settings.batch_size, ADAPTER_TRAINING)
        now_s = time.monotonic()
        if now_s - last["report_s"] > REPORT_INTERVAL_SECONDS:
            last["report_s"] = now_s
            report(min(state.step * settings.batch_size, settings.images_seen), None, _message(state))
        if now_s - last["checkpoint_s"] > CHECKPOINT_INTERVAL_SECONDS and state.step < steps:
            last["checkpoint_s"] = now_s
            images_seen = state.step * settings.batch_size
            write_checkpoint(
                store,
                name,
                Checkpoint(images_seen, recipe.state_tensors(state), state.losses, threads, tuple(state.held_out)),
            )

    with memory():
        recipe.train(model, state, settings, latents, embeddings, after_step, held_out)
    if not np.isfinite(state.losses[-1]):
        raise FailedPrecondition(
            f"the training diverged (loss {state.losses[-1]}); lower the adapter's learning_rate "
            f"(it was {settings.learning_rate:g})",
            reason="TRAINING_DIVERGED",
        )
    curve = recipe.loss_curve(state.losses)
    artifact = ArtifactName.parse(target, field="target")
    payloads = [
        write_payload(store, artifact, name, data)
        for name, data in {
            **adapter_files(model.unet, state.first_factors),
            "losses.json": json.dumps(curve).encode(),
        }.items()
    ]
    return {
        "payloads": [payload.__dict__ for payload in payloads],
        "summary": {
            "classes": list(part.classes),
            "class_counts": {label: part.labels.count(index) for index, label in enumerate(part.classes)},
            "grey": bool(np.all(images == images[..., :1])),
            "final_loss": curve[-1][1],
            "parameter_count": sum(value.numel() for value in state.parameters.values()),
            "threads": threads,
            "device": str(model.device),
            "images_seen": recipe.kept_images_seen(state, settings),
            "held_out_losses": state.held_out,
        },
    }


def _message(state: recipe.TrainingState) -> str:
    """What who watches is told of the loss on held-out images; "" if none is known."""
    if not state.held_out:
        return ""
    lowest = min(measured.loss for measured in state.held_out)
    return f"training; held-out loss {state.held_out[-1].loss:.4g}, lowest {lowest:.4g}"
