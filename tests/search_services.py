"""The services of a study with a search, without servers: as LocalServices, and with scores that a test gives."""

from collections.abc import Callable
from dataclasses import dataclass

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from local_services import LocalServices
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.classifier_evaluation import score_planning
from synthmix.service_kit import message_json
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.errors import Cancelled, SynthMixError, to_status
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.resource_names import ArtifactName, collection_of

SCORE_SECONDS = 7.0


@dataclass(frozen=True)
class Worth:
    """What an image set is scored."""

    class_consistency: float
    kernel_inception_distance: float = 0.1


def by_rank(settings: adapters_pb2.AdapterSettings) -> Worth:
    """The higher the rank the better."""
    return Worth(settings.rank / 100)


class ScoredServices(LocalServices):
    """Plans and creates as StepServices does.

    Args:
        worth: What the images of an adapter of these settings are scored.
    """

    def __init__(self, store: ObjectStore, worth: Callable[[adapters_pb2.AdapterSettings], Worth] = by_rank):
        super().__init__(store)
        self.worth = worth
        self.settings: dict[str, adapters_pb2.AdapterSettings] = {}

    def _plan(self, service: str, resource: Message, *, validate_only: bool) -> Planned:
        if isinstance(resource, evaluations_pb2.ImageSetScore):
            return score_planning.plan(self.store, resource, validate_only=validate_only)
        return super()._plan(service, resource, validate_only=validate_only)

    def create(self, service: str, resource: Message) -> operations_pb2.Operation:
        planned = self._plan(service, resource, validate_only=False)
        target = ArtifactName.parse(planned.plan.target, field="target")
        if isinstance(resource, evaluations_pb2.ImageSetScore):
            self._score(resource, planned, target)
            return finished_operation(progress_pb2.Plan(), f"operations/{service}/{target.id}", str(target))
        if isinstance(resource, adapters_pb2.Adapter):
            self.settings[target.id] = resource.settings
        return super().create(service, resource)

    def _score(self, resource: evaluations_pb2.ImageSetScore, planned: Planned, target: ArtifactName) -> None:
        if find_manifest(self.store, target) is not None:
            return
        self.created.append(str(target))
        image_set = read_manifest(self.store, ArtifactName.parse(resource.image_set, field="image_set"))
        worth = self.worth(self.settings[image_set.inputs["adapter"]])
        score = evaluations_pb2.ImageSetScore(
            class_consistency=worth.class_consistency,
            kernel_inception_distance=worth.kernel_inception_distance,
            chance_level=0.5,
            real_class_consistency=0.9,
            images=100,
            feature_network="a network",
            image_size=64,
        )
        summary = {"split": resource.split, "score": message_json.to_value(score)}
        parts = {f"{part}_split": digest for part, digest in planned.request["parts"].items()}
        inputs = {**parts, "image_set": image_set.name.id}
        write_manifest(self.store, Manifest(target, inputs, planned.request, 1, (), summary, SCORE_SECONDS))


class WorkingServices(ScoredServices):
    """Works on a step until a test says what comes of it.

    Attributes:
        asked: What was asked for, by its name.
        states: What asked-for steps are at.
        failures: What those failed with that failed.
        cancelled: The names of operations that were cancelled, in order.
    """

    def __init__(self, store: ObjectStore):
        super().__init__(store)
        self.asked: dict[str, tuple[str, Message]] = {}
        self.states: dict[str, progress_pb2.State] = {}
        self.failures: dict[str, SynthMixError] = {}
        self.cancelled: list[str] = []

    def create(self, service: str, resource: Message) -> operations_pb2.Operation:
        target = self._plan(service, resource, validate_only=False).plan.target
        self.asked[target] = service, resource
        self.failures.pop(target, None)
        if self.states.get(target) not in (progress_pb2.STATE_QUEUED, progress_pb2.STATE_RUNNING):
            self.states[target] = progress_pb2.STATE_QUEUED
        return self.get_operation(f"operations/{service}/{target.rpartition('/')[2]}")

    def begin(self, target: str) -> None:
        """A worker begins with it."""
        self.states[target] = progress_pb2.STATE_RUNNING

    def make(self, target: str) -> None:
        super().create(*self.asked[target])

    def fail(self, target: str, error: SynthMixError) -> None:
        self.failures[target] = error

    def running(self, collection: str) -> list[str]:
        """What was asked for of a collection and has not ended."""
        return [
            target for target in self.asked if collection_of(target) == collection and not self._operation(target).done
        ]

    def get_operation(self, name: str) -> operations_pb2.Operation:
        return self._operation(next(target for target in self.asked if target.endswith(name.rpartition("/")[2])))

    def cancel(self, name: str) -> None:
        target = next((target for target in self.asked if target.endswith(name.rpartition("/")[2])), None)
        if target is None:
            return super().cancel(name)
        self.cancelled.append(name)
        if not self._operation(target).done:
            self.fail(target, Cancelled(f"{name} was cancelled", reason="CANCELLED"))
        return None

    def _operation(self, target: str) -> operations_pb2.Operation:
        service, _ = self.asked[target]
        name = f"operations/{service}/{target.rpartition('/')[2]}"
        if find_manifest(self.store, ArtifactName.parse(target, field="target")) is not None:
            return finished_operation(progress_pb2.Plan(), name, target)
        operation = operations_pb2.Operation(name=name)
        operation.metadata.Pack(progress_pb2.OperationMetadata(target=target, state=self.states[target]))
        if target in self.failures:
            operation.done = True
            operation.error.CopyFrom(to_status(self.failures[target]))
        return operation
