"""Columns of a Parquet file as the texts that a CSV file would have.

pyarrow is imported when it is needed: the client imports this module too, and pyarrow takes longer to import than the
rest of it together.
"""

import datetime
import decimal
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from synthmix.image_data.sources.problems import unreadable_manifest
from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.extras import extra

if TYPE_CHECKING:
    import pyarrow as pa

_INDEX_PREFIX = "__index_level_"  # how pandas stores an index without a name


def read_parquet(
    data: bytes, name: str, *, field: str, most_rows: int
) -> tuple[list[str], Callable[[Sequence[int]], Iterator[tuple[int, list[str | None]]]]]:
    """The columns' names, without pandas' index columns, and a reader of the rows.

    Args:
        data: The file.
        name: Its name, for errors.
        field: The request's field, for errors.
        most_rows: Files of more rows are not read.

    Returns:
        The names, and a function from positions in them to (row number, texts). The header counts as row 1, as it
        would in CSV. Cells without a value, and NaN, are ""; bytes that are not UTF-8 are None.

    Raises:
        InvalidArgument: It is not Parquet, has too many rows, or a column asked for holds something other than one
            value a row.
    """
    with extra("parquet", "a Parquet manifest"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    if not data.startswith(b"PAR1"):
        problem = "is empty" if not data else "is not a Parquet file that can be read (it does not begin with PAR1)"
        raise unreadable_manifest(field, name, problem, "write it again, or name it .csv if it is CSV")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        names = [column for column in schema.names if not column.startswith(_INDEX_PREFIX)]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(field, name, error) from error
    if file.metadata.num_rows > most_rows:
        raise invalid_field(
            field,
            name,
            f"has {file.metadata.num_rows:,} rows, more than {most_rows:,}",
            "import fewer images at a time",
            reason="MANIFEST_TOO_LARGE",
        )

    def rows(positions: Sequence[int]) -> Iterator[tuple[int, list[str | None]]]:
        chosen = [names[position] for position in positions]
        for column in chosen:
            _check_type(schema.field(column), name, field)
        number = 1
        try:
            for batch in file.iter_batches(columns=list(dict.fromkeys(chosen))):
                for texts in zip(*(_texts(batch.column(column)) for column in chosen), strict=True):
                    number += 1
                    yield number, list(texts)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(field, name, error) from error

    return names, rows


def cell_text(value: Any) -> str | None:
    """A cell's text; None if it is bytes that are not UTF-8.

    Whole floats are written as whole numbers: pandas makes floats of whole numbers where one is missing, and label 1
    of one file must be that of another.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, decimal.Decimal):
        return format(value.normalize(), "f") if value else "0"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time() and value.tzinfo is None:
        return str(value.date())  # as pandas writes a column of dates
    return str(value)


def _texts(column: "pa.Array") -> list[str | None]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())  # a file may say of any bytes that they are text
    elif pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # which has no form in Python
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    elif pa.types.is_time64(column.type):
        column = column.cast(pa.time64("us"), safe=False)
    return [cell_text(value) for value in column.to_pylist()]


def _check_type(column: "pa.Field", name: str, field: str) -> None:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or pa.types.is_duration(kind):
        raise invalid_field(
            field,
            column.name,
            f"is a column of {name} that holds {str(kind)[:100]}, not a text or a number a row",
            "write it as texts",
            reason="MANIFEST_COLUMN_TYPE",
        )


def _damaged(field: str, name: str, error: Exception) -> InvalidArgument:
    return unreadable_manifest(
        field, name, f"is not a Parquet file that can be read ({str(error)[:200]})", "write it again"
    )
