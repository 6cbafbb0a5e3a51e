"""Whatever is sent to any method, the answer is a code for the caller's fault, not for ours: services in this process.

Their object storage is memory, and nothing starts what they are asked for; tests/integration has the real ones.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import synthmix.adapter_training.front_end
import synthmix.classifier_evaluation.front_end
import synthmix.image_synthesis.front_end
from fuzzing import DATASET, KINDS, fuzz, methods_of
from image_archives import dataset
from memory_object_store import MemoryObjectStore
from synthmix.api.artifacts.v1 import artifacts_pb2_grpc
from synthmix.api.clusters.v1 import clusters_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2_grpc
from synthmix.api.studies.v1 import studies_pb2_grpc
from synthmix.service_kit.artifact_collection import ArtifactCollection
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.resource_names import ADAPTERS, EVALUATIONS, IMAGE_SETS
from synthmix.service_kit.server import SERVER_OPTIONS, Servicer
from synthmix.service_kit.settings import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    SERVICES,
    STUDY_CONTROL,
)
from synthmix.study_control.all_operations import AllOperations
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.clusters import ClusterService
from synthmix.study_control.dataset_service import DatasetService
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.study_service import StudyService

TOKEN = "correct horse"
SEED = 16
CALLS = 800


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """The address of each service. They have one dataset, made in the folder."""
    store = MemoryObjectStore.created()
    claim_name(store, DATASET, dataset(store, folder).name, account=None, replace=False)
    addresses: dict[str, str] = {}
    ports = {}
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in SERVICES]
    for service, listener in zip(SERVICES, with_ports, strict=True):
        ports[service] = listener.getsockname()[1]
        listener.close()
        addresses[service] = f"127.0.0.1:{ports[service]}"
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        servers = []
        for service in SERVICES:
            server = grpc.aio.server(interceptors=interceptors(service, TOKEN), options=SERVER_OPTIONS)
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
    try:
        yield addresses
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def servicers(service: str, store: MemoryObjectStore, addresses: dict[str, str]) -> list[Servicer]:
    operations = Operations(service, store, RayConnection("127.0.0.1:1"), {}, lambda name: pytest.fail(name))
    artifacts = {
        ADAPTER_TRAINING: (ADAPTERS, synthmix.adapter_training.front_end.servicer),
        IMAGE_SYNTHESIS: (IMAGE_SETS, synthmix.image_synthesis.front_end.servicer),
        CLASSIFIER_EVALUATION: (EVALUATIONS, synthmix.classifier_evaluation.front_end.servicer),
    }
    if service in artifacts:
        collection, servicer = artifacts[service]
        return [
            servicer(
                store, ArtifactCollection(store, operations, collection, lambda manifest: pytest.fail(str(manifest)))
            ),
            Servicer(operations, operations.add, operations.full_name),
        ]
    others = {name: address for name, address in addresses.items() if name != STUDY_CONTROL}
    return [
        Servicer(
            DatasetService(store, operations),
            datasets_pb2_grpc.add_DatasetServiceServicer_to_server,
            "synthmix.datasets.v1.DatasetService",
        ),
        Servicer(
            StudyService(store, operations, StepServices(addresses, TOKEN), None),
            studies_pb2_grpc.add_StudyServiceServicer_to_server,
            "synthmix.studies.v1.StudyService",
        ),
        Servicer(
            ArtifactService(store),
            artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server,
            "synthmix.artifacts.v1.ArtifactService",
        ),
        Servicer(
            ClusterService(None),
            clusters_pb2_grpc.add_ClusterServiceServicer_to_server,
            "synthmix.clusters.v1.ClusterService",
        ),
        AllOperations(operations, others, TOKEN).servicer,
    ]


def test_no_call_of_any_method_is_a_defect(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with serving(tmp_path) as services, caplog.at_level(logging.WARNING):
        methods = methods_of(list(services.values()))
        codes, faults = fuzz(services, TOKEN, seed=SEED, calls=CALLS)
    faults += [record.getMessage() for record in caplog.records if record.exc_info]
    assert not faults, "\n".join(faults[:10])
    assert codes["INVALID_ARGUMENT"] > CALLS / 4 and codes["UNAUTHENTICATED"] and codes["OK"]
    assert len(methods) * len(KINDS) / 2 < CALLS
