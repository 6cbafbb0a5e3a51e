"""What is said when a disk or object storage is full: where, how much is free, and what to do."""

import errno
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from synthmix.service_kit.errors import ResourceExhausted, SynthMixError
from synthmix.service_kit.quantities import byte_size

REASON = "STORAGE_FULL"
# Object storage needs room for its own tables and to take deleted objects out; a server stops writing at 1 %.
RESERVE_BYTES = 16 * 1024 * 1024
RESERVE_SHARE = 0.02

_FULL = (errno.ENOSPC, errno.EDQUOT)
# As libraries that are not written in Python say it, in errors without a number.
_FULL_WORDS = ("no space left on device", "disk quota exceeded")

# A server takes an object out some seconds after it was deleted, and cannot give its room back before.
_WAITS_S = (0.0, 2.0, 4.0)

_room = threading.Lock()
_making_room = threading.Lock()
_in_flight_bytes: Counter[Path] = Counter()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raises ResourceExhausted, naming the folder, if what is done in it finds its disk full."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SynthMixError) or not says_full(error):
            raise
        raise disk_full(folder) from error


def disk_full(folder: Path, left: str = "") -> ResourceExhausted:
    """The error for a disk without room.

    Args:
        left: How much of it is not to be taken although it is free, such as "5 % (SETTING)".
    """
    kept = f", of which {left} are left to others" if left else ""
    return ResourceExhausted(
        f"the disk of {folder} is full{_free(folder)}{kept}; make room there, then try again",
        reason=REASON,
        metadata={"where": str(folder)},
    )


def says_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that a disk is full."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return False
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen).lower() for words in _FULL_WORDS):
            return True
        seen = seen.__cause__
    return False


@contextmanager
def room_for(folder: Path, size_bytes: int, where: str, make_room: Callable[[], None]) -> Iterator[None]:
    """Keeps room on a folder's disk for an object while it is written; what this process writes there adds up.

    Args:
        where: What keeps its objects in the folder.
        make_room: Gives back what is deleted but still takes room. Done at most three times if there is too little.

    Raises:
        ResourceExhausted: There is too little, before a byte is written.
    """
    if not _reserve(folder, size_bytes):
        with _making_room:
            if not _reserve(folder, size_bytes):
                for wait_s in _WAITS_S if size_bytes < shutil.disk_usage(folder).total else ():
                    time.sleep(wait_s)
                    make_room()
                    if _reserve(folder, size_bytes):
                        break
                else:
                    raise storage_full(f"{where}, in {folder},", f" for {byte_size(size_bytes)}{_free(folder)}")
    try:
        yield
    finally:
        with _room:
            _in_flight_bytes[folder] -= size_bytes


def _reserve(folder: Path, size_bytes: int) -> bool:
    disk = shutil.disk_usage(folder)
    with _room:
        if disk.free - _in_flight_bytes[folder] - size_bytes < reserve_bytes(folder):
            return False
        _in_flight_bytes[folder] += size_bytes
    return True


def reserve_bytes(folder: Path) -> int:
    """How much of a folder's disk no object may take."""
    return max(RESERVE_BYTES, int(RESERVE_SHARE * shutil.disk_usage(folder).total))


def is_low(folder: Path) -> bool:
    """Whether so little is free that a failure to write is put down to it."""
    return shutil.disk_usage(folder).free < reserve_bytes(folder)


def storage_full(where: str, why: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"{where} has no room{why}; delete studies and datasets that are not needed, or give it a larger disk, then "
        "try again",
        reason=REASON,
        metadata={"where": where},
    )


def _free(folder: Path) -> str:
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return ""
    in_flight_bytes = _in_flight_bytes[folder]
    taken = f", {byte_size(in_flight_bytes)} of them for what is being written" if in_flight_bytes else ""
    return f" ({byte_size(free_bytes)} are free{taken})"
