"""Every operation of a service, by one listing of keys: when it was created, and whether it has ended."""

from dataclasses import dataclass

from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import REQUEST, RESULT
from synthmix.service_kit.resource_names import OperationName, operations_of


@dataclass(frozen=True)
class IndexedOperation:
    """An operation, as its index has it.

    Attributes:
        time: When it was created, RFC 3339, UTC, in milliseconds: in the order of text.
        kind: The collection of what it makes, such as adapters.
        ended: Whether it has a result.
    """

    time: str
    kind: str
    ended: bool


class OperationIndex:
    """Every operation of a service. Safe to share between threads.

    A record that was read once is not read again until it is written anew: a list costs one listing of keys, however
    many operations there are.
    """

    def __init__(self, store: ObjectStore, service: str):
        self._store = store
        self._service = service
        self._known: dict[str, tuple[str | None, str, str]] = {}

    def read(self) -> dict[OperationName, IndexedOperation]:
        objects = {item.key: item.version for item in self._store.list(f"{operations_of(self._service)}/")}
        found: dict[OperationName, IndexedOperation] = {}
        known: dict[str, tuple[str | None, str, str]] = {}
        for key, version in objects.items():
            name, leaf = OperationName.of_key(key)
            if leaf != REQUEST:
                continue
            known_version, time, kind = self._known.get(key, (None, "", ""))
            if known_version != version:
                record = self._store.find_json(key)
                if record is None:  # deleted meanwhile
                    continue
                time, kind = record["create_time"], record["kind"]
            known[key] = version, time, kind
            found[name] = IndexedOperation(time, kind, ended=f"{name}/{RESULT}" in objects)
        self._known = known
        return found
