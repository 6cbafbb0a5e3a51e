"""The services that do a study's steps, as study control calls them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc, operations_proto_pb2
from google.protobuf.message import Message

from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.evaluations.v1 import evaluations_pb2, evaluations_pb2_grpc
from synthmix.api.image_sets.v1 import image_sets_pb2, image_sets_pb2_grpc
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit.environment import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS, WORKER_SERVICES
from synthmix.service_kit.errors import SynthMixError, Unauthenticated, Unavailable
from synthmix.service_kit.operation_calls import result_of, wait_for
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.tls import service_credentials
from synthmix.service_kit.transport import UNARY_DEADLINE_S, error_of, open_channel

PASSING_REASONS = ("OPERATION_CANCELLING", "TOO_MANY_OPERATIONS", "TOO_MANY_REVIEWS")


@dataclass(frozen=True)
class StepKind:
    """What a service does for a study.

    Attributes:
        service: Which does it.
        resource: What it makes: a step's request.
        method: The gRPC method that makes it.
        message: The method's request for a resource; it only plans if the second argument is True.
        awaits_inputs: Whether it takes a resource whose inputs are not made yet, and waits for them.
    """

    service: str
    resource: type[Message]
    method: Callable[[grpc.Channel], Callable[..., operations_proto_pb2.Operation]]
    message: Callable[[Any, bool], Message]
    awaits_inputs: bool = False


# In the order in which they work. The first of a service is what its steps are that are recorded without a resource.
KINDS = (
    StepKind(
        ADAPTER_TRAINING,
        adapters_pb2.Adapter,
        lambda channel: adapters_pb2_grpc.AdapterServiceStub(channel).CreateAdapter,
        lambda adapter, plan: adapters_pb2.CreateAdapterRequest(adapter=adapter, validate_only=plan),
    ),
    StepKind(
        IMAGE_SYNTHESIS,
        image_sets_pb2.ImageSet,
        lambda channel: image_sets_pb2_grpc.ImageSetServiceStub(channel).CreateImageSet,
        lambda image_set, plan: image_sets_pb2.CreateImageSetRequest(image_set=image_set, validate_only=plan),
    ),
    StepKind(
        CLASSIFIER_EVALUATION,
        evaluations_pb2.Evaluation,
        lambda channel: evaluations_pb2_grpc.EvaluationServiceStub(channel).CreateEvaluation,
        lambda evaluation, plan: evaluations_pb2.CreateEvaluationRequest(
            evaluation=evaluation, validate_only=plan, await_image_sets=True
        ),
        awaits_inputs=True,
    ),
    StepKind(
        CLASSIFIER_EVALUATION,
        evaluations_pb2.ImageSetScore,
        lambda channel: evaluations_pb2_grpc.EvaluationServiceStub(channel).CreateImageSetScore,
        lambda score, plan: evaluations_pb2.CreateImageSetScoreRequest(image_set_score=score, validate_only=plan),
    ),
)
_BY_RESOURCE = {kind.resource.DESCRIPTOR.full_name: kind for kind in KINDS}


def kind_of(resource: Message) -> StepKind:
    """By what it makes, also as another version of the API has it."""
    return _BY_RESOURCE[resource.DESCRIPTOR.full_name]


def recorded_kind(service: str, resource: str) -> StepKind:
    """By a record.

    Args:
        resource: The full name of what it makes; "" in a record of an earlier version.
    """
    return _BY_RESOURCE[resource] if resource else next(kind for kind in KINDS if kind.service == service)


class StepServices:
    """Plans, starts, follows and cancels steps. Every failure is a SynthMixError.

    A refusal that passes by itself is raised as Unavailable, so that it delays a study and does not fail it.

    Args:
        addresses: A gRPC target for each of WORKER_SERVICES; others are left alone.
        token: Gives what is shown to them now.
        requester: Whom operations are started for.
    """

    def __init__(self, addresses: Mapping[str, str], token: Callable[[], str], requester: Requester | None = None):
        self._metadata = [] if requester is None else requester.metadata()
        self._addresses = {service: addresses[service] for service in WORKER_SERVICES}
        self._channels = {
            address: open_channel(address, token, service_credentials()) for address in set(self._addresses.values())
        }

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def create(self, service: str, resource: Message) -> operations_proto_pb2.Operation:
        """Has a service make what a step asks for; the operation's result is the resource."""
        return self._create(service, resource, plan=False)

    def plan(self, service: str, resource: Message) -> progress_pb2.Plan:
        """What `create` would do and cost. Starts nothing."""
        return result_of(self._create(service, resource, plan=True), progress_pb2.Plan)

    def get_operation(self, name: str) -> operations_proto_pb2.Operation:
        return self._ask_operation("GetOperation", operations_pb2.GetOperationRequest(name=name))

    def cancel(self, name: str) -> None:
        """Asks an operation to stop."""
        self._ask_operation("CancelOperation", operations_pb2.CancelOperationRequest(name=name))

    def wait(self, name: str, *, timeout_s: float) -> operations_proto_pb2.Operation:
        """The operation once it is done, or as it is after this time. Raises Unavailable as `wait_for` does."""

        def ask(request: operations_pb2.WaitOperationRequest, poll_s: float) -> operations_proto_pb2.Operation:
            return self._ask_operation("WaitOperation", request, poll_s + UNARY_DEADLINE_S)

        return wait_for(self.get_operation(name), ask, timeout_s=timeout_s)

    def _create(self, service: str, resource: Message, *, plan: bool) -> operations_proto_pb2.Operation:
        kind = kind_of(resource)
        return self._call(service, kind.method(self._channel(service)), kind.message(resource, plan))

    def _ask_operation(self, method: str, request: Any, timeout_s: float = UNARY_DEADLINE_S) -> Any:
        service = OperationName.parse(request.name).service
        stub = operations_pb2_grpc.OperationsStub(self._channel(service))
        return self._call(service, getattr(stub, method), request, timeout_s)

    def _channel(self, service: str) -> grpc.Channel:
        return self._channels[self._addresses[service]]

    def _call(self, service: str, method: Callable[..., Any], request: Any, timeout_s: float = UNARY_DEADLINE_S) -> Any:
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise delaying(error_of(error, service, self._addresses[service])) from None


def delaying(error: SynthMixError) -> SynthMixError:
    """Unavailable for a refusal that passes by itself; any other error as it is.

    These are an operation that is still being cancelled for another study, a token that was changed a moment ago, and
    a service that has more operations, or more callers whom it does not know yet, than it takes.
    """
    if isinstance(error, Unauthenticated) or error.reason in PASSING_REASONS:
        return Unavailable(error.message, reason=error.reason, metadata=error.metadata)
    return error
