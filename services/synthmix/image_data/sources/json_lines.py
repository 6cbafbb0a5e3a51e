"""JSON Lines (one JSON object a line) as the texts that a CSV file would have.

Only the standard library: the client imports it too.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from synthmix.image_data.sources.parquet_table import cell_text
from synthmix.image_data.sources.problems import unreadable_manifest
from synthmix.service_kit.errors import invalid_field

_REMEDY = "write one JSON object a line, in UTF-8"


def read_json_lines(
    data: bytes, name: str, *, field: str
) -> tuple[list[str], Callable[[Sequence[int]], Iterator[tuple[int, list[str | None]]]]]:
    """The columns' names, in the order in which objects first have them, and a reader of the rows.

    Args:
        data: The file.
        name: Its name, for errors.
        field: The request's field, for errors.

    Returns:
        The names, and a function from positions in them to (row number, texts). The first line is row 1; blank lines
        count, and are no rows. What an object does not have, and null, is "".

    Raises:
        InvalidArgument: It is empty, not UTF-8, or a line is no object, or has a name twice; or a column asked for
            holds lists or objects.
    """
    objects = read_json_objects(data, name, field=field)
    header = list(dict.fromkeys(column for _, value in objects for column in value))

    def rows(positions: Sequence[int]) -> Iterator[tuple[int, list[str | None]]]:
        chosen = [header[position] for position in positions]
        for number, value in objects:
            for column in chosen:
                if isinstance(value.get(column), list | dict):
                    raise invalid_field(
                        field,
                        column,
                        f"holds in row {number} of {name} a list or an object, not a text or a number",
                        "write it as a text",
                        reason="MANIFEST_COLUMN_TYPE",
                    )
            yield number, [cell_text(value.get(column)) for column in chosen]

    return header, rows


def read_json_objects(data: bytes, name: str, *, field: str) -> list[tuple[int, dict[str, Any]]]:
    """Each line's number and object; at least one.

    Args:
        data: The file.
        name: Its name, for errors.
        field: The request's field, for errors.

    Raises:
        InvalidArgument: It is empty, not UTF-8, or a line is no object, or has a name twice.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise unreadable_manifest(field, name, f"is not in UTF-8 (byte {error.start})", _REMEDY) from error
    objects = [(number, _object(line, number, name, field)) for number, line in enumerate(lines, 1) if line.strip()]
    if not objects:
        raise unreadable_manifest(field, name, "is empty", "write a JSON object for each image")
    return objects


def _object(line: str, number: int, name: str, field: str) -> dict[str, Any]:
    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError("a name is there twice")
        return value

    try:
        value = json.loads(line, object_pairs_hook=without_doubles)
    except (ValueError, RecursionError) as error:
        raise unreadable_manifest(
            field, name, f"holds in row {number} no JSON that can be read ({str(error)[:100]})", _REMEDY
        ) from error
    if not isinstance(value, dict):
        raise unreadable_manifest(field, name, f"holds in row {number} JSON that is no object", _REMEDY)
    return value
