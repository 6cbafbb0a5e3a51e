"""Operations of every service at one address: what gRPC's method says, all that an ingress routes by, is the same."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from synthmix.service_kit.audit import REQUEST_ID_KEY, current_request_id
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.requesters import OWNER_KEY, STUDY_KEY
from synthmix.service_kit.resource_names import OperationName, service_of_parent
from synthmix.service_kit.server import Servicer
from synthmix.service_kit.tls import service_credentials
from synthmix.service_kit.transport import error_of, open_async_channel

# Above the service's own longest wait, for a caller that sets no deadline.
LONGEST_CALL_SECONDS = 660.0
FORWARDED = ("authorization", OWNER_KEY, STUDY_KEY)


class AllOperations(operations_pb2_grpc.OperationsServicer):
    """Answers for study control's own operations, and asks the other services about theirs.

    Args:
        own: Study control's.
        addresses: Of each other service, host:port.
    """

    def __init__(self, own: Operations, addresses: Mapping[str, str]):
        self._own = own
        self._addresses = dict(addresses)
        # Made when first needed: an asyncio channel belongs to the loop that runs.
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def GetOperation(self, request: Any, context: grpc.aio.ServicerContext) -> operations_pb2.Operation:
        return await self._answer("GetOperation", request, context)

    async def ListOperations(
        self, request: Any, context: grpc.aio.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        """Those of the service that `name`, operations/{service}, says; study control's if it says none."""
        return await self._answer("ListOperations", request, context)

    async def CancelOperation(self, request: Any, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        await self._answer("CancelOperation", request, context)
        return empty_pb2.Empty()

    async def WaitOperation(self, request: Any, context: grpc.aio.ServicerContext) -> operations_pb2.Operation:
        return await self._answer("WaitOperation", request, context)

    async def DeleteOperation(self, request: Any, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        await self._answer("DeleteOperation", request, context)
        return empty_pb2.Empty()

    async def _answer(self, method: str, request: Any, context: grpc.aio.ServicerContext) -> Any:
        listing = method == "ListOperations"
        service = service_of_parent(request.name) if listing else OperationName.parse(request.name).service
        if service not in self._addresses:
            return await getattr(self._own, method)(request, context)
        address = self._addresses[service]
        if service not in self._channels:
            self._channels[service] = open_async_channel(address, service_credentials())
        call = getattr(operations_pb2_grpc.OperationsStub(self._channels[service]), method)
        try:
            return await call(
                request,
                timeout=min(context.time_remaining() or LONGEST_CALL_SECONDS, LONGEST_CALL_SECONDS),
                # In the caller's own name: it is for the other service to say what they may.
                metadata=[
                    *(item for item in context.invocation_metadata() or () if item[0] in FORWARDED),
                    (REQUEST_ID_KEY, current_request_id()),
                ],
            )
        except grpc.aio.AioRpcError as error:
            raise error_of(error, service, address) from None

    @property
    def servicer(self) -> Servicer:
        return Servicer(self, self._own.add, Operations.full_name)
