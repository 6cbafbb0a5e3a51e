"""Studies, as the API says them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf.message import Message

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2, studies_pb2_grpc
from synthmix.service_kit import deletion as deletions
from synthmix.service_kit import operation_records, owners, pages
from synthmix.service_kit.artifact_collection import payload_messages
from synthmix.service_kit.artifacts import Manifest, described, find_manifest, read_manifest
from synthmix.service_kit.errors import NotFound, SynthMixError
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.owners import meant_by
from synthmix.service_kit.requesters import LOCAL, current_requester
from synthmix.service_kit.resource_names import (
    DATASETS,
    STUDIES,
    ArtifactName,
    check_display_name,
    is_id,
    unqualified,
)
from synthmix.service_kit.settings_messages import from_canonical
from synthmix.service_kit.stored_records import read_each, reading
from synthmix.study_control import datasets, planning, study_names
from synthmix.study_control.clusters import KubernetesCluster
from synthmix.study_control.step_services import StepServices

WATCH_POLL_SECONDS = 0.5


class StudyService(studies_pb2_grpc.StudyServiceServicer):
    def __init__(
        self, store: ObjectStore, operations: Operations, services: StepServices, cluster: KubernetesCluster | None
    ):
        self._store = store
        self._operations = operations
        self._services = services
        self._cluster = cluster

    async def CreateStudy(
        self, request: studies_pb2.CreateStudyRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        owner = current_requester().owner
        study = await asyncio.to_thread(planning.lay_out, self._store, self._services, request.spec, owner)
        name, spec = study.name, study.spec
        of_name = await asyncio.to_thread(
            study_names.warnings, self._store, owner, spec.name, name, study.request["spec"]
        )
        if request.validate_only:
            plan = await asyncio.to_thread(self._plan, study)
            plan.warnings.extend(of_name)
            return finished_operation(plan)
        warnings = [*study.plan().warnings, *of_name]
        await asyncio.to_thread(owners.claim, self._store, name, owner)
        await asyncio.to_thread(study_names.claim, self._store, owner, spec.name, name)
        manifest = await asyncio.to_thread(find_manifest, self._store, name)
        if manifest is not None:
            finished = await asyncio.to_thread(self._read, str(name), owner)
            return with_warnings(finished_operation(finished, finished.operation, str(name)), warnings)
        operation = await self._operations.start(name.id, STUDIES, str(name), study.record())
        await asyncio.to_thread(owners.claim, self._store, name, owner)  # a sweep may have come before the start
        return with_warnings(operation, warnings)

    def _plan(self, study: planning.StudySteps) -> studies_pb2.StudyPlan:
        """With the time that it takes on the cluster, where that can be told."""
        if self._cluster is None:
            return study.plan()
        try:
            return planning.with_wall_time(study, self._cluster.read())
        except SynthMixError as error:
            plan = study.plan()
            plan.warnings.append(f"how long it takes on this cluster is not predicted: {error.message}")
            return plan

    async def GetStudy(
        self, request: studies_pb2.GetStudyRequest, context: grpc.aio.ServicerContext
    ) -> studies_pb2.Study:
        return await asyncio.to_thread(self._read, request.name, current_requester().owner)

    async def ListStudies(
        self, request: studies_pb2.ListStudiesRequest, context: grpc.aio.ServicerContext
    ) -> studies_pb2.ListStudiesResponse:
        """The newest first."""
        caller = current_requester().owner

        def read() -> studies_pb2.ListStudiesResponse:
            if request.spec_name:
                check_display_name("spec_name", request.spec_name)
                times = study_names.of_name(self._store, caller, request.spec_name)
            else:
                times = self._create_times()
            if request.unfinished_only:
                unfinished = study_names.unfinished(self._store)
                times = {name: time for name, time in times.items() if name in unfinished}
            page, token = pages.newest_first(times, request.page_size, request.page_token)
            studies, unreachable = read_each(page, lambda name: self._read(str(name), caller))
            return studies_pb2.ListStudiesResponse(studies=studies, next_page_token=token, unreachable=unreachable)

        return await asyncio.to_thread(read)

    async def DeleteStudy(
        self, request: studies_pb2.DeleteStudyRequest, context: grpc.aio.ServicerContext
    ) -> artifacts_pb2.Deletion:
        def delete(caller: owners.Caller) -> artifacts_pb2.Deletion:
            target = self._resolve(request.name, caller.name)
            deletion = deletions.delete(
                self._store, target, caller=caller, force=request.force, validate_only=request.validate_only
            )
            return deletion.message()

        return await owners.as_owner(delete)

    def _create_times(self) -> dict[ArtifactName, str]:
        """When each study was created, by its operation: also of one whose operation was deleted."""
        return {
            ArtifactName(STUDIES, name.id): created.time
            for name, created in self._operations.index.read(STUDIES).items()
        }

    async def WatchStudy(
        self, request: studies_pb2.WatchStudyRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[studies_pb2.WatchStudyResponse]:
        caller = current_requester().owner
        name = await asyncio.to_thread(self._resolve, request.name, caller)
        seen = request.resume_marker
        while True:
            metadata, done = await asyncio.to_thread(self._progress, name)
            marker = f"{metadata.revision}-{progress_pb2.State.Name(metadata.state)}"
            if done:
                yield studies_pb2.WatchStudyResponse(
                    progress=metadata,
                    resume_marker=marker,
                    study=await asyncio.to_thread(self._read, str(name), caller),
                )
                return
            if marker != seen:
                seen = marker
                yield studies_pb2.WatchStudyResponse(progress=metadata, resume_marker=marker)
            await asyncio.sleep(WATCH_POLL_SECONDS)

    def _progress(self, name: ArtifactName) -> tuple[progress_pb2.OperationMetadata, bool]:
        record = operation_records.find_record(self._store, study_names.operation_of(name))
        if record is None:  # its operation was deleted; what it made stays
            read_manifest(self._store, name)
            return progress_pb2.OperationMetadata(target=str(name), state="STATE_SUCCEEDED"), True
        operation = self._operations.read(record.name)
        return metadata_of(operation), operation.done

    def _resolve(self, name: str, caller: str) -> ArtifactName:
        """By studies/{digest}, or by the specification's name: then the newest of that name.

        Of the caller's, or of the only other owner who has any.
        """
        short = unqualified(STUDIES, name)
        if is_id(short):
            return ArtifactName(STUDIES, short)
        check_display_name("name", short)
        by_owner = study_names.by_owners(self._store, short)
        newest = {owner: next(iter(studies)) for owner, studies in by_owner.items()}
        meant = meant_by(newest, caller, field="name", name=short)
        if meant is None:
            raise _no_study(repr(short))
        return meant

    def _read(self, name: str, caller: str) -> studies_pb2.Study:
        """With who asked for it."""
        target = self._resolve(name, caller)
        study: studies_pb2.Study = owners.show(self._read_study(target), owners.owners_of(self._store, target), caller)
        return study

    def _read_study(self, target: ArtifactName) -> studies_pb2.Study:
        manifest = find_manifest(self._store, target)
        if manifest is not None:
            return described(manifest, self.message)
        record = operation_records.find_record(self._store, study_names.operation_of(target))
        if record is None:
            raise _no_study(str(target))
        progress = operation_records.find_progress(self._store, record)
        state = operation_records.state_of(progress, operation_records.find_result(self._store, record))
        with reading(str(record.name)):
            study = studies_pb2.Study(
                name=str(target),
                state=state,
                operation=str(record.name),
                split=record.request["split"],
                dataset=record.request["dataset"],
                spec=from_canonical(record.request["spec"], studies_pb2.StudySpec),
            )
            study.create_time.FromJsonString(record.create_time)
        return study

    def resource(self, name: str, request: dict[str, Any]) -> Message:
        """A finished resource of this service: a dataset, by the name that it was imported under, or a study."""
        target = ArtifactName.parse(name, field="name")
        manifest = read_manifest(self._store, target)
        if target.collection == DATASETS:
            imported = request.get("request", {})
            names = datasets.display_names(self._store)
            owner, asked = imported.get("owner", LOCAL), imported.get("display_name", "")
            return described(
                manifest, lambda found: datasets.dataset_message(self._store, found, names, owner=owner, asked=asked)
            )
        return described(manifest, self.message)

    def message(self, manifest: Manifest) -> studies_pb2.Study:
        """The study that a manifest describes."""
        inputs, operation = manifest.inputs, study_names.operation_of(manifest.name)
        study = studies_pb2.Study(
            name=str(manifest.name),
            state=progress_pb2.STATE_SUCCEEDED,
            dataset=manifest.request["dataset"],
            split=inputs["split"],
            adapters=[value for key, value in inputs.items() if key.startswith("adapter-")],
            image_sets=[value for key, value in inputs.items() if key.startswith("image-set-")],
            evaluation=inputs["evaluation"],
            verdict=manifest.summary["verdict"],
            payloads=payload_messages(self._store, manifest),
            operation=str(operation),
            spec=from_canonical(manifest.request["spec"], studies_pb2.StudySpec),
        )
        record = operation_records.find_readable_record(self._store, operation)
        study.create_time.FromJsonString(manifest.create_time if record is None else record.create_time)
        return study


def _no_study(name: str) -> NotFound:
    return NotFound(f"there is no study {name}; `synthmix studies list` shows what there is", reason="STUDY_NOT_FOUND")


def with_warnings(operation: operations_pb2.Operation, warnings: Sequence[str]) -> operations_pb2.Operation:
    metadata = metadata_of(operation)
    metadata.warnings.extend(warnings)
    operation.metadata.Pack(metadata)
    return operation
