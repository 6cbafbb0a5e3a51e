"""What a node keeps of object storage: files that its processes share, within a budget of bytes.

{SYNTHMIX_CACHE_DIR}/{kind}/{key}      a file, which appears when it is whole; modified then, accessed when used last
{SYNTHMIX_CACHE_DIR}/{kind}/*/         what others keep there: it counts. The hub's models go as files do, as a whole
                                       (synthmix.service_kit.hub_cache); what else there is stays
{SYNTHMIX_CACHE_DIR}/writing/{random}  where one is being written, and a file of the size that is kept for it; or where
                                       files that are in use have further names, which take no room
{SYNTHMIX_CACHE_DIR}/locks/            one for room, some for who writes which key, some for who uses which model

Whoever reads a file holds a shared lock on it for as long as it is open or mapped, and whoever needs room deletes only
what nobody holds, the least recently used first. The kernel releases the locks of a process that was killed. A reader
that finds its file deleted makes it again.

A file goes a day after it was made, whoever uses it: what was deleted from object storage is not to live on here. What
is still there is made again.
"""

import fcntl
import logging
import os
import shutil
import stat
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from synthmix.service_kit import hub_cache
from synthmix.service_kit.environment import cache_folder, whole_number
from synthmix.service_kit.errors import ResourceExhausted
from synthmix.service_kit.hub_cache import size_below
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.storage_space import disk_full, reserve_bytes, writing_to

log = logging.getLogger(__name__)

BUDGET_VARIABLE = "SYNTHMIX_CACHE_MOST_BYTES"
FREE_VARIABLE = "SYNTHMIX_CACHE_FREE_PERCENT"
"""Of the disk, that the cache leaves free: a node that is shorter of disk than that begins to evict what runs on it."""
REASON = "CACHE_FULL"
PATIENCE_SECONDS = 60.0
"""For others on the node to end with the files that they hold."""
LONGEST_SECONDS = 24 * 3600.0
"""That a file stays, since it was made."""
EXPIRY_INTERVAL_SECONDS = 3600.0
_POLL_SECONDS = 0.5
_DISK_SHARE = 0.25
_WRITING = "writing"
_LOCKS = "locks"
_ROOM_LOCK = "room"
_HELD = "held"
_NEW = "new"
# Of different keys, some wait for each other, so that the locks' files do not grow in number.
_STRIPES = 64


def cache_budget_bytes(environment: Mapping[str, str] = os.environ) -> int:
    """How much the cache may hold: what its setting says, or a quarter of the disk that it is on."""
    folder = cache_folder(environment)
    folder.mkdir(parents=True, exist_ok=True)
    return whole_number(environment, BUDGET_VARIABLE, int(_DISK_SHARE * shutil.disk_usage(folder).total))


def open_cached(kind: str, key: str, size_bytes: int, make: Callable[[Path], None]) -> BinaryIO:
    """A file of the cache, open for reading; it stays in the cache until it is closed and no longer mapped.

    The first process of a node that asks for it makes it, while others wait.

    Args:
        kind: Such as payloads. `make` may ask for files of other kinds, never of this one.
        key: A file name, unique among its kind.
        size_bytes: What the file has.
        make: Writes the file to the path that it is given. What it raises is raised.

    Raises:
        ResourceExhausted: There is no room for it, and nothing in the cache can go; before a byte is written.
    """
    path = cache_folder() / kind / key
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        found = _opened(path, size_bytes)
        if found is not None:
            return found
        with _locked(f"{kind}-{zlib.crc32(key.encode()) % _STRIPES}"):
            found = _opened(path, size_bytes)
            if found is not None:
                return found
            with room(size_bytes) as folder:
                new = folder / _NEW
                with writing_to(cache_folder()):
                    make(new)
                made = new.open("rb")  # before it can be deleted
                fcntl.flock(made, fcntl.LOCK_SH)
                new.replace(path)
                return made


def link_cached(kind: str, key: str, size_bytes: int, make: Callable[[Path], None], path: Path) -> BinaryIO:
    """As open_cached, with a further name of the file in the folder of a `room`, for who opens files by their paths."""
    while True:
        file = open_cached(kind, key, size_bytes, make)
        try:
            os.link(cache_folder() / kind / key, path)
            return file
        except FileNotFoundError:  # it went meanwhile, since it was made too long ago
            file.close()


def _opened(path: Path, size_bytes: int) -> BinaryIO | None:
    """The file, locked so that it stays; None if it is not there, or is not whole."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    status = os.fstat(file.fileno())
    if status.st_size != size_bytes or status.st_mtime + LONGEST_SECONDS < time.time():
        file.close()
        path.unlink(missing_ok=True)
        return None
    os.utime(file.fileno(), ns=(time.time_ns(), status.st_mtime_ns))
    return file  # even if it was deleted meanwhile: what is open can be read


def expire() -> int:
    """Deletes files that were made too long ago. Whoever reads one reads on. Returns how many there were."""
    cache = cache_folder()
    if not cache.exists():
        return 0
    old = [path for _, _, path in _files(cache) if _is_too_old(path)]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def start_expiring() -> None:
    """Looks for such files every hour, in a thread that ends with the process."""
    threading.Thread(target=_expire_for_ever, name="cache", daemon=True).start()


def _expire_for_ever() -> None:
    while True:
        try:
            expire()
        except OSError as error:
            log.warning("the cache %s could not be looked through: %s", cache_folder(), error)
        time.sleep(EXPIRY_INTERVAL_SECONDS)


def _is_too_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime + LONGEST_SECONDS < time.time()
    except FileNotFoundError:
        return False


@contextmanager
def room(size_bytes: int) -> Iterator[Path]:
    """Makes room for so many bytes in the cache, and gives a folder to write them in. What is left in it goes.

    Raises:
        ResourceExhausted: There is no room for them, and nothing in the cache can go.
    """
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    budget_bytes = cache_budget_bytes()
    if size_bytes > budget_bytes:
        raise _no_room(size_bytes, budget_bytes)
    while (kept := _keep_room(size_bytes, budget_bytes, may_wait=time.monotonic() < deadline_s)) is None:
        time.sleep(_POLL_SECONDS)
    folder, held = kept
    with held:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _keep_room(size_bytes: int, budget_bytes: int, *, may_wait: bool) -> tuple[Path, IO[bytes]] | None:
    """Deletes what has to go, and keeps room: a folder, and the lock that says that its process lives.

    None if there is none yet, and others who end with their files may give it back. Raises ResourceExhausted if
    nobody's end would help, or the caller may not wait for it.
    """
    cache = cache_folder()
    writing = cache / _WRITING
    writing.mkdir(parents=True, exist_ok=True)
    with _locked(_ROOM_LOCK):
        files = _files(cache)
        others_bytes = _others_bytes(cache)
        used_bytes = _being_written(writing) + others_bytes + sum(size for _, size, _ in files)
        free_bytes = _free_bytes(cache)
        missing_bytes = size_bytes - min(budget_bytes - used_bytes, free_bytes)
        models = hub_cache.repositories() if others_bytes and missing_bytes > 0 else []
        for _, size, path in sorted([*files, *models]):
            if missing_bytes <= 0:
                break
            freed_bytes = hub_cache.delete(path) if path.is_dir() else size * _deleted(path)
            missing_bytes -= freed_bytes
            used_bytes -= freed_bytes
            free_bytes += freed_bytes
        if missing_bytes > 0:
            if used_bytes and may_wait:
                return None
            # By what was measured above: asked once more, the disk may have room, and the cache would be blamed.
            raise _disk_full(cache) if free_bytes < size_bytes else _no_room(size_bytes, budget_bytes)
        folder = writing / uuid.uuid4().hex
        folder.mkdir()
        held = (folder / _HELD).open("wb")
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(size_bytes)  # takes no room of the disk itself
        return folder, held


def _files(cache: Path) -> list[tuple[float, int, Path]]:
    """(time of last use, size, path) of every file."""
    found = []
    for kind in cache.iterdir():
        if kind.name in (_WRITING, _LOCKS) or not kind.is_dir():
            continue
        for path in kind.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_atime, status.st_size, path))
    return found


def _others_bytes(cache: Path) -> int:
    """What others keep in folders below those of the cache's own files."""
    return sum(size_below(folder) for folder in cache.glob("*/*/") if folder.parent.name not in (_WRITING, _LOCKS))


def _being_written(writing: Path) -> int:
    """How much room is kept for what is being written. What a process that was killed had begun goes."""
    kept_bytes = 0
    for folder in writing.iterdir():
        try:
            with (folder / _HELD).open("rb") as held:
                kept_bytes += os.fstat(held.fileno()).st_size
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                kept_bytes -= os.fstat(held.fileno()).st_size
        except BlockingIOError:
            continue
        except FileNotFoundError:
            pass  # its process is just leaving, or was killed between two calls
        shutil.rmtree(folder, ignore_errors=True)
    return kept_bytes


def _deleted(path: Path) -> bool:
    """Deletes a file unless someone reads it. Whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


@contextmanager
def _locked(name: str) -> Iterator[None]:
    folder = cache_folder() / _LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_bytes(cache: Path) -> int:
    """How much of the disk the cache may still take."""
    disk = shutil.disk_usage(cache)
    return disk.free - max(reserve_bytes(cache), disk.total * _free_percent() // 100)


def _free_percent() -> int:
    return whole_number(os.environ, FREE_VARIABLE, 0, least=0)


def _disk_full(cache: Path) -> ResourceExhausted:
    return disk_full(cache, f"{_free_percent()} % of the disk ({FREE_VARIABLE})" if _free_percent() else "")


def _no_room(size_bytes: int, budget_bytes: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"a file of {byte_size(size_bytes)} does not fit into the cache {cache_folder()}, which may hold "
        f"{byte_size(budget_bytes)}, beside what is in use; run fewer tasks at once on a node, or raise "
        f"{BUDGET_VARIABLE}",
        reason=REASON,
        metadata={"setting": BUDGET_VARIABLE, "limit": byte_size(budget_bytes)},
    )
