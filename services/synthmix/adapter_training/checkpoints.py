"""The state of a training in object storage.

    checkpoints/operations/adapter-training/{id}/{images seen, 12 digits}.safetensors

One object a checkpoint, so that it is whole or absent. Older ones are deleted after the new one is written.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import OperationName

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Checkpoint:
    """A training as it was after so many images.

    Attributes:
        tensors: By name.
        losses: Of each optimizer step so far.
        threads: With which it was trained: with others it would not come to the same bytes. None if that is not known,
            of one that an earlier version wrote.
        held_out: Images seen and loss of each evaluation on held-out images.
    """

    images_seen: int
    tensors: "dict[str, torch.Tensor]"
    losses: list[float]
    threads: int | None
    held_out: tuple[tuple[int, float], ...] = ()


def write_checkpoint(store: ObjectStore, operation: OperationName, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save

    older = _keys(store, operation)
    key = f"{operation.checkpoints}{checkpoint.images_seen:012d}.safetensors"
    metadata = {
        "losses": json.dumps(checkpoint.losses),
        "threads": str(checkpoint.threads),
        "held_out": json.dumps(checkpoint.held_out),
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
    header_bytes = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
    return Checkpoint(
        int(keys[-1].rpartition("/")[2].removesuffix(".safetensors")),
        load(data),
        json.loads(metadata["losses"]),
        int(metadata["threads"]) if "threads" in metadata else None,
        tuple((seen, loss) for seen, loss in json.loads(metadata.get("held_out", "[]"))),
    )


def delete_checkpoints(store: ObjectStore, operation: OperationName) -> None:
    store.delete_prefix(operation.checkpoints)


def _keys(store: ObjectStore, operation: OperationName) -> list[str]:
    # Zero-padded, so that the order of keys is the order of images seen.
    return sorted(item.key for item in store.list(operation.checkpoints))
