"""The services of a study with a search, without servers: as LocalServices, and with scores that a test gives."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from local_services import LocalServices
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import finished_operation
from synthmix.service_kit.resource_names import IMAGE_SET_SCORES, ArtifactName

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
        if not isinstance(resource, evaluations_pb2.ImageSetScore):
            return super()._plan(service, resource, validate_only=validate_only)
        request = {"split": resource.split, "image_set": resource.image_set, "recipe_version": 1}
        target = ArtifactName(IMAGE_SET_SCORES, digest_of(request))
        done = find_manifest(self.store, target) is not None
        return Planned(
            request,
            {},
            progress_pb2.Plan(
                target=str(target),
                total=1,
                done=int(done),
                unit="image sets",
                predicted_seconds=0.0 if done else SCORE_SECONDS,
                tasks=int(not done),
            ),
        )

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
        summary: dict[str, Any] = {"split": resource.split, "score": asdict(worth)}
        inputs = {"image_set": image_set.name.id}
        write_manifest(self.store, Manifest(target, inputs, planned.request, 1, (), summary, SCORE_SECONDS))
