"""The classifier evaluation service."""

import asyncio
from functools import partial

import grpc
from google.longrunning import operations_pb2

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2, evaluations_pb2_grpc
from synthmix.classifier_evaluation import planning, score_planning
from synthmix.classifier_evaluation.feature_networks import FEATURE_NETWORK, FeatureNetwork
from synthmix.service_kit import message_json
from synthmix.service_kit.artifact_collection import ArtifactCollection, Kind, payload_messages, serve_artifacts
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import EVALUATIONS, IMAGE_SET_SCORES, IMAGE_SETS, ArtifactName
from synthmix.service_kit.server import Servicer, run


class EvaluationService(evaluations_pb2_grpc.EvaluationServiceServicer):
    def __init__(self, store: ObjectStore, collection: ArtifactCollection):
        self._store = store
        self._collection = collection
        self._scores = collection.beside(IMAGE_SET_SCORES, partial(score_message, store))

    async def CreateEvaluation(
        self, request: evaluations_pb2.CreateEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        planned = await asyncio.to_thread(
            planning.plan,
            self._store,
            request.evaluation,
            validate_only=request.validate_only,
            await_image_sets=request.await_image_sets,
        )
        return await self._collection.create(planned, validate_only=request.validate_only)

    async def GetEvaluation(
        self, request: evaluations_pb2.GetEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> evaluations_pb2.Evaluation:
        evaluation: evaluations_pb2.Evaluation = await self._collection.get(request.name)
        return evaluation

    async def ListEvaluations(
        self, request: evaluations_pb2.ListEvaluationsRequest, context: grpc.aio.ServicerContext
    ) -> evaluations_pb2.ListEvaluationsResponse:
        found, token, unreachable = await self._collection.list(request.page_size, request.page_token)
        return evaluations_pb2.ListEvaluationsResponse(
            evaluations=found, next_page_token=token, unreachable=unreachable
        )

    async def DeleteEvaluation(
        self, request: evaluations_pb2.DeleteEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.Deletion:
        return await self._collection.delete(request.name, force=request.force, validate_only=request.validate_only)

    async def CreateImageSetScore(
        self, request: evaluations_pb2.CreateImageSetScoreRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        planned = await asyncio.to_thread(
            score_planning.plan, self._store, request.image_set_score, validate_only=request.validate_only
        )
        return await self._scores.create(planned, validate_only=request.validate_only)

    async def GetImageSetScore(
        self, request: evaluations_pb2.GetImageSetScoreRequest, context: grpc.aio.ServicerContext
    ) -> evaluations_pb2.ImageSetScore:
        score: evaluations_pb2.ImageSetScore = await self._scores.get(request.name)
        return score


def evaluation_message(store: ObjectStore, manifest: Manifest) -> evaluations_pb2.Evaluation:
    """The resource that a manifest describes."""
    request, summary = manifest.request, manifest.summary
    message = planning.settings_of(request)
    if FEATURE_NETWORK in summary:
        network = FeatureNetwork(**summary[FEATURE_NETWORK])
        message.measures.feature_network = network.folder or network.name
        if network.size_px:
            message.measures.image_size = network.size_px
    message.MergeFrom(
        evaluations_pb2.Evaluation(
            name=str(manifest.name),
            split=summary["split"],
            image_sets=[str(ArtifactName(IMAGE_SETS, image_set)) for image_set in request["image_sets"]],
            trial_count=len(summary["trials"]),
            comparison=message_json.from_value(summary["comparison"], evaluations_pb2.Comparison),
            seconds=manifest.seconds,
            gpu_seconds=manifest.gpu_seconds,
            payloads=payload_messages(store, manifest),
        )
    )
    if summary["fidelity"] is not None:
        message.fidelity.CopyFrom(message_json.from_value(summary["fidelity"], evaluations_pb2.Fidelity))
    message.create_time.FromJsonString(manifest.create_time)
    return message


def score_message(store: ObjectStore, manifest: Manifest) -> evaluations_pb2.ImageSetScore:
    """The resource that a score's manifest describes."""
    message = message_json.from_value(manifest.summary["score"], evaluations_pb2.ImageSetScore)
    message.name = str(manifest.name)
    message.split = manifest.summary["split"]
    message.image_set = str(ArtifactName(IMAGE_SETS, manifest.inputs["image_set"]))
    message.seconds, message.gpu_seconds = manifest.seconds, manifest.gpu_seconds
    message.create_time.FromJsonString(manifest.create_time)
    return message


def servicer(store: ObjectStore, collection: ArtifactCollection) -> Servicer:
    return Servicer(
        EvaluationService(store, collection),
        evaluations_pb2_grpc.add_EvaluationServiceServicer_to_server,
        evaluations_pb2.DESCRIPTOR.services_by_name["EvaluationService"].full_name,
    )


KINDS = (
    Kind(EVALUATIONS, "synthmix.classifier_evaluation.evaluation_operation:run", evaluation_message, servicer),
    Kind(IMAGE_SET_SCORES, "synthmix.classifier_evaluation.score_operation:run", score_message, None),
)


def main() -> None:
    run(CLASSIFIER_EVALUATION, lambda: serve_artifacts(CLASSIFIER_EVALUATION, *KINDS))
