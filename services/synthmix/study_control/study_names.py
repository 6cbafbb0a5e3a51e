"""What a study's name means: the studies that were submitted under it.

    study-names/{name}/{id}.json   when the study was last submitted under this name

One object a study: of two that are submitted at once, neither can overwrite the other.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from synthmix.service_kit import operation_records
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import STUDIES, ArtifactName, OperationName
from synthmix.service_kit.settings import STUDY_CONTROL

MOST_DIFFERENCES = 8
LONGEST_VALUE = 60


def claim(store: ObjectStore, name: str, study: ArtifactName) -> None:
    """Records that the study is submitted under the name now."""
    store.put_json(f"study-names/{name}/{study.id}.json", {"study": str(study), "time": operation_records.now()})


def of_name(store: ObjectStore, name: str) -> dict[ArtifactName, str]:
    """The studies that are there under a name, with the time at which each was last submitted: the latest first."""
    found = []
    for item in store.list(f"study-names/{name}/"):
        value = store.find_json(item.key)
        if value is not None:
            found.append((value["time"], ArtifactName.parse(value["study"], field="name", collection=STUDIES)))
    return {study: time for time, study in sorted(found, reverse=True) if _exists(store, study)}


def is_unfinished(store: ObjectStore, study: ArtifactName) -> bool:
    """Whether a study has neither ended nor been asked to stop."""
    operation = operation_of(study)
    return (
        operation_records.is_recorded(store, operation)
        and operation_records.find_result(store, operation) is None
        and not operation_records.cancellation_requested(store, operation)
    )


def warnings(store: ObjectStore, name: str, study: ArtifactName, spec: Mapping[str, Any]) -> list[str]:
    """What else goes on under a name, and how it differs.

    Args:
        study: The study that is submitted under the name.
        spec: Its specification as its record has it: canonical.
    """
    said = []
    for other in of_name(store, name):
        record = operation_records.find_record(store, operation_of(other))
        if other == study or record is None or not is_unfinished(store, other):
            continue
        submitted = f"{record.create_time[:16].replace('T', ' ')} UTC"
        said.append(
            f"another study named {name!r} isn't finished: {other}, submitted {submitted}, "
            f"{_difference(record.request['spec'], spec)}; both go on, and the name means the one submitted last: "
            f"if the other isn't wanted, stop it with `synthmix studies cancel {other}`"
        )
    return said


def operation_of(study: ArtifactName) -> OperationName:
    return OperationName(STUDY_CONTROL, study.id)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two specifications differ, each with both values, such as "seeds (2 there, 3 here)"."""
    there, here = dict(_fields(old)), dict(_fields(new))
    return [
        f"{field} ({_shown(there.get(field))} there, {_shown(here.get(field))} here)"
        for field in sorted({*there, *here})
        if there.get(field) != here.get(field)
    ]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    found = differences(old, new)
    if not found:
        return "which has the same specification, but was planned by another version of SynthMix or of its inputs"
    more = f" and {len(found) - MOST_DIFFERENCES} more fields" if len(found) > MOST_DIFFERENCES else ""
    return f"which differs in {', '.join(found[:MOST_DIFFERENCES])}{more}"


def _fields(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _fields(item, f"{path}{key}.")
        else:
            yield f"{path}{key}", item


def _shown(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _exists(store: ObjectStore, study: ArtifactName) -> bool:
    return find_manifest(store, study) is not None or operation_records.is_recorded(store, operation_of(study))
