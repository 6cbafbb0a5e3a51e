"""One kind of artifact, as the client makes and reads it."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Generic, TypeVar

from google.longrunning import operations_proto_pb2
from google.protobuf.message import Message

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.client.transport import Service
from synthmix.service_kit import resource_names
from synthmix.service_kit.operation_calls import result_of

M = TypeVar("M", bound=Message)


class ResourceCollection(Generic[M]):
    """Base models, adapters, image sets or evaluations: what operations make, each once.

    Args:
        noun: Of one, such as image_set. Google's AIP-131 to 133 derive the names of methods and messages from it.
        messages, services: The modules that are generated from the protos of its package.
        collection: What names begin with, where that is not the noun's plural.
    """

    def __init__(self, service: Service, noun: str, messages: ModuleType, services: ModuleType, collection: str = ""):
        self._service, self._noun, self._messages = service, noun, messages
        self._kind = noun.title().replace("_", "")
        self._name = collection or f"{noun}s".replace("_", "-")
        self._stub: Any = getattr(services, f"{self._kind}ServiceStub")(service.channel)

    def create(self, resource: M) -> operations_proto_pb2.Operation:
        """Starts making it. The operation's result is the resource."""
        return self._create(resource, validate_only=False)

    def plan(self, resource: M) -> operations_pb2.Plan:
        """What `create` would do and cost. Starts nothing."""
        return result_of(self._create(resource, validate_only=True), operations_pb2.Plan)

    def list(self) -> Iterator[M]:
        """The newest first."""
        method = f"List{self._kind}s"
        request = getattr(self._messages, f"{method}Request")
        return self._service.pages(getattr(self._stub, method), request, f"{self._noun}s")

    def get(self, name: str) -> M:
        """By its name, or by the digest alone."""
        method = f"Get{self._kind}"
        request = getattr(self._messages, f"{method}Request")(name=resource_names.qualified(self._name, name))
        kind: type[M] = getattr(self._messages, self._kind)
        return self._service.call(getattr(self._stub, method), request, kind)

    def delete(self, name: str, *, cascade: bool = False, validate_only: bool = False) -> artifacts_pb2.Deletion:
        """Deletes one, and returns what was deleted.

        Args:
            cascade: Deletes what refers to it as well, and the trials that only a deleted evaluation has.
            validate_only: Deletes nothing, and returns what would be deleted.

        Raises:
            PermissionDenied: It belongs to others, or with `cascade` something that refers to it does (NOT_OWNER).
            FailedPrecondition: Something refers to it, and `cascade` is not given (STILL_REFERENCED); or an operation
                that has not ended uses it (OPERATION_RUNNING).
        """
        method = f"Delete{self._kind}"
        fields = {"name": resource_names.qualified(self._name, name), "force": cascade, "validate_only": validate_only}
        request = getattr(self._messages, f"{method}Request")(**fields)
        return self._service.call(getattr(self._stub, method), request, artifacts_pb2.Deletion)

    def _create(self, resource: M, *, validate_only: bool) -> operations_proto_pb2.Operation:
        method = f"Create{self._kind}"
        fields = {self._noun: resource, "validate_only": validate_only}
        request = getattr(self._messages, f"{method}Request")(**fields)
        return self._service.call(getattr(self._stub, method), request, operations_proto_pb2.Operation)
