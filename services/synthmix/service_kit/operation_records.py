"""The records of operations in object storage, and the google.longrunning.Operation that they say.

    operations/{service}/{id}/request.json   by the front end: what is to be done
    operations/{service}/{id}/progress.json  by the coordinator, as it goes
    operations/{service}/{id}/cancel.json    by the front end: please stop
    operations/{service}/{id}/result.json    by the coordinator, last

An operation whose record has no result is unfinished: some front end makes sure that a coordinator works on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from synthmix.api.operations.v1 import operations_pb2 as synthmix_operations_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import OperationName

OperationMetadata = synthmix_operations_pb2.OperationMetadata
Resource = Callable[[str, dict[str, Any]], Message]
"""Reads a finished resource by its name and the request that made it."""

REQUEST = "request.json"
RESULT = "result.json"


@dataclass(frozen=True)
class OperationRecord:
    """What an operation is asked to do.

    Attributes:
        kind: The collection of what it makes, such as adapters: chooses the coordinator.
        target: The resource that it makes, or "" if only the work tells.
        request: The canonical request.
        create_time: RFC 3339, UTC.
    """

    name: OperationName
    kind: str
    target: str
    request: dict[str, Any]
    create_time: str


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_record(store: ObjectStore, record: OperationRecord) -> None:
    value = {"kind": record.kind, "target": record.target, "request": record.request, "create_time": record.create_time}
    store.put_json(f"{record.name}/{REQUEST}", value)


def find_record(store: ObjectStore, name: OperationName) -> OperationRecord | None:
    value = store.find_json(f"{name}/{REQUEST}")
    return None if value is None else OperationRecord(name=name, **value)


def read_record(store: ObjectStore, name: OperationName) -> OperationRecord:
    """Raises NotFound."""
    record = find_record(store, name)
    if record is None:
        raise errors.NotFound(
            f"{name} does not exist; `synthmix operations list` shows what does", reason="OPERATION_NOT_FOUND"
        )
    return record


def is_recorded(store: ObjectStore, name: OperationName) -> bool:
    return store.stat(f"{name}/{REQUEST}") is not None


def find_progress(store: ObjectStore, name: OperationName) -> dict[str, Any] | None:
    """Fields of OperationMetadata, as the coordinator wrote them last."""
    return store.find_json(f"{name}/progress.json")


def write_progress(store: ObjectStore, name: OperationName, progress: dict[str, Any]) -> None:
    store.put_json(f"{name}/progress.json", progress)


def find_result(store: ObjectStore, name: OperationName) -> dict[str, Any] | None:
    return store.find_json(f"{name}/{RESULT}")


def write_success(store: ObjectStore, name: OperationName, target: str) -> None:
    store.put_json(f"{name}/{RESULT}", {"target": target, "end_time": now()})


def write_failure(store: ObjectStore, name: OperationName, error: errors.SynthMixError) -> None:
    store.put_json(f"{name}/{RESULT}", {"error": errors.to_json(error), "end_time": now()})


def request_cancellation(store: ObjectStore, name: OperationName) -> None:
    store.put_json(f"{name}/cancel.json", {"time": now()})


def cancellation_requested(store: ObjectStore, name: OperationName) -> bool:
    return store.stat(f"{name}/cancel.json") is not None


def clear_result(store: ObjectStore, name: OperationName) -> None:
    """Makes a cancelled or failed operation unfinished again; what it had done stays."""
    store.delete(f"{name}/cancel.json")
    store.delete(f"{name}/{RESULT}")


def state_of(progress: dict[str, Any] | None, result: dict[str, Any] | None) -> str:
    """The state's name in the proto."""
    if result is not None:
        if "error" not in result:
            return "STATE_SUCCEEDED"
        cancelled = errors.from_json(result["error"]).code == errors.Cancelled.code
        return "STATE_CANCELLED" if cancelled else "STATE_FAILED"
    return "STATE_QUEUED" if progress is None else "STATE_RUNNING"


def read_operation(store: ObjectStore, record: OperationRecord, resource: Resource) -> operations_pb2.Operation:
    """The operation as its records stand now. `resource` reads the finished resource."""
    progress = find_progress(store, record.name)
    result = find_result(store, record.name)
    metadata = json_format.ParseDict(progress or {}, OperationMetadata(), ignore_unknown_fields=True)
    metadata.MergeFrom(OperationMetadata(target=record.target, state=state_of(progress, result)))
    metadata.create_time.FromJsonString(record.create_time)
    operation = operations_pb2.Operation(name=str(record.name))
    if result is not None:
        metadata.update_time.FromJsonString(result["end_time"])
        operation.done = True
        if "error" in result:
            operation.error.CopyFrom(errors.to_status(errors.from_json(result["error"])))
        else:
            metadata.target = result["target"]
            try:
                operation.response.Pack(resource(result["target"], record.request))
            except errors.NotFound as error:  # it was made, and deleted since
                operation.error.CopyFrom(errors.to_status(error))
    operation.metadata.Pack(metadata)
    return operation


def finished_operation(response: Message, name: str = "", target: str = "") -> operations_pb2.Operation:
    """An operation that is done because its resource exists, or because it only validated."""
    operation = operations_pb2.Operation(name=name, done=True)
    operation.response.Pack(response)
    operation.metadata.Pack(OperationMetadata(target=target, state="STATE_SUCCEEDED"))
    return operation
