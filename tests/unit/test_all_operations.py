"""Study control answers for the operations of every service: behind an ingress, callers see one address."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc

from memory_object_store import MemoryObjectStore
from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.service_kit.environment import ADAPTER_TRAINING, IMAGE_SYNTHESIS, STUDY_CONTROL, WORKER_SERVICES
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.requesters import Requester, current_requester
from synthmix.service_kit.tokens import StaticTokens
from synthmix.service_kit.transport import error_of
from synthmix.study_control.all_operations import AllOperations
from synthmix.study_control.step_services import StepServices

TOKEN = "correct horse"
NAME = f"operations/{ADAPTER_TRAINING}/{'a' * 32}"


class AdapterTrainings(operations_pb2_grpc.OperationsServicer):
    """Has one operation."""

    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        if request.name != NAME:
            raise NotFound(f"{request.name} does not exist", reason="OPERATION_NOT_FOUND")
        return operations_pb2.Operation(name=NAME)

    async def ListOperations(self, request: Any, context: Any) -> operations_pb2.ListOperationsResponse:
        return operations_pb2.ListOperationsResponse(operations=[operations_pb2.Operation(name=NAME)])


def ask(body: Callable[[operations_pb2_grpc.OperationsStub], Coroutine[Any, Any, None]]) -> None:
    """Runs `body` with a stub of study control, beside an adapter training that works and no other service."""

    async def main() -> None:
        trainings = grpc.aio.server(interceptors=interceptors(ADAPTER_TRAINING, StaticTokens.of(TOKEN)))
        operations_pb2_grpc.add_OperationsServicer_to_server(AdapterTrainings(), trainings)
        addresses = {
            ADAPTER_TRAINING: f"127.0.0.1:{trainings.add_insecure_port('127.0.0.1:0')}",
            IMAGE_SYNTHESIS: "127.0.0.1:1",
        }
        own = Operations(
            STUDY_CONTROL, MemoryObjectStore.created(), RayConnection("127.0.0.1:1"), {}, lambda name: None
        )
        control = grpc.aio.server(interceptors=interceptors(STUDY_CONTROL, StaticTokens.of(TOKEN)))
        servicer = AllOperations(own, addresses).servicer
        servicer.add(servicer.implementation, control)
        port = control.add_insecure_port("127.0.0.1:0")
        await trainings.start()
        await control.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            await body(operations_pb2_grpc.OperationsStub(channel))
        await control.stop(None)
        await trainings.stop(None)

    asyncio.run(main())


SHOWN = (("authorization", f"Bearer {TOKEN}"),)


def test_operations_of_other_services_are_answered_by_them() -> None:
    async def body(stub: operations_pb2_grpc.OperationsStub) -> None:
        found = await stub.GetOperation(operations_pb2.GetOperationRequest(name=NAME), metadata=SHOWN)
        assert found.name == NAME
        request = operations_pb2.ListOperationsRequest(name=f"operations/{ADAPTER_TRAINING}")
        listed = await stub.ListOperations(request, metadata=SHOWN)
        assert [operation.name for operation in listed.operations] == [NAME]

    ask(body)


def test_operations_of_study_control_are_its_own() -> None:
    async def body(stub: operations_pb2_grpc.OperationsStub) -> None:
        for name in ("", f"operations/{STUDY_CONTROL}"):
            request = operations_pb2.ListOperationsRequest(name=name)
            assert not (await stub.ListOperations(request, metadata=SHOWN)).operations

    ask(body)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        (f"operations/{ADAPTER_TRAINING}/{'b' * 32}", grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND"),
        (f"operations/{IMAGE_SYNTHESIS}/{'a' * 32}", grpc.StatusCode.UNAVAILABLE, "SERVICE_UNREACHABLE"),
        ("operations/adapter-training", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_RESOURCE_NAME"),
    ],
)
def test_their_errors_come_through_as_they_are(name: str, code: grpc.StatusCode, reason: str) -> None:
    async def body(stub: operations_pb2_grpc.OperationsStub) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOperation(operations_pb2.GetOperationRequest(name=name), metadata=SHOWN)
        assert caught.value.code() == code
        assert error_of(caught.value, STUDY_CONTROL, "here").reason == reason

    ask(body)


def test_a_step_is_started_for_whom_the_study_was_asked_by() -> None:
    """Over real gRPC: what a service says of whom it asks for reaches the operation's record."""
    found: list[Requester] = []

    class Adapters(adapters_pb2_grpc.AdapterServiceServicer):
        async def CreateAdapter(self, request: Any, context: Any) -> operations_pb2.Operation:
            found.append(await asyncio.to_thread(current_requester))
            return operations_pb2.Operation(name=NAME)

    async def main() -> None:
        server = grpc.aio.server(interceptors=interceptors(ADAPTER_TRAINING, StaticTokens.of(TOKEN)))
        adapters_pb2_grpc.add_AdapterServiceServicer_to_server(Adapters(), server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        for requester in (Requester("local", "studies/x"), None):
            services = StepServices(dict.fromkeys(WORKER_SERVICES, address), lambda: TOKEN, requester)
            await asyncio.to_thread(services.create, ADAPTER_TRAINING, adapters_pb2.Adapter())
            services.close()
        await server.stop(None)

    asyncio.run(main())
    assert found == [Requester("local", "studies/x"), Requester()]


def test_a_caller_without_a_token_gets_nowhere() -> None:
    async def body(stub: operations_pb2_grpc.OperationsStub) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOperation(operations_pb2.GetOperationRequest(name=NAME))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED

    ask(body)
