"""The records of operations in object storage, and the google.longrunning.Operation that they say.

    operations/{service}/{id}/request.json   by the front end: what is to be done
    operations/{service}/{id}/progress.json  by the service's host, as it goes
    operations/{service}/{id}/result.json    by the host, last

Each attempt has a random name, which all objects of it say: progress and result of an earlier attempt are none of a
later one's, so that writing the request is all that a new attempt takes.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from synthmix.api.operations.v1 import operations_pb2 as synthmix_operations_pb2
from synthmix.service_kit import errors, stored_records
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import OperationName

OperationMetadata = synthmix_operations_pb2.OperationMetadata
Resource = Callable[[str, dict[str, Any]], Message]
"""Reads a finished resource by its name and the request that made it."""

# The newest that can be read, and that of what is written. A field more is none, as older versions leave it alone.
SCHEMA = 1
REQUEST = "request.json"
RESULT = "result.json"


@dataclass(frozen=True)
class OperationRecord:
    """What an operation is asked to do.

    Attributes:
        kind: The collection of what it makes, such as adapters: chooses the function that does it.
        target: The resource that it makes, or "" if only the work tells.
        request: The canonical request.
        create_time: RFC 3339, UTC.
        attempt: Tells this attempt from earlier ones.
        requested_by: Who asked for it first.
        request_id: Of the call that did; "" of what an earlier version recorded.
    """

    name: OperationName
    kind: str
    target: str
    request: dict[str, Any]
    create_time: str
    attempt: str = field(default_factory=lambda: secrets.token_hex(8))
    requested_by: Requester = field(default_factory=Requester)
    request_id: str = ""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_record(store: ObjectStore, record: OperationRecord) -> None:
    store.put_json(
        f"{record.name}/{REQUEST}",
        {
            "schema": SCHEMA,
            "kind": record.kind,
            "target": record.target,
            "request": record.request,
            "create_time": record.create_time,
            "attempt": record.attempt,
            "requested_by": record.requested_by.to_json(),
            "request_id": record.request_id,
        },
    )


def find_record(store: ObjectStore, name: OperationName) -> OperationRecord | None:
    """Raises FailedPrecondition, with the reason RECORD_UNREADABLE, if this version cannot read it."""
    key = f"{name}/{REQUEST}"
    value = stored_records.find_record(store, key, SCHEMA)
    if value is None:
        return None
    with stored_records.reading(key):
        return OperationRecord(
            name=name,
            kind=str(value["kind"]),
            target=str(value["target"]),
            request=dict(value["request"]),
            create_time=stored_records.time_text(value["create_time"]),
            attempt=str(value["attempt"]),
            requested_by=Requester.from_json(value.get("requested_by")),
            request_id=str(value.get("request_id", "")),
        )


def find_readable_record(store: ObjectStore, name: OperationName) -> OperationRecord | None:
    """The record, or None as well if another version wrote it in a way that this one cannot read."""
    try:
        return find_record(store, name)
    except errors.FailedPrecondition as error:
        if error.reason != stored_records.UNREADABLE:
            raise
        return None


def read_record(store: ObjectStore, name: OperationName) -> OperationRecord:
    """Raises NotFound, FailedPrecondition."""
    record = find_record(store, name)
    if record is None:
        raise errors.NotFound(
            f"{name} does not exist; `synthmix operations list` shows what does", reason="OPERATION_NOT_FOUND"
        )
    return record


def is_recorded(store: ObjectStore, name: OperationName) -> bool:
    return store.stat(f"{name}/{REQUEST}") is not None


def find_progress(store: ObjectStore, record: OperationRecord) -> dict[str, Any] | None:
    """Fields of OperationMetadata, as the host wrote them last in this attempt."""
    return _of_attempt(stored_records.find_record(store, f"{record.name}/progress.json", SCHEMA), record)


def last_revision(store: ObjectStore, name: OperationName) -> int:
    """Of the progress that was written last, in whichever attempt: watchers count on its growing."""
    key = f"{name}/progress.json"
    with stored_records.reading(key):
        return int((store.find_json(key) or {}).get("revision", 0))


def write_progress(store: ObjectStore, record: OperationRecord, progress: dict[str, Any]) -> None:
    store.put_json(f"{record.name}/progress.json", {"schema": SCHEMA, "attempt": record.attempt} | progress)


def find_result(store: ObjectStore, record: OperationRecord) -> dict[str, Any] | None:
    """How this attempt ended, or None if it has not. Raises FailedPrecondition if this version cannot read it."""
    key = f"{record.name}/{RESULT}"
    result = _of_attempt(stored_records.find_record(store, key, SCHEMA), record)
    if result is not None:
        with stored_records.reading(key):
            stored_records.time_text(result["end_time"])
            str(result["target"]) if "error" not in result else dict(result["error"])
    return result


def write_success(store: ObjectStore, record: OperationRecord, target: str) -> None:
    _write_result(store, record, {"target": target})


def write_failure(store: ObjectStore, record: OperationRecord, error: errors.SynthMixError) -> None:
    _write_result(store, record, {"error": errors.to_json(error)})


def _write_result(store: ObjectStore, record: OperationRecord, how: dict[str, Any]) -> None:
    value = {"schema": SCHEMA, "attempt": record.attempt, "end_time": now()}
    store.put_json(f"{record.name}/{RESULT}", value | how)


def _of_attempt(value: dict[str, Any] | None, record: OperationRecord) -> dict[str, Any] | None:
    return value if value is not None and value.get("attempt") == record.attempt else None


def state_of(progress: dict[str, Any] | None, result: dict[str, Any] | None) -> str:
    """The state's name in the proto, by what this attempt has written."""
    if result is not None:
        if "error" not in result:
            return "STATE_SUCCEEDED"
        cancelled = errors.from_json(result["error"]).code == errors.Cancelled.code
        return "STATE_CANCELLED" if cancelled else "STATE_FAILED"
    if progress is None or progress.get("begun") is False or progress.get("waits"):
        return "STATE_QUEUED"
    return "STATE_RUNNING"


def read_operation(
    store: ObjectStore, record: OperationRecord, resource: Resource, queued: Callable[[], str] = lambda: ""
) -> operations_pb2.Operation:
    """The operation as its records stand now.

    Args:
        resource: Reads the finished resource.
        queued: Tells what is said of it while no host has begun it.
    """
    progress = find_progress(store, record)
    result = find_result(store, record)
    state = state_of(progress, result)
    metadata = json_format.ParseDict(progress or {}, OperationMetadata(), ignore_unknown_fields=True)
    metadata.MergeFrom(OperationMetadata(target=record.target, state=state))
    if state == "STATE_QUEUED" and progress is None:
        metadata.message = queued()
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
