"""The operations that are to be done: what is looked through every second, however many have ended.

    open-operations/{service}/{id}.json              what there is to be done: enough to give it its turn
    open-operations/{service}/{id}.cancel.{attempt}  please stop this attempt
    operation-hosts/{service}/queue.json             who waits for a place, by the host

No folder has folders, which some servers list one by one. A front end writes {id}.json before the record and looks
after it once more; the host deletes it after the result. So an operation that is to be done is among them, whoever dies
in between. One that is among them and has ended is taken out by the host that finds it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthmix.service_kit import stored_records
from synthmix.service_kit.errors import FailedPrecondition, NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import SCHEMA, OperationRecord, find_record, now
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import OperationName

OPEN = "json"
CANCEL = "cancel."


@dataclass(frozen=True)
class OpenOperation:
    """An operation that is to be done, as far as giving it its turn needs it."""

    name: OperationName
    kind: str
    attempt: str
    create_time: str
    requested_by: Requester


def add(store: ObjectStore, record: OperationRecord) -> None:
    store.put_json(
        _key(record.name, OPEN),
        {
            "schema": SCHEMA,
            "kind": record.kind,
            "attempt": record.attempt,
            "create_time": record.create_time,
            "requested_by": record.requested_by.to_json(),
        },
    )


def make_sure(store: ObjectStore, record: OperationRecord) -> None:
    """Adds the operation unless it is there.

    A host may have taken out an earlier attempt of it meanwhile, or another front end may have begun an attempt at the
    same time: the record that was written last counts.
    """
    try:
        opened = find(store, record.name)
    except FailedPrecondition:  # another version wrote it, for an attempt that has ended
        opened = None
    latest = find_record(store, record.name) or record  # read second: it is written before what is open is looked after
    if opened is None or opened.attempt != latest.attempt:
        add(store, latest)


def find(store: ObjectStore, name: OperationName) -> OpenOperation | None:
    """Raises FailedPrecondition, with the reason RECORD_UNREADABLE, if this version cannot read it."""
    key = _key(name, OPEN)
    value = stored_records.find_record(store, key, SCHEMA)
    if value is None:
        return None
    with stored_records.reading(key):
        return OpenOperation(
            name=name,
            kind=str(value["kind"]),
            attempt=str(value["attempt"]),
            create_time=stored_records.time_text(value["create_time"]),
            requested_by=Requester.from_json(value.get("requested_by")),
        )


def names(store: ObjectStore, service: str) -> dict[OperationName, frozenset[str]]:
    """Every open operation of a service, and which attempts of it are to stop, in one listing."""
    opened: list[str] = []
    cancelled: dict[str, set[str]] = defaultdict(set)
    for item in store.list(f"open-operations/{service}/"):
        operation_id, _, leaf = item.key.split("/", 2)[2].partition(".")
        if leaf == OPEN:
            opened.append(operation_id)
        elif leaf.startswith(CANCEL):
            cancelled[operation_id].add(leaf.removeprefix(CANCEL))
    return {OperationName(service, found): frozenset(cancelled.get(found, ())) for found in opened}


def close(store: ObjectStore, record: OperationRecord) -> None:
    """Takes out an attempt that has ended, unless a front end has begun another one meanwhile."""
    store.delete(_cancel_key(record))
    store.delete(_key(record.name, OPEN))
    latest = find_record(store, record.name)
    if latest is not None and latest.attempt != record.attempt:
        add(store, latest)


def forget(store: ObjectStore, name: OperationName) -> None:
    """Takes out what has no record."""
    store.delete_prefix(_key(name, ""))


def request_cancellation(store: ObjectStore, record: OperationRecord) -> None:
    store.put_json(_cancel_key(record), {"schema": SCHEMA, "time": now()})


def cancellation_requested(store: ObjectStore, record: OperationRecord) -> bool:
    return store.stat(_cancel_key(record)) is not None


def write_queue(store: ObjectStore, service: str, before: Mapping[OperationName, int]) -> None:
    """Says how many operations are before each that waits for a place."""
    value = {"schema": SCHEMA, "before": {name.id: count for name, count in before.items()}}
    store.put_json(f"operation-hosts/{service}/queue.json", value)


def read_queue(store: ObjectStore, service: str) -> dict[OperationName, int]:
    """As the host wrote it last: empty if it has not, or as this version cannot read."""
    try:
        value: Any = store.get_json(f"operation-hosts/{service}/queue.json")
        return {OperationName(service, str(key)): int(count) for key, count in value["before"].items()}
    except (NotFound, ValueError, KeyError, TypeError, AttributeError):
        return {}


def said_of_queued(before: int | None) -> str:
    """What an operation's metadata says while it is queued, by how many are before it, if that is known."""
    if before is None:
        return "queued"
    if before == 0:
        return "queued: it is the next one"
    return f"queued: {before:,} operations are before it" if before > 1 else "queued: 1 operation is before it"


def _cancel_key(record: OperationRecord) -> str:
    return _key(record.name, f"{CANCEL}{record.attempt}")


def _key(name: OperationName, leaf: str) -> str:
    return f"open-operations/{name.service}/{name.id}.{leaf}"
