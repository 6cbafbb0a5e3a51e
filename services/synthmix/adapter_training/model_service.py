"""Base models, as the API says them.

They belong to this service, since its front end knows what a base model is: it checks them for adapters as well.
"""

import asyncio
from collections.abc import Mapping, Sequence

import grpc
from google.longrunning import operations_pb2

from synthmix.adapter_training import model_importing
from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.base_models.v1 import base_models_pb2, base_models_pb2_grpc
from synthmix.service_kit import deletion as deletions
from synthmix.service_kit import model_names, owners
from synthmix.service_kit.artifact_collection import ArtifactCollection
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.model_names import ModelName
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.requesters import current_requester
from synthmix.service_kit.resource_names import MODELS, ArtifactName
from synthmix.service_kit.server import Servicer


class BaseModelService(base_models_pb2_grpc.BaseModelServiceServicer):
    def __init__(self, store: ObjectStore, collection: ArtifactCollection):
        self._store = store
        self._collection = collection

    async def CreateBaseModel(
        self, request: base_models_pb2.CreateBaseModelRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        owner, name = current_requester().owner, request.base_model.display_name
        planned = await asyncio.to_thread(model_importing.plan, self._store, request, owner)
        if name and not request.validate_only:
            target = ArtifactName(MODELS, planned.id)
            await asyncio.to_thread(
                model_names.claim,
                self._store,
                owner,
                name,
                target,
                replace=request.replace_display_name,
                field=model_importing.DISPLAY_NAME,
            )
        return await self._collection.create(planned, validate_only=request.validate_only)

    async def GetBaseModel(
        self, request: base_models_pb2.GetBaseModelRequest, context: grpc.aio.ServicerContext
    ) -> base_models_pb2.BaseModel:
        owner = current_requester().owner
        target = await asyncio.to_thread(self._resolve, request.name, owner)
        message: base_models_pb2.BaseModel = await self._collection.get(str(target))
        return _named(message, await asyncio.to_thread(model_names.all_names, self._store), owner)

    async def ListBaseModels(
        self, request: base_models_pb2.ListBaseModelsRequest, context: grpc.aio.ServicerContext
    ) -> base_models_pb2.ListBaseModelsResponse:
        owner = current_requester().owner
        found, token, unreachable = await self._collection.list(request.page_size, request.page_token)
        names = await asyncio.to_thread(model_names.all_names, self._store)
        shown = [_named(message, names, owner) for message in found]
        return base_models_pb2.ListBaseModelsResponse(base_models=shown, next_page_token=token, unreachable=unreachable)

    async def DeleteBaseModel(
        self, request: base_models_pb2.DeleteBaseModelRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.Deletion:
        def delete(caller: owners.Caller) -> artifacts_pb2.Deletion:
            target = self._resolve(request.name, caller.name)
            deletion = deletions.delete(
                self._store, target, caller=caller, force=request.force, validate_only=request.validate_only
            )
            if not request.validate_only:
                model_names.release(self._store, target, deletion.owners)
            return deletion.message()

        return await owners.as_owner(delete)

    def _resolve(self, name: str, owner: str) -> ArtifactName:
        return model_names.resolve(self._store, name, owner=owner, field="name")


def _named(
    message: base_models_pb2.BaseModel, names: Mapping[ArtifactName, Sequence[ModelName]], owner: str
) -> base_models_pb2.BaseModel:
    """The message, with what the owner calls the model; with what others do if the owner has no name for it."""
    held = names.get(ArtifactName.parse(message.name, field="name"), [])
    shown = [item for item in held if item.owner == owner] or held
    message.display_names[:] = dict.fromkeys(item.name for item in shown)
    message.display_name = message.display_names[0] if shown else ""
    return message


def base_model_message(store: ObjectStore, manifest: Manifest) -> base_models_pb2.BaseModel:
    """The resource that a manifest describes, without names."""
    message = base_models_pb2.BaseModel(
        name=str(manifest.name),
        files=[
            base_models_pb2.BaseModelFile(path=item.name, sha256=item.sha256, size_bytes=item.size_bytes)
            for item in manifest.payloads
        ],
        source=manifest.summary.get("source", ""),
        image_size=manifest.summary["image_size"],
        size_bytes=sum(item.size_bytes for item in manifest.payloads),
    )
    message.create_time.FromJsonString(manifest.create_time)
    return message


def servicer(store: ObjectStore, collection: ArtifactCollection) -> Servicer:
    return Servicer(
        BaseModelService(store, collection),
        base_models_pb2_grpc.add_BaseModelServiceServicer_to_server,
        base_models_pb2.DESCRIPTOR.services_by_name["BaseModelService"].full_name,
    )
