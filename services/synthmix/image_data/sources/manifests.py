"""A source's manifest: a CSV, JSON Lines or Parquet file that says the label of each image, and its group and captions.

Only the standard library, except for a Parquet manifest: the client imports it too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from synthmix.image_data.sources.csv_table import read_csv
from synthmix.image_data.sources.file_kinds import LISTED_MANIFESTS
from synthmix.image_data.sources.json_lines import read_json_lines
from synthmix.image_data.sources.parquet_table import read_parquet
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.user_text import MISSING_SPELLINGS, compared, free_text, is_missing, normalised
from synthmix.service_kit.errors import InvalidArgument, did_you_mean, invalid_field
from synthmix.service_kit.quantities import plural

PATH_COLUMN = "path"
LABEL_COLUMN = "label"
GROUP_FIELD = "dataset.group_rule.column"
CAPTIONS_FIELD = "dataset.caption_columns"
LARGEST_BYTES = 256 * 1024 * 1024
MOST_ROWS = 200_000
MOST_CAPTION_COLUMNS = 16
METADATA_REMEDY = "add metadata.csv, metadata.jsonl or metadata.parquet with the column file_name beside the folders"
LONGEST_COLUMN = 100
_MOST_COLUMNS_NAMED = 20
_LONGEST_COLUMN_SHOWN = 60


@dataclass(frozen=True)
class Columns:
    """The columns to read: of paths, of labels, of groups if groups come from one, and of captions.

    Attributes:
        label: None where the classes are folders.
    """

    path: str = PATH_COLUMN
    label: str | None = LABEL_COLUMN
    group: str | None = None
    captions: tuple[str, ...] = ()

    @property
    def needed(self) -> list[str]:
        """Those in which each row has something, in the order of path, label and group."""
        return [self.path, *(column for column in (self.label, self.group) if column is not None)]

    @property
    def wanted(self) -> list[str]:
        """All, captions last."""
        return [*self.needed, *self.captions]


@dataclass(frozen=True, slots=True)
class Row:
    """A row with all that is needed of it.

    Attributes:
        number: As a spreadsheet shows it: the header's is 1.
        path: As it is written.
        label: Normalised; "" where the classes are folders.
        group: Normalised; None if groups do not come from a column.
        captions: Of each caption column; "" where there is none.
    """

    number: int
    path: str
    label: str
    group: str | None
    captions: tuple[str, ...] = ()


def read_rows(data: bytes, name: str, columns: Columns, *, field: str) -> list[Row]:
    """The rows of a manifest.

    Args:
        data: The file.
        name: Its name, which says whether it is CSV, JSON Lines or Parquet, and stands in errors.
        columns: Compared with the header without case and blanks.
        field: The request's field that the source is.

    Raises:
        InvalidArgument: It cannot be read, lacks a column or has it twice, has rows that do not fit the header, or
            rows without a path, label or group; or one column is to be two things.
    """
    _check_columns(columns)
    if len(data) > LARGEST_BYTES:
        raise invalid_field(
            field,
            f"{name} of {len(data):,} bytes",
            "is too large for a manifest",
            "leave out columns that are not needed",
            reason="MANIFEST_TOO_LARGE",
        )
    problems: list[str] = []
    cells: Iterator[tuple[int, Sequence[str | None]]]
    if name.lower().endswith(".parquet"):
        header, parquet_rows = read_parquet(data, name, field=field, most_rows=MOST_ROWS)
        cells = parquet_rows(_positions(header, name, columns, field))
    elif name.lower().endswith(".jsonl"):
        header, json_rows = read_json_lines(data, name, field=field)
        cells = json_rows(_positions(header, name, columns, field))
    else:
        header, csv_rows = read_csv(data, name, columns.wanted, field=field)
        cells = _fitting(csv_rows, len(header), _positions(header, name, columns, field), problems)
    rows = _complete(cells, name, columns, field, problems)
    if problems:
        missing = any(" has no " in problem for problem in problems)
        raise refused_files(
            field,
            f"rows of {name} are unusable",
            problems,
            "fix the manifest, or leave these rows out of it" + (f" ({MISSING_SPELLINGS})" if missing else ""),
            reason="MANIFEST_INVALID",
        )
    return rows


def check_caption_columns(columns: Sequence[str]) -> list[str]:
    """The names of caption columns as they are kept. Raises InvalidArgument for those that cannot be columns' names."""
    names = [normalised(column) for column in columns]
    if len(names) > MOST_CAPTION_COLUMNS:
        raise invalid_field(
            CAPTIONS_FIELD,
            len(names),
            "are too many",
            f"name at most {MOST_CAPTION_COLUMNS} columns",
            reason="OUT_OF_RANGE",
        )
    forms = [compared(name) for name in names]
    for number, name in enumerate(names):
        field = f"{CAPTIONS_FIELD}[{number}]"
        if not name.isprintable() or not 1 <= len(name) <= LONGEST_COLUMN:
            raise invalid_field(
                field, name, "cannot be a column's name", f"use 1 to {LONGEST_COLUMN} printable characters"
            )
        if forms[number] in forms[:number]:
            raise invalid_field(field, name, "is there twice", "leave one out", reason="DUPLICATE_VALUE")
    return names


def _check_columns(columns: Columns) -> None:
    for column, column_field, what in (
        (columns.label, "label_column", "the class"),
        (columns.group, GROUP_FIELD, "the chip, well, plate, patient or date"),
    ):
        if column is not None and compared(column) == compared(columns.path):
            raise invalid_field(
                column_field,
                column,
                "is also the column of paths, so that each image would have one of its own",
                f"name the column that says {what} of each image",
                reason="MANIFEST_COLUMN_AMBIGUOUS",
            )


def check_no_columns(columns: Columns) -> None:
    """Raises InvalidArgument if a column is named: for a source that has no manifest."""
    for column, usual, column_field, instead in (
        (columns.group, None, GROUP_FIELD, "use a pattern"),
        (columns.label, LABEL_COLUMN, "label_column", "do not name a column: the folders are the classes"),
        (columns.path, PATH_COLUMN, "path_column", "do not name a column: the folders are the classes"),
        *((column, None, CAPTIONS_FIELD, METADATA_REMEDY) for column in columns.captions),
    ):
        if column is not None and compared(column) != usual:
            raise invalid_field(
                column_field,
                column,
                "is a manifest's column, and the source has no manifest",
                f"add {LISTED_MANIFESTS} at its top, or {instead}",
                reason="MANIFEST_MISSING",
            )


def _fitting(
    rows: Iterator[tuple[int, list[str]]], width: int, positions: Sequence[int], problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Each row's cells of the columns. Rows that do not fit the header become problems."""
    for number, cells in rows:
        # Delimiters at the end of a row, with nothing between them, are what spreadsheets write of a table in which
        # another row is wider: nothing is lost by them.
        if len(cells) == width or (len(cells) > width and not any(cell.strip() for cell in cells[width:])):
            yield number, [cells[position] for position in positions]
        else:
            fields = plural(len(cells), "field")
            problems.append(f"row {number} has {fields}, and the header has {width}")


def _complete(
    cells: Iterator[tuple[int, Sequence[str | None]]], name: str, columns: Columns, field: str, problems: list[str]
) -> list[Row]:
    """The rows that have all that is needed. The others become problems."""
    wanted, needed = columns.wanted, columns.needed
    rows: list[Row] = []
    for number, values in cells:
        if len(rows) + len(problems) >= MOST_ROWS:
            raise invalid_field(
                field,
                name,
                f"has more than {MOST_ROWS:,} rows",
                "import fewer images at a time",
                reason="MANIFEST_TOO_LARGE",
            )
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            unread = " and ".join(column for column, value in zip(wanted, values, strict=True) if value is None)
            problems.append(f"row {number} has bytes in {unread} that are not UTF-8")
            continue
        path, texts = known[0].strip(), [normalised(value) for value in known[1 : len(needed)]]
        if is_missing(path) or any(map(is_missing, texts)):
            missing = [_named(*pair) for pair in zip(needed, [path, *texts], strict=True) if is_missing(pair[1])]
            problems.append(f"row {number} has no {' and no '.join(missing)}")
        else:
            label = "" if columns.label is None else texts.pop(0)
            captions = tuple(free_text(value) for value in known[len(needed) :])
            rows.append(Row(number, path, label, texts[0] if texts else None, captions))
    return rows


def _named(column: str, text: str) -> str:
    return f"{column} ({text!r})" if text else column


def _positions(header: Sequence[str], name: str, columns: Columns, field: str) -> list[int]:
    """Where the path, the label and the group are in a row."""
    found = [compared(column) for column in header]
    needed = {compared(column) for column in columns.wanted}
    exact, alike = Counter(map(normalised, header)), Counter(found)
    # Columns that nobody asks for may differ in case alone; the same name twice is a fault of the whole table.
    twice = sorted(
        {
            repr(column)
            for column, form in zip(header, found, strict=True)
            if form and (exact[normalised(column)] > 1 or (form in needed and alike[form] > 1))
        }
    )
    if twice:
        raise invalid_field(
            field,
            name,
            f"has the column {', '.join(twice[:_MOST_COLUMNS_NAMED])} more than once",
            "rename or delete all but one",
            reason="MANIFEST_COLUMN_TWICE",
        )
    fields = [
        field if columns.path == PATH_COLUMN else "path_column",
        *([] if columns.label is None else [field if columns.label == LABEL_COLUMN else "label_column"]),
        *([] if columns.group is None else [GROUP_FIELD]),
        *(CAPTIONS_FIELD for _ in columns.captions),
    ]
    for column, column_field in zip(columns.wanted, fields, strict=True):
        if compared(column) not in found:
            raise _no_column(name, column, header, column_field)
    return [found.index(compared(column)) for column in columns.wanted]


def _no_column(name: str, column: str, header: Sequence[str], field: str) -> InvalidArgument:
    shown = [cell.strip() for cell in header if cell.strip()]
    option = {PATH_COLUMN: "--path-column", LABEL_COLUMN: "--label-column"}.get(column, "")
    more = f" and {len(shown) - _MOST_COLUMNS_NAMED} more" if len(shown) > _MOST_COLUMNS_NAMED else ""
    listed = ", ".join(repr(cell)[1:-1][:_LONGEST_COLUMN_SHOWN] for cell in shown[:_MOST_COLUMNS_NAMED])
    return invalid_field(
        field,
        column,
        f"is not a column of {name}",
        f"{did_you_mean(column, shown)}add it{f', or name the one that means it by {option}' if option else ''}; "
        f"the columns are {listed or 'none'}{more}",
        reason="MANIFEST_COLUMN_MISSING",
    )
