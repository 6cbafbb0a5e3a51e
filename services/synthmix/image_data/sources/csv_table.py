"""CSV as spreadsheets, pandas and R write it, read strictly: what cannot be understood is a fault, never a guess.

Only the standard library: the client imports it too.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator

from synthmix.image_data.sources.problems import unreadable_manifest
from synthmix.image_data.sources.user_text import compared

_DELIMITERS = (",", ";", "\t", "|")
# Excel's own line, quoted or not, perhaps padded by a spreadsheet that took it for data.
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>[^\w"\r\n])?"?[,;\t| ]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_HEADER_CHARACTERS = 65_536
_REMEDY = "export the table as CSV with UTF-8 encoding"
_SIGNATURES = (
    (b"pk\x03\x04", "an Excel workbook (.xlsx), an OpenDocument table (.ods) or a ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"par1", "a Parquet file"),
    (b"sqlite format 3", "an SQLite database"),
    (b"\x89hdf", "an HDF5 file"),
    (b"\x1f\x8b", "a file compressed by gzip"),
    (b"bzh", "a file compressed by bzip2"),
    (b"\xfd7zxz", "a file compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"%pdf", "a PDF"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89png", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML file"),
)
_UTF_32 = (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(
    data: bytes, name: str, wanted: Collection[str], *, field: str
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and the rows with anything in them.

    The delimiter is that of `,` `;` tab and `|` by which the header has most of the wanted columns; of several, what
    a first line `sep=;` says.

    Args:
        data: The file: UTF-8, or UTF-16 with a byte order mark.
        name: Its name, for errors.
        wanted: The columns to find.
        field: The request's field, for errors.

    Returns:
        The header's cells, and (row number, cells) as they are asked for. Numbers are those that a spreadsheet
        shows: blank rows count, a line `sep=;` does not, and a cell with line breaks in it is of one row. Cells may be
        more or fewer than the header's.

    Raises:
        InvalidArgument: It is empty, another format, in another encoding, or its quotation marks do not match; the
            latter may be raised as rows are asked for.
    """
    text = _decoded(data, name, field)
    said = _SEPARATOR_LINE.match(text)
    if said:
        text = text[said.end() :]
    if not text.strip("".join(_DELIMITERS) + ' "\r\n'):
        raise unreadable_manifest(
            field, name, "is empty", "write a header with the columns path and label, and a row an image"
        )
    rows = _rows(text, _delimiter(text, wanted, said["delimiter"] if said else None), name, field)
    _, header = next(rows, (0, []))
    return header, rows


def _rows(text: str, delimiter: str, name: str, field: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for cells in reader:
            number += 1
            if any(cells) and any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        raise unreadable_manifest(field, name, *_explained(str(error), number + 1)) from error


def _explained(error: str, row: int) -> tuple[str, str]:
    if "field limit" in error:
        return (
            f"has a cell of more than {csv.field_size_limit():,} characters in row {row}",
            "a quotation mark in that row is probably never closed: close or delete it, or leave the column out",
        )
    if "unexpected end of data" in error:
        return (
            f"ends inside quotation marks, which were opened in row {row}",
            "close or delete the quotation mark in that row",
        )
    return (
        f"has quotation marks in row {row} that are not around a whole cell ({error})",
        'put a cell with quotation marks in it into quotation marks, and double those inside: "5"" plate"',
    )


def _delimiter(text: str, wanted: Collection[str], said: str | None) -> str:
    needed = {compared(column) for column in wanted}

    def fit(delimiter: str) -> tuple[int, bool, int]:
        reader = csv.reader(io.StringIO(text[:_HEADER_CHARACTERS], newline=""), delimiter=delimiter, strict=True)
        try:
            header: list[str] = next((cells for cells in reader if any(cell.strip() for cell in cells)), [])
        except csv.Error:
            header = []
        return len(needed & {compared(cell) for cell in header}), delimiter == said, len(header)

    return max(dict.fromkeys((*([said] if said else []), *_DELIMITERS)), key=fit)


def _decoded(data: bytes, name: str, field: str) -> str:
    start = data[:64].lstrip().lower()
    for signature, what in _SIGNATURES:
        if start.startswith(signature):
            raise unreadable_manifest(field, name, f"is {what}, not CSV", _REMEDY)
    if data.startswith(_UTF_32):
        raise unreadable_manifest(field, name, "is in UTF-32", _REMEDY)
    wide = data.startswith(_UTF_16)
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable_manifest(field, name, *_encoding(data, error, wide)) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise unreadable_manifest(
            field,
            name,
            f"holds NUL characters, the first in line {line}",
            f"it is damaged, or in UTF-16 without a byte order mark: {_REMEDY}",
        )
    return text


def _encoding(data: bytes, error: UnicodeDecodeError, wide: bool) -> tuple[str, str]:
    if wide:
        return f"is not whole UTF-16 text ({error.reason} at byte {error.start})", f"it may be truncated: {_REMEDY}"
    at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)  # utf-8-sig does not count the mark
    at = min(at, len(data) - 1)
    read = data[at : at + 1].decode("cp1252", errors="ignore")
    likely = (
        f"it is likely in Windows-1252 or Latin-1, which have {read!r} there, as Excel's plain CSV does"
        if read.isprintable() and read
        else "it is in another encoding, or damaged"
    )
    line = data.count(b"\n", 0, at) + 1
    return f"is not in UTF-8 (byte 0x{data[at]:02x} in line {line})", f"{likely}: {_REMEDY}"
