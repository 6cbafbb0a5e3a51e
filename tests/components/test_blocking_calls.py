"""An object storage that accepts connections and never answers: callers are told in time, and none stops another."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.image_data.import_bounds import import_bounds
from synthmix.service_kit import blocking_calls
from synthmix.service_kit.blocking_calls import THREADS, CallThreads, Purpose, begin_call, remaining_seconds
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import InvalidArgument, SynthMixError, Unavailable
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.s3_object_store import S3ObjectStore
from synthmix.service_kit.tokens import StaticTokens
from synthmix.service_kit.transport import error_of
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.dataset_service import DatasetService

TOKEN = "a-token"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
ID = "0" * 32
# Far above what anything here takes: what hangs is found, and a slow machine is not.
PATIENCE_SECONDS = 60.0


@pytest.fixture
def hanging() -> Iterator[S3ObjectStore]:
    """Object storage that accepts connections, reads what is sent, and answers nothing."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                accepted.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    yield S3ObjectStore(ObjectStoreSettings(f"http://127.0.0.1:{port}", "key", "secret", "synthmix"))
    listener.close()
    for connection in accepted:
        connection.close()


@asynccontextmanager
async def served(store: S3ObjectStore) -> AsyncIterator[Callable[..., Any]]:
    """A front end on this store; what is yielded calls a method and returns the answer or the error."""
    asyncio.get_running_loop().set_default_executor(CallThreads())
    server = grpc.aio.server(interceptors=interceptors("test", StaticTokens.of(TOKEN)))
    operations = Operations("study-control", store, RayConnection("127.0.0.1:1"), {}, lambda name, request: None)  # type: ignore[arg-type,return-value]
    bounds = import_bounds()
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetService(store, operations, bounds), server)
    artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(store, bounds), server)
    operations.add(operations, server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:

        async def call(stub: Any, method: str, request: Any, timeout: float = PATIENCE_SECONDS) -> Any:
            try:
                answer = getattr(stub(channel), method)(request, metadata=AUTHORIZED, timeout=timeout)
                return [item async for item in answer] if hasattr(answer, "__aiter__") else await answer
            except grpc.RpcError as error:
                return error_of(error, "test", address)

        yield call
    await server.stop(None)


def test_a_storage_that_hangs_stops_nobody_else(hanging: S3ObjectStore) -> None:
    dataset = datasets_pb2.GetDatasetRequest(name=f"datasets/{ID}")
    download = artifacts_pb2.DownloadPayloadRequest(artifact=f"studies/{ID}", payload="report.html")
    cancel = operations_pb2.CancelOperationRequest(name=f"operations/study-control/{ID}")

    async def run() -> None:
        async with served(hanging) as call:
            hung = [
                asyncio.ensure_future(call(datasets_pb2_grpc.DatasetServiceStub, "GetDataset", dataset, timeout=8.0))
                for _ in range(THREADS[Purpose.REQUESTS] // 2)
            ]
            hung += [
                asyncio.ensure_future(
                    call(artifacts_pb2_grpc.ArtifactServiceStub, "DownloadPayload", download, timeout=8.0)
                )
                for _ in range(2 * THREADS[Purpose.TRANSFERS])
            ]
            await asyncio.sleep(1.0)
            alive = await call(health_pb2_grpc.HealthStub, "Check", health_pb2.HealthCheckRequest())
            assert alive.status == health_pb2.HealthCheckResponse.SERVING
            cancelled = await call(operations_pb2_grpc.OperationsStub, "CancelOperation", cancel, timeout=3.0)
            assert isinstance(cancelled, Unavailable), cancelled
            assert cancelled.reason == "OBJECT_STORAGE_UNAVAILABLE"
            refused = await call(
                datasets_pb2_grpc.DatasetServiceStub, "GetDataset", datasets_pb2.GetDatasetRequest(name="No!")
            )
            assert isinstance(refused, InvalidArgument), refused
            assert not any(item.done() for item in hung), "they have all their callers' time"
            for item in hung:
                item.cancel()
            await asyncio.wait(hung)

    asyncio.run(run())


def test_a_caller_is_told_before_its_deadline(hanging: S3ObjectStore) -> None:
    async def run() -> SynthMixError:
        async with served(hanging) as call:
            answer: SynthMixError = await call(
                datasets_pb2_grpc.DatasetServiceStub,
                "GetDataset",
                datasets_pb2.GetDatasetRequest(name=f"datasets/{ID}"),
                timeout=4.0,
            )
            return answer

    error = asyncio.run(run())
    assert isinstance(error, Unavailable), error
    assert "check that it runs and is reachable" in error.message


def test_what_would_wait_too_long_is_refused() -> None:
    """As many wait as there are threads; work of another purpose is not touched."""
    release = threading.Event()

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(CallThreads())
        begin_call("/synthmix.artifacts.v1.ArtifactService/UploadFile", None)
        waiting = [
            asyncio.ensure_future(asyncio.to_thread(release.wait, PATIENCE_SECONDS))
            for _ in range(2 * THREADS[Purpose.TRANSFERS])
        ]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await asyncio.to_thread(lambda: None)
        assert caught.value.reason == "SERVICE_BUSY"
        begin_call("/google.longrunning.Operations/CancelOperation", None)
        assert await asyncio.to_thread(lambda: 7) == 7
        release.set()
        await asyncio.wait(waiting)
        begin_call("/synthmix.artifacts.v1.ArtifactService/UploadFile", None)
        assert await asyncio.to_thread(lambda: 8) == 8

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "time_remaining_s", "at_most_s"),
    [
        ("/synthmix.datasets.v1.DatasetService/GetDataset", 20.0, 20.0),
        ("/synthmix.datasets.v1.DatasetService/GetDataset", None, blocking_calls.REQUEST_SECONDS),
        ("/synthmix.artifacts.v1.ArtifactService/UploadFile", None, None),
        ("/synthmix.artifacts.v1.ArtifactService/UploadFile", 20.0, 20.0),
    ],
)
def test_work_knows_how_much_time_is_left(method: str, time_remaining_s: float | None, at_most_s: float | None) -> None:
    async def run() -> float | None:
        asyncio.get_running_loop().set_default_executor(CallThreads())
        assert await asyncio.to_thread(remaining_seconds) is None, "nobody waits for what runs in the background"
        begin_call(method, time_remaining_s)
        return await asyncio.to_thread(remaining_seconds)

    remaining_s = asyncio.run(run())
    assert remaining_seconds() is None
    if at_most_s is None:
        assert remaining_s is None
    else:
        assert remaining_s is not None and 0 < remaining_s <= at_most_s


def test_a_storage_that_answers_little_by_little_is_left_too() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection = listener.accept()[0]
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                connection.sendall(b"." * 2**20)
                time.sleep(0.1)
        except OSError:
            connection.close()

    threading.Thread(target=trickle, daemon=True).start()
    settings = ObjectStoreSettings(f"http://127.0.0.1:{listener.getsockname()[1]}", "key", "secret", "synthmix")
    store = S3ObjectStore(settings)

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(CallThreads())
        begin_call("/synthmix.datasets.v1.DatasetService/GetDataset", 2.0)
        with pytest.raises(Unavailable):
            await asyncio.to_thread(store.get_bytes, "key")

    with listener:
        asyncio.run(asyncio.wait_for(run(), PATIENCE_SECONDS))
