"""The study control service: its four servicers, the operations of all services, and how it is served."""

import asyncio

from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.clusters.v1 import clusters_pb2, clusters_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.api.studies.v1 import studies_pb2, studies_pb2_grpc
from synthmix.image_data.import_bounds import ImportBounds, import_bounds
from synthmix.service_kit.environment import (
    STUDY_CONTROL,
    WORKER_SERVICES,
    ray_address,
    server_settings,
    service_address,
    sweep_settings,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.resource_names import DATASETS, STUDIES
from synthmix.service_kit.s3_object_store import open_object_store, when_available
from synthmix.service_kit.server import Servicer, run, serve
from synthmix.service_kit.sweep import start_sweeping
from synthmix.study_control.all_operations import AllOperations
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.clusters import ClusterService, KubernetesCluster, open_cluster
from synthmix.study_control.dataset_service import DatasetService
from synthmix.study_control.study_operation import open_step_services
from synthmix.study_control.study_service import StudyService

FUNCTIONS = {
    DATASETS: "synthmix.study_control.image_import.import_operation:run",
    STUDIES: "synthmix.study_control.study_operation:run",
}


def servicers(
    store: ObjectStore,
    operations: Operations,
    studies: StudyService,
    cluster: KubernetesCluster | None,
    others: AllOperations,
    bounds: ImportBounds,
) -> list[Servicer]:
    """All that study control serves."""
    own = (
        (
            DatasetService(store, operations, bounds),
            datasets_pb2_grpc.add_DatasetServiceServicer_to_server,
            datasets_pb2,
        ),
        (studies, studies_pb2_grpc.add_StudyServiceServicer_to_server, studies_pb2),
        (ArtifactService(store, bounds), artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server, artifacts_pb2),
        (ClusterService(cluster), clusters_pb2_grpc.add_ClusterServiceServicer_to_server, clusters_pb2),
    )
    return [
        *(
            Servicer(servicer, add, module.DESCRIPTOR.services_by_name[type(servicer).__name__].full_name)
            for servicer, add, module in own
        ),
        others.servicer,
    ]


async def start() -> None:
    settings = server_settings()
    store = open_object_store()
    await asyncio.to_thread(when_available, store.check)
    cluster = await asyncio.to_thread(open_cluster, settings.kubernetes)
    operations = Operations(
        STUDY_CONTROL,
        store,
        RayConnection(ray_address()),
        FUNCTIONS,
        lambda name, request: studies.resource(name, request),
    )
    studies = StudyService(store, operations, open_step_services(), cluster)
    addresses = {service: service_address(service) for service in WORKER_SERVICES}
    all_operations = AllOperations(operations, addresses)
    served = servicers(store, operations, studies, cluster, all_operations, import_bounds())
    start_sweeping(store, sweep_settings())
    await serve(STUDY_CONTROL, settings, served, [operations.keep_going])


def main() -> None:
    run(STUDY_CONTROL, start)
