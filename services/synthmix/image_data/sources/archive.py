"""Reading an untrusted ZIP.

Nothing is ever extracted to disk, and nothing is decompressed before the whole list is checked. Only the standard
library: the client looks into a ZIP before it uploads it.
"""

import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from synthmix.image_data.sources.file_kinds import HEAD_BYTES
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_account import shown
from synthmix.service_kit.errors import FieldViolation, InvalidArgument, ResourceExhausted, invalid_field
from synthmix.service_kit.quantities import byte_size

FIELD = "upload"
LONGEST_PATH = 512
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_NAME_IS_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_SMALL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may declare.

    Attributes:
        entries: Files and folders in it; any number if None.
        entry_bytes: Of the largest file, uncompressed.
        total_bytes: Of all files, uncompressed; any number if None.
        ratio: Of total_bytes to the archive's own size, once that total is beyond 64 MiB: deflate reaches
            about 1,000 on a bomb, and overlapping entries any number; images stay far below.
        entries_setting: What sets `entries`, for errors.
        total_bytes_setting: What sets `total_bytes`, for errors.
    """

    entries: int | None = None
    entry_bytes: int = 256 * 1024 * 1024
    total_bytes: int | None = None
    ratio: int = 200
    entries_setting: str = ""
    total_bytes_setting: str = ""


LIMITS = ArchiveLimits()


@dataclass(frozen=True)
class Archive:
    """The files of a checked ZIP, by their path: relative, with slashes, in Unicode's composed form.

    Attributes:
        folders: By their paths.
        warnings: What is doubtful about the names.
        unusable: Nothing: every file of an archive can be read.
    """

    _opened: zipfile.ZipFile
    _entries: dict[str, zipfile.ZipInfo]
    folders: tuple[str, ...]
    warnings: tuple[str, ...]
    unusable: ClassVar[dict[str, str]] = {}

    @property
    def paths(self) -> list[str]:
        return list(self._entries)

    def head(self, path: str) -> bytes:
        """The file's first bytes. Raises InvalidArgument."""
        with _damage_is_named(), self._opened.open(self._entries[path]) as file:
            return file.read(min(HEAD_BYTES, self._entries[path].file_size))

    def read(self, path: str) -> bytes:
        """The file's bytes: at most what the archive declares, and of its CRC. Raises InvalidArgument."""
        with _damage_is_named():
            return self._opened.read(self._entries[path])


@contextmanager
def _damage_is_named() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError) as error:
        raise InvalidArgument(
            f"is damaged in the archive ({error}); pack and upload it again", reason="ARCHIVE_DAMAGED"
        ) from error


@contextmanager
def open_archive(path: Path, limits: ArchiveLimits = LIMITS, *, field: str = FIELD) -> Iterator[Archive]:
    """Opens a ZIP and checks everything that it declares.

    Args:
        field: The request's field that it is, for errors.

    Raises:
        InvalidArgument: It is not a whole ZIP; it is encrypted, or compressed by a method other than deflate;
            it holds an absolute path, `..`, a link or another special file, or a name twice; or it exceeds
            the limits of a file or of the ratio.
        ResourceExhausted: It holds more files or bytes than an operator's setting allows.
    """
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise _unreadable(path, str(error), field) from error
    with opened:
        if any(info.header_offset < 0 for info in opened.infolist()):
            raise _unreadable(path, "its beginning is missing", field)
        _check_limits(opened, path.stat().st_size, limits, field)
        yield _checked(opened, field)


def _unreadable(path: Path, problem: str, field: str) -> InvalidArgument:
    return invalid_field(
        field,
        path.name,
        f"is not a whole ZIP archive ({problem})",
        "it may be truncated: pack and upload it again",
        reason="ARCHIVE_UNREADABLE",
    )


def _check_limits(opened: zipfile.ZipFile, archive_bytes: int, limits: ArchiveLimits, field: str) -> None:
    infos = opened.infolist()
    total_bytes = sum(info.file_size for info in infos)
    largest = max(infos, key=lambda info: info.file_size, default=None)
    if limits.entries is not None and len(infos) > limits.entries:
        raise _beyond(field, f"{len(infos):,} files and folders", f"{limits.entries:,}", limits.entries_setting)
    if largest and largest.file_size > limits.entry_bytes:
        raise _too_large(
            field,
            f"{largest.filename} of {byte_size(largest.file_size)}",
            f"a file of more than {byte_size(limits.entry_bytes)}",
        )
    if limits.total_bytes is not None and total_bytes > limits.total_bytes:
        raise _beyond(
            field,
            f"{byte_size(total_bytes)} uncompressed",
            byte_size(limits.total_bytes),
            limits.total_bytes_setting,
        )
    if total_bytes > _SMALL_BYTES and total_bytes > limits.ratio * archive_bytes:
        raise _too_large(
            field,
            f"{byte_size(total_bytes)} from {byte_size(archive_bytes)}",
            f"more than {limits.ratio} times its own size, as a decompression bomb would",
        )


def _checked(opened: zipfile.ZipFile, field: str) -> Archive:
    entries: dict[str, zipfile.ZipInfo] = {}
    folders: list[str] = []
    problems, guessed = [], []
    for info in opened.infolist():
        text, certain = _name(info)
        # Some Windows programs write backslashes, and macOS writes letters apart from their accents.
        name = unicodedata.normalize("NFC", text.replace("\\", "/"))
        path = str(PurePosixPath(name))  # without ./ and doubled slashes
        problem = _problem(info, path) or ("is there twice" if path in entries else None)
        if problem is not None:
            problems.append(f"{path[:LONGEST_PATH]} {problem}")
        elif name.endswith("/"):
            folders.append(path)
        else:
            entries[path] = info
            if not certain:
                guessed.append(path)
    if problems:
        raise refused_files(
            field,
            "entries of the archive are refused",
            problems,
            "pack a plain folder of images, without links, passwords or absolute paths",
            reason="ARCHIVE_UNSAFE",
        )
    return Archive(opened, entries, tuple(folders), _encoding_warnings(guessed))


def _name(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """An entry's name, and whether its encoding is known.

    Entries may say that they are UTF-8, or have the name once more in a field of its own. macOS writes UTF-8 and
    does not say so; Windows writes its local code page, which nothing tells. zipfile has read either as code page 437,
    from which every byte comes back.
    """
    name = info.orig_filename.split("\0", 1)[0]
    if info.flag_bits & _NAME_IS_UTF8:
        return name, True
    raw = info.orig_filename.encode("cp437")
    said = _unicode_path(info.extra, raw)
    if said or name.isascii():
        return said or name, True
    try:
        return name.encode("cp437").decode("utf-8"), True
    except UnicodeDecodeError:
        return name, False


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """The name in Info-ZIP's Unicode Path field (APPNOTE 4.6.9); "" without one that is of this name.

    Its checksum is that of the name beside it: a program that does not know the field renames without it.
    """
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind != _UNICODE_PATH or len(field) < 6:
            continue
        version, checksum = struct.unpack_from("<BL", field)
        if version == 1 and checksum == zlib.crc32(raw):
            try:
                return field[5:].decode().split("\0", 1)[0]
            except UnicodeDecodeError:
                continue
    return ""


def _encoding_warnings(paths: list[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    return (
        f"{len(paths):,} names in the archive are in a local encoding that it does not tell, and were read as code "
        f"page 437, such as {shown(paths[0])}; if they look wrong, pack the folder again with a program that writes "
        "UTF-8",
    )


def _problem(info: zipfile.ZipInfo, path: str) -> str | None:
    file_type = stat.S_IFMT(info.external_attr >> 16)
    if path.startswith("/") or path[1:2] == ":":
        return "is an absolute path"
    if ".." in PurePosixPath(path).parts:
        return "leads out of the archive"
    if len(path) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} characters"
    if stat.S_ISLNK(file_type):
        return "is a symbolic link"
    if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a special file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _COMPRESSIONS:
        return "is compressed by a method other than deflate"
    return None


def _beyond(field: str, what: str, limit: str, setting: str) -> ResourceExhausted:
    description = (
        f"the archive holds {what}, and {setting} allows {limit}; import fewer or smaller images at a time, or raise "
        f"{setting}"
    )
    return ResourceExhausted(
        f"{field}: {description}",
        reason="IMPORT_BOUND_EXCEEDED",
        violations=[FieldViolation(field, description)],
        metadata={"setting": setting, "limit": limit},
    )


def _too_large(field: str, value: str, problem: str) -> InvalidArgument:
    return invalid_field(
        field, value, f"is {problem}", "import fewer or smaller images at a time", reason="ARCHIVE_TOO_LARGE"
    )
