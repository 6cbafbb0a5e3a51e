"""What the three services that make artifacts share: a kind of resource is made by a kind of operation."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.service_kit import deletion as deletions
from synthmix.service_kit import owners, pages
from synthmix.service_kit.artifacts import (
    Manifest,
    described,
    find_manifest,
    payload_key,
    read_manifest,
    times_of_artifacts,
)
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import ray_address, server_settings
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.requesters import current_requester
from synthmix.service_kit.resource_names import ArtifactName, OperationName, collection_of
from synthmix.service_kit.s3_object_store import open_object_store, when_available
from synthmix.service_kit.server import Servicer, serve
from synthmix.service_kit.stored_records import read_each


@dataclass(frozen=True)
class Planned:
    """A request that was found valid: its canonical form, and what it would do.

    Attributes:
        request: The canonical request: every default filled in, every input replaced by its digest.
        names: Where to find the inputs: resource names, a base model's reference. Not part of the id.
        plan: What validate_only answers.
    """

    request: dict[str, Any]
    names: dict[str, Any]
    plan: Message

    @property
    def id(self) -> str:
        return digest_of(self.request)


class ArtifactCollection:
    """Create, Get and List of artifacts that operations make.

    Args:
        collection: Such as adapters.
        resource: Builds the resource's message from its manifest.
    """

    def __init__(
        self,
        store: ObjectStore,
        operations: Operations,
        collection: str,
        resource: Callable[[Manifest], Message],
    ):
        self._store = store
        self._operations = operations
        self._collection = collection
        self._resource = resource

    def beside(self, collection: str, resource: Callable[[Manifest], Message]) -> "ArtifactCollection":
        """Another collection of the same service."""
        return ArtifactCollection(self._store, self._operations, collection, resource)

    async def create(self, planned: Planned, *, validate_only: bool) -> operations_pb2.Operation:
        """The operation that makes what was planned, or that made it."""
        if validate_only:
            return finished_operation(planned.plan)
        target = ArtifactName(self._collection, planned.id)
        caller = current_requester().owner
        await asyncio.to_thread(owners.claim, self._store, target, caller)
        manifest = await asyncio.to_thread(find_manifest, self._store, target)
        if manifest is not None:
            name = OperationName(self._operations.service, planned.id)
            shown = await asyncio.to_thread(self._shown, manifest, caller)
            return finished_operation(shown, str(name), str(target))
        operation = await self._operations.start(
            planned.id, self._collection, str(target), {"request": planned.request, "names": planned.names}
        )
        await asyncio.to_thread(owners.claim, self._store, target, caller)  # a sweep may have come before the start
        return operation

    async def get(self, name: str) -> Any:
        """Raises InvalidArgument, NotFound."""
        target = ArtifactName.parse(name, field="name", collection=self._collection)
        caller = current_requester().owner
        return await asyncio.to_thread(lambda: self._shown(read_manifest(self._store, target), caller))

    def _shown(self, manifest: Manifest, caller: str) -> Message:
        """The resource, with who asked for it."""
        asked = owners.owners_of(self._store, manifest.name)
        message: Message = owners.show(described(manifest, self._resource), asked, caller)
        return message

    async def delete(self, name: str, *, force: bool, validate_only: bool) -> artifacts_pb2.Deletion:
        """What was deleted, or would be. Raises InvalidArgument, NotFound, PermissionDenied, FailedPrecondition."""
        target = ArtifactName.parse(name, field="name", collection=self._collection)
        deletion = await owners.as_owner(
            lambda caller: deletions.delete(
                self._store, target, caller=caller, force=force, validate_only=validate_only
            )
        )
        return deletion.message()

    async def list(self, page_size: int, page_token: str) -> tuple[list[Any], str, list[str]]:
        """One page of resources, the next page's token, and the names of those on it that cannot be read."""

        caller = current_requester().owner

        def read() -> tuple[list[Any], str, list[str]]:
            times = times_of_artifacts(self._store, self._collection)
            names, token = pages.newest_first(times, page_size, page_token)
            found, unreachable = read_each(names, lambda name: self._shown(read_manifest(self._store, name), caller))
            return found, token, unreachable

        return await asyncio.to_thread(read)


def payload_messages(store: ObjectStore, manifest: Manifest) -> list[artifacts_pb2.Payload]:
    """An artifact's payloads, as the API says them."""
    return [
        artifacts_pb2.Payload(
            name=item.name,
            sha256=item.sha256,
            size_bytes=item.size_bytes,
            uri=store.uri(payload_key(manifest.name, item)),
        )
        for item in manifest.payloads
    ]


@dataclass(frozen=True)
class Kind:
    """A kind of artifact that a service makes.

    Attributes:
        collection: Such as adapters.
        function: The function that does an operation, as "module:name".
        message: The resource that a manifest describes.
        servicer: The service's own methods; None if they are another kind's.
    """

    collection: str
    function: str
    message: Callable[[ObjectStore, Manifest], Message]
    servicer: Callable[[ObjectStore, ArtifactCollection], Servicer] | None


def resource_of(store: ObjectStore, kinds: Sequence[Kind], name: str) -> Message:
    """The resource of this name, of one of these kinds."""
    [kind] = [kind for kind in kinds if kind.collection == collection_of(name)]
    manifest = read_manifest(store, ArtifactName.parse(name, field="name", collection=kind.collection))
    return described(manifest, partial(kind.message, store))


async def serve_artifacts(service: str, *kinds: Kind) -> None:
    """Serves a service that makes these kinds of artifacts, until SIGTERM."""
    store = open_object_store()
    await asyncio.to_thread(when_available, store.check)
    functions = {kind.collection: kind.function for kind in kinds}
    operations = Operations(
        service, store, RayConnection(ray_address()), functions, lambda name, request: resource_of(store, kinds, name)
    )
    own = [
        kind.servicer(store, ArtifactCollection(store, operations, kind.collection, partial(kind.message, store)))
        for kind in kinds
        if kind.servicer is not None
    ]
    await serve(
        service,
        server_settings(),
        [*own, Servicer(operations, operations.add, operations.full_name)],
        [operations.keep_going],
    )
