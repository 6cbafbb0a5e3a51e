"""The adapter training service: adapters, and the base models in object storage."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.longrunning import operations_pb2

from synthmix.adapter_training import importing, model_service, planning
from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.image_data.generators import BASE_MODEL_KIND, IMAGE, ORIGINAL_PX, adapter_settings, is_imported
from synthmix.service_kit.artifact_collection import ArtifactCollection, Kind, payload_messages, serve_artifacts
from synthmix.service_kit.artifacts import IMPORTED, Manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, MODELS
from synthmix.service_kit.server import Servicer, run


class AdapterService(adapters_pb2_grpc.AdapterServiceServicer):
    def __init__(self, store: ObjectStore, collection: ArtifactCollection):
        self._store = store
        self._collection = collection

    async def CreateAdapter(
        self, request: adapters_pb2.CreateAdapterRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        plan = importing.plan if request.adapter.HasField("imported") else planning.plan
        planned = await asyncio.to_thread(plan, self._store, request.adapter)
        return await self._collection.create(planned, validate_only=request.validate_only)

    async def GetAdapter(
        self, request: adapters_pb2.GetAdapterRequest, context: grpc.aio.ServicerContext
    ) -> adapters_pb2.Adapter:
        adapter: adapters_pb2.Adapter = await self._collection.get(request.name)
        return adapter

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> adapters_pb2.ListAdaptersResponse:
        found, token, unreachable = await self._collection.list(request.page_size, request.page_token)
        for adapter in found:
            if adapter.settings.per == IMAGE:  # hundreds of each, and a page has many adapters
                adapter.ClearField("class_adapters")
                adapter.ClearField("payloads")
        return adapters_pb2.ListAdaptersResponse(adapters=found, next_page_token=token, unreachable=unreachable)

    async def DeleteAdapter(
        self, request: adapters_pb2.DeleteAdapterRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.Deletion:
        return await self._collection.delete(request.name, force=request.force, validate_only=request.validate_only)


def adapter_message(store: ObjectStore, manifest: Manifest) -> adapters_pb2.Adapter:
    """The resource that a manifest describes."""
    settings, summary = adapter_settings(manifest), manifest.summary
    message = adapters_pb2.Adapter(
        name=str(manifest.name),
        train_split=summary.get("train_split", ""),
        settings=settings,
        final_loss=summary["final_loss"],
        parameter_count=summary["parameter_count"],
        # Adapters of earlier versions have seen all images that were asked for, and had none held out.
        images_seen=summary.get("images_seen", settings.images_seen),
        held_out_losses=_held_out_losses(summary),
        class_adapters=[
            adapters_pb2.ClassAdapter(
                label=item["label"],
                folder=item["folder"],
                images_seen=item["images_seen"],
                final_loss=item["final_loss"],
                held_out_losses=_held_out_losses(item),
                image=item.get("image", ""),
                path=item.get("path", ""),
            )
            for item in summary.get("adapters", ())
            if item["label"]
        ],
        seconds=manifest.seconds,
        gpu_seconds=manifest.gpu_seconds,
        payloads=payload_messages(store, manifest),
        imported=importing.imported_message(manifest.request[IMPORTED]) if is_imported(manifest) else None,
        base_model_kind=summary.get(BASE_MODEL_KIND, ""),
        original_size=summary.get(ORIGINAL_PX, 0),
    )
    message.create_time.FromJsonString(manifest.create_time)
    return message


def _held_out_losses(summary: Mapping[str, Any]) -> list[adapters_pb2.HeldOutLoss]:
    return [adapters_pb2.HeldOutLoss(images_seen=seen, loss=loss) for seen, loss in summary.get("held_out_losses", ())]


def servicer(store: ObjectStore, collection: ArtifactCollection) -> Servicer:
    return Servicer(
        AdapterService(store, collection),
        adapters_pb2_grpc.add_AdapterServiceServicer_to_server,
        adapters_pb2.DESCRIPTOR.services_by_name["AdapterService"].full_name,
    )


KINDS = (
    Kind(ADAPTERS, "synthmix.adapter_training.adapter_operation:run", adapter_message, servicer),
    Kind(
        MODELS,
        "synthmix.adapter_training.model_operation:run",
        model_service.base_model_message,
        model_service.servicer,
    ),
)


def main() -> None:
    run(
        ADAPTER_TRAINING,
        lambda: serve_artifacts(ADAPTER_TRAINING, *KINDS),
    )
