"""Operations of one front end: it starts them, answers google.longrunning.Operations, and looks after their host."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from synthmix.service_kit import metrics, open_operations, owners, pages
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import MANIFEST
from synthmix.service_kit.audit import current_request_id
from synthmix.service_kit.deletion import leave
from synthmix.service_kit.errors import (
    FailedPrecondition,
    ResourceExhausted,
    SynthMixError,
    invalid_field,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_hosts import Hosts
from synthmix.service_kit.operation_index import Created, OperationIndex
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.requesters import Requester, current_requester
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.stored_records import read_each

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 10.0
POLL_SECONDS = 0.3
LONGEST_WAIT_SECONDS = 600.0
HANDOVER_SECONDS = 20.0
# More are refused: what nobody can look through any more helps nobody.
MOST_OPEN = 10_000


class Operations(operations_pb2_grpc.OperationsServicer):
    """Starts and answers the operations of one service. Keeps nothing that a restart would miss.

    Args:
        service: The service's name.
        functions: For each kind of operation, the function that does it as "module:name". It takes an OperationContext
            and returns the name of what it made.
        resource: Reads a finished resource by name.
    """

    full_name = operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name

    def __init__(
        self,
        service: str,
        store: ObjectStore,
        ray_connection: RayConnection,
        functions: Mapping[str, str],
        resource: records.Resource,
    ):
        self.service = service
        self._store = store
        self._hosts = Hosts(service, store, ray_connection, functions)
        self._resource = resource
        self.index = OperationIndex(store, service)
        self._open_count = 0
        self._new = asyncio.Event()
        # Each of its own: what is asked for now waits for no round, and neither for the threads of requests.
        self._waking = ThreadPoolExecutor(1, thread_name_prefix="wake")
        self._reconciling = ThreadPoolExecutor(1, thread_name_prefix="reconcile")

    async def start(
        self, operation_id: str, kind: str, target: str, request: dict[str, Any]
    ) -> operations_pb2.Operation:
        """The operation of this content address: the one that exists, or a new one.

        One that was cancelled or failed is started again and goes on from what it had done.

        Raises:
            FailedPrecondition: It is still being cancelled.
            ResourceExhausted: Too many operations of this service have not ended.
        """
        name = OperationName(self.service, operation_id)
        await self._wait_for_cancellation(name)
        record = await asyncio.to_thread(self._record, name, kind, target, request)
        operation = await asyncio.to_thread(self._answer_to, current_requester(), record)
        if not operation.done:
            self._new.set()
        return operation

    async def _wait_for_cancellation(self, name: OperationName) -> None:
        """Whoever asks again while an earlier attempt winds down wants a new attempt, not that one's end."""
        deadline_s = time.monotonic() + HANDOVER_SECONDS
        while await asyncio.to_thread(self._is_being_cancelled, name):
            if time.monotonic() > deadline_s:
                raise FailedPrecondition(
                    f"{name} is still being cancelled; submit it again in a moment", reason="OPERATION_CANCELLING"
                )
            await asyncio.sleep(POLL_SECONDS)

    def _is_being_cancelled(self, name: OperationName) -> bool:
        record = records.find_readable_record(self._store, name)
        return (
            record is not None
            and records.find_result(self._store, record) is None
            and open_operations.cancellation_requested(self._store, record)
        )

    def _record(self, name: OperationName, kind: str, target: str, request: dict[str, Any]) -> records.OperationRecord:
        """The record to work by. A new attempt has this request's, which may name other places for the same inputs."""
        record = records.find_readable_record(self._store, name)
        if record is not None:
            result = records.find_result(self._store, record)
            if result is None:
                open_operations.make_sure(self._store, record)
                return record
            if self._stands(result):
                return record
        if self._open_count >= MOST_OPEN:
            raise ResourceExhausted(
                f"{self._open_count:,} operations of {self.service} have not ended, and more are refused from "
                f"{MOST_OPEN:,} on; submit it again later, or cancel what is not wanted",
                reason="TOO_MANY_OPERATIONS",
            )
        earlier, record = (
            record,
            records.OperationRecord(
                name,
                kind,
                target,
                request,
                records.now(),
                requested_by=current_requester(),
                request_id=current_request_id(),
            ),
        )
        open_operations.add(self._store, record)
        self.index.add(name, Created(record.create_time, kind))
        records.write_record(self._store, record)
        open_operations.make_sure(self._store, record)
        if earlier is not None and (earlier.create_time, earlier.kind) != (record.create_time, kind):
            self.index.remove(name, Created(earlier.create_time, earlier.kind))
        return record

    def _stands(self, result: dict[str, Any]) -> bool:
        """Whether a result is a success whose artifact is still there."""
        return "error" not in result and self._store.stat(f"{result['target']}/{MANIFEST}") is not None

    async def keep_going(self) -> None:
        """Endless: tells the host of what is new at once, and now and then sees that it is there.

        Every replica does: the host's actor has its name, so two who start it at once get the same one.
        """
        await asyncio.gather(self._pass_on(), self._reconcile_for_ever(), self._try(self._waking, self.index.read))

    async def _pass_on(self) -> None:
        while True:
            await self._new.wait()
            self._new.clear()
            await self._try(self._waking, self._hosts.wake)

    async def _reconcile_for_ever(self) -> None:
        while True:
            await self._try(self._reconciling, self.reconcile)
            await asyncio.sleep(RECONCILE_SECONDS)

    async def _try(self, threads: ThreadPoolExecutor, action: Callable[[], object]) -> None:
        """What fails is left to the next round."""
        try:
            await asyncio.get_running_loop().run_in_executor(threads, action)
        except SynthMixError as error:
            log.warning("%s", error.message)
        except Exception:  # Ray raises many kinds
            log.exception("the host of %s could not be reached", self.service)

    def reconcile(self) -> None:
        """Counts what is open, and sees that a host works on it: one listing, and one question to the host."""
        self._open_count = len(open_operations.names(self._store, self.service))
        running = waiting = unreadable = 0
        try:
            if self._open_count:
                live = self._hosts.wake()
                running, unreadable = min(live.running, self._open_count), live.unreadable
                waiting = min(live.waiting, self._open_count - running)
        finally:
            metrics.UNREADABLE_OPERATIONS.labels(self.service).set(unreadable)
            metrics.OPERATIONS.labels(self.service, "running").set(running)
            metrics.OPERATIONS.labels(self.service, "waiting").set(waiting)
            metrics.OPERATIONS.labels(self.service, "queued").set(self._open_count - running - waiting)

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        return await self._read_for_caller(OperationName.parse(request.name))

    async def _read_for_caller(self, name: OperationName) -> operations_pb2.Operation:
        caller = current_requester()

        return await asyncio.to_thread(lambda: self._answer_to(caller, records.read_record(self._store, name)))

    def _answer_to(
        self,
        caller: Requester,
        record: records.OperationRecord,
        queue: Mapping[OperationName, int] | None = None,
    ) -> operations_pb2.Operation:
        """With who asked for it and for what it made, and whether it is to stop."""

        def resource(name: str, request: dict[str, Any]) -> Message:
            asked = owners.owners_of(self._store, ArtifactName.parse(name, field="name"))
            message: Message = owners.show(self._resource(name, request), asked, caller.owner)
            return message

        # A study asks for each of its steps twice a second, and shows them to nobody.
        shown = not caller.study
        operation = self._answer(record, queue, resource if shown else self._resource)
        metadata = metadata_of(operation)
        if shown:
            owners.show(metadata, self._owners(record), caller.owner)
        metadata.cancel_requested = not operation.done and open_operations.cancellation_requested(self._store, record)
        operation.metadata.Pack(metadata)
        return operation

    def _owners(self, record: records.OperationRecord) -> frozenset[str]:
        """Those of what it makes; of an import, of which only the work tells that, and of a removal, who asked."""
        if record.target and not record.request.get("is_requesters"):
            return owners.owners_of(self._store, ArtifactName.parse(record.target, field="target"))
        return frozenset(filter(None, [record.requested_by.owner]))

    def read(self, name: OperationName) -> operations_pb2.Operation:
        """The operation as it stands now. Raises NotFound, FailedPrecondition."""
        return self._answer(records.read_record(self._store, name))

    def _answer(
        self,
        record: records.OperationRecord,
        queue: Mapping[OperationName, int] | None = None,
        resource: records.Resource | None = None,
    ) -> operations_pb2.Operation:
        def queued() -> str:
            before = open_operations.read_queue(self._store, self.service) if queue is None else queue
            return open_operations.said_of_queued(before.get(record.name))

        return records.read_operation(self._store, record, resource or self._resource, queued)

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        """The newest first. What this version cannot read is named as unreachable."""

        caller = current_requester()

        def read() -> operations_pb2.ListOperationsResponse:
            times = {name: created.time for name, created in self.index.read().items()}
            page, token = pages.newest_first(times, request.page_size, request.page_token)
            queue = open_operations.read_queue(self._store, self.service)
            operations, unreachable = read_each(
                page, lambda name: self._answer_to(caller, records.read_record(self._store, name), queue)
            )
            return operations_pb2.ListOperationsResponse(
                operations=operations, next_page_token=token, unreachable=unreachable
            )

        return await asyncio.to_thread(read)

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """Asks the operation to stop; it ends as CANCELLED in seconds. Cancelling a finished one changes nothing.

        One that others asked for as well goes on for them: that the caller asked for it is forgotten.
        """
        name = OperationName.parse(request.name)

        def cancel(caller: owners.Caller) -> None:
            record = records.read_record(self._store, name)
            if records.find_result(self._store, record) is not None:
                return
            asked = self._owners(record)
            caller.check(name, asked)
            own = caller.acts_for(asked)
            if asked - own:
                leave(self._store, ArtifactName.parse(record.target, field="target"), own)
                return
            open_operations.request_cancellation(self._store, record)
            open_operations.make_sure(self._store, record)

        await owners.as_owner(cancel)
        self._new.set()
        return empty_pb2.Empty()

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        """Returns once the operation is done or the timeout (at most 10 min) has passed, whichever is first."""
        # Not ToTimedelta, which raises for times beyond its own range.
        timeout = request.timeout
        wanted_s = timeout.seconds + timeout.nanos / 1e9 if request.HasField("timeout") else LONGEST_WAIT_SECONDS
        if wanted_s < 0:
            raise invalid_field("timeout", wanted_s, "is negative", "use 0 s or more", reason="OUT_OF_RANGE")
        deadline_s = time.monotonic() + min(wanted_s, LONGEST_WAIT_SECONDS)
        name = OperationName.parse(request.name)
        while True:
            operation = await asyncio.to_thread(self.read, name)
            if operation.done or time.monotonic() >= deadline_s:
                return await self._read_for_caller(name)
            await asyncio.sleep(POLL_SECONDS)

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """Forgets a finished operation. What it made stays."""
        name = OperationName.parse(request.name)

        def delete(caller: owners.Caller) -> None:
            record = records.read_record(self._store, name)
            asked = self._owners(record)
            caller.check(name, asked)
            result = records.find_result(self._store, record)
            if result is None:
                raise FailedPrecondition(f"{record.name} is not finished; cancel it first", reason="OPERATION_RUNNING")
            others = asked - caller.acts_for(asked)
            if others and not caller.administers:
                raise caller.denied(f"{name} is also the operation of {owners.said_of(others)}")
            self._store.delete_prefix(f"{name}/")
            if not self._stands(result):  # lists of what was made go by the index
                self.index.remove(name, Created(record.create_time, record.kind))

        await owners.as_owner(delete)
        return empty_pb2.Empty()

    @property
    def add(self) -> Callable[[Any, grpc.aio.Server], None]:
        add: Callable[[Any, grpc.aio.Server], None] = operations_pb2_grpc.add_OperationsServicer_to_server
        return add
