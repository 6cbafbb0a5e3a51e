"""What a worker does for one shard: the pipeline with its adapter, and images that each have a generator of their own.

Sampling follows the base model's own scheduler; guidance is classifier-free (Ho and Salimans 2022, arXiv:2207.12598).
The image at index i starts from the noise of (seed, i): which worker makes it, and how many there are, changes nothing.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.generators import adapter_settings
from synthmix.image_data.image_table import write_shard
from synthmix.image_synthesis.shard_ranges import shard_range
from synthmix.image_synthesis.shards import PlannedImage, image_count, planned_images, record_shard
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.autoencoder import select_device
from synthmix.latent_diffusion.loading import ADAPTER_WEIGHTS, LatentDiffusion, load, probe
from synthmix.latent_diffusion.safetensors_header import check_header
from synthmix.service_kit.artifacts import Manifest, open_payload, read_manifest
from synthmix.service_kit.environment import IMAGE_SYNTHESIS
from synthmix.service_kit.errors import DataLoss, FailedPrecondition, invalid_field
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.settings_messages import from_canonical

BATCH_IMAGES = 16


def synthesise_shard(
    operation: str, target: str, request: dict[str, Any], number: int, report: Callable[[int], None], threads: int
) -> int:
    """Makes the images of one shard, writes and records it, and returns how many they are."""
    torch.set_num_threads(threads)
    store = open_object_store()
    adapter = read_manifest(store, ArtifactName(ADAPTERS, request["adapter"]))
    settings = from_canonical(request["settings"], SynthesisSettings)
    model = adapted_model(adapter.name)
    planned = planned_images(request, shard_range(image_count(request), number))
    images: list[bytes] = []
    for start in range(0, len(planned), BATCH_IMAGES):
        images += synthesise_batch(model, adapter, settings, planned[start : start + BATCH_IMAGES])
        report(len(images))
    shard = write_shard(store, ArtifactName.parse(target, field="target"), number, images)
    record_shard(store, OperationName.parse(operation), number, shard)
    count_on_worker("synthmix_images", len(images), IMAGE_SYNTHESIS)
    return len(images)


def synthesise_batch(
    model: LatentDiffusion, adapter: Manifest, settings: SynthesisSettings, planned: Sequence[PlannedImage]
) -> list[bytes]:
    """PNGs of the planned images."""
    size_px = adapter_settings(adapter).image_size
    generators = [torch.Generator().manual_seed(image.seed) for image in planned]
    try:
        with memory_told_at(
            "image_set.adapter",
            f"{len(planned)} images of {size_px} pixels at once",
            "use an adapter of a smaller image_size",
        ):
            pixels = model.pipeline(
                [image.prompt for image in planned],
                height=size_px,
                width=size_px,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=generators,
                output_type="np",
            ).images
    except ValueError as error:  # some schedulers can't take few steps, or as many as they like
        raise invalid_field(
            "image_set.settings.steps",
            settings.steps,
            f"cannot be taken with the base model's {type(model.pipeline.scheduler).__name__} ({error})",
            "use another number of steps, such as 25",
            reason="STEPS_UNSUPPORTED",
        ) from error
    if not np.isfinite(pixels).all():
        raise FailedPrecondition(
            f"the base model with {adapter.name} makes images that are no numbers (NaN or infinite); train an "
            "adapter with a lower learning_rate, or use another base model",
            reason="IMAGES_NOT_FINITE",
        )
    return [_png(image, grey=adapter.summary["grey"]) for image in pixels]


@lru_cache(maxsize=1)  # a worker makes many shards of one image set
def adapted_model(adapter_name: ArtifactName) -> LatentDiffusion:
    """The adapter's base model with the adapter in it. Raises DataLoss if the adapter changes nothing."""
    store = open_object_store()
    adapter = read_manifest(store, adapter_name)
    found = base_model.resolve(adapter.summary["base_model"], field="adapter.settings.base_model")
    base_model.verify(found, adapter.inputs["base_model"])
    model = load(found.folder, select_device())
    before = probe(model)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / ADAPTER_WEIGHTS
        with open_payload(store, adapter, ADAPTER_WEIGHTS) as stored, weights.open("wb") as copy:
            shutil.copyfileobj(stored, copy)
        _check_weights(weights, adapter)
        model.pipeline.load_lora_weights(folder, weight_name=ADAPTER_WEIGHTS)
    check_adapter_has_effect(model, before, adapter)
    return model


def _check_weights(path: Path, adapter: Manifest) -> None:
    """Raises DataLoss for weights that no library shall read."""
    try:
        check_header(path)
    except ValueError as error:
        raise DataLoss(
            f"{adapter.name} has weights that cannot be used ({error}); delete it and train it again",
            reason="ADAPTER_UNREADABLE",
        ) from error


def check_adapter_has_effect(model: LatentDiffusion, before: torch.Tensor, adapter: Manifest) -> None:
    """Raises DataLoss if the loaded adapter changes nothing: weights under unknown names load without an error."""
    if torch.equal(before, probe(model)):
        raise DataLoss(
            f"{adapter.name} was loaded and changes nothing; delete it and train it again",
            reason="ADAPTER_WITHOUT_EFFECT",
        )


def _png(image: np.ndarray, *, grey: bool) -> bytes:
    """PNG of an image (height, width, 3) in 0 to 1. Grey if the real ones are: colour noise would tell them apart."""
    values = np.clip(np.rint(image.mean(axis=-1) * 255 if grey else image * 255), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
