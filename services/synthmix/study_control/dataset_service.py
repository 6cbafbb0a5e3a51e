"""Datasets and splits, as the API says them."""

import asyncio
from typing import Any

import grpc
from google.longrunning import operations_pb2

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.image_data.import_bounds import ImportBounds
from synthmix.service_kit import deletion as deletions
from synthmix.service_kit import owners, pages
from synthmix.service_kit.artifacts import read_manifest, times_of_artifacts
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.requesters import current_requester
from synthmix.service_kit.resource_names import DATASETS, ArtifactName, OperationName
from synthmix.service_kit.stored_records import read_each
from synthmix.study_control import datasets
from synthmix.study_control.image_removal import Removal, check_alone, check_seen, plan_removal


class DatasetService(datasets_pb2_grpc.DatasetServiceServicer):
    def __init__(self, store: ObjectStore, operations: Operations, bounds: ImportBounds):
        self._store = store
        self._bounds = bounds
        self._operations = operations

    async def CreateDataset(
        self, request: datasets_pb2.CreateDatasetRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        # What callers wrote is read beside the event loop, which all requests share.
        owner = current_requester().owner
        canonical = await asyncio.to_thread(datasets.import_request, request, owner)
        left_out = await asyncio.to_thread(datasets.left_out_of, request)
        upload = await asyncio.to_thread(self._store.stat, request.upload)
        if upload is None:
            raise NotFound(
                f"upload: {request.upload} does not exist; send the file with UploadFile first",
                reason="UPLOAD_NOT_FOUND",
            )
        self._bounds.check_import("upload", upload.size_bytes)
        operation_id = digest_of(canonical)
        await asyncio.to_thread(datasets.write_left_out, self._store, operation_id, left_out)
        operation = await self._operations.start(
            operation_id,
            DATASETS,
            "",
            {
                "request": canonical,
                "replace_display_name": request.replace_display_name,
                "accept_layout": request.accept_layout,
            },
        )
        if operation.done:
            return await asyncio.to_thread(self._named_again, request, owner, operation, operation_id, left_out)
        return operation

    def _named_again(
        self,
        request: datasets_pb2.CreateDatasetRequest,
        owner: str,
        operation: operations_pb2.Operation,
        operation_id: str,
        left_out: list[dict[str, Any]],
    ) -> operations_pb2.Operation:
        """An import that is done already, with its name and this request's account."""
        target = ArtifactName.parse(metadata_of(operation).target, field="dataset", collection=DATASETS)
        account = datasets.find_account(self._store, operation_id)
        if account is not None:
            datasets.check_layout(account, accept_layout=request.accept_layout)
            account = datasets.with_left_out(account, left_out)
        name = request.dataset.display_name
        owners.claim(self._store, target, owner)
        datasets.claim_name(self._store, owner, name, target, account=account, replace=request.replace_display_name)
        shown = datasets.get_dataset(self._store, name, owner=owner)
        operation.response.Pack(self._with_owners(shown, owner))
        return operation

    async def GetDataset(
        self, request: datasets_pb2.GetDatasetRequest, context: grpc.aio.ServicerContext
    ) -> datasets_pb2.Dataset:
        caller = current_requester().owner

        def read() -> datasets_pb2.Dataset:
            found = datasets.get_dataset(self._store, request.name, owner=caller, field="name")
            return self._with_owners(found, caller)

        return await asyncio.to_thread(read)

    def _with_owners(self, dataset: datasets_pb2.Dataset, caller: str) -> datasets_pb2.Dataset:
        name = ArtifactName.parse(dataset.name, field="name")
        shown: datasets_pb2.Dataset = owners.show(dataset, owners.owners_of(self._store, name), caller)
        return shown

    async def ListDatasets(
        self, request: datasets_pb2.ListDatasetsRequest, context: grpc.aio.ServicerContext
    ) -> datasets_pb2.ListDatasetsResponse:
        caller = current_requester().owner

        def read() -> datasets_pb2.ListDatasetsResponse:
            times = times_of_artifacts(self._store, DATASETS)
            found, token = pages.newest_first(times, request.page_size, request.page_token)
            names = datasets.display_names(self._store)

            def read_one(name: ArtifactName) -> datasets_pb2.Dataset:
                manifest = read_manifest(self._store, name)
                return self._with_owners(datasets.dataset_message(self._store, manifest, names, owner=caller), caller)

            shown, unreachable = read_each(found, read_one)
            return datasets_pb2.ListDatasetsResponse(datasets=shown, next_page_token=token, unreachable=unreachable)

        return await asyncio.to_thread(read)

    async def DeleteDataset(
        self, request: datasets_pb2.DeleteDatasetRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.Deletion:
        def delete(caller: owners.Caller) -> artifacts_pb2.Deletion:
            target = datasets.resolve_dataset(self._store, request.name, owner=caller.name, field="name")
            deletion = deletions.delete(
                self._store, target, caller=caller, force=request.force, validate_only=request.validate_only
            )
            if not request.validate_only:
                datasets.release_names(self._store, target, deletion.owners)
                datasets.forget_imports(self._store, target, deletion.owners)
            return deletion.message()

        return await owners.as_owner(delete)

    async def DeleteDatasetImages(
        self, request: datasets_pb2.DeleteDatasetImagesRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        def plan(caller: owners.Caller) -> tuple[Removal, dict[str, Any], bool]:
            dataset = datasets.find_dataset(self._store, request.name, owner=caller.name, field="name")
            check_alone(caller, dataset.name, owners.owners_of(self._store, dataset.name))
            removal = plan_removal(self._store, dataset, request.images, request.groups)
            asked = {
                "dataset": dataset.name.id,
                "create_time": dataset.create_time,  # one that is imported again later is another one
                "sha256s": removal.removed_sha256s,
                "force": request.force,
                "skip_grace_period": request.skip_grace_period,
            }
            by = OperationName(STUDY_CONTROL, digest_of(asked))
            caller = owners.EVERYONE if caller.administers else caller
            deletions.delete(self._store, dataset.name, caller=caller, force=request.force, validate_only=True, by=by)
            check_seen(self._store, removal, caller=caller, force=request.force, by=by)
            return removal, asked, caller.administers

        removal, asked, for_all = await owners.as_owner(plan)
        reduced = removal.reduced
        if request.validate_only:
            owner = current_requester().owner
            message = await asyncio.to_thread(datasets.dataset_message, self._store, reduced, {}, owner=owner)
            return finished_operation(message, target=str(reduced.name))
        # The work is the requester's alone: what it leaves may be somebody else's already.
        request_json = {"removal": asked, "for_all": for_all, "is_requesters": True}
        return await self._operations.start(digest_of(asked), DATASETS, str(reduced.name), request_json)

    async def CreateSplit(
        self, request: datasets_pb2.CreateSplitRequest, context: grpc.aio.ServicerContext
    ) -> datasets_pb2.Split:
        return await asyncio.to_thread(datasets.create_split, self._store, request.split, current_requester().owner)

    async def GetSplit(
        self, request: datasets_pb2.GetSplitRequest, context: grpc.aio.ServicerContext
    ) -> datasets_pb2.Split:
        return await asyncio.to_thread(datasets.get_split, self._store, request.name)
