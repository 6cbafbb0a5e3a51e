"""Bytes in and out: one streaming upload and one streaming download."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.image_data.import_bounds import ImportBounds
from synthmix.service_kit.artifacts import read_manifest, stream_payload
from synthmix.service_kit.environment import sweep_settings
from synthmix.service_kit.errors import missing_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName, UploadName
from synthmix.service_kit.storage_space import writing_to
from synthmix.service_kit.sweep import sweep

CHUNK = "chunk"
SIZE = "size_bytes"


class ArtifactService(artifacts_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, store: ObjectStore, bounds: ImportBounds):
        self._store = store
        self._bounds = bounds
        self._receiving_bytes = 0

    async def UploadFile(
        self,
        request_iterator: AsyncIterator[artifacts_pb2.UploadFileRequest],
        context: grpc.aio.ServicerContext,
    ) -> artifacts_pb2.Upload:
        digest, size, held = hashlib.sha256(), 0, 0
        folder = Path(tempfile.gettempdir())
        try:
            with writing_to(folder), tempfile.NamedTemporaryFile(prefix="synthmix-upload-") as file:
                async for message in request_iterator:
                    declared = message.size_bytes if size == 0 else 0
                    digest.update(message.chunk)
                    size += len(message.chunk)
                    if size > held or declared > held:  # no byte is written that has no room
                        held = await self._hold(max(size, declared), held, declared=declared > 0)
                    await asyncio.to_thread(file.write, message.chunk)
                file.flush()
                if size == 0:
                    raise missing_field(CHUNK, "send at least one byte")
                name = UploadName(digest.hexdigest())
                if await asyncio.to_thread(self._store.stat, str(name)) is None:
                    await asyncio.to_thread(self._bounds.check_room, CHUNK, size, self._store)
                # Also what is there already: the sweep counts from when it was sent last.
                await asyncio.to_thread(self._store.put_file, str(name), Path(file.name))
            return artifacts_pb2.Upload(name=str(name), size_bytes=size)
        finally:
            self._receiving_bytes -= held

    async def _hold(self, size_bytes: int, held_bytes: int, *, declared: bool) -> int:
        """Keeps room for an upload of so many bytes; returns them. Raises ResourceExhausted if there is none."""
        field = SIZE if declared else CHUNK
        self._bounds.check_upload(field, size_bytes)
        self._bounds.check_receiving(field, size_bytes, self._receiving_bytes - held_bytes)
        if declared:
            await asyncio.to_thread(self._bounds.check_room, field, size_bytes, self._store)
            self._bounds.check_receiving(field, size_bytes, self._receiving_bytes - held_bytes)
        self._receiving_bytes += size_bytes - held_bytes
        return size_bytes

    async def DownloadPayload(
        self, request: artifacts_pb2.DownloadPayloadRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[artifacts_pb2.DownloadPayloadResponse]:
        artifact = ArtifactName.parse(request.artifact, field="artifact")
        manifest = await asyncio.to_thread(read_manifest, self._store, artifact)
        chunks = stream_payload(self._store, manifest, request.payload)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield artifacts_pb2.DownloadPayloadResponse(chunk=chunk)

    async def Sweep(
        self, request: artifacts_pb2.SweepRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.SweepResponse:
        swept = await asyncio.to_thread(sweep, self._store, sweep_settings(), dry_run=request.validate_only)
        return artifacts_pb2.SweepResponse(
            swept=[
                artifacts_pb2.SweptObjects(kind=kind, count=count, size_bytes=size_bytes)
                for kind, (count, size_bytes) in swept.by_kind().items()
            ]
        )
