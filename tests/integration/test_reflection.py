"""gRPC reflection of the running stack: what a newcomer's grpcurl lists, without a token."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from synthmix.local import Connection
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    SERVICES,
    STUDY_CONTROL,
)

EVERYWHERE = {
    "google.longrunning.Operations",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}
METHODS = {
    ADAPTER_TRAINING: {
        "synthmix.adapters.v1.AdapterService": {"CreateAdapter", "GetAdapter", "ListAdapters", "DeleteAdapter"},
        "synthmix.base_models.v1.BaseModelService": {
            "CreateBaseModel",
            "GetBaseModel",
            "ListBaseModels",
            "DeleteBaseModel",
        },
    },
    IMAGE_SYNTHESIS: {
        "synthmix.image_sets.v1.ImageSetService": {"CreateImageSet", "GetImageSet", "ListImageSets", "DeleteImageSet"},
    },
    CLASSIFIER_EVALUATION: {
        "synthmix.evaluations.v1.EvaluationService": {
            "CreateEvaluation",
            "GetEvaluation",
            "ListEvaluations",
            "DeleteEvaluation",
            "CreateImageSetScore",
            "GetImageSetScore",
        },
    },
    STUDY_CONTROL: {
        "synthmix.artifacts.v1.ArtifactService": {"UploadFile", "DownloadPayload", "Sweep"},
        "synthmix.clusters.v1.ClusterService": {"GetCluster", "ScaleWorkerGroup"},
        "synthmix.datasets.v1.DatasetService": {
            "CreateDataset",
            "GetDataset",
            "ListDatasets",
            "DeleteDataset",
            "DeleteDatasetImages",
            "CreateSplit",
            "GetSplit",
        },
        "synthmix.studies.v1.StudyService": {"CreateStudy", "GetStudy", "ListStudies", "WatchStudy", "DeleteStudy"},
    },
}
OPERATIONS_METHODS = {"ListOperations", "GetOperation", "DeleteOperation", "CancelOperation", "WaitOperation"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_lists_and_describes_what_it_serves(stack: Connection, service: str) -> None:
    with grpc.insecure_channel(stack.services[service], [("grpc.enable_http_proxy", 0)]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == EVERYWHERE | set(METHODS[service])
        pool = DescriptorPool(database)
        described = METHODS[service] | {"google.longrunning.Operations": OPERATIONS_METHODS}
        for name, methods in described.items():
            assert {method.name for method in pool.FindServiceByName(name).methods} == methods
