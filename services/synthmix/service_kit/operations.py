"""Operations of one front end: starting them, answering google.longrunning.Operations, keeping them going."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from synthmix.service_kit import metrics, pages
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import MANIFEST
from synthmix.service_kit.coordinator import launch
from synthmix.service_kit.errors import FailedPrecondition, SynthMixError, Unavailable, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_index import OperationIndex
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.resource_names import OperationName

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 10.0
POLL_SECONDS = 0.3
LONGEST_WAIT_SECONDS = 600.0
HANDOVER_SECONDS = 20.0


class Operations(operations_pb2_grpc.OperationsServicer):
    """Starts and answers the operations of one service. Keeps nothing that a restart would miss.

    Args:
        service: The service's name.
        coordinators: For each kind of operation, the coordinating function as "module:name". It takes an
            OperationContext and returns the name of what it made.
        resource: Reads a finished resource by name.
    """

    full_name = operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name
    add = staticmethod(operations_pb2_grpc.add_OperationsServicer_to_server)

    def __init__(
        self,
        service: str,
        store: ObjectStore,
        ray_connection: RayConnection,
        coordinators: Mapping[str, str],
        resource: records.Resource,
    ):
        self.service = service
        self._store = store
        self._ray = ray_connection
        self._coordinators = dict(coordinators)
        self._resource = resource
        self.index = OperationIndex(store, service)
        self._wanted: asyncio.Queue[OperationName] = asyncio.Queue()
        self._final_states: dict[OperationName, str] = {}

    async def start(
        self, operation_id: str, kind: str, target: str, request: dict[str, Any]
    ) -> operations_pb2.Operation:
        """The operation of this content address: the one that exists, or a new one.

        One that was cancelled or failed is started again and goes on from what it had done.
        """
        name = OperationName(self.service, operation_id)
        # Whoever asks again while an earlier attempt winds down wants a new attempt, not that one's end.
        deadline_s = time.monotonic() + HANDOVER_SECONDS
        while await asyncio.to_thread(self._is_being_cancelled, name):
            if time.monotonic() > deadline_s:
                raise FailedPrecondition(
                    f"{name} is still being cancelled; submit it again in a moment", reason="OPERATION_CANCELLING"
                )
            await asyncio.sleep(POLL_SECONDS)
        record = await asyncio.to_thread(self._record, name, kind, target, request)
        operation = await asyncio.to_thread(records.read_operation, self._store, record, self._resource)
        if not operation.done:
            self._wanted.put_nowait(name)
        return operation

    def _is_being_cancelled(self, name: OperationName) -> bool:
        return records.cancellation_requested(self._store, name) and records.find_result(self._store, name) is None

    def _record(self, name: OperationName, kind: str, target: str, request: dict[str, Any]) -> records.OperationRecord:
        """The record to work by. A new attempt has this request's, which may name other places for the same inputs."""
        record = records.find_record(self._store, name)
        result = records.find_result(self._store, name)
        if record is not None and (result is None or self._stands(result)):
            return record
        record = records.OperationRecord(name, kind, target, request, records.now())
        records.write_record(self._store, record)
        records.clear_result(self._store, name)
        return record

    def _stands(self, result: dict[str, Any]) -> bool:
        """Whether a result is a success whose artifact is still there."""
        return "error" not in result and self._store.stat(f"{result['target']}/{MANIFEST}") is not None

    async def keep_going(self) -> None:
        """Endless: starts what is wanted at once, and now and then every unfinished operation without a coordinator.

        Every replica does: an operation's actor has its name, so two who start it at once get the same one.
        """
        next_reconcile_s = 0.0
        while True:
            try:
                name = await asyncio.wait_for(self._wanted.get(), timeout=max(0.1, next_reconcile_s - time.monotonic()))
            except TimeoutError:
                next_reconcile_s = time.monotonic() + RECONCILE_SECONDS
                await self._reconcile()
            else:
                await self._try_to_launch(name)

    async def _reconcile(self) -> None:
        """Starts every unfinished operation without a coordinator, whichever replica it was asked of."""
        try:
            unfinished = await asyncio.to_thread(self._count)
        except SynthMixError as error:
            log.warning("%s", error.message)
            return
        for name in unfinished:
            await self._try_to_launch(name)

    async def _try_to_launch(self, name: OperationName) -> None:
        """What fails is left to the next round: one operation must not keep others from starting."""
        try:
            await asyncio.to_thread(self._launch, name)
        except SynthMixError as error:
            log.warning("%s: %s", name, error.message)
        except Exception:  # Ray raises many kinds
            log.exception("%s does not start", name)

    def _launch(self, name: OperationName) -> None:
        record = records.find_record(self._store, name)
        if record is None or records.find_result(self._store, name) is not None:
            return
        ray = self._ray.ensure()
        deadline_s = time.monotonic() + HANDOVER_SECONDS
        while time.monotonic() < deadline_s:
            actor = launch(ray, name, self._coordinators[record.kind])
            try:
                if ray.get(actor.working.remote(), timeout=HANDOVER_SECONDS):
                    return
            except ray.exceptions.RayActorError as error:
                log.info("%s: a coordinator is on its way out, or did not come up: %s", name, error)
            except ray.exceptions.GetTimeoutError:
                return  # pending: Ray starts it when it can
            time.sleep(POLL_SECONDS)
        raise Unavailable(
            f"the coordinator of {name} does not start; check that Ray runs and has a free CPU",
            reason="RAY_UNAVAILABLE",
        )

    def _count(self) -> list[OperationName]:
        """Counts operations by state, and returns the unfinished ones."""
        states = dict.fromkeys(("queued", "running", "succeeded", "failed", "cancelled"), 0)
        unfinished = []
        for name, operation in self.index.read().items():
            if not operation.ended:
                self._final_states.pop(name, None)
                unfinished.append(name)
                state = records.state_of(records.find_progress(self._store, name), None)
            else:
                if name not in self._final_states:
                    self._final_states[name] = records.state_of(None, records.find_result(self._store, name))
                state = self._final_states[name]
            states[state.removeprefix("STATE_").lower()] += 1
        for state, count in states.items():
            metrics.OPERATIONS.labels(self.service, state).set(count)
        return unfinished

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        return await asyncio.to_thread(self._read, OperationName.parse(request.name))

    def _read(self, name: OperationName) -> operations_pb2.Operation:
        return records.read_operation(self._store, records.read_record(self._store, name), self._resource)

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        """The newest first."""

        def read() -> operations_pb2.ListOperationsResponse:
            times = {name: created.time for name, created in self.index.read().items()}
            page, token = pages.newest_first(times, request.page_size, request.page_token)
            return operations_pb2.ListOperationsResponse(
                operations=[self._read(name) for name in page], next_page_token=token
            )

        return await asyncio.to_thread(read)

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """Asks the operation to stop; it ends as CANCELLED in seconds. Cancelling a finished one changes nothing."""
        name = OperationName.parse(request.name)

        def cancel() -> None:
            records.read_record(self._store, name)
            if records.find_result(self._store, name) is None:
                records.request_cancellation(self._store, name)

        await asyncio.to_thread(cancel)
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
            operation = await asyncio.to_thread(self._read, name)
            if operation.done or time.monotonic() >= deadline_s:
                return operation
            await asyncio.sleep(POLL_SECONDS)

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """Forgets a finished operation. What it made stays."""
        name = OperationName.parse(request.name)

        def delete() -> None:
            records.read_record(self._store, name)
            if records.find_result(self._store, name) is None:
                raise FailedPrecondition(f"{name} is not finished; cancel it first", reason="OPERATION_RUNNING")
            self._store.delete_prefix(f"{name}/")

        await asyncio.to_thread(delete)
        return empty_pb2.Empty()
