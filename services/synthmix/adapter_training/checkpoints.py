"""The state of a training in object storage.

    checkpoints/operations/adapter-training/{id}/{images seen, 12 digits}.safetensors
    checkpoints/operations/adapter-training/{id}/finished/{folder}.safetensors

One object a checkpoint, so that it is whole or absent. Older ones are deleted after the new one is written. Of an
artifact of several adapters, those that are finished have an object each.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import OperationName

if TYPE_CHECKING:
    import torch

ENDING = ".safetensors"
FINISHED = "finished"


@dataclass(frozen=True)
class Checkpoint:
    """A training as it was after so many images.

    Attributes:
        tensors: By name.
        losses: Of each optimizer step so far.
        threads: With which it was trained: with others it would not come to the same bytes. None if that is not known,
            of one that an earlier version wrote.
        held_out: Images seen and loss of each evaluation on held-out images.
        folder: Which of an artifact's adapters it is of; "" for the only one.
    """

    images_seen: int
    tensors: "dict[str, torch.Tensor]"
    losses: list[float]
    threads: int | None
    held_out: tuple[tuple[int, float], ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class Finished:
    """One of an artifact's adapters, trained to its end.

    Attributes:
        files: By name.
        summary: What the manifest says of it.
    """

    files: dict[str, bytes]
    summary: dict[str, Any]


def write_checkpoint(store: ObjectStore, operation: OperationName, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save

    older = _keys(store, operation)
    key = f"{operation.checkpoints}{checkpoint.images_seen:012d}{ENDING}"
    metadata = {
        "losses": json.dumps(checkpoint.losses),
        "threads": str(checkpoint.threads),
        "held_out": json.dumps(checkpoint.held_out),
        "folder": checkpoint.folder,
    }
    store.put_bytes(key, save(checkpoint.tensors, metadata=metadata))
    for stale in older:
        if stale != key:
            store.delete(stale)


def read_newest_checkpoint(store: ObjectStore, operation: OperationName) -> Checkpoint | None:
    """None if there is no checkpoint."""
    from safetensors.torch import load

    keys = _keys(store, operation)
    if not keys:
        return None
    data = store.get_bytes(keys[-1])
    metadata = _metadata(data)
    return Checkpoint(
        int(keys[-1].rpartition("/")[2].removesuffix(ENDING)),
        load(data),
        json.loads(metadata["losses"]),
        int(metadata["threads"]) if "threads" in metadata else None,
        tuple((seen, loss) for seen, loss in json.loads(metadata.get("held_out", "[]"))),
        metadata.get("folder", ""),
    )


def write_finished(store: ObjectStore, operation: OperationName, folder: str, finished: Finished) -> None:
    """Keeps an adapter until the others are trained, and deletes the checkpoints of its training."""
    import torch
    from safetensors.torch import save

    files = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in finished.files.items()}
    key = f"{operation.checkpoints}{FINISHED}/{folder}{ENDING}"
    store.put_bytes(key, save(files, metadata={"summary": json.dumps(finished.summary)}))
    for stale in _keys(store, operation):
        store.delete(stale)


def read_finished(store: ObjectStore, operation: OperationName) -> dict[str, Finished]:
    """The adapters of an artifact that are finished, by their folders."""
    from safetensors.torch import load

    found = {}
    for item in store.list(f"{operation.checkpoints}{FINISHED}/"):
        data = store.get_bytes(item.key)
        files = {name: value.numpy().tobytes() for name, value in load(data).items()}
        folder = item.key.rpartition("/")[2].removesuffix(ENDING)
        found[folder] = Finished(files, json.loads(_metadata(data)["summary"]))
    return found


def delete_checkpoints(store: ObjectStore, operation: OperationName) -> None:
    store.delete_prefix(operation.checkpoints)


def _keys(store: ObjectStore, operation: OperationName) -> list[str]:
    # Zero-padded, so that the order of keys is the order of images seen.
    keys = (item.key for item in store.list(operation.checkpoints))
    return sorted(key for key in keys if "/" not in key.removeprefix(operation.checkpoints))


def _metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says besides its tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8:end])["__metadata__"]
    return metadata
