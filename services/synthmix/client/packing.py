"""Packing a user's images into one ZIP, to upload.

The ZIP of equal files has equal bytes (sorted names, fixed times, nothing compressed: images are already), so
that packing a folder again gives the upload that is there already. What is an image and of which class is asked of
image_data.sources.source_listing, as the server asks it: a source that can't be a dataset is refused before it is
uploaded, and what isn't packed is accounted for.
"""

import errno
import os
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from synthmix.api.datasets.v1.datasets_pb2 import LeftOut
from synthmix.image_data.sources.archive import open_archive
from synthmix.image_data.sources.file_kinds import HEAD_BYTES
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_account import shown
from synthmix.image_data.sources.source_listing import ListingRequest, list_images
from synthmix.service_kit.errors import FailedPrecondition, invalid_field
from synthmix.service_kit.storage_space import writing_to

FIELD = "source"
_FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can say
_PERMISSIONS = 0o100644 << 16
# What Office Open XML (.xlsx, .docx) and OpenDocument (.ods, .odt) files hold at their top.
_DOCUMENT_MEMBERS = {"[Content_Types].xml", "META-INF/manifest.xml"}
_SHAPES = "give a folder of class folders, a manifest (.csv, .tsv, .jsonl or .parquet), or a ZIP of either"
_MANIFESTS = {
    ".csv": "manifest.csv",
    ".tsv": "manifest.csv",
    ".jsonl": "manifest.jsonl",
    ".parquet": "manifest.parquet",
}


@dataclass(frozen=True)
class Packed:
    """What is uploaded, and the account of the source's files that aren't in it."""

    path: Path
    left_out: tuple[LeftOut, ...]


def pack(
    source: Path,
    destination: Path,
    *,
    progress: Callable[[int, int], None],
    request: ListingRequest | None = None,
) -> Packed:
    """Packs images into a ZIP.

    Args:
        source: A folder with a folder for each class, or with a manifest.csv, .jsonl or .parquet in it; or
            such a manifest, whose paths are relative to its folder; or a ZIP of either.
        destination: Where the ZIP is written; it appears when it is whole.
        progress: Called with (files packed, files in all).
        request: How the source is read.

    Returns:
        The ZIP to upload (the destination or, if the source is a ZIP, the source itself), with the account.

    Raises:
        InvalidArgument: The source doesn't exist or can't be a dataset.
        FailedPrecondition: A file can't be read or written.
        ResourceExhausted: The disk of the destination is full.
    """
    request = request or ListingRequest(FIELD)
    try:
        if _kind(source) == "zip":
            with open_archive(source, field=FIELD) as archive:
                list_images(archive, request)
            return Packed(source, ())  # the server sees what is in it
        files, left_out = _files(source, request)
        with writing_to(destination.parent):
            _write(files, destination, progress)
    except OSError as error:
        raise FailedPrecondition(
            f"{shown(str(error.filename or destination))}: {error.strerror or error}; check that it exists and that "
            "you may use it",
            reason="FILE_UNUSABLE",
        ) from error
    return Packed(destination, left_out)


def _kind(source: Path) -> str:
    """folder, manifest or zip. Raises InvalidArgument for all else: nothing is opened that isn't a plain file."""
    try:
        mode = source.stat().st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise invalid_field(FIELD, str(source), "does not exist", _SHAPES, reason="SOURCE_NOT_FOUND") from None
    except ValueError:  # a NUL in it
        raise invalid_field(FIELD, str(source), "cannot be a path", _SHAPES, reason="SOURCE_NOT_FOUND") from None
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode):
        suffix = source.suffix.lower()
        if suffix in _MANIFESTS:
            return "manifest"
        if suffix == ".zip" or zipfile.is_zipfile(source):
            _refuse_document(source)
            return "zip"
    raise invalid_field(
        FIELD, str(source), "is neither a folder nor a manifest nor a ZIP", _SHAPES, reason="SOURCE_UNKNOWN"
    )


def _refuse_document(source: Path) -> None:
    """Raises InvalidArgument if a ZIP is a spreadsheet or another office document, which are ZIPs inside."""
    try:
        with zipfile.ZipFile(source) as opened:
            members = set(opened.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return  # the archive's own checks say what is wrong with it
    if not members & _DOCUMENT_MEMBERS:
        return
    raise invalid_field(
        FIELD,
        str(source),
        "is a spreadsheet or another office document, not a ZIP of images",
        "save a table as CSV and import that",
        reason="SOURCE_UNKNOWN",
    )


def _files(source: Path, request: ListingRequest) -> tuple[list[tuple[str, Path]], tuple[LeftOut, ...]]:
    """Each file's name in the ZIP, and the file: a manifest or metadata, then the images in the order of names."""
    packed_manifest = None
    if source.is_dir():
        folder = _scan(source)
    else:
        folder = _scan(source.parent)
        packed_manifest = _MANIFESTS[source.suffix.lower()]
        request = replace(request, manifest=unicodedata.normalize("NFC", source.name))
    listing = list_images(folder, request)
    entries = sorted(image.entry for image in listing.images)
    files = [(entry, folder.files[entry]) for entry in entries]
    if listing.manifest is not None:
        files.insert(0, (packed_manifest or listing.manifest, folder.files[listing.manifest]))
    elif listing.metadata is not None:
        files.insert(0, (listing.metadata, folder.files[listing.metadata]))
    return files, listing.left_out


@dataclass
class _Folder:
    """The files below a folder, by their relative paths in Unicode's composed form."""

    files: dict[str, Path] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> Sequence[str]:
        return list(self.files)

    def head(self, path: str) -> bytes:
        with self.files[path].open("rb") as file:
            return file.read(HEAD_BYTES)

    def read(self, path: str) -> bytes:
        return self.files[path].read_bytes()


def _scan(folder: Path) -> _Folder:
    """Looks at every file below a folder and opens none.

    Links are followed, as labs collect images by them; each folder is entered once, so that every loop ends.
    """
    found, twice = _Folder(), []
    entered: set[str] = set()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        found.unusable[_relative(Path(error.filename), folder)] = "FOLDER_UNREADABLE"

    for root, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        if Path(root) != folder:
            found.folders.append(_relative(Path(root), folder))
        for name in names:
            file = Path(root, name)
            path = _relative(file, folder)
            problem = _problem(file, path)
            if problem:
                found.unusable[path] = problem
            elif path in found.files:
                twice.append(shown(path))
            else:
                found.files[path] = file
    if twice:
        raise refused_files(
            FIELD,
            "names are there twice, written with composed and with decomposed letters",
            twice,
            "rename one of each",
            reason="SOURCE_INVALID",
        )
    found.files = dict(sorted(found.files.items()))
    return found


def _relative(path: Path, folder: Path) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(path.relative_to(folder)).as_posix())


def _problem(file: Path, path: str) -> str:
    """Why a file can't be used, as a reason of the account; "" if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "NAME_NOT_UTF8"
    if "\\" in path:
        return "NAME_HAS_BACKSLASH"
    try:
        mode = os.stat(file).st_mode
    except PermissionError:
        return "UNREADABLE"
    except OSError:
        return "BROKEN_LINK"
    if not stat.S_ISREG(mode):
        return "SPECIAL_FILE"
    return "" if os.access(file, os.R_OK) else "UNREADABLE"


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
