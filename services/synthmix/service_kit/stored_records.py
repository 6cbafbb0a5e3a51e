"""JSON records in object storage, which an older or a newer version of SynthMix may have written.

Fields that this version does not know are ignored. A record whose `schema` is newer than what this version reads, or
that is damaged, is unreadable: whoever asks for it is told so, and a list goes on without it and says which it left out
(AIP-217).
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf import json_format

from synthmix.service_kit import metrics
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from synthmix.service_kit.object_store import ObjectStore

log = logging.getLogger(__name__)

UNREADABLE = "RECORD_UNREADABLE"
READS_AT_ONCE = 8

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
    except (KeyError, TypeError, ValueError, AttributeError, json_format.ParseError, InvalidArgument) as error:
        raise _unreadable(key, f"is damaged ({type(error).__name__}: {error})") from error


def find_readable(store: ObjectStore, key: str) -> dict[str, Any]:
    """A record as JSON, for whoever goes on without it; empty if it is damaged or not there."""
    try:
        return readable(store.get_bytes(key))
    except NotFound:
        return {}


def readable(text: str | bytes) -> dict[str, Any]:
    """A record as JSON; empty if it is damaged."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def time_text(value: object) -> str:
    """A record's time, RFC 3339. Raises ValueError, TypeError for what is none."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no time")
    if datetime.fromisoformat(value).tzinfo is None:
        raise ValueError(f"{value!r} is a time without a zone")
    return value


def known_fields(kind: type[Record], value: Mapping[str, Any]) -> Record:
    """A dataclass of those fields of a record that it has."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: item for name, item in value.items() if name in names})


def read_each(names: Iterable[Name], read: Callable[[Name], Record]) -> tuple[list[Record], list[str]]:
    """What each name means, and the names of the records that cannot be read. One deleted meanwhile is neither.

    Nor can one be read of which what is shown cannot be made.
    """

    def try_to_read(name: Name) -> Record | NotFound | FailedPrecondition:
        try:
            with reading(str(name)):
                return read(name)
        except NotFound as error:
            return error
        except FailedPrecondition as error:
            if error.reason != UNREADABLE:
                raise
            log.warning("a list is without what cannot be read: %s", error.message)
            return error

    names = list(names)
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        results = list(zip(names, threads.map(try_to_read, names), strict=True))
    unreachable = [str(name) for name, result in results if isinstance(result, FailedPrecondition)]
    metrics.UNREADABLE_RECORDS.inc(len(unreachable))
    return [result for _, result in results if not isinstance(result, NotFound | FailedPrecondition)], unreachable


def _unreadable(key: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{key} in object storage {why}; use the version of SynthMix that wrote it, or a newer one, or delete it",
        reason=UNREADABLE,
        metadata={"key": key},
    )
