"""A training as it stands at `stop_at`, in object storage, for the trainings of the same adapter that go on from it.

    checkpoints/operations/adapter-training/{id}/stopped/{train split}-{base model}/{images seen, 12 digits}.safetensors

The id is that of the adapter without stop_at, to which all of them lead. One object has the state and the pictures that
were made so far. It stays until that adapter is trained, or as long as any checkpoint of an operation that has ended.
If it is gone, a training begins at its beginning, and comes to the same bytes. No operation's record need say what was
learnt from, so that the key does: a deletion looks for it there (synthmix.service_kit.deletion).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from synthmix.adapter_training.checkpoints import Checkpoint, from_bytes, images_seen_at, leaf_of, to_bytes
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.generators import recorded_adapter_settings
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import OperationName

# What pictures are called among the tensors.
PICTURE = "picture"


@dataclass(frozen=True)
class Stopped:
    """A training as it stands.

    Attributes:
        previews: The pictures that were made so far, by their names among an adapter's payloads.
    """

    checkpoint: Checkpoint
    previews: Mapping[str, bytes]


def end_of(settings: AdapterSettings) -> int:
    """The images seen with which a training ends. `settings` are filled."""
    return settings.stop_at or settings.images_seen


def steps_for(images: int, settings: AdapterSettings) -> int:
    """Optimizer steps in which so many images are seen."""
    return math.ceil(images / settings.batch_size)


def key_of(request: Mapping[str, Any], images_seen: int) -> str:
    """Where a training is kept as it stands after so many images seen."""
    return f"{_folder(request)}{leaf_of(images_seen)}"


def write_stopped(store: ObjectStore, request: Mapping[str, Any], stopped: Stopped) -> None:
    """Keeps a training as it stands, and deletes what is kept of it with fewer images.

    Args:
        request: The adapter's canonical one.
    """
    import torch

    pictures = {
        f"{PICTURE}.{name}": torch.frombuffer(bytearray(png), dtype=torch.uint8)
        for name, png in stopped.previews.items()
    }
    checkpoint = stopped.checkpoint
    store.put_bytes(
        key_of(request, checkpoint.images_seen),
        to_bytes(replace(checkpoint, tensors=checkpoint.tensors | pictures)),
    )
    for stale in _keys(store, request):
        if images_seen_at(stale) < checkpoint.images_seen:
            store.delete(stale)


def read_stopped(store: ObjectStore, request: Mapping[str, Any], beyond: int = 0) -> Stopped | None:
    """The training from which an adapter's can go on; None if there is none.

    Args:
        request: The adapter's canonical one.
        beyond: Images seen, of which it has more.
    """
    for key in _keys(store, request):
        if not beyond < images_seen_at(key) <= _last_images_seen(request):
            continue
        try:
            data = store.get_bytes(key)
        except NotFound:
            continue  # another training, which is further on, or a sweep deleted it meanwhile
        checkpoint = from_bytes(images_seen_at(key), data)
        pictures = [name for name in checkpoint.tensors if name.startswith(f"{PICTURE}.")]
        previews = {name.removeprefix(f"{PICTURE}."): checkpoint.tensors.pop(name) for name in pictures}
        return Stopped(checkpoint, {name: value.numpy().tobytes() for name, value in previews.items()})
    return None


def images_seen_before(store: ObjectStore, request: Mapping[str, Any]) -> int:
    """After how many images seen an adapter's training would go on now; 0 if it would begin."""
    last = _last_images_seen(request)
    return max((seen for seen in map(images_seen_at, _keys(store, request)) if seen <= last), default=0)


def _keys(store: ObjectStore, request: Mapping[str, Any]) -> list[str]:
    """Those with more images seen come first."""
    return sorted((item.key for item in store.list(_folder(request))), reverse=True)


def _folder(request: Mapping[str, Any]) -> str:
    settings = {field: value for field, value in request["settings"].items() if field != "stop_at"}
    whole = OperationName(ADAPTER_TRAINING, digest_of({**request, "settings": settings}))
    return f"{whole.checkpoints}stopped/{request['train_split']}-{request['base_model']}/"


def _last_images_seen(request: Mapping[str, Any]) -> int:
    """With the whole of the last batch."""
    settings = recorded_adapter_settings(request)
    return steps_for(end_of(settings), settings) * settings.batch_size
