"""Manifests as programs write them, and what is said of those that cannot be read: CSV, Parquet, labels and groups."""

import csv
import datetime
import decimal
import gzip
import io
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_archives import picture, plates, zipped
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.sources.archive import open_archive
from synthmix.image_data.sources.manifests import MOST_ROWS, Columns, read_rows
from synthmix.image_data.sources.source_listing import ListedImage, ListingRequest, list_images
from synthmix.image_data.sources.user_text import compared, normalised
from synthmix.service_kit.errors import InvalidArgument, did_you_mean
from synthmix.study_control.image_import.groups import groups_of

PLAIN = Columns()
GROUPED = Columns(group="plate")


def read(data: str | bytes, columns: Columns = PLAIN, name: str = "manifest.csv") -> list[tuple[Any, ...]]:
    data = data.encode() if isinstance(data, str) else data
    return [(row.number, row.path, row.label, row.group) for row in read_rows(data, name, columns, field="source")]


def refused(act: Any, *arguments: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        act(*arguments)
    assert caught.value.violations
    return caught.value


# CSV


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("path,label\na.png,Zürich\n".encode("cp1252"), "(byte 0xfc in line 2); it is likely in Windows-1252"),
        ("path,label\na.png,x\nb.png,Å\n".encode("latin-1"), "(byte 0xc5 in line 3); it is likely in Windows-1252"),
        ("path,label\na.png,5 €\n".encode("cp1252"), "which have '€' there"),
        (b"\xef\xbb\xbfpath,label\na.png,\xe9\n", "byte 0xe9 in line 2"),
        (b"path,label\na.png,\x81\n", "in another encoding, or damaged"),
        (b"PK\x03\x04\x14\0", "is an Excel workbook (.xlsx)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel workbook (.xls)"),
        (gzip.compress(b"path,label\n", mtime=0), "is a file compressed by gzip"),
        (b"PAR1\0\0", "is a Parquet file"),
        (b"BZh91AY", "compressed by bzip2"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\n <!DOCTYPE html><html>", "is a web page"),
        ("path,label\n".encode("utf-32"), "is in UTF-32"),
        (b"\0\0\xfe\xff" + "path,label\n".encode("utf-32-be"), "is in UTF-32"),
        ("\ufeffpath,label\n".encode("utf-16-le") + b"\n", "is not whole UTF-16 text"),
        (b"path,label\na.png,x\0\n", "holds NUL characters, the first in line 2"),
        ("path,label\n".encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\n\r\n , ,\n", "is empty"),
        (b"sep=;\n", "is empty"),
        (f'path,label,note\na.png,x,"{"n" * 200_000}"\n', "has a cell of more than 131,072 characters in row 2"),
    ],
)
def test_files_that_are_no_csv_are_called_by_what_they_are(data: str | bytes, problem: str) -> None:
    error = refused(read, data)
    assert error.reason == "MANIFEST_UNREADABLE"
    assert problem in error.message
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize(
    "text",
    [
        "path;label;a,b,c,d\na.png;x;1\n",
        "path\tlabel\ta;b;c;d\na.png\tx\t1\n",
        '"path";"label";"a,b|c|d|e"\na.png;x;1\n',
        'path|label|"a|b;c;d;e"\na.png|x|1\n',
        "a,b,c;label;path\n1;x;a.png\n",
        "sep=;;;\npath;label;\na.png;x;\n",
        "sep=,,,,\npath,label\na.png,x\n",
        'SEP=;\n"path";"label"\na.png;x\n',
        '"sep=;",,\npath;label\na.png;x\n',
        "sep=;,\npath,label\na.png,x\n",
        "sep=\npath,label\na.png,x\n",
        "sep=:\npath:label\na.png:x\n",
        "path,label,Note,note,NOTE\na.png,x,1,2,3\n",
        "path,label\na.png,x,,\n",
    ],
)
def test_the_delimiter_is_that_by_which_the_needed_columns_are_there(text: str) -> None:
    assert read(text) == [(2, "a.png", "x", None)]


@pytest.mark.parametrize("blank", ["\n", "\r\n", ",,\n", "  \n"])
def test_blank_rows_count_before_the_header_and_after_it(blank: str) -> None:
    assert read(f"{blank}path,label\n{blank}a.png,x\n") == [(4, "a.png", "x", None)]
    assert "row 4 has no label" in refused(read, f"{blank}path,label\n{blank}a.png,\n").message


def test_a_missing_label_says_what_counts_as_missing_and_how_to_keep_a_class_of_that_name() -> None:
    message = refused(read, "path,label\na.png,NA\n").message
    assert "NaN, NA, N/A" in message
    assert "if one is truly a name, write it out" in message


@pytest.mark.parametrize("text", ["#REF!", "#VALUE!", "-1.#IND", "<null>", "\u200b", "nan\u200b"])
def test_more_spellings_of_missing(text: str) -> None:
    assert "row 2 has no label" in refused(read, f"path,label\na.png,{text}\n").message


@pytest.mark.parametrize(
    ("value", "known", "nearest"),
    [("ALPHA", "alpha", "alpha"), ("alhpa", "ALPHA", "ALPHA"), ("Étude", "éTUDE", "éTUDE"), ("xyz", "alpha", "")],
)
def test_a_near_name_is_found_whatever_its_case(value: str, known: str, nearest: str) -> None:
    assert did_you_mean(value, ["other", known]) == (f"did you mean {nearest!r}? " if nearest else "")


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        (Columns("label", "label"), "label_column"),
        (Columns("path", "PATH "), "label_column"),
        (Columns(group="Path"), "dataset.group_rule.column"),
        (Columns("file", "kind", "FILE"), "dataset.group_rule.column"),
    ],
)
def test_the_column_of_paths_is_nothing_else(columns: Columns, field: str) -> None:
    error = refused(read, "path,label,file,kind\na.png,x,b.png,y\n", columns)
    assert error.violations[0].field == field
    assert "is also the column of paths" in error.message


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        (Columns(label="kind"), "label_column"),
        (Columns(path="file"), "path_column"),
        (GROUPED, "dataset.group_rule.column"),
    ],
)
def test_a_column_without_a_manifest_is_refused(tmp_path: Path, columns: Columns, field: str) -> None:
    with open_archive(zipped(tmp_path / "a.zip", plates())) as archive:
        error = refused(list_images, archive, ListingRequest("source", columns))
    assert (error.reason, error.violations[0].field) == ("MANIFEST_MISSING", field)


PATH_PROBLEMS = {
    "https://x.org/a.png": "row 2: https://x.org/a.png is an address",
    "s3://bucket/a.png": "is an address",
    "file:///data/a.png": "is an address",
    "data:image/png;base64,AA": "is an address",
    "alpha": "row 2: alpha is a folder, not a file",
    "alpha/deep/": "alpha/deep is a folder",
    ".": ". is a folder",
    "alpha/my%20scan.png": "did you mean 'alpha/my scan.png'? alpha/my%20scan.png is percent-encoded",
    "alpha/MY scan.png": "did you mean 'alpha/my scan.png'?",
    "/data/a.png": "leads out of the manifest's folder: it is an absolute path",
    "C:\\data\\a.png": "it is an absolute path",
    "\\\\server\\share\\a.png": "it is an absolute path",
    "~/a.png": "it begins with your home folder",
    "../a.png": "leads out of the manifest's folder",
    "alpha/a.png\nb.png": "holds control characters or line breaks",
}


def listed_by(tmp_path: Path, *lines: tuple[str, str]) -> InvalidArgument:
    table = io.StringIO()
    csv.writer(table).writerows([("path", "label"), *lines])
    files = {"alpha/my scan.png": picture(1), "alpha/deep/b.png": picture(2), "a.png": picture(3)}
    path = zipped(tmp_path / "a.zip", files | {"manifest.csv": table.getvalue().encode()})
    with open_archive(path) as archive:
        return refused(list_images, archive, ListingRequest("source"))


@pytest.mark.parametrize(("path", "problem"), PATH_PROBLEMS.items())
def test_paths_that_name_no_file_are_called_by_what_they_are(tmp_path: Path, path: str, problem: str) -> None:
    assert problem in listed_by(tmp_path, (path, "x")).message


def test_a_path_that_stands_twice_names_both_rows_and_their_labels(tmp_path: Path) -> None:
    assert "rows 2 and 3 both name a.png, with the labels 'x' and 'y'" in (
        listed_by(tmp_path, ("a.png", "x"), ("./a.png", "y")).message
    )
    assert "rows 2 and 4 both name a.png\n" in (
        listed_by(tmp_path, ("a.png", "x"), ("alpha/deep/b.png", "x"), ("a.png", "x")).message + "\n"
    )


# Parquet


def parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": ["a.png", "b.png"]} | columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([decimal.Decimal("1.00"), None]), "1"),
        (pa.array([decimal.Decimal("1.50"), None]), "1.5"),
        (pa.array([decimal.Decimal("100"), None]), "100"),
        (pa.array([decimal.Decimal("0.00"), None]), "0"),
        (pa.array([1, None]), "1"),
        (pa.array([1.0, None]), "1"),
        (pa.array([1_600_000_000_123_456_789, None], pa.timestamp("ns")), "2020-09-13 12:26:40.123456"),
        (pa.array([datetime.datetime(2020, 9, 13), None], pa.timestamp("ns")), "2020-09-13"),
        (pa.array([datetime.date(2020, 9, 13), None]), "2020-09-13"),
        (pa.array([1_001, None], pa.time64("ns")), "00:00:00.000001"),
        (pa.array(["x", None]).dictionary_encode(), "x"),
        (pa.array([b"Z\xc3\xbcrich", None]), "Zürich"),
        (pa.array(["x", None], pa.large_string()), "x"),
        (pa.array([True, None]), "True"),
    ],
)
def test_cells_of_every_type_are_what_csv_has(values: Any, text: str) -> None:
    data = parquet({"label": ["x", "x"], "plate": values})
    message = refused(read, data, GROUPED, "m.parquet").message
    assert "row 3 has no plate" in message
    assert "row 2" not in message
    values = values.drop_null()
    table = pa.table({"path": ["a.png"], "label": ["x"], "plate": values})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert read(sink.getvalue(), GROUPED, "m.parquet") == [(2, "a.png", "x", text)]


@pytest.mark.parametrize(
    "values",
    [
        [["x"], ["y"]],
        [{"a": 1}, {"a": 2}],
        pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([1, 2], pa.duration("s")),
    ],
)
def test_columns_that_hold_more_than_a_value_a_row_are_refused(values: Any) -> None:
    error = refused(read, parquet({"label": values}), PLAIN, "m.parquet")
    assert error.reason == "MANIFEST_COLUMN_TYPE"
    assert "'label' is a column of m.parquet that holds" in error.message
    assert len(read(parquet({"label": ["x", "y"], "unused": values}), PLAIN, "m.parquet")) == 2


@pytest.mark.parametrize("text", [False, True])
def test_bytes_that_are_not_utf8_are_faults_with_their_row(text: bool) -> None:
    labels = pa.array([b"x", b"caf\xe9"])
    labels = pa.Array.from_buffers(pa.string(), 2, labels.buffers()) if text else labels
    error = refused(read, parquet({"label": labels}), PLAIN, "m.parquet")
    assert "row 3 has bytes in label that are not UTF-8" in error.message


def test_rows_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": pa.nulls(MOST_ROWS + 1), "label": pa.nulls(MOST_ROWS + 1)}), sink)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    error = refused(read, sink.getvalue(), PLAIN, "m.parquet")
    assert error.reason == "MANIFEST_TOO_LARGE"
    assert f"has {MOST_ROWS + 1:,} rows" in error.message


def test_an_index_of_pandas_is_no_column() -> None:
    data = parquet({"__index_level_0__": [4, 7]})
    assert refused(read, data, PLAIN, "m.parquet").message.endswith("the columns are path")


@pytest.mark.parametrize("data", [b"", b"path,label\n", b"PAR1", b"PAR1" + bytes(50) + b"PAR1"])
def test_files_that_are_no_parquet_are_refused(data: bytes) -> None:
    assert refused(read, data, PLAIN, "m.parquet").reason == "MANIFEST_UNREADABLE"


# Labels and groups

UNSEEN = ["\u200b", "\ufeff", "\u2060", "\u00ad", "\u200e", "\u200f", "\u202a", "\u202c", "\u2066", "\u061c", "\u200d"]


@pytest.mark.parametrize("unseen", UNSEEN)
def test_unseen_characters_are_removed(unseen: str) -> None:
    for text in (f"{unseen}alpha", f"al{unseen}pha", f"alpha {unseen} "):
        assert normalised(text) == "alpha"
    assert normalised(f"e{unseen}\u0301") == "é"
    assert normalised(f"a {unseen} b") == "a b"


@pytest.mark.parametrize("character", ["\n", "\r", "\x0b", "\x0c", "\x85", "\u2028"])
def test_a_line_break_inside_a_label_is_refused(tmp_path: Path, character: str) -> None:
    table = f'path,label\na.png,"x{character}y"\n'.encode()
    with open_archive(zipped(tmp_path / "a.zip", {"a.png": picture(1), "manifest.csv": table})) as archive:
        error = refused(list_images, archive, ListingRequest("source"))
    assert error.reason == "INVALID_LABEL"
    assert normalised(f"x{character}") == "x"


ALIKE = [
    ("plate1", "Plate1"),
    ("plate1", "ｐｌａｔｅ１"),
    ("5 µm", "5 μm"),
    ("ﬁbre", "fibre"),
    ("STRASSE", "straße"),
    ("m²", "m2"),
]


@pytest.mark.parametrize(("first", "second"), ALIKE)
@pytest.mark.parametrize("rule", [{"pattern": "/(?P<group>[^_]+)_"}, {"column": "plate"}])
def test_groups_that_differ_in_case_or_form_alone_are_refused(rule: dict[str, str], first: str, second: str) -> None:
    assert compared(first) == compared(second)
    images = [
        ListedImage(f"x/{group}_{number}.png", f"x/{group}_{number}.png", "x", group)
        for number, group in enumerate((first, second, "other"))
    ]
    error = refused(groups_of, images, datasets_pb2.GroupRule(**rule))
    assert error.reason == "GROUPS_DIFFER_IN_CASE"
    for group in (first, second):
        assert repr(unicodedata.normalize("NFC", group)) in error.message
    assert len(groups_of(images, datasets_pb2.GroupRule(none=True))) == 3


@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_classes_that_differ_in_case_or_form_alone_are_refused(tmp_path: Path, first: str, second: str) -> None:
    files = {f"{label}/{number}.png": picture(number) for number, label in enumerate((first, second))}
    with open_archive(zipped(tmp_path / "a.zip", files)) as archive:
        assert refused(list_images, archive, ListingRequest("source")).reason == "LABELS_DIFFER_IN_CASE"


@pytest.mark.parametrize("group", ["nan", "None", "NaN", "null", "NaT", "<NA>"])
def test_a_pattern_that_finds_a_missing_group_is_refused(group: str) -> None:
    image = ListedImage("x", f"x/{group}_1.png", "x", None)
    error = refused(groups_of, [image], datasets_pb2.GroupRule(pattern="/(?P<group>[^_]+)_"))
    assert error.reason == "GROUP_MISSING"
    assert f"x/{group}_1.png gives {group!r}" in error.message
