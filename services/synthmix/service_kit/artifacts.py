"""Artifacts: payload objects first, then the manifest. No manifest, no artifact.

{collection}/{id}/{sha256}       the payload with that content; any number of them
{collection}/{id}/manifest.json  which they are and what they are called, from which inputs, by which recipe

Two writers of one artifact cannot harm each other: an object's name says what is in it, and of two manifests the first
stands. Nothing here deletes: what a writer that failed has left is named by no manifest, and goes by a sweep.
"""

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from synthmix.service_kit.digests import sha256_of, sha256_of_file
from synthmix.service_kit.errors import DataLoss, NotFound, Unavailable
from synthmix.service_kit.node_cache import link_cached, open_cached
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.stored_records import find_record, known_fields, reading

Described = TypeVar("Described")

MANIFEST = "manifest.json"
LAID_ASIDE = "laid-aside/"
"""Where the sweep keeps a payload for a while that it took away."""
IMPORTED = "imported"
"""What the canonical request of an adapter or image set has that was made elsewhere: how it came here."""
_CACHED = "payloads"
SCHEMA = 1
"""Of the manifest: raise it when a version that does not know of the change would read it wrongly."""
SOFTWARE = ("synthmix", "torch", "diffusers", "peft", "timm", "ray", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True)
class Payload:
    """An object of an artifact: what it is called, the sha256 of its bytes in hexadecimal, and their number."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What an artifact is.

    Attributes:
        name: The artifact's resource name.
        inputs: The digest of each artifact or model that it was made from, by role.
        request: The canonical request: defaults filled in, inputs replaced by digests.
        recipe_version: Version of the code whose change changes the payloads.
        payloads: The payload objects.
        summary: Small results, for listings.
        seconds: Wall time of the work.
        gpu_seconds: GPUs times seconds; 0 on a CPU.
        create_time: RFC 3339, UTC.
        software: Versions of the packages that made it.
    """

    name: ArtifactName
    inputs: dict[str, str]
    request: dict[str, Any]
    recipe_version: int
    payloads: tuple[Payload, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    create_time: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
    software: dict[str, str] = field(default_factory=lambda: software_versions())

    def payload(self, name: str) -> Payload:
        """Raises NotFound."""
        for payload in self.payloads:
            if payload.name == name:
                return payload
        raise NotFound(
            f"{self.name} has no payload {name!r}; it has {', '.join(item.name for item in self.payloads)}",
            reason="PAYLOAD_NOT_FOUND",
        )


def payload_key(artifact: ArtifactName, payload: Payload) -> str:
    """Where a payload of an artifact is in object storage."""
    return f"{artifact}/{payload.sha256}"


def write_payload(store: ObjectStore, artifact: ArtifactName, name: str, data: bytes | Path) -> Payload:
    """Writes one payload object and returns its entry for the manifest.

    What is there already is written again, so that a sweep that is under way sees that it is young.
    """
    if isinstance(data, Path):
        payload = Payload(name, sha256_of_file(data), data.stat().st_size)
        store.put_file(payload_key(artifact, payload), data)
    else:
        payload = Payload(name, sha256_of([data]), len(data))
        store.put_bytes(payload_key(artifact, payload), data)
    return payload


def write_manifest(store: ObjectStore, manifest: Manifest) -> Manifest:
    """Makes the artifact exist, once every payload is written.

    Returns:
        The manifest that stands: this one, or that of a writer that was first.

    Raises:
        Unavailable: A payload is gone; the same work done again writes it anew.
    """
    for payload in manifest.payloads:
        if store.stat(payload_key(manifest.name, payload)) is None:
            raise Unavailable(
                f"{payload.name} of {manifest.name} is no longer in object storage; try again", reason="PAYLOAD_GONE"
            )
    value = asdict(manifest) | {"name": str(manifest.name), "kind": manifest.name.collection, "schema": SCHEMA}
    stands = store.put_json_if(f"{manifest.name}/{MANIFEST}", value, version="")
    found = manifest if stands else read_manifest(store, manifest.name)
    for payload in found.payloads:
        _take_back(store, payload_key(found.name, payload))
    return found


def _take_back(store: ObjectStore, key: str) -> None:
    """Puts a payload back that a sweep has laid aside since it was looked for: the sweep saw no manifest yet."""
    if store.stat(key) is None:
        store.copy(f"{LAID_ASIDE}{key}", key)


def find_manifest(store: ObjectStore, artifact: ArtifactName) -> Manifest | None:
    """The artifact's manifest, or None if there is no artifact.

    Raises:
        FailedPrecondition: A newer version of SynthMix wrote it in a way that this one cannot read, or it is damaged.
    """
    value = find_record(store, f"{artifact}/{MANIFEST}", SCHEMA)
    if value is None:
        return None
    with reading(f"{artifact}/{MANIFEST}"):
        payloads = tuple(known_fields(Payload, item) for item in value["payloads"])
        return known_fields(Manifest, value | {"name": artifact, "payloads": payloads})


def read_manifest(store: ObjectStore, artifact: ArtifactName) -> Manifest:
    """Raises NotFound."""
    manifest = find_manifest(store, artifact)
    if manifest is None:
        raise NotFound(
            f"{artifact} does not exist; `synthmix {artifact.collection} list` shows what does",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(artifact)},
        )
    return manifest


def described(manifest: Manifest, make: Callable[[Manifest], Described]) -> Described:
    """What `make` makes of a manifest. Raises FailedPrecondition if the manifest lacks it, or has it wrongly."""
    with reading(f"{manifest.name}/{MANIFEST}"):
        return make(manifest)


def list_artifacts(store: ObjectStore, collection: str) -> list[ArtifactName]:
    """Every artifact of a collection that has a manifest, in the order of ids."""
    return list(times_of_artifacts(store, collection))


def times_of_artifacts(store: ObjectStore, collection: str) -> dict[ArtifactName, str]:
    """When each artifact of a collection that has a manifest was made, RFC 3339 in UTC.

    The time is the manifest object's, which the listing tells: no manifest is read.
    """
    suffix = f"/{MANIFEST}"
    return {
        ArtifactName(collection, item.key.split("/")[1]): item.modify_time
        for item in store.list(f"{collection}/")
        if item.key.endswith(suffix) and item.key.count("/") == 2
    }


def read_payload(store: ObjectStore, manifest: Manifest, name: str) -> bytes:
    """The payload's bytes, checked against the manifest. Raises DataLoss, NotFound."""
    payload = manifest.payload(name)
    data = store.get_bytes(payload_key(manifest.name, payload))
    if sha256_of([data]) != payload.sha256:
        raise _data_loss(manifest.name, name)
    return data


def stream_payload(store: ObjectStore, manifest: Manifest, name: str) -> Iterator[bytes]:
    """Yields chunks of at most 1 MiB. Raises DataLoss after the last one if they are not what was written."""
    payload = manifest.payload(name)

    def checked() -> Iterator[bytes]:
        state = hashlib.sha256()
        for chunk in store.stream(payload_key(manifest.name, payload)):
            state.update(chunk)
            yield chunk
        if state.hexdigest() != payload.sha256:
            raise _data_loss(manifest.name, name)

    return checked()


def open_payload(store: ObjectStore, manifest: Manifest, name: str) -> BinaryIO:
    """The payload as a local file, from this node's cache or downloaded and checked.

    Raises:
        DataLoss: It is not what was written.
        NotFound: There is no such payload.
        ResourceExhausted: It does not fit into the cache.
    """
    payload = manifest.payload(name)
    return open_cached(_CACHED, payload.sha256, payload.size_bytes, _download(store, manifest, payload))


def link_payload(store: ObjectStore, manifest: Manifest, name: str, path: Path) -> BinaryIO:
    """As open_payload, with a further name of the file: a path in the folder of a node_cache.room."""
    payload = manifest.payload(name)
    return link_cached(_CACHED, payload.sha256, payload.size_bytes, _download(store, manifest, payload), path)


def _download(store: ObjectStore, manifest: Manifest, payload: Payload) -> Callable[[Path], None]:
    """What writes a payload to a path. It raises DataLoss, NotFound."""

    def download(path: Path) -> None:
        store.get_file(payload_key(manifest.name, payload), path)
        if sha256_of_file(path) != payload.sha256:
            raise _data_loss(manifest.name, payload.name)

    return download


def software_versions() -> dict[str, str]:
    """Versions of what shapes results, of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in SOFTWARE:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _data_loss(artifact: ArtifactName, name: str) -> DataLoss:
    return DataLoss(
        f"{artifact}/{name} in object storage is not what was written (sha256 differs); "
        f"delete {artifact} and make it again",
        reason="PAYLOAD_CORRUPT",
        metadata={"artifact": str(artifact)},
    )
