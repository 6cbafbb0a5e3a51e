"""The state of a training in object storage.

    checkpoints/operations/adapter-training/{id}/{images seen, 12 digits}.safetensors

One object a checkpoint, so that it is whole or absent. Older ones are deleted after the new one is written.
"""

import json
from typing import TYPE_CHECKING

from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import OperationName

if TYPE_CHECKING:
    import torch


def write_checkpoint(
    store: ObjectStore,
    operation: OperationName,
    images_seen: int,
    tensors: "dict[str, torch.Tensor]",
    losses: list[float],
) -> None:
    from safetensors.torch import save

    older = _keys(store, operation)
    key = f"{operation.checkpoints}{images_seen:012d}.safetensors"
    store.put_bytes(key, save(tensors, metadata={"losses": json.dumps(losses)}))
    for stale in older:
        if stale != key:
            store.delete(stale)


def read_newest_checkpoint(
    store: ObjectStore, operation: OperationName
) -> "tuple[int, dict[str, torch.Tensor], list[float]] | None":
    """Images seen, the tensors, and the losses so far; or None if there is no checkpoint."""
    from safetensors.torch import load

    keys = _keys(store, operation)
    if not keys:
        return None
    data = store.get_bytes(keys[-1])
    header_bytes = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
    return (
        int(keys[-1].rpartition("/")[2].removesuffix(".safetensors")),
        load(data),
        json.loads(metadata["losses"]),
    )


def delete_checkpoints(store: ObjectStore, operation: OperationName) -> None:
    store.delete_prefix(operation.checkpoints)


def _keys(store: ObjectStore, operation: OperationName) -> list[str]:
    # Zero-padded, so that the order of keys is the order of images seen.
    return sorted(item.key for item in store.list(operation.checkpoints))
