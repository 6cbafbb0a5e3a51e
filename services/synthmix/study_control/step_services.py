"""The services that do a study's steps, as study control calls them."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc, operations_proto_pb2

from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.evaluations.v1 import evaluations_pb2, evaluations_pb2_grpc
from synthmix.api.image_sets.v1 import image_sets_pb2, image_sets_pb2_grpc
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit.operation_calls import result_of, wait_for
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.settings import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS
from synthmix.service_kit.transport import UNARY_DEADLINE_S, error_of, open_channel

STEP_SERVICES = (ADAPTER_TRAINING, IMAGE_SYNTHESIS, CLASSIFIER_EVALUATION)


class StepServices:
    """Plans, starts, follows and cancels steps. Every failure is a SynthMixError.

    Args:
        addresses: A gRPC target for each of STEP_SERVICES; others are left alone.
        token: The services' bearer token.
    """

    def __init__(self, addresses: Mapping[str, str], token: str):
        self._addresses = {service: addresses[service] for service in STEP_SERVICES}
        self._channels = {address: open_channel(address, lambda: token) for address in set(self._addresses.values())}
        self._adapters = adapters_pb2_grpc.AdapterServiceStub(self._channel(ADAPTER_TRAINING))
        self._image_sets = image_sets_pb2_grpc.ImageSetServiceStub(self._channel(IMAGE_SYNTHESIS))
        self._evaluations = evaluations_pb2_grpc.EvaluationServiceStub(self._channel(CLASSIFIER_EVALUATION))
        self._operations = {
            service: operations_pb2_grpc.OperationsStub(self._channel(service)) for service in STEP_SERVICES
        }

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def create_adapter(self, adapter: adapters_pb2.Adapter) -> operations_proto_pb2.Operation:
        """Starts training; the operation's result is an Adapter."""
        return self._create_adapter(adapter, validate_only=False)

    def plan_adapter(self, adapter: adapters_pb2.Adapter) -> progress_pb2.Plan:
        """What create_adapter would do and cost. Starts nothing."""
        return result_of(self._create_adapter(adapter, validate_only=True), progress_pb2.Plan)

    def create_image_set(self, image_set: image_sets_pb2.ImageSet) -> operations_proto_pb2.Operation:
        """Starts synthesis; the operation's result is an ImageSet."""
        return self._create_image_set(image_set, validate_only=False)

    def plan_image_set(self, image_set: image_sets_pb2.ImageSet) -> progress_pb2.Plan:
        """What create_image_set would do and cost. Starts nothing."""
        return result_of(self._create_image_set(image_set, validate_only=True), progress_pb2.Plan)

    def create_evaluation(self, evaluation: evaluations_pb2.Evaluation) -> operations_proto_pb2.Operation:
        """Starts the grid; the operation's result is an Evaluation."""
        return self._create_evaluation(evaluation, validate_only=False)

    def plan_evaluation(self, evaluation: evaluations_pb2.Evaluation) -> progress_pb2.Plan:
        """What create_evaluation would do and cost. Starts nothing."""
        return result_of(self._create_evaluation(evaluation, validate_only=True), progress_pb2.Plan)

    def get_operation(self, name: str) -> operations_proto_pb2.Operation:
        service = OperationName.parse(name).service
        request = operations_pb2.GetOperationRequest(name=name)
        return self._call(service, self._operations[service].GetOperation, request)

    def cancel(self, name: str) -> None:
        """Asks an operation to stop."""
        service = OperationName.parse(name).service
        self._call(service, self._operations[service].CancelOperation, operations_pb2.CancelOperationRequest(name=name))

    def wait(self, name: str, *, timeout_s: float) -> operations_proto_pb2.Operation:
        """The operation once it is done, or as it is after this time. Raises Unavailable as `wait_for` does."""
        service = OperationName.parse(name).service

        def ask(request: operations_pb2.WaitOperationRequest, poll_s: float) -> operations_proto_pb2.Operation:
            return self._call(service, self._operations[service].WaitOperation, request, poll_s + UNARY_DEADLINE_S)

        return wait_for(self.get_operation(name), ask, timeout_s=timeout_s)

    def _create_adapter(self, adapter: adapters_pb2.Adapter, *, validate_only: bool) -> operations_proto_pb2.Operation:
        request = adapters_pb2.CreateAdapterRequest(adapter=adapter, validate_only=validate_only)
        return self._call(ADAPTER_TRAINING, self._adapters.CreateAdapter, request)

    def _create_image_set(
        self, image_set: image_sets_pb2.ImageSet, *, validate_only: bool
    ) -> operations_proto_pb2.Operation:
        request = image_sets_pb2.CreateImageSetRequest(image_set=image_set, validate_only=validate_only)
        return self._call(IMAGE_SYNTHESIS, self._image_sets.CreateImageSet, request)

    def _create_evaluation(
        self, evaluation: evaluations_pb2.Evaluation, *, validate_only: bool
    ) -> operations_proto_pb2.Operation:
        request = evaluations_pb2.CreateEvaluationRequest(evaluation=evaluation, validate_only=validate_only)
        return self._call(CLASSIFIER_EVALUATION, self._evaluations.CreateEvaluation, request)

    def _channel(self, service: str) -> grpc.Channel:
        return self._channels[self._addresses[service]]

    def _call(self, service: str, method: Callable[..., Any], request: Any, timeout_s: float = UNARY_DEADLINE_S) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, service, self._addresses[service]) from None
