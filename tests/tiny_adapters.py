"""Adapters of every method in every set of layers, trained for some steps on the tiny base model."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning, recipe
from synthmix.adapter_training.checkpoints import Checkpoint, read_newest_checkpoint, write_checkpoint
from synthmix.adapter_training.methods import METHODS, fields_of
from synthmix.adapter_training.previews import Previews
from synthmix.adapter_training.prior_images import Prior
from synthmix.adapter_training.targets import TARGETS
from synthmix.adapter_training.training_prompts import encoded_in_each_step, encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.resource_names import OperationName

OPERATION = OperationName("adapter-training", "0" * 32)
# What a method refuses: PiSSA and OLoRA factor matrices, and PEFT's OFT cannot turn patches.
REFUSED = {
    *((method, targets) for method in ("pissa", "olora") for targets in list(TARGETS)[2:]),
    *(("oft", targets) for targets in list(TARGETS)[3:]),
}
CASES = [(method, targets) for method in METHODS for targets in TARGETS if (method, targets) not in REFUSED]
# The smallest and the largest set of layers of each method.
ENDS = [
    (method, of_method[end])
    for method in METHODS
    for of_method in [[targets for other, targets in CASES if other == method]]
    for end in (0, -1)
]


def settings_of(found: BaseModel, method: str, targets: str, **others: Any) -> AdapterSettings:
    given = AdapterSettings(
        method=method, targets=targets, images_seen=12, batch_size=4, learning_rate=1e-2, seed=3, **others
    )
    if "rank" in fields_of(method):
        given.rank = 3
    planning.check_method(given)
    settings = planning.filled(given, found)
    planning.check_settings(settings, found)
    return settings


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


class Stop(Exception):
    pass


def trained(
    base: LatentDiffusion,
    settings: AdapterSettings,
    stop_after: int | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    images: np.ndarray | None = None,
    prompts: Sequence[str] = ("a {label} cell",),
    held_out: Sequence[int] = (),
    prior: Prior | None = None,
    drawn: dict[int, bytes] | None = None,
) -> tuple[LatentDiffusion, recipe.TrainingState]:
    """Trains on images of two classes in turn, from the beginning or a checkpoint, to the end or for some steps.

    Args:
        images: (images, 32, 32, 3), uint8; ten of noise if not given.
        held_out: Those that the loss is measured on besides.
        drawn: Gets the sheets of pictures by images seen, where settings ask for previews.
    """
    drawn = {} if drawn is None else drawn
    images = pixels(10) if images is None else images
    model = shared_copy(base)
    latents = recipe.cache_latents(model, images, np.arange(len(images)) % 2, views=2)
    rows = [row for row in range(len(images)) if row not in held_out]
    latents, measured = recipe.chosen(model, settings, latents, rows, held_out)
    state = recipe.set_up(model, settings, checkpoint, ("round", "flat"))
    if settings.text_encoder_targets or settings.class_tokens:
        encoded = encoded_in_each_step(model, settings, ("round", "flat"))
    else:
        encoded = encoded_once(model, prompt_embeddings(model, prompts, ("round", "flat")))

    def after_step(state: recipe.TrainingState) -> None:
        if state.step == stop_after:
            raise Stop

    previews = Previews(settings, ("round", "flat"), grey=False) if settings.previews else None

    def draw(images_seen: int, at_once: int) -> None:
        assert previews is not None
        drawn[images_seen] = previews.sheet(model, at_once=at_once)

    with suppress(Stop):
        recipe.train(model, state, settings, latents, encoded, after_step, measured, prior, draw if previews else None)
    model.unet.eval()
    return model, state


def resumed(
    base: LatentDiffusion, settings: AdapterSettings, stop_after: int, **given: Any
) -> tuple[LatentDiffusion, recipe.TrainingState]:
    """As `trained`, but stopped after so many steps, and gone on from what object storage then has of it."""
    _, interrupted = trained(base, settings, stop_after, **given)
    store, seen = MemoryObjectStore.created(), settings.batch_size * stop_after
    tensors, held_out = recipe.state_tensors(interrupted), tuple(interrupted.held_out)
    write_checkpoint(store, OPERATION, Checkpoint(seen, tensors, interrupted.losses, 1, held_out))
    torch.manual_seed(stop_after)  # as another process, which has drawn other numbers
    return trained(base, settings, checkpoint=read_newest_checkpoint(store, OPERATION), **given)


def written(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
