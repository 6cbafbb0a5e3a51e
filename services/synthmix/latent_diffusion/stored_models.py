"""A base model in object storage, as a folder of this node: linked from its cache, and there for as long as it is used.

    models/{digest of its files}/{sha256}   each file; the payload's name is its path in the diffusers layout

Who plans gets the small files, and of weights the header alone with a hole in the tensors' place: shapes can be read
from it, and nothing can be learned from it.
"""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthmix.latent_diffusion.model_folder import NOT_FOUND, TOO_LARGE, WEIGHTS, ModelFolder, parts
from synthmix.latent_diffusion.model_kinds import INDEX
from synthmix.service_kit import model_names
from synthmix.service_kit.artifacts import Manifest, link_payload, payload_key, read_manifest
from synthmix.service_kit.environment import cache_folder
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.node_cache import BUDGET_VARIABLE, cache_budget_bytes, room
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.requesters import current_requester
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.safetensors_header import LARGEST_HEADER_BYTES, LENGTH_BYTES, header_length


@dataclass(frozen=True)
class StoredModel:
    """A model of object storage on this node.

    Attributes:
        reference: models/{digest}.
        folder: Its folder in the diffusers layout.
        sha256s: Of each file, by its path.
    """

    reference: str
    folder: Path
    sha256s: dict[str, str]


def open_model(store: ObjectStore, named: ModelFolder, *, weights: bool) -> StoredModel:
    """Fetches the files of a model that this node's cache lacks. They stay for as long as anybody has what is returned.

    Args:
        named: How the request names it, by models/{digest} or models/{name}.
        weights: False for who plans only.

    Raises:
        InvalidArgument: There is no such model, or it does not fit into the node's cache.
        DataLoss: A file is not what was imported.
        ResourceExhausted: Others use so much of the node's cache that it does not fit.
    """
    manifest = _find(store, named)
    if weights:
        _check_fits(named, sum(payload.size_bytes for payload in manifest.payloads))
        return _fetch(store, manifest, weights=True)
    same: Any = store  # as a key of what is kept it is itself
    outline = _outline(same, manifest.name)
    if not outline.folder.is_dir():  # somebody emptied the cache
        _outline.cache_clear()
        outline = _outline(same, manifest.name)
    return outline


@lru_cache(maxsize=4)  # each adapter of a grid asks, and finds what was read of the folder
def _outline(store: ObjectStore, model: ArtifactName) -> StoredModel:
    return _fetch(store, read_manifest(store, model), weights=False)


def _fetch(store: ObjectStore, manifest: Manifest, *, weights: bool) -> StoredModel:
    files = {payload.name: payload for payload in manifest.payloads}
    loaded = [name for name in files if name == INDEX] + parts(files)
    with ExitStack() as stack:
        folder = stack.enter_context(room(0)) / "model"
        for name in loaded:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if weights or not name.endswith(WEIGHTS):
                stack.enter_context(link_payload(store, manifest, name, path))
            else:
                chunks = store.stream(payload_key(manifest.name, files[name]))
                write_outline(path, chunks, files[name].size_bytes)
        model = StoredModel(str(manifest.name), folder, {name: files[name].sha256 for name in loaded})
        weakref.finalize(model, stack.pop_all().close)
        return model


def write_outline(path: Path, chunks: Iterator[bytes], size_bytes: int) -> None:
    """Writes a safetensors file of this size whose tensors are a hole.

    What is not a safetensors file is written as far as its header would reach, for the checks to tell.

    Args:
        chunks: The file's own bytes, of which no more than the header is asked for.
    """
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) >= min(header_length(data), LENGTH_BYTES + LARGEST_HEADER_BYTES):
            break
    with path.open("wb") as file:
        file.write(data[: header_length(data)])
        file.truncate(size_bytes)


def _find(store: ObjectStore, named: ModelFolder) -> Manifest:
    owner = current_requester().owner
    try:
        return read_manifest(store, model_names.resolve(store, named.reference, owner=owner, field=named.field))
    except NotFound as error:
        remedy = model_names.remedy(store, named.reference)
        raise named.fault("is not among the models in object storage", remedy, NOT_FOUND) from error


def _check_fits(named: ModelFolder, size_bytes: int) -> None:
    """Raises InvalidArgument if it does not fit into the node's cache even when nothing else is in it."""
    if size_bytes > cache_budget_bytes():
        raise named.fault(
            f"has {byte_size(size_bytes)}, more than the {byte_size(cache_budget_bytes())} that the cache "
            f"{cache_folder()} may hold",
            f"use another; the operator sets the limit by {BUDGET_VARIABLE} or the chart's workers.*.cache, of which "
            "it is 90 %",
            TOO_LARGE,
        )
