"""When the operations of a service were created: what lists are ordered by.

    operation-index/{service}/{create_time}_{kind}_{id}   an empty message

The keys say all there is to say, and begin with the day: a list reads no record of what it does not show, and a service
that has read the index once lists the last two days of it alone.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import OperationName

# What other replicas have deleted is looked for so often. Until then, who reads its record finds none.
WHOLE_SECONDS = 3600.0


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
    """Every operation of a service that was started, and was not deleted since. Safe to share between threads.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, store: ObjectStore, service: str, clock: Callable[[], float] = time.time):
        self._store = store
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[OperationName, Created]] = {}
        self._whole_until_s = 0.0

    def read(self, kind: str = "") -> dict[OperationName, Created]:
        """Operations of one kind, or of all. One that was started again has the time of its last start."""
        found: dict[OperationName, Created] = {}
        with self._lock:
            self._update()
            for name, created in self._known.values():
                if kind in ("", created.kind) and (name not in found or found[name].time < created.time):
                    found[name] = created
        return found

    def add(self, name: OperationName, created: Created) -> None:
        self._store.put_bytes(_key(name, created), b"{}", "application/json")
        with self._lock:
            self._known[_key(name, created)] = name, created

    def remove(self, name: OperationName, created: Created) -> None:
        self._store.delete(_key(name, created))
        with self._lock:
            self._known.pop(_key(name, created), None)

    def _update(self) -> None:
        now_s = self._clock()
        if now_s >= self._whole_until_s:
            self._known = self._listed("")
            self._whole_until_s = now_s + WHOLE_SECONDS
            return
        # Clocks of replicas differ, so that a day may have begun elsewhere and not have ended here.
        today = datetime.fromtimestamp(now_s, UTC)
        for days in {today.date(), (today - timedelta(hours=1)).date(), (today + timedelta(hours=1)).date()}:
            day = days.isoformat()
            self._known = {key: item for key, item in self._known.items() if item[1].time[: len(day)] != day}
            self._known |= self._listed(day)

    def _listed(self, beginning: str) -> dict[str, tuple[OperationName, Created]]:
        found = {}
        for item in self._store.list(f"operation-index/{self._service}/{beginning}"):
            create_time, kind, operation_id = item.key.split("/", 2)[2].split("_")
            found[item.key] = OperationName(self._service, operation_id), Created(create_time, kind)
        return found


def _key(name: OperationName, created: Created) -> str:
    return f"operation-index/{name.service}/{created.time}_{created.kind}_{name.id}"
