"""The state of a training in object storage.

    checkpoints/operations/adapter-training/{id}/{images seen, 12 digits}.safetensors
    checkpoints/operations/adapter-training/{id}/finished/{folder}.json
    checkpoints/operations/adapter-training/{id}/{folder}/previews/{images seen, 12 digits}.png

One object a checkpoint, so that it is whole or absent. Older ones are deleted after the new one is written. Of an
artifact of several adapters, those that are finished are among its payloads, and a record of each says which these
are: hundreds of adapters do not stay in a worker's memory. Pictures are kept as they are made: what goes on from a
checkpoint makes those that came after it again, to the same bytes.
"""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from synthmix.service_kit.adapter_payloads import PREVIEWS, in_folder, preview_file
from synthmix.service_kit.artifacts import Payload, payload_key
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName, OperationName

if TYPE_CHECKING:
    import torch

ENDING = ".safetensors"
FINISHED, RECORD = "finished", ".json"


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
        micro_batch: How many images of a batch were in memory at once; 0 for all.
    """

    images_seen: int
    tensors: "dict[str, torch.Tensor]"
    losses: list[float]
    threads: int | None
    held_out: tuple[tuple[int, float], ...] = ()
    folder: str = ""
    micro_batch: int = 0


@dataclass(frozen=True)
class Finished:
    """One of an artifact's adapters, trained to its end.

    Attributes:
        payloads: Its files, in object storage.
        losses: The course of its training: steps, and the mean loss since the point before.
        summary: What the manifest says of it.
    """

    payloads: tuple[Payload, ...]
    losses: list[tuple[int, float]]
    summary: dict[str, Any]


def write_checkpoint(store: ObjectStore, operation: OperationName, checkpoint: Checkpoint) -> None:
    older = _keys(store, operation)
    key = f"{operation.checkpoints}{leaf_of(checkpoint.images_seen)}"
    store.put_bytes(key, to_bytes(checkpoint))
    for stale in older:
        if stale != key:
            store.delete(stale)


def read_newest_checkpoint(store: ObjectStore, operation: OperationName) -> Checkpoint | None:
    """None if there is no checkpoint."""
    keys = _keys(store, operation)
    return from_bytes(images_seen_at(keys[-1]), store.get_bytes(keys[-1])) if keys else None


def leaf_of(images_seen: int) -> str:
    """What stands last in a checkpoint's key, zero-padded, so that the order of keys is the order of images seen."""
    return f"{images_seen:012d}{ENDING}"


def images_seen_at(key: str) -> int:
    """After how many images seen a training was as the checkpoint of this key says."""
    return int(key.rpartition("/")[2].removesuffix(ENDING))


def to_bytes(checkpoint: Checkpoint) -> bytes:
    from safetensors.torch import save

    metadata = {
        "losses": json.dumps(checkpoint.losses),
        "threads": str(checkpoint.threads),
        "held_out": json.dumps(checkpoint.held_out),
        "folder": checkpoint.folder,
        "micro_batch": str(checkpoint.micro_batch),
    }
    data: bytes = save(checkpoint.tensors, metadata=metadata)
    return data


def from_bytes(images_seen: int, data: bytes) -> Checkpoint:
    from safetensors.torch import load

    metadata = _metadata(data)
    return Checkpoint(
        images_seen,
        load(data),
        json.loads(metadata["losses"]),
        int(metadata["threads"]) if "threads" in metadata else None,
        tuple((seen, loss) for seen, loss in json.loads(metadata.get("held_out", "[]"))),
        metadata.get("folder", ""),
        int(metadata.get("micro_batch", 0)),
    )


def write_finished(store: ObjectStore, operation: OperationName, folder: str, finished: Finished) -> None:
    """Keeps what an adapter has become until the others are trained, and deletes the checkpoints of its training."""
    store.put_json(f"{operation.checkpoints}{FINISHED}/{folder}{RECORD}", asdict(finished))
    for stale in _keys(store, operation):
        store.delete(stale)


def read_finished(store: ObjectStore, operation: OperationName, artifact: ArtifactName) -> dict[str, Finished]:
    """The adapters of an artifact that are finished, and still in object storage, by their folders."""
    present = {item.key for item in store.list(f"{artifact}/")}
    found = {}
    for item in store.list(f"{operation.checkpoints}{FINISHED}/"):
        folder, _, ending = item.key.rpartition("/")[2].rpartition(".")
        if f".{ending}" != RECORD:  # an earlier version kept the files themselves; their adapters are trained again
            continue
        value = store.get_json(item.key)
        payloads = tuple(Payload(**payload) for payload in value["payloads"])
        losses = [(step, loss) for step, loss in value["losses"]]
        if all(payload_key(artifact, payload) in present for payload in payloads):
            found[folder] = Finished(payloads, losses, value["summary"])
    return found


def write_preview(store: ObjectStore, operation: OperationName, folder: str, images_seen: int, png: bytes) -> None:
    """Keeps the pictures that one of an artifact's adapters made, until it is trained."""
    store.put_bytes(operation.checkpoints + in_folder(folder, preview_file(images_seen)), png)


def read_previews(store: ObjectStore, operation: OperationName, folder: str) -> dict[str, bytes]:
    """Those that are kept, by their names among the adapter's payloads."""
    start = operation.checkpoints + in_folder(folder, "")
    keys = sorted(item.key for item in store.list(start + PREVIEWS))
    return {key.removeprefix(start): store.get_bytes(key) for key in keys}


def delete_checkpoints(store: ObjectStore, operation: OperationName) -> None:
    store.delete_prefix(operation.checkpoints)


def _keys(store: ObjectStore, operation: OperationName) -> list[str]:
    keys = (item.key for item in store.list(operation.checkpoints))
    return sorted(key for key in keys if "/" not in key.removeprefix(operation.checkpoints))


def _metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says besides its tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8:end])["__metadata__"]
    return metadata
