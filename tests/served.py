"""The four services in this process, over one object store: real gRPC, no Ray. What they are asked for isn't started.

But for imports, which are done at once, in this process.
"""

import asyncio
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import synthmix.adapter_training.front_end as adapter_training
import synthmix.classifier_evaluation.front_end as classifier_evaluation
import synthmix.image_synthesis.front_end as image_synthesis
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import model_operation
from synthmix.image_data.decoder import DecoderHere
from synthmix.image_data.import_bounds import import_bounds
from synthmix.image_data.sources.archive import open_archive
from synthmix.local.ports import LOOPBACK, free_port
from synthmix.service_kit import open_operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifact_collection import ArtifactCollection, Kind, resource_of
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    SERVICES,
    STUDY_CONTROL,
)
from synthmix.service_kit.errors import SynthMixError
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.resource_names import (
    DATASETS,
    EVALUATIONS,
    IMAGE_SETS,
    MODELS,
    OperationName,
)
from synthmix.service_kit.server import SERVER_OPTIONS, Servicer
from synthmix.service_kit.tokens import StaticTokens
from synthmix.study_control import front_end as study_control
from synthmix.study_control.all_operations import AllOperations
from synthmix.study_control.image_import import import_operation
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.study_service import StudyService

TOKEN = "correct horse"
IMPORTS = {DATASETS: import_operation.run, MODELS: model_operation.run}


@contextmanager
def serving(store: MemoryObjectStore, reviews: Any = None) -> Iterator[dict[str, str]]:
    """The address of each service.

    Args:
        reviews: Who callers are that do not show TOKEN, as KubernetesReviews says it.
    """
    # Below the ports that connections of other tests take meanwhile.
    ports: set[int] = set()
    addresses = {service: f"{LOOPBACK}:{free_port(ports)}" for service in SERVICES}
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        servers = []
        for service in SERVICES:
            around = interceptors(service, StaticTokens.of(TOKEN), reviews)
            server = grpc.aio.server(interceptors=around, options=SERVER_OPTIONS)
            names = []
            for servicer in servicers(service, store, addresses):
                servicer.add(servicer.implementation, server)
                names.append(servicer.full_name)
            healthy = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
            await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
            reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
            server.add_insecure_port(addresses[service])
            await server.start()
            servers.append(server)
        ready.set()
        await stop.wait()
        for server in servers:
            await server.stop(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_operation, "open_object_store", lambda: store)
        patch.setattr(import_operation, "DecoderProcess", DecoderWithoutProcess)
        try:
            yield addresses
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)


def servicers(service: str, store: MemoryObjectStore, addresses: dict[str, str]) -> list[Servicer]:
    artifacts = {
        ADAPTER_TRAINING: adapter_training.KINDS,
        IMAGE_SYNTHESIS: (Kind(IMAGE_SETS, "", image_synthesis.image_set_message, image_synthesis.servicer),),
        CLASSIFIER_EVALUATION: (
            Kind(EVALUATIONS, "", classifier_evaluation.evaluation_message, classifier_evaluation.servicer),
        ),
    }
    if service in artifacts:
        kinds = artifacts[service]
        operations = ImportingOperations(
            service, store, RayConnection("127.0.0.1:1"), {}, lambda name, request: resource_of(store, kinds, name)
        )
        own = [
            kind.servicer(store, ArtifactCollection(store, operations, kind.collection, partial(kind.message, store)))
            for kind in kinds
        ]
        return [*own, Servicer(operations, operations.add, operations.full_name)]
    others = {name: address for name, address in addresses.items() if name != STUDY_CONTROL}
    operations = ImportingOperations(
        service, store, RayConnection("127.0.0.1:1"), {}, lambda name, request: studies.resource(name, request)
    )
    studies = StudyService(store, operations, StepServices(addresses, lambda: TOKEN), None)
    return study_control.servicers(store, operations, studies, None, AllOperations(operations, others), import_bounds())


class DecoderWithoutProcess:
    """Decodes in this process, which takes no time to start; test_decoder_process.py is about the other one."""

    def __init__(self, path: Path):
        self._opened = open_archive(path)

    def __enter__(self) -> DecoderHere:
        return DecoderHere(self._opened.__enter__())

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)


class ImportingOperations(Operations):
    """Imports a dataset or a base model as soon as it is asked for, and starts nothing else."""

    async def start(
        self, operation_id: str, kind: str, target: str, request: dict[str, Any]
    ) -> operations_pb2.Operation:
        operation = await super().start(operation_id, kind, target, request)
        if kind not in IMPORTS or operation.done:
            return operation
        name = OperationName(self.service, operation_id)
        await asyncio.to_thread(self._import, name)
        return operation  # as from a service that has only begun

    def _import(self, name: OperationName) -> None:
        record = records.read_record(self._store, name)
        try:
            made = IMPORTS[record.kind](InlineContext(self._store, record))
        except SynthMixError as error:
            records.write_failure(self._store, record, error)
        else:
            records.write_success(self._store, record, str(made))
        open_operations.close(self._store, record)


class InlineContext(OperationContext):
    """Runs an operation's tasks where it is."""

    def run_tasks(
        self,
        function: str,
        arguments: Sequence[Mapping[str, Any]],
        on_result: Callable[[int, Any], None] = lambda index, value: None,
    ) -> list[Any]:
        module, _, attribute = function.partition(":")
        call = getattr(importlib.import_module(module), attribute)
        return [call(**keywords, report=lambda done, total=None: None, threads=1) for keywords in arguments]
