"""Bounds of uploads and imports: each error names field, limit, setting and remedy, before anything is written."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from image_archives import BY_PLATE, plates, zipped
from memory_object_store import MemoryObjectStore
from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.import_bounds import VARIABLES, ImportBounds, import_bounds
from synthmix.service_kit.errors import FailedPrecondition, ResourceExhausted
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.tokens import StaticTokens
from synthmix.service_kit.transport import error_of
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.dataset_service import DatasetService
from synthmix.study_control.image_import.importer import import_archive

TOKEN = "a-token"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
BOUNDS = ImportBounds(
    upload_bytes=1000, uploads_bytes=1500, receiving_bytes=1200, import_files=100, import_bytes=10_000_000
)
Send = Callable[..., Awaitable[Any]]


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore.created()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are received."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def served(store: MemoryObjectStore, calls: Callable[[Send], Awaitable[None]]) -> None:
    """Runs calls of UploadFile: each gets chunks, the size that it declares, and what to wait for before the end."""

    async def run() -> None:
        server = grpc.aio.server(interceptors=interceptors("test", StaticTokens.of(TOKEN)))
        artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(store, BOUNDS), server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)

            async def send(*chunks: bytes, declared: int = 0, until: asyncio.Event | None = None) -> Any:
                async def messages() -> AsyncIterator[artifacts_pb2.UploadFileRequest]:
                    for number, chunk in enumerate(chunks):
                        yield artifacts_pb2.UploadFileRequest(chunk=chunk, size_bytes=0 if number else declared)
                    if until is not None:
                        await until.wait()

                try:
                    return await stub.UploadFile(messages(), metadata=AUTHORIZED, timeout=30)
                except grpc.RpcError as error:
                    return error_of(error, "test", address)

            try:
                await calls(send)
            finally:
                await server.stop(None)

    asyncio.run(run())


def check_refused(error: Any, field: str, name: str, *words: str) -> None:
    assert isinstance(error, ResourceExhausted), error
    assert (error.reason, error.violations[0].field) == ("IMPORT_BOUND_EXCEEDED", field)
    assert error.metadata["setting"] == VARIABLES[name]
    for word in (VARIABLES[name], *words):
        assert word in error.message


def test_an_upload_that_says_it_is_too_large_is_refused_before_a_byte_is_written(
    store: MemoryObjectStore, temporary: Path
) -> None:
    async def calls(send: Send) -> None:
        check_refused(
            await send(b"a", declared=1001),
            "size_bytes",
            "upload_bytes",
            "an upload of 1001 B is more than the 1000 B",
            "send less at a time, such as fewer or smaller images",
        )

    served(store, calls)
    assert store.keys == []
    assert list(temporary.iterdir()) == []


def test_an_upload_that_says_nothing_is_refused_when_it_is_too_large(store: MemoryObjectStore, temporary: Path) -> None:
    async def calls(send: Send) -> None:
        for declared in (0, 10):
            check_refused(await send(b"a" * 600, b"b" * 600, declared=declared), "chunk", "upload_bytes")
        assert (await send(b"a" * 500, b"b" * 500)).size_bytes == 1000

    served(store, calls)
    assert len(store.keys) == 1
    assert list(temporary.iterdir()) == []


def test_uploads_are_bounded_together(store: MemoryObjectStore, temporary: Path) -> None:
    async def calls(send: Send) -> None:
        assert (await send(b"a" * 900)).size_bytes == 900
        check_refused(
            await send(b"b", declared=700),
            "size_bytes",
            "uploads_bytes",
            "700 B beside 900 B of earlier uploads",
            "have expired",
        )
        check_refused(await send(b"b" * 700), "chunk", "uploads_bytes")
        assert (await send(b"a" * 900)).size_bytes == 900, "the same bytes take no more room"
        assert (await send(b"c" * 600)).size_bytes == 600

    served(store, calls)
    assert len(store.keys) == 2


def test_what_is_being_received_is_bounded(store: MemoryObjectStore, temporary: Path) -> None:
    async def calls(send: Send) -> None:
        end = asyncio.Event()
        first = asyncio.ensure_future(send(b"a", declared=800, until=end))
        while not list(temporary.iterdir()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        check_refused(
            await send(b"b" * 500),
            "chunk",
            "receiving_bytes",
            "500 B beside 800 B that are being received",
            "when they have arrived",
        )
        assert (await send(b"b" * 300)).size_bytes == 300
        end.set()
        assert (await first).size_bytes == 1
        assert (await send(b"d" * 900)).size_bytes == 900, "room is given back"

    served(store, calls)


def test_an_import_larger_than_its_bound_is_refused_before_it_starts(store: MemoryObjectStore) -> None:
    upload = f"uploads/{'0' * 64}"
    store.put_bytes(upload, b"a" * 50)
    service = DatasetService(store, operations=None, bounds=replace(BOUNDS, import_bytes=49))  # type: ignore[arg-type]
    request = datasets_pb2.CreateDatasetRequest(
        dataset=datasets_pb2.Dataset(display_name="cells", group_rule=BY_PLATE), upload=upload
    )
    with pytest.raises(ResourceExhausted) as caught:
        asyncio.run(service.CreateDataset(request, None))  # type: ignore[arg-type]
    check_refused(caught.value, "upload", "import_bytes", "an import of 50 B is more than the 49 B")
    assert store.keys == [upload]


@pytest.mark.parametrize(
    ("bounds", "name", "problem"),
    [
        (replace(BOUNDS, import_files=20), "import_files", "holds 24 files and folders, and"),
        (replace(BOUNDS, import_bytes=1000), "import_bytes", "allows 1000 B"),
    ],
)
def test_what_an_archive_holds_is_bounded(
    store: MemoryObjectStore, tmp_path: Path, bounds: ImportBounds, name: str, problem: str
) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        import_archive(
            store,
            zipped(tmp_path / "images.zip", plates()),
            group_rule=BY_PLATE,
            classes=[],
            simulated=False,
            progress=lambda done, total: None,
            limits=bounds.of_archives,
        )
    check_refused(caught.value, "upload", name, problem, "import fewer or smaller images at a time, or raise")
    assert store.keys == []


def test_bounds_are_settings_and_else_shares_of_the_disk(tmp_path: Path) -> None:
    found = import_bounds({"SYNTHMIX_OBJECT_STORE_FOLDER": str(tmp_path), "SYNTHMIX_UPLOAD_MOST_BYTES": "17"})
    assert found.upload_bytes == 17
    assert 2**30 < found.import_bytes == found.uploads_bytes
    assert found.import_files == 200_000
    assert import_bounds({"SYNTHMIX_OBJECT_STORE_FOLDER": str(tmp_path / "none")}).uploads_bytes > 2**30


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "20Gi", "many", "\u0661"])
def test_a_bound_is_a_whole_number(text: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"SYNTHMIX_IMPORT_MOST_FILES is .*a whole number of 1 or more"):
        import_bounds({"SYNTHMIX_IMPORT_MOST_FILES": text})
