"""Packing a user's images into one ZIP, to upload.

The ZIP of equal files has equal bytes (sorted names, fixed times, nothing compressed: images are already), so
that packing a folder again gives the upload that is there already. What the images are is checked by the
import, on the server: here only what saves a user from uploading something that can't be a dataset. Only a
Parquet manifest needs pyarrow.
"""

import csv
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from image_data.file_names import MANIFEST_NAMES, is_hidden, is_image, is_unsupported_image
from service_kit.errors import FailedPrecondition, InvalidArgument, invalid_field
from service_kit.storage_space import writing_to

FIELD = "source"
MOST_LISTED = 20
_FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can say
_PERMISSIONS = 0o100644 << 16
_SHAPES = "give a folder of class folders, a manifest (.csv or .parquet), or a ZIP of either"


def pack(source: Path, destination: Path, *, progress: Callable[[int, int], None]) -> Path:
    """Packs images into a ZIP.

    Args:
        source: A folder with a folder for each class, or with manifest.csv or manifest.parquet in it; or such
            a manifest, whose paths are relative to its folder; or a ZIP of either.
        destination: Where the ZIP is written; it appears when it is whole.
        progress: Called with (files packed, files in all).

    Returns:
        The ZIP to upload: the destination or, if the source is a ZIP, the source itself.

    Raises:
        InvalidArgument: The source doesn't exist or can't be a dataset.
        FailedPrecondition: A file can't be read or written.
        ResourceExhausted: The disk of the destination is full.
    """
    try:
        if source.suffix.lower() == ".zip":
            return _checked_zip(source)
        files = _files(source)
        with writing_to(destination.parent):
            _write(files, destination, progress)
    except OSError as error:
        raise FailedPrecondition(
            f"{error.filename or destination}: {error.strerror or error}; check that it exists and that you may use it",
            reason="FILE_UNUSABLE",
        ) from error
    return destination


def _files(source: Path) -> list[tuple[str, Path]]:
    """Each file's name in the ZIP, and the file, in the order of names."""
    if not source.exists():
        raise invalid_field(FIELD, str(source), "doesn't exist", _SHAPES, reason="SOURCE_NOT_FOUND")
    if source.is_file():
        return _manifest_files(source)
    manifests = [source / name for name in MANIFEST_NAMES if (source / name).is_file()]
    if len(manifests) > 1:
        raise invalid_field(
            FIELD,
            str(source),
            f"holds both {' and '.join(MANIFEST_NAMES)}",
            "keep one of them, or name the one to use",
            reason="MANIFEST_AMBIGUOUS",
        )
    return _manifest_files(manifests[0]) if manifests else _folder_files(source)


def _folder_files(source: Path) -> list[tuple[str, Path]]:
    found = sorted((path.relative_to(source).as_posix(), path) for path in _walk(source))
    shown = [(name, path) for name, path in found if not is_hidden(name)]
    unsupported = [name for name, _ in shown if is_unsupported_image(name)]
    if unsupported:
        raise _refused(
            source,
            "holds files of formats that aren't decoded",
            unsupported,
            "convert them to PNG, JPEG, TIFF, BMP or WebP",
        )
    images = [(name, path) for name, path in shown if is_image(name)]
    if not images:
        raise invalid_field(
            FIELD,
            str(source),
            f"holds no images ({len(found)} other files)",
            "give a folder with a folder of PNG, JPEG, TIFF, BMP or WebP files for each class",
            reason="NO_IMAGES",
        )
    outside = [name for name, _ in images if "/" not in name]
    if len(outside) == len(images):
        raise invalid_field(
            FIELD,
            str(source),
            "holds images, but no class folders",
            "make a folder for each class and move its images there, or add a manifest.csv with the columns "
            "path and label",
            reason="NO_CLASS_FOLDERS",
        )
    if outside:
        raise _refused(source, "holds images in no class folder", outside, "move them into the folder of their class")
    return images


def _manifest_files(manifest: Path) -> list[tuple[str, Path]]:
    packed_name = f"manifest{manifest.suffix.lower()}"
    if packed_name not in MANIFEST_NAMES:
        raise invalid_field(
            FIELD,
            str(manifest),
            "is neither a folder nor a manifest nor a ZIP",
            _SHAPES,
            reason="SOURCE_UNKNOWN",
        )
    read = _csv_paths if packed_name.endswith(".csv") else _parquet_paths
    names = [PurePosixPath(path.replace("\\", "/")) for path in read(manifest)]
    leaving = [str(name) for name in names if name.is_absolute() or ".." in name.parts or str(name)[1:2] == ":"]
    if leaving:
        raise _refused(
            manifest,
            "names files outside its folder",
            leaving,
            "move it to a folder above all images, and name them relative to that folder",
        )
    missing = [str(name) for name in names if not (manifest.parent / name).is_file()]
    if missing:
        raise _refused(
            manifest,
            "names files that don't exist",
            missing,
            "mend the paths: they are relative to its folder",
        )
    if not names:
        raise invalid_field(FIELD, str(manifest), "lists no images", "add a row for each image", reason="NO_IMAGES")
    return [
        (packed_name, manifest),
        *((name, manifest.parent / name) for name in sorted({str(name) for name in names})),
    ]


def _csv_paths(manifest: Path) -> list[str]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _check_columns(manifest, reader.fieldnames or [])
            return [(row["path"] or "").strip() for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise invalid_field(
            FIELD,
            str(manifest),
            f"is not a CSV file in UTF-8 ({error})",
            "export it again as CSV with UTF-8 encoding",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _parquet_paths(manifest: Path) -> list[str]:
    # Imported here: nothing else in the client needs it, and it takes longer to import than the rest
    # together.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(manifest)
        _check_columns(manifest, file.schema_arrow.names)
        return [str(value or "") for value in file.read(columns=["path"])["path"].to_pylist()]
    except pa.ArrowException as error:
        raise invalid_field(
            FIELD,
            str(manifest),
            f"is not a Parquet file that can be read ({error})",
            "write it again",
            reason="MANIFEST_UNREADABLE",
        ) from error


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    for needed in ("path", "label"):
        if needed not in columns:
            raise invalid_field(
                FIELD,
                str(manifest),
                f"has no column {needed!r}",
                f"add it, or rename the one that means it; its columns are {', '.join(columns) or 'none'}",
                reason="MANIFEST_COLUMN_MISSING",
            )


def _checked_zip(source: Path) -> Path:
    if not source.is_file():
        raise invalid_field(FIELD, str(source), "doesn't exist", _SHAPES, reason="SOURCE_NOT_FOUND")
    if not zipfile.is_zipfile(source):
        raise invalid_field(
            FIELD,
            str(source),
            "is not a whole ZIP archive",
            "it may be truncated: pack it again",
            reason="ARCHIVE_UNREADABLE",
        )
    return source


def _write(files: Sequence[tuple[str, Path]], destination: Path, progress: Callable[[int, int], None]) -> None:
    partial = destination.with_name(f"{destination.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for done, (name, path) in enumerate(files, start=1):
                entry = zipfile.ZipInfo(name, _FIRST_TIME)
                entry.create_system = 3  # Unix, on every system
                entry.external_attr = _PERMISSIONS
                entry.file_size = path.stat().st_size  # decides between ZIP and ZIP64 before it is written
                with path.open("rb") as image, archive.open(entry, "w") as packed:
                    shutil.copyfileobj(image, packed, 1024 * 1024)
                progress(done, len(files))
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder.

    Links are followed, as labs collect images by them; each folder is entered once, so that every loop ends.
    """
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(root, name) for name in files)


def _raise(error: OSError) -> None:
    raise error


def _refused(source: Path, problem: str, names: Sequence[str], remedy: str) -> InvalidArgument:
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return invalid_field(
        FIELD,
        str(source),
        f"{problem} ({', '.join(names[:MOST_LISTED])}{more})",
        remedy,
        reason="SOURCE_INVALID",
    )
