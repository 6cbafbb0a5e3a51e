"""The services that a study asks, over an object store, without servers: they plan in earnest and work in no time."""

from collections.abc import Callable
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from synthmix.adapter_training import planning as adapters
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.classifier_evaluation import planning as evaluations
from synthmix.image_synthesis.front_end import plan_image_set
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING, IMAGE_SYNTHESIS
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName


class LocalServices:
    """Plans and creates as StepServices does.

    Args:
        version: Reads a request as a later version of the services does.

    Attributes:
        created: The names of what was made, in order.
        seconds: What a manifest says that it took, by the service that made it; 0 if it is not here.
    """

    def __init__(self, store: ObjectStore, version: Callable[[Message], Any] = lambda message: message):
        self.store = store
        self.version = version
        self.created: list[str] = []
        self.seconds: dict[str, float] = {}

    def plan(self, service: str, resource: Message) -> progress_pb2.Plan:
        return self._plan(service, resource, validate_only=True).plan

    def create(self, service: str, resource: Message) -> operations_pb2.Operation:
        planned = self._plan(service, resource, validate_only=False)
        inputs, summary = {}, {}
        if service == ADAPTER_TRAINING:
            inputs = {key: planned.request[key] for key in ("train_split", "base_model")}
            summary = {**planned.names, "classes": ["alpha", "beta"]}
        if service == IMAGE_SYNTHESIS:
            inputs = self._made_with(planned.request)
        target = ArtifactName.parse(planned.plan.target, field="target")
        if find_manifest(self.store, target) is None:
            self.created.append(str(target))
            version = planned.request["recipe_version"]
            seconds = self.seconds.get(service, 0.0)
            write_manifest(self.store, Manifest(target, inputs, planned.request, version, (), summary, seconds))
        return finished_operation(progress_pb2.Plan(), f"operations/{service}/{target.id}", str(target))

    def _made_with(self, request: dict[str, Any]) -> dict[str, str]:
        """The inputs of an image set, or of those that it was chosen from."""
        if "candidates" not in request:
            return {"adapter": request["adapter"]}
        candidates = read_manifest(self.store, ArtifactName(IMAGE_SETS, request["candidates"]))
        return {**candidates.inputs, "candidates": request["candidates"]}

    def cancel(self, name: str) -> None:
        raise NotFound(f"{name} does not exist; it has ended", reason="OPERATION_NOT_FOUND")

    def _plan(self, service: str, resource: Message, *, validate_only: bool) -> Planned:
        read: Any = self.version(resource)
        if service == ADAPTER_TRAINING:
            return adapters.plan(self.store, read)
        if service == IMAGE_SYNTHESIS:
            return plan_image_set(self.store, read, validate_only=validate_only)
        return evaluations.plan(self.store, read, validate_only=validate_only, await_image_sets=True)
