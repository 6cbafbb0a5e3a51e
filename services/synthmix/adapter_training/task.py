"""What a worker does for one adapter: data and base model in, checkpoints on the way, the adapter's payloads out."""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from synthmix.adapter_training import recipe
from synthmix.adapter_training.checkpoints import Checkpoint, read_newest_checkpoint, write_checkpoint
from synthmix.adapter_training.kept_inputs import INPUTS
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.kept_models import lend
from synthmix.latent_diffusion.loading import ADAPTER_WEIGHTS
from synthmix.service_kit.artifacts import write_payload
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.settings_messages import from_canonical

CHECKPOINT_INTERVAL_SECONDS = 15.0
REPORT_INTERVAL_SECONDS = 0.5


def train(
    operation: str,
    target: str,
    request: dict[str, Any],
    names: dict[str, Any],
    report: Callable[[int], None],
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
    settings = from_canonical(request["settings"], adapters_pb2.AdapterSettings)
    steps = recipe.training_steps(settings)

    images = pixels(store, part, settings.image_size)
    memory = partial(
        memory_told_at,
        "adapter.settings.batch_size",
        f"batches of {settings.batch_size} images of {settings.image_size} pixels",
        "lower the adapter's batch_size or image_size",
    )
    epochs = -(-steps * settings.batch_size // len(images))
    with memory():
        # The number of threads is in the keys: it decides about last bits.
        views = min(recipe.MOST_VIEWS, epochs)
        encoded = INPUTS.get(
            ("latents", found.digest, part.digest, settings.image_size, views, threads),
            lambda: recipe.cache_latents(model, images, np.asarray(part.labels), views),
        )
        latents = recipe.Latents(*encoded)
        class_embeddings, empty_embedding = INPUTS.get(
            ("prompts", found.digest, settings.prompt, part.classes, threads),
            lambda: recipe.prompt_embeddings(model, settings.prompt, part.classes),
        )
        state = recipe.set_up(model, settings)
        if checkpoint is not None:
            recipe.restore(state, checkpoint, settings)

    last = {"checkpoint_s": time.monotonic(), "report_s": 0.0}

    def after_step(state: recipe.TrainingState) -> None:
        count_on_worker("synthmix_training_steps", 1, ADAPTER_TRAINING)
        count_on_worker("synthmix_training_images", settings.batch_size, ADAPTER_TRAINING)
        now_s = time.monotonic()
        if now_s - last["report_s"] > REPORT_INTERVAL_SECONDS:
            last["report_s"] = now_s
            report(min(state.step * settings.batch_size, settings.images_seen))
        if now_s - last["checkpoint_s"] > CHECKPOINT_INTERVAL_SECONDS and state.step < steps:
            last["checkpoint_s"] = now_s
            images_seen = state.step * settings.batch_size
            write_checkpoint(store, name, Checkpoint(images_seen, recipe.state_tensors(state), state.losses, threads))

    with memory():
        recipe.train(model, state, settings, latents, class_embeddings, empty_embedding, after_step)
    if not np.isfinite(state.losses[-1]):
        raise FailedPrecondition(
            f"the training diverged (loss {state.losses[-1]}); lower the adapter's learning_rate "
            f"(it was {settings.learning_rate:g})",
            reason="TRAINING_DIVERGED",
        )
    curve = recipe.loss_curve(state.losses)
    artifact = ArtifactName.parse(target, field="target")
    payloads = [
        write_payload(store, artifact, ADAPTER_WEIGHTS, adapter_weights(model.unet)),
        write_payload(store, artifact, "losses.json", json.dumps(curve).encode()),
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
        },
    }


def adapter_weights(unet: Any) -> bytes:
    """The adapter as diffusers' `load_lora_weights` reads it, with rank and alpha in the file's metadata."""
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers={key: value.float() for key, value in layers.items()},
            unet_lora_adapter_metadata=_plain(unet.peft_config["default"].to_dict()),
        )
        return with_sorted_header((Path(folder) / ADAPTER_WEIGHTS).read_bytes())


def with_sorted_header(data: bytes) -> bytes:
    """A safetensors file with its header's keys in order: safetensors writes metadata in a new order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned to eight bytes
    return len(header).to_bytes(8, "little") + header + data[end:]


def _plain(value: Any) -> Any:
    """Sets have no order, and the file's bytes must be the same every time."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
