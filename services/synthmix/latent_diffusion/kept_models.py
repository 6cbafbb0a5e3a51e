"""Base models that stay in a worker's memory, for all the adapters that are trained on them or sample from them.

Loading one takes seconds, and a worker makes one adapter or image set of it after another. What is lent is a copy: its
modules are its own, and the values of its weights are the base model's. An adapter goes into the copy's modules, and
away with the copy; the base model stays bit for bit what it was, so nothing has to be undone when a task fails.

Not safe to share between threads: a worker runs one task at a time.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from synthmix.latent_diffusion.autoencoder import free_memory_bytes, select_device
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.service_kit.kept_values import KeptValues

# Of the memory that is free without the kept models.
KEPT_SHARE = 0.25

MODELS: KeptValues[LatentDiffusion] = KeptValues(
    lambda model: sum(value.nbytes for value in _tensors(model)),
    lambda kept_bytes: KEPT_SHARE * (free_memory_bytes(select_device()) + kept_bytes),
    newest_always=True,
)


def lend(found: BaseModel) -> LatentDiffusion:
    """A copy of a base model that was verified, which is loaded unless this process has kept it.

    Weights of the copy may be replaced (`module.weight.data = ...`, as PEFT does) and moved (`to`), and adapters added.
    Values must not be changed in place: they are those of the base model, and of its other copies.

    Raises:
        InvalidArgument: The weights don't make the model that the small files say, or give no numbers.
        FailedPrecondition: The memory isn't enough.
    """
    return shared_copy(MODELS.get(found.digest, lambda: load(found.folder, select_device())))


def shared_copy(model: LatentDiffusion) -> LatentDiffusion:
    """A model whose UNet and (first) text encoder have modules of their own around the same weights."""
    pipeline = model.pipeline
    copied = copy.copy(pipeline)
    copied.unet, copied.text_encoder = _shared_copy(pipeline.unet), _shared_copy(pipeline.text_encoder)
    # Schedulers keep where they are.
    copied.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    return LatentDiffusion(copied, model.device, model.dtype)


def _shared_copy(module: torch.nn.Module) -> torch.nn.Module:
    # Parameters of its own, so that one may be replaced here without being replaced there; of the same storage.
    tensors: dict[int, Any] = {
        id(value): torch.nn.Parameter(value.data, requires_grad=value.requires_grad) for value in module.parameters()
    }
    tensors |= {id(value): value for value in module.buffers()}
    return copy.deepcopy(module, tensors)


def _tensors(model: LatentDiffusion) -> Iterator[torch.Tensor]:
    for part in (model.unet, model.vae, *model.text_encoders):
        yield from itertools.chain(part.parameters(), part.buffers())
