"""What a search has done, in object storage.

    checkpoints/operations/study-control/{id}/search.json

A host that takes the study up again goes on from it, and so does the study if it is submitted again. While the study
goes on, what it says was made cannot be deleted (synthmix.service_kit.references).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.references import SEARCH
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.stored_records import find_record, known_fields, reading
from synthmix.study_control.search.decisions import Ended, Event, Over, Scores, Started, State

# Raise it when a version that does not know of the change would read it wrongly.
SCHEMA = 1
_KINDS: dict[str, type[Event]] = {"started": Started, "ended": Ended, "over": Over}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class History:
    """The history of one study's search.

    Attributes:
        state: What it comes to.
    """

    def __init__(self, store: ObjectStore, operation: OperationName):
        self._store = store
        self._key = f"{operation.checkpoints}{SEARCH}"
        self._read()

    def _read(self) -> None:
        found = self._store.stat(self._key)
        self._version = found.version if found is not None else ""
        value = find_record(self._store, self._key, SCHEMA)
        with reading(self._key):
            self.state = State(events_of(value["events"] if value is not None else ()))

    def append(self, event: Event) -> None:
        """Raises Unavailable if another host goes on with the search."""
        state = self.state.with_event(event)
        value = {"schema": SCHEMA, "events": to_json(state.history)}
        if not self._store.put_json_if(self._key, value, version=self._version):
            raise Unavailable(f"{self._key} was changed by another host; try again", reason="SEARCH_GOES_ON_ELSEWHERE")
        found = self._store.stat(self._key)
        self._version = found.version if found is not None else ""
        self.state = state

    def forget(self) -> None:
        """The search begins anew."""
        self._store.delete(self._key)
        self._read()


def to_json(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [{"event": _NAMES[type(event)], **asdict(event)} for event in events]


def events_of(values: Sequence[Mapping[str, Any]]) -> tuple[Event, ...]:
    """Raises KeyError, TypeError for what is none."""
    return tuple(_event_of(value) for value in values)


def _event_of(value: Mapping[str, Any]) -> Event:
    event = known_fields(_KINDS[value["event"]], value)
    if isinstance(event, Ended):
        lists = {name: tuple(getattr(event, name)) for name in ("made", "found")}
        scores = None if event.scores is None else known_fields(Scores, value["scores"])
        return Ended(**{**event.__dict__, **lists, "scores": scores})
    return event
