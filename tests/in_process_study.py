"""A whole study in this process, by the services' own operations, planners and workers' code, over an object store.

It takes only the place of Ray and gRPC: a task runs when it is asked whether it has ended, and a step when it is asked
for.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf.message import Message

from in_process_tasks import InProcessTasks
from local_services import LocalServices
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import adapter_operation, autoencoder_check, task
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.classifier_evaluation import evaluation_operation, image_fidelity, image_set_score, trials
from synthmix.image_synthesis import image_set_operation, sampling, selected_images
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS, STUDY_CONTROL
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName, OperationName, collection_of
from synthmix.study_control import planning, reporting, study_operation

OPERATIONS = {
    ADAPTER_TRAINING: adapter_operation.run,
    IMAGE_SYNTHESIS: image_set_operation.run,
    CLASSIFIER_EVALUATION: evaluation_operation.run,
}
WORKERS = (autoencoder_check, task, sampling, selected_images, trials, image_fidelity, image_set_score, reporting)


def workers_open(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has workers' code open this store."""
    for module in WORKERS:
        monkeypatch.setattr(module, "open_object_store", lambda: store)


class InProcessContext(OperationContext):
    """An operation's context whose tasks run in this process.

    Attributes:
        ran: Each task's function, with the warnings that were there to read when it began.
        makes: What tasks are said to make, which other operations' tasks may make as well.
    """

    def __init__(self, store: MemoryObjectStore, record: records.OperationRecord):
        super().__init__(store, record)
        self.ran: list[tuple[str, list[str]]] = []
        self.makes: list[str] = []

    @contextmanager
    def tasks(self) -> Iterator[Any]:
        yield InProcessTasks(self._run, self.makes)

    def _run(self, function: str, keywords: Mapping[str, Any]) -> Any:
        self.ran.append((function, self.warnings()))
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(**keywords, report=lambda *done: None, threads=1)

    def warnings(self) -> list[str]:
        """As object storage has them."""
        self.write_progress()
        written: list[str] = (records.find_progress(self.store, self.record) or {}).get("warnings", [])
        return written


class InProcessServices(LocalServices):
    """Plans as the services do, and does a step's whole operation when it is asked for.

    Attributes:
        contexts: Of the operations that were done, in order.
    """

    def __init__(self, store: MemoryObjectStore):
        super().__init__(store)
        self.contexts: list[InProcessContext] = []

    def create(self, service: str, resource: Message) -> operations_pb2.Operation:
        planned = self._plan(service, resource, validate_only=False)
        target = planned.plan.target
        context = context_of(
            self.store,  # type: ignore[arg-type]
            OperationName(service, planned.id),
            target,
            {"request": planned.request, "names": planned.names},
        )
        self.contexts.append(context)
        OPERATIONS[service](context)
        context.write_progress()
        records.write_success(self.store, context.record, target)
        return records.read_operation(self.store, context.record, lambda name, request: progress_pb2.Plan())

    def close(self) -> None:
        pass


def context_of(store: MemoryObjectStore, name: OperationName, target: str, request: dict[str, Any]) -> InProcessContext:
    record = records.OperationRecord(name, collection_of(target), target, request, records.now())
    records.write_record(store, record)
    return InProcessContext(store, record)


def run_study(
    store: MemoryObjectStore, services: InProcessServices, spec: studies_pb2.StudySpec, patch: pytest.MonkeyPatch
) -> tuple[Manifest, InProcessContext]:
    """The finished study, and its operation's context."""
    patch.setattr(study_operation, "open_step_services", lambda requester: services)
    laid_out = planning.lay_out(store, services, spec, LOCAL)  # type: ignore[arg-type]
    context = context_of(store, OperationName(STUDY_CONTROL, laid_out.name.id), str(laid_out.name), laid_out.record())
    name: ArtifactName = study_operation.run(context)
    return read_manifest(store, name), context
