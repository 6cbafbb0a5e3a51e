"""What a study's name means: the studies that were submitted under it, by each owner.

    study-names/{name}/{owner}.{id}.json   when the owner last submitted the study under this name

One object a study: of two that are submitted at once, neither can overwrite the other. A name is its owner's: others
may have studies of the same name, and whoever has none of their own means theirs.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import open_operations, operation_records
from synthmix.service_kit.artifacts import MANIFEST
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.owners import key_of_owner, owner_of_key
from synthmix.service_kit.resource_names import STUDIES, ArtifactName, OperationName
from synthmix.service_kit.settings_messages import from_canonical, is_map
from synthmix.service_kit.stored_records import find_readable

MOST_DIFFERENCES = 8
LONGEST_VALUE = 60


def claim(store: ObjectStore, owner: str, name: str, study: ArtifactName) -> None:
    """Records that the owner submits the study under the name now."""
    store.put_json(
        f"study-names/{name}/{key_of_owner(owner)}.{study.id}.json",
        {"study": str(study), "time": operation_records.now()},
    )


def of_name(store: ObjectStore, owner: str, name: str) -> dict[ArtifactName, str]:
    """The studies that are there under a name, with the time at which each was last submitted: the latest first.

    They are the owner's, or those of all others if the owner has none.
    """
    by_owner = by_owners(store, name)
    if owner in by_owner:
        return by_owner[owner]
    times: dict[ArtifactName, str] = {}
    for found in by_owner.values():
        times |= {study: max(time, times.get(study, "")) for study, time in found.items()}
    return dict(sorted(times.items(), key=lambda item: item[1], reverse=True))


def by_owners(store: ObjectStore, name: str) -> dict[str, dict[ArtifactName, str]]:
    """The same for each owner who has any."""
    found: dict[str, list[tuple[str, ArtifactName]]] = {}
    beginning = f"study-names/{name}/"
    for item in store.list(beginning):
        *owner, study_id, _ = item.key.removeprefix(beginning).rsplit(".", 2)  # an earlier version's has no owner
        time = str(find_readable(store, item.key).get("time", ""))  # it is sorted by it, and means the study anyway
        found.setdefault(owner_of_key("".join(owner)), []).append((time, ArtifactName(STUDIES, study_id)))
    there = {owner: _there(store, sorted(studies, reverse=True)) for owner, studies in found.items()}
    return {owner: studies for owner, studies in there.items() if studies}


def _there(store: ObjectStore, studies: Iterable[tuple[str, ArtifactName]]) -> dict[ArtifactName, str]:
    return {
        study: time
        for time, study in studies
        if store.stat(f"{study}/{MANIFEST}") is not None or operation_records.is_recorded(store, operation_of(study))
    }


def is_unfinished(store: ObjectStore, study: ArtifactName) -> bool:
    """Whether a study has neither ended nor been asked to stop."""
    record = operation_records.find_readable_record(store, operation_of(study))
    if record is None:
        return False
    try:
        ended = operation_records.find_result(store, record) is not None
    except FailedPrecondition:  # in a way that only another version can read
        ended = True
    return not ended and not open_operations.cancellation_requested(store, record)


def unfinished(store: ObjectStore) -> set[ArtifactName]:
    """Studies that have neither ended nor been asked to stop, and perhaps some that have just ended."""
    opened = open_operations.names(store, STUDY_CONTROL)
    return {ArtifactName(STUDIES, name.id) for name, cancelled in opened.items() if not cancelled}


def warnings(store: ObjectStore, owner: str, name: str, study: ArtifactName, spec: Mapping[str, Any]) -> list[str]:
    """What else of the owner's goes on under a name, and how it differs.

    Args:
        study: The study that is submitted under the name.
        spec: Its specification as its record has it: canonical.
    """
    said = []
    for other in by_owners(store, name).get(owner, ()):
        record = operation_records.find_readable_record(store, operation_of(other))
        if other == study or record is None or not is_unfinished(store, other):
            continue
        submitted = f"{record.create_time[:16].replace('T', ' ')} UTC"
        said.append(
            f"another study named {name!r} is not finished: {other}, submitted {submitted}, "
            f"{_difference(record.request['spec'], spec)}; both go on, and the name means the one submitted last: "
            f"if the other is not wanted, stop it with `synthmix studies cancel {other}`"
        )
    return said


def operation_of(study: ArtifactName) -> OperationName:
    return OperationName(STUDY_CONTROL, study.id)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two specifications differ, each with both values, such as "seeds (2 there, 3 here)"."""
    there, here = from_canonical(dict(old), studies_pb2.StudySpec), from_canonical(dict(new), studies_pb2.StudySpec)
    return [
        f"{field} ({_shown(before)} there, {_shown(after)} here)" for field, before, after in _differing(there, here)
    ]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    found = differences(old, new)
    if not found:
        return "which has the same specification, but was planned by another version of SynthMix or of its inputs"
    more = f" and {len(found) - MOST_DIFFERENCES} more fields" if len(found) > MOST_DIFFERENCES else ""
    return f"which differs in {', '.join(found[:MOST_DIFFERENCES])}{more}"


def _differing(old: Message, new: Message, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in cast(Descriptor, old.DESCRIPTOR).fields:
        name = f"{path}.{field.name}" if path else field.name
        before, after = _value(old, field), _value(new, field)
        if field.message_type is None or is_map(field) or None in (before, after):
            if before != after:
                yield name, before, after
        elif not field.is_repeated:
            yield from _differing(before, after, name)
        elif len(before) != len(after):
            yield name, len(before), len(after)
        else:
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from _differing(one, other, f"{name}[{index}]")


def _value(message: Message, field: FieldDescriptor) -> Any:
    if is_map(field):
        return dict(sorted(getattr(message, field.name).items()))
    if field.is_repeated:
        return list(getattr(message, field.name))
    return getattr(message, field.name) if not field.has_presence or message.HasField(field.name) else None


def _shown(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
