"""JSON records in object storage, which an older or a newer version of SynthMix may have written.

Fields that this version does not know are ignored. A record whose `schema` is newer than what this version reads, or
that is damaged, is unreadable: whoever asks for it is told so, and a list goes on without it and says which it left out
(AIP-217).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from synthmix.service_kit import metrics
from synthmix.service_kit.errors import FailedPrecondition, NotFound
from synthmix.service_kit.object_store import ObjectStore

UNREADABLE = "RECORD_UNREADABLE"

Record = TypeVar("Record")
Name = TypeVar("Name")


def find_record(store: ObjectStore, key: str, schema: int) -> dict[str, Any] | None:
    """A record as JSON, or None if there is none.

    Args:
        schema: The newest that can be read. A record without one is of schema 1.

    Raises:
        FailedPrecondition: It cannot be read, with the reason RECORD_UNREADABLE.
    """
    with reading(key):
        value = store.find_json(key)
        if value is None:
            return None
        if value.get("schema", 1) > schema:
            raise _unreadable(key, f"is of schema {value['schema']}, and this version reads schema {schema} at most")
        return dict(value)


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Within the block, what a record lacks or has wrongly makes it unreadable."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(key, f"is damaged ({type(error).__name__}: {error})") from error


def known_fields(kind: type[Record], value: Mapping[str, Any]) -> Record:
    """A dataclass of those fields of a record that it has."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: item for name, item in value.items() if name in names})


def read_each(names: Iterable[Name], read: Callable[[Name], Record]) -> tuple[list[Record], list[str]]:
    """What each name means, and the names of the records that cannot be read. One deleted meanwhile is neither."""
    found, unreachable = [], []
    for name in names:
        try:
            found.append(read(name))
        except NotFound:
            continue
        except FailedPrecondition as error:
            if error.reason != UNREADABLE:
                raise
            metrics.UNREADABLE_RECORDS.inc()
            unreachable.append(str(name))
    return found, unreachable


def _unreadable(key: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{key} in object storage {why}; use the version of SynthMix that wrote it, or a newer one, or delete it",
        reason=UNREADABLE,
        metadata={"key": key},
    )
