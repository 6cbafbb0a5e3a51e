"""The four services in this process, on a real loopback port, answering what a test tells them to."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status

from synthmix.api.adapters.v1 import adapters_pb2_grpc
from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.base_models.v1 import base_models_pb2_grpc
from synthmix.api.clusters.v1 import clusters_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2_grpc
from synthmix.api.evaluations.v1 import evaluations_pb2_grpc
from synthmix.api.image_sets.v1 import image_sets_pb2_grpc
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2, studies_pb2_grpc
from synthmix.local.connection import Connection, write_connection
from synthmix.local.home import lock, prepare
from synthmix.service_kit.environment import SERVICES, ObjectStoreSettings
from synthmix.service_kit.errors import NotFound, SynthMixError, Unauthenticated, to_status

TOKEN = "correct horse"
ID = "0123456789abcdef0123456789abcdef"
STUDY = f"studies/{ID}"
STUDY_OPERATION = f"operations/study-control/{ID}"
ADAPTER_OPERATION = f"operations/adapter-training/{ID}"

Handler = Callable[[Any, Any], Any]
Method = Callable[[Any, Any, Any], Any]


@dataclass
class FakeServices:
    """What the services answer, and what they were asked.

    Attributes:
        answers: A handler of (request, context) for each method, by its name such as GetStudy.
        requests: Every request, by its method's name, in order.
        address: host:port.
    """

    answers: dict[str, Handler] = field(default_factory=dict)
    requests: dict[str, list[Any]] = field(default_factory=dict)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, request: Any, context: Any) -> Any:
        with self.lock:
            self.requests.setdefault(method, []).append(request)
        try:
            if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
                raise Unauthenticated("the token is not this server's", reason="TOKEN_WRONG")
            return self.answers[method](request, context)
        except SynthMixError as error:
            context.abort_with_status(rpc_status.to_status(to_status(error)))

    def answer_stream(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        with self.lock:
            self.requests.setdefault(method, []).append(request)
        try:
            yield from self.answers[method](request, context)
        except SynthMixError as error:
            context.abort_with_status(rpc_status.to_status(to_status(error)))


def _servicer(base: type, services: FakeServices, methods: list[str], streams: list[str]) -> Any:
    def unary(name: str) -> Method:
        return lambda self, request, context: services.answer(name, request, context)

    def stream(name: str) -> Method:
        return lambda self, request, context: services.answer_stream(name, request, context)

    members = {name: unary(name) for name in methods} | {name: stream(name) for name in streams}
    return type(f"Fake{base.__name__}", (base,), members)()


@contextmanager
def serving(
    address: str = "127.0.0.1:0",
    services: FakeServices | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[FakeServices]:
    """Serves until the block ends; by TLS, if there are credentials."""
    services = services or FakeServices()
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    for module, service, methods, streams in (
        (adapters_pb2_grpc, "AdapterService", ["CreateAdapter", "GetAdapter", "ListAdapters", "DeleteAdapter"], []),
        (
            image_sets_pb2_grpc,
            "ImageSetService",
            ["CreateImageSet", "GetImageSet", "ListImageSets", "DeleteImageSet"],
            [],
        ),
        (
            evaluations_pb2_grpc,
            "EvaluationService",
            ["CreateEvaluation", "GetEvaluation", "ListEvaluations", "DeleteEvaluation", "CreateImageSetScore"],
            [],
        ),
        (
            base_models_pb2_grpc,
            "BaseModelService",
            ["CreateBaseModel", "GetBaseModel", "ListBaseModels", "DeleteBaseModel"],
            [],
        ),
        (studies_pb2_grpc, "StudyService", ["CreateStudy", "GetStudy", "ListStudies", "DeleteStudy"], ["WatchStudy"]),
        (
            datasets_pb2_grpc,
            "DatasetService",
            [
                "CreateDataset",
                "GetDataset",
                "ListDatasets",
                "DeleteDataset",
                "DeleteDatasetImages",
                "CreateSplit",
                "GetSplit",
            ],
            [],
        ),
        (artifacts_pb2_grpc, "ArtifactService", ["UploadFile", "Sweep"], ["DownloadPayload"]),
        (clusters_pb2_grpc, "ClusterService", ["GetCluster", "ScaleWorkerGroup"], []),
        (
            operations_pb2_grpc,
            "Operations",
            ["GetOperation", "ListOperations", "CancelOperation", "WaitOperation"],
            [],
        ),
    ):
        servicer = _servicer(getattr(module, f"{service}Servicer"), services, methods, streams)
        getattr(module, f"add_{service}Servicer_to_server")(servicer, server)
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    services.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield services
    finally:
        server.stop(0).wait()


@contextmanager
def stack_at(home: Path, services: FakeServices) -> Iterator[None]:
    """Makes the home look as if a stack of these services ran there."""
    paths = prepare(home)
    descriptor = lock(paths)
    write_connection(
        Connection(
            home=paths.folder,
            services=dict.fromkeys(SERVICES, services.address),
            metrics={},
            token=TOKEN,
            object_store=ObjectStoreSettings("http://127.0.0.1:1", "key", "secret", "synthmix"),
            ray_address="127.0.0.1:1",
            ray_auth_token="",
            pid=os.getpid(),
            pids={},
        )
    )
    try:
        yield
    finally:
        os.close(descriptor)


def operation(
    name: str,
    *,
    response: Message | None = None,
    error: SynthMixError | None = None,
    **metadata: Any,
) -> operations_pb2.Operation:
    """An operation: done if it has a response or an error."""
    result = operations_pb2.Operation(name=name, done=response is not None or error is not None)
    if response is not None:
        result.response.Pack(response)
    if error is not None:
        result.error.CopyFrom(to_status(error))
    result.metadata.Pack(progress_pb2.OperationMetadata(**metadata))
    return result


def study(state: str = "STATE_SUCCEEDED", payloads: dict[str, bytes] | None = None) -> studies_pb2.Study:
    """A study named demo, with payloads of these bytes."""
    return studies_pb2.Study(
        name=STUDY,
        spec=studies_pb2.StudySpec(name="demo", dataset="sim-cells"),
        state=progress_pb2.State.Value(state),
        verdict="No ratio improves balanced accuracy by 0.02 or more." if state == "STATE_SUCCEEDED" else "",
        operation=STUDY_OPERATION,
        payloads=[payload(name, data) for name, data in (payloads or {}).items()],
    )


def payload(name: str, data: bytes) -> artifacts_pb2.Payload:
    return artifacts_pb2.Payload(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def download_of(payloads: dict[str, bytes]) -> Handler:
    """A DownloadPayload handler that sends each payload in small chunks."""

    def handler(request: artifacts_pb2.DownloadPayloadRequest, context: Any) -> Iterator[Any]:
        data = payloads[request.payload]
        for start in range(0, len(data), 4):
            yield artifacts_pb2.DownloadPayloadResponse(chunk=data[start : start + 4])

    return handler


def upload(request: Iterator[artifacts_pb2.UploadFileRequest], context: Any) -> artifacts_pb2.Upload:
    """An UploadFile handler that stores nothing and answers rightly."""
    data = b"".join(item.chunk for item in request)
    return artifacts_pb2.Upload(name=f"uploads/{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


def cancelled(request: operations_pb2.CancelOperationRequest, context: Any) -> empty_pb2.Empty:
    return empty_pb2.Empty()


def not_found(request: Any, context: Any) -> Any:
    raise NotFound(f"{request.name} does not exist", reason="ARTIFACT_NOT_FOUND")


def watch_of(*events: tuple[str, str]) -> list[studies_pb2.WatchStudyResponse]:
    """Responses with these messages and resume markers."""
    return [
        studies_pb2.WatchStudyResponse(
            progress=progress_pb2.OperationMetadata(
                message=message,
                state=progress_pb2.STATE_RUNNING,
                steps=[
                    progress_pb2.Step(
                        display_name="adapter lora rank 16",
                        state=progress_pb2.STATE_RUNNING,
                        done=1200,
                        total=4800,
                        unit="images seen",
                    )
                ],
            ),
            resume_marker=marker,
        )
        for message, marker in events
    ]
