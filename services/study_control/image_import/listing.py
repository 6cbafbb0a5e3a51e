"""Which files of an archive are images, and of which class: by class folders, or by a manifest at the top."""

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from image_data.file_names import IMAGE_SUFFIXES, MANIFEST_NAMES, is_hidden, is_image, is_unsupported_image
from service_kit.errors import InvalidArgument, invalid_field
from study_control.image_import.archive import FIELD, Archive
from study_control.image_import.problems import refused_files

LONGEST_LABEL = 100
MOST_MANIFEST_BYTES = 256 * 1024 * 1024
MOST_MANIFEST_ROWS = 200_000
_SUPPORTED = "PNG, JPEG, TIFF, BMP or WebP"


@dataclass(frozen=True)
class ListedImage:
    """An image of the archive.

    Attributes:
        entry: Its path in the archive.
        path: Its path below the folder that class folders or the manifest lie in: what patterns are searched
            in.
        label: Its class.
        group: The value of the group column, if groups come from one.
    """

    entry: str
    path: str
    label: str
    group: str | None


@dataclass(frozen=True)
class Listing:
    """The images in the order of their paths, and the files that were passed over."""

    images: tuple[ListedImage, ...]
    ignored: tuple[str, ...]


def list_images(archive: Archive, *, group_column: str | None) -> Listing:
    """Finds the images of an archive and their classes.

    Args:
        archive: A checked archive.
        group_column: The manifest's column of groups, if groups come from one.

    Raises:
        InvalidArgument: There is no class folder and no manifest, or the manifest is unusable; an image lies
            in no class folder or is of a format that isn't decoded; or a label can't be one.
    """
    top = _common_top(archive.paths)
    manifests = [name for name in MANIFEST_NAMES if top + name in archive.paths]
    if len(manifests) > 1:
        raise invalid_field(
            FIELD, " and ".join(manifests), "are both there", "keep one of them", reason="MANIFEST_AMBIGUOUS"
        )
    if manifests:
        images = _from_manifest(archive, top, manifests[0], group_column)
    elif group_column is not None:
        raise invalid_field(
            "dataset.group_rule.column",
            group_column,
            "is a manifest's column, and the archive has no manifest",
            f"add {' or '.join(MANIFEST_NAMES)} at its top, or use a pattern",
            reason="MANIFEST_MISSING",
        )
    else:
        images = _from_folders(archive, top)
    _check_labels(images)
    used = {image.entry for image in images} | {top + name for name in manifests}
    return Listing(
        tuple(sorted(images, key=lambda image: image.path)),
        tuple(path for path in archive.paths if path not in used),
    )


def _common_top(paths: Sequence[str]) -> str:
    """`name/` if all that matters lies below one folder, and that folder can't be a class; else nothing."""
    shown = [PurePosixPath(path) for path in paths if not is_hidden(path)]
    images = [path for path in shown if is_image(str(path))]
    tops = {path.parts[0] for path in images} | {path.parts[0] for path in shown if path.name in MANIFEST_NAMES}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    has_manifest = any(str(path) in (f"{top}/{name}" for name in MANIFEST_NAMES) for path in shown)
    return f"{top}/" if has_manifest or all(len(path.parts) > 2 for path in images) else ""


def _from_folders(archive: Archive, top: str) -> list[ListedImage]:
    images, outside, unsupported = [], [], []
    for entry in archive.paths:
        if is_hidden(entry):
            continue
        path = PurePosixPath(entry.removeprefix(top))
        if is_unsupported_image(entry):
            unsupported.append(f"{entry} is a {path.suffix.lower()[1:]} file")
        elif is_image(entry) and len(path.parts) < 2:
            outside.append(entry)
        elif is_image(entry):
            images.append(ListedImage(entry, str(path), path.parts[0], None))
    if unsupported:
        raise refused_files(
            FIELD,
            "files are of formats that aren't decoded",
            unsupported,
            f"convert them to {_SUPPORTED}",
            reason="IMAGE_FORMAT_UNSUPPORTED",
        )
    if not images:
        raise invalid_field(
            FIELD,
            f"{len(archive.paths)} files",
            "hold no class folder with images",
            f"pack one folder for each class, with {_SUPPORTED} files in it, or add a manifest.csv",
            reason="NO_IMAGES",
        )
    if outside:
        raise refused_files(
            FIELD,
            "images lie in no class folder",
            outside,
            "move them into the folder of their class, or leave them out",
            reason="CLASS_UNKNOWN",
        )
    return images


def _from_manifest(archive: Archive, top: str, name: str, group_column: str | None) -> list[ListedImage]:
    size_bytes = archive.size_bytes(top + name)
    if size_bytes > MOST_MANIFEST_BYTES:
        raise invalid_field(
            FIELD,
            f"{name} of {size_bytes:,} bytes",
            "is too large for a manifest",
            "leave out columns other than path, label and group",
            reason="MANIFEST_TOO_LARGE",
        )
    columns = ["path", "label"] + ([group_column] if group_column is not None else [])
    read = _csv_rows if name.endswith(".csv") else _parquet_rows
    known = set(archive.paths)
    images, problems = [], []
    for number, values in read(_manifest_bytes(archive, top + name), name, columns):
        if number > MOST_MANIFEST_ROWS + 1:
            raise invalid_field(
                FIELD,
                name,
                f"has more than {MOST_MANIFEST_ROWS:,} rows",
                "import fewer images at a time",
                reason="MANIFEST_TOO_LARGE",
            )
        empty = [column for column, value in zip(columns, values, strict=True) if not value]
        path = str(PurePosixPath(unicodedata.normalize("NFC", values[0].replace("\\", "/"))))
        if empty:
            problems.append(f"row {number} has no {' and no '.join(empty)}")
        elif top + path not in known:
            problems.append(f"row {number}: {path} is not in the archive")
        elif not is_image(path):
            problems.append(f"row {number}: {path} doesn't end in one of {', '.join(IMAGE_SUFFIXES)}")
        else:
            images.append(ListedImage(top + path, path, values[1], values[2] if group_column is not None else None))
    problems += [
        f"{path} is there {count} times" for path, count in Counter(image.path for image in images).items() if count > 1
    ]
    if problems:
        raise refused_files(
            FIELD,
            f"rows of {name} are unusable",
            problems,
            "mend the manifest, and pack every file that it names",
            reason="MANIFEST_INVALID",
        )
    if not images:
        raise invalid_field(FIELD, name, "lists no image", "add a row for each image", reason="NO_IMAGES")
    return images


def _manifest_bytes(archive: Archive, path: str) -> bytes:
    try:
        return archive.read(path)
    except InvalidArgument as error:
        raise invalid_field(FIELD, path, error.message, "nothing was imported", reason=error.reason) from error


def _csv_rows(data: bytes, name: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields row numbers, as a spreadsheet shows them, and the values of the columns."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        _check_columns(name, reader.fieldnames or [], columns)
        for number, row in enumerate(reader, start=2):
            yield number, [(row[column] or "").strip() for column in columns]
    except (UnicodeDecodeError, csv.Error) as error:
        raise invalid_field(
            FIELD,
            name,
            f"is not a CSV file in UTF-8 ({error})",
            "export it again as CSV with UTF-8 encoding",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _parquet_rows(data: bytes, name: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(name, file.schema_arrow.names, columns)
        number = 1
        for batch in file.iter_batches(columns=list(columns)):
            for values in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                number += 1
                yield number, ["" if value is None else str(value).strip() for value in values]
    except (pa.ArrowException, OSError) as error:
        raise invalid_field(
            FIELD,
            name,
            f"is not a Parquet file that can be read ({error})",
            "write it again",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _check_columns(name: str, found: Sequence[str], needed: Sequence[str]) -> None:
    for column in needed:
        if column not in found:
            field = FIELD if column in ("path", "label") else "dataset.group_rule.column"
            raise invalid_field(
                field,
                column,
                f"is not a column of {name}",
                f"add it, or rename the one that means it; the columns are {', '.join(found) or 'none'}",
                reason="MANIFEST_COLUMN_MISSING",
            )


def _check_labels(images: Sequence[ListedImage]) -> None:
    problems = [
        f"{label!r}"
        for label in sorted({image.label for image in images})
        if not label.isprintable() or label != label.strip() or not 1 <= len(label) <= LONGEST_LABEL
    ]
    if problems:
        raise refused_files(
            FIELD,
            "classes have unusable names",
            problems,
            f"use 1 to {LONGEST_LABEL} printable characters, without spaces at the ends",
            reason="INVALID_LABEL",
        )
