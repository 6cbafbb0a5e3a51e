"""The image synthesis service."""

import asyncio

import grpc
from google.longrunning import operations_pb2

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2, image_sets_pb2_grpc
from synthmix.image_data.generators import adapters_of, is_imported, synthesis_settings
from synthmix.image_data.selection_rules import SELECTED, selected_message
from synthmix.image_synthesis import importing, planning
from synthmix.image_synthesis.selection_planning import plan_selection
from synthmix.service_kit.artifact_collection import (
    ArtifactCollection,
    Kind,
    Planned,
    payload_messages,
    serve_artifacts,
)
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.environment import IMAGE_SYNTHESIS
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.server import Servicer, run
from synthmix.service_kit.settings_messages import from_canonical


class ImageSetService(image_sets_pb2_grpc.ImageSetServiceServicer):
    def __init__(self, store: ObjectStore, collection: ArtifactCollection):
        self._store = store
        self._collection = collection

    async def CreateImageSet(
        self, request: image_sets_pb2.CreateImageSetRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        planned = await asyncio.to_thread(
            plan_image_set, self._store, request.image_set, validate_only=request.validate_only
        )
        return await self._collection.create(planned, validate_only=request.validate_only)

    async def GetImageSet(
        self, request: image_sets_pb2.GetImageSetRequest, context: grpc.aio.ServicerContext
    ) -> image_sets_pb2.ImageSet:
        image_set: image_sets_pb2.ImageSet = await self._collection.get(request.name)
        return image_set

    async def ListImageSets(
        self, request: image_sets_pb2.ListImageSetsRequest, context: grpc.aio.ServicerContext
    ) -> image_sets_pb2.ListImageSetsResponse:
        found, token, unreachable = await self._collection.list(request.page_size, request.page_token)
        return image_sets_pb2.ListImageSetsResponse(image_sets=found, next_page_token=token, unreachable=unreachable)

    async def DeleteImageSet(
        self, request: image_sets_pb2.DeleteImageSetRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.Deletion:
        return await self._collection.delete(request.name, force=request.force, validate_only=request.validate_only)


def plan_image_set(store: ObjectStore, image_set: image_sets_pb2.ImageSet, *, validate_only: bool) -> Planned:
    """Checks a request for images that are made, chosen among others, or imported. Raises as each does."""
    if image_set.HasField("imported"):
        return importing.plan(store, image_set)
    plan = plan_selection if image_set.HasField("selection") else planning.plan
    return plan(store, image_set, validate_only=validate_only)


def image_set_message(store: ObjectStore, manifest: Manifest) -> image_sets_pb2.ImageSet:
    """The resource that a manifest describes."""
    request = manifest.request
    imported = is_imported(manifest)
    message = image_sets_pb2.ImageSet(
        name=str(manifest.name),
        adapter="" if imported else str(ArtifactName(ADAPTERS, request["adapter"])),
        more_adapters=[str(name) for name in adapters_of(manifest)[1:]],
        settings=None if imported else synthesis_settings(manifest),
        imported=importing.imported_message(manifest) if imported else None,
        image_count=manifest.summary["image_count"],
        imported_adapter=manifest.summary.get("imported_adapter", False),
        train_split=manifest.summary.get("train_split", ""),
        seconds=manifest.seconds,
        gpu_seconds=manifest.gpu_seconds,
        payloads=payload_messages(store, manifest),
        class_images=[
            image_sets_pb2.ClassImages(label=label, images=images) for label, images in request["class_images"].items()
        ],
    )
    if SELECTED in manifest.summary:
        message.selection.CopyFrom(from_canonical(request["selection"], image_sets_pb2.SelectionSettings))
        message.candidates = str(ArtifactName(IMAGE_SETS, request["candidates"]))
        message.selected.CopyFrom(selected_message(manifest.summary[SELECTED]))
    message.create_time.FromJsonString(manifest.create_time)
    return message


def servicer(store: ObjectStore, collection: ArtifactCollection) -> Servicer:
    return Servicer(
        ImageSetService(store, collection),
        image_sets_pb2_grpc.add_ImageSetServiceServicer_to_server,
        image_sets_pb2.DESCRIPTOR.services_by_name["ImageSetService"].full_name,
    )


def main() -> None:
    run(
        IMAGE_SYNTHESIS,
        lambda: serve_artifacts(
            IMAGE_SYNTHESIS,
            Kind(IMAGE_SETS, "synthmix.image_synthesis.image_set_operation:run", image_set_message, servicer),
        ),
    )
