"""When the operations of a service were created: what lists are ordered by."""

from dataclasses import dataclass

from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import REQUEST
from synthmix.service_kit.resource_names import OperationName, operations_of


@dataclass(frozen=True)
class Created:
    """An operation's creation.

    Attributes:
        time: RFC 3339, UTC, in milliseconds: in the order of text.
        kind: The collection of what it makes, such as adapters.
    """

    time: str
    kind: str


class OperationIndex:
    """Every operation of a service. Safe to share between threads.

    A record that was read once is not read again until it is written anew: a list costs one listing of keys, however
    many operations there are.
    """

    def __init__(self, store: ObjectStore, service: str):
        self._store = store
        self._service = service
        self._known: dict[str, tuple[str, Created]] = {}

    def read(self) -> dict[OperationName, Created]:
        found, known = {}, {}
        for item in self._store.list(f"{operations_of(self._service)}/"):
            name, leaf = OperationName.of_key(item.key)
            if leaf != REQUEST:
                continue
            version, created = self._known.get(item.key, ("", None))
            if created is None or version != item.version:
                record = self._store.find_json(item.key)
                if record is None:  # deleted meanwhile
                    continue
                created = Created(record["create_time"], record["kind"])
            known[item.key] = item.version, created
            found[name] = created
        self._known = known
        return found
