"""What is said when a disk or object storage is full: where, how much is free, and what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service_kit.errors import ResourceExhausted

REASON = "STORAGE_FULL"
# Object storage needs room for its own tables and to take deleted objects out; a server stops writing at 1 %.
RESERVE_BYTES = 16 * 1024 * 1024
RESERVE_SHARE = 0.02

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raises ResourceExhausted, naming the folder, if what is done in it finds its disk full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ResourceExhausted(
            f"the disk of {folder} is full{_free(folder)}; make room there, then try again",
            reason=REASON,
            metadata={"where": str(folder)},
        ) from error


def check_room(folder: Path, size_bytes: int, where: str) -> None:
    """Raises ResourceExhausted unless a folder's disk has room for an object, before a byte of it is written.

    Args:
        where: What keeps its objects in the folder.
    """
    disk = shutil.disk_usage(folder)
    if disk.free - size_bytes < max(RESERVE_BYTES, RESERVE_SHARE * disk.total):
        raise storage_full(f"{where}, in {folder},", f" for {_megabytes(size_bytes)}{_free(folder)}")


def is_low(folder: Path) -> bool:
    """Whether so little is free that a failure to write is put down to it."""
    disk = shutil.disk_usage(folder)
    return disk.free < max(RESERVE_BYTES, RESERVE_SHARE * disk.total)


def storage_full(where: str, why: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"{where} has no room{why}; delete studies and datasets that aren't needed, or give it a larger disk, then "
        "try again",
        reason=REASON,
        metadata={"where": where},
    )


def _free(folder: Path) -> str:
    try:
        return f" ({_megabytes(shutil.disk_usage(folder).free)} are free)"
    except OSError:
        return ""


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
