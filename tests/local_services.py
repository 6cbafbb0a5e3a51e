"""The services that a study asks, over an object store, without servers: they plan in earnest and work in no time."""

from collections.abc import Callable
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from synthmix.adapter_training import planning as adapters
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.classifier_evaluation import planning as evaluations
from synthmix.image_synthesis import planning as image_sets
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest, write_manifest
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.resource_names import ArtifactName


class LocalServices:
    """Answers what synthmix.client.Client does of planning and creating.

    Args:
        version: Reads a request as a later version of the services does.

    Attributes:
        created: The names of what was made, in order.
    """

    def __init__(self, store: ObjectStore, version: Callable[[Message], Any] = lambda message: message):
        self.store = store
        self.version = version
        self.created: list[str] = []

    def plan_adapter(self, adapter: Message) -> progress_pb2.Plan:
        return adapters.plan(self.store, self.version(adapter)).plan

    def plan_image_set(self, image_set: Message) -> progress_pb2.Plan:
        return image_sets.plan(self.store, self.version(image_set), validate_only=True).plan

    def plan_evaluation(self, evaluation: Message) -> progress_pb2.Plan:
        return evaluations.plan(self.store, self.version(evaluation), validate_only=True).plan

    def create_adapter(self, adapter: Message) -> operations_pb2.Operation:
        planned = adapters.plan(self.store, self.version(adapter))
        inputs = {key: planned.request[key] for key in ("train_split", "base_model")}
        return self._make(planned, inputs, {**planned.names, "classes": ["alpha", "beta"]})

    def create_image_set(self, image_set: Message) -> operations_pb2.Operation:
        planned = image_sets.plan(self.store, self.version(image_set), validate_only=False)
        return self._make(planned, {"adapter": planned.request["adapter"]}, {})

    def create_evaluation(self, evaluation: Message) -> operations_pb2.Operation:
        return self._make(evaluations.plan(self.store, self.version(evaluation), validate_only=False), {}, {})

    def cancel(self, name: str) -> None:
        raise NotFound(f"{name} doesn't exist; it has ended", reason="OPERATION_NOT_FOUND")

    def _make(self, planned: Planned, inputs: dict[str, str], summary: dict[str, Any]) -> operations_pb2.Operation:
        target = ArtifactName.parse(planned.plan.target, field="target")
        if find_manifest(self.store, target) is None:
            self.created.append(str(target))
            version = planned.request["recipe_version"]
            write_manifest(self.store, Manifest(target, inputs, planned.request, version, (), summary))
        return finished_operation(progress_pb2.Plan(), f"operations/any/{target.id}", str(target))
