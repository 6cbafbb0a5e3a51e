"""A source's manifest: a CSV or Parquet file that says the label of each image, and its group if there are groups.

Only the standard library, except for a Parquet manifest: the client imports it too.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from image_data.problems import refused_files
from image_data.user_text import compared, is_missing, normalised
from service_kit.errors import InvalidArgument, did_you_mean, invalid_field

PATH_COLUMN = "path"
LABEL_COLUMN = "label"
LARGEST_BYTES = 256 * 1024 * 1024
MOST_ROWS = 200_000
_DELIMITERS = (",", ";", "\t", "|")
_MOST_COLUMNS_NAMED = 20


@dataclass(frozen=True)
class Columns:
    """The columns to read: of paths, of labels, and of groups if groups come from one."""

    path: str = PATH_COLUMN
    label: str = LABEL_COLUMN
    group: str | None = None


@dataclass(frozen=True)
class Row:
    """A row with all that is needed of it.

    Attributes:
        number: As a spreadsheet shows it: the header's is 1.
        path: As it is written.
        label: Normalised.
        group: Normalised; None if groups don't come from a column.
    """

    number: int
    path: str
    label: str
    group: str | None


def read_rows(data: bytes, name: str, columns: Columns, *, field: str) -> list[Row]:
    """The rows of a manifest.

    Args:
        data: The file.
        name: Its name, which says whether it is CSV or Parquet, and stands in errors.
        columns: Compared with the header without case and blanks.
        field: The request's field that the source is.

    Raises:
        InvalidArgument: It can't be read, lacks a column or has it twice, has rows that don't fit the header, or
            rows without a path, label or group.
    """
    if len(data) > LARGEST_BYTES:
        raise invalid_field(
            field,
            f"{name} of {len(data):,} bytes",
            "is too large for a manifest",
            "leave out columns other than path, label and group",
            reason="MANIFEST_TOO_LARGE",
        )
    cells = _parquet_cells if name.lower().endswith(".parquet") else _csv_cells
    problems: list[str] = []
    rows: list[Row] = []
    for number, values in cells(data, name, columns, field, problems):
        if len(rows) + len(problems) >= MOST_ROWS:
            raise invalid_field(
                field,
                name,
                f"has more than {MOST_ROWS:,} rows",
                "import fewer images at a time",
                reason="MANIFEST_TOO_LARGE",
            )
        path, texts = values[0].strip(), [normalised(value) for value in values[1:]]
        missing = [] if not is_missing(normalised(path)) else [_named(columns.path, values[0])]
        wanted = (columns.label, columns.group)
        missing += [_named(str(wanted[index]), text) for index, text in enumerate(texts) if is_missing(text)]
        if missing:
            problems.append(f"row {number} has no {' and no '.join(missing)}")
        else:
            rows.append(Row(number, path, texts[0], texts[1] if columns.group is not None else None))
    if problems:
        raise refused_files(
            field,
            f"rows of {name} are unusable",
            problems,
            "mend the manifest, or leave these rows out of it",
            reason="MANIFEST_INVALID",
        )
    return rows


def _named(column: str, text: str) -> str:
    return f"{column} ({text.strip()!r})" if text.strip() else column


def _csv_cells(
    data: bytes, name: str, columns: Columns, field: str, problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Each row's number and its cells of the columns. Rows that don't fit the header become problems."""
    text = _decoded(data, name, field)
    delimiter, text = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        header = next(reader, [])
        positions = _positions(name, header, columns, field)
        for cells in reader:
            number += 1
            if not any(cell.strip() for cell in cells):
                continue  # a row without anything: a spreadsheet has it too, so it counts
            if len(cells) > len(header) and not any(cell.strip() for cell in cells[len(header) :]):
                cells = cells[: len(header)]  # delimiters at the end, as spreadsheets write
            if len(cells) != len(header):
                problems.append(f"row {number} has {len(cells)} fields, and the header has {len(header)}")
                continue
            yield number, [cells[position] for position in positions]
    except csv.Error as error:
        raise invalid_field(
            field,
            name,
            f"can't be read as CSV near row {number + 1} ({error})",
            "mend its quotation marks, or export it again",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _decoded(data: bytes, name: str, field: str) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        if "\0" in text:
            raise UnicodeDecodeError(encoding, data, text.index("\0"), text.index("\0") + 1, "a NUL")
        return text
    except UnicodeDecodeError as error:
        raise invalid_field(
            field,
            name,
            f"is not a CSV file in UTF-8 or UTF-16 ({error.reason} at byte {error.start})",
            "export it again as CSV with UTF-8 encoding",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _delimiter(text: str) -> tuple[str, str]:
    """The delimiter, and the text from the header on.

    A first line `sep=;` says it, which Excel understands and doesn't count as a row; else it is the one that the
    header has most of, outside quotes.
    """
    first, *rest = re.split(r"\r\n|\r|\n", text, maxsplit=1)
    said = first.strip().strip('"')
    if said.lower().startswith("sep=") and len(said) <= 5:
        return (said[4:] or "\t"), "".join(rest)
    header, quoted = Counter[str](), False
    for character in first:
        quoted ^= character == '"'
        if not quoted and character in _DELIMITERS:
            header[character] += 1
    return (max(_DELIMITERS, key=lambda delimiter: header[delimiter]) if header else ","), text


def _parquet_cells(
    data: bytes, name: str, columns: Columns, field: str, problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    # Imported here: nothing else in the client needs it, and it takes longer to import than the rest together.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = file.schema_arrow.names
        chosen = [found[position] for position in _positions(name, found, columns, field)]
        number = 1
        for batch in file.iter_batches(columns=list(dict.fromkeys(chosen))):
            for values in zip(*(batch.column(column).to_pylist() for column in chosen), strict=True):
                number += 1
                yield number, [_cell_text(value) for value in values]
    except (pa.ArrowException, OSError) as error:
        raise invalid_field(
            field,
            name,
            f"is not a Parquet file that can be read ({error})",
            "write it again",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _cell_text(value: Any) -> str:
    """A cell as CSV would have it. A whole number that a missing neighbour made a float, as pandas does, is whole."""
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _positions(name: str, header: Sequence[str], columns: Columns, field: str) -> list[int]:
    """Where the path, the label and the group are in a row."""
    found = [compared(column) for column in header]
    twice = sorted({repr(header[index]) for index, column in enumerate(found) if column and found.count(column) > 1})
    if twice:
        raise invalid_field(
            field,
            name,
            f"has the column {', '.join(twice[:_MOST_COLUMNS_NAMED])} more than once",
            "rename or delete all but one",
            reason="MANIFEST_COLUMN_TWICE",
        )
    positions = []
    for column, column_field in (
        (columns.path, field if columns.path == PATH_COLUMN else "path_column"),
        (columns.label, field if columns.label == LABEL_COLUMN else "label_column"),
        (columns.group, "dataset.group_rule.column"),
    ):
        if column is None:
            continue
        if compared(column) not in found:
            raise _no_column(name, column, header, column_field)
        positions.append(found.index(compared(column)))
    return positions


def _no_column(name: str, column: str, header: Sequence[str], field: str) -> InvalidArgument:
    shown = [cell.strip() for cell in header]
    option = {"path": "--path-column", "label": "--label-column"}.get(column, "")
    near = did_you_mean(column, shown)
    more = f" and {len(shown) - _MOST_COLUMNS_NAMED} more" if len(shown) > _MOST_COLUMNS_NAMED else ""
    listed = ", ".join(repr(cell)[:60] if not cell.isprintable() else cell[:60] for cell in shown[:_MOST_COLUMNS_NAMED])
    return invalid_field(
        field,
        column,
        f"is not a column of {name}",
        f"{near}add it{f', or name the one that means it by {option}' if option else ''}; "
        f"the columns are {listed or 'none'}{more}",
        reason="MANIFEST_COLUMN_MISSING",
    )
