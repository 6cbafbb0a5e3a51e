"""The hub's models in a node's cache, where pods keep them (HF_HOME is below SYNTHMIX_CACHE_DIR there).

The hub's library writes them and never deletes one. So whoever uses a model holds a shared lock of its repository, and
whoever needs room deletes repositories that nobody holds, the least recently used first. Elsewhere, as in a user's own
folder, the hub's cache is left alone.

    {SYNTHMIX_CACHE_DIR}/locks/hub-{number}   of different repositories, some share a lock, so that the files stay few
"""

import fcntl
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from synthmix.service_kit.environment import cache_folder

_STRIPES = 64


def hub_folder() -> Path | None:
    """Where the hub's library keeps its files, if that is within the node's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    return folder if folder.is_relative_to(cache_folder()) else None


def hold(name: str) -> BinaryIO | None:
    """Keeps a model, owner/name, in the cache until what is returned is closed, and says that it is used now.

    Returns None where the hub's cache isn't within the node's: nothing is deleted there.
    """
    folder = hub_folder()
    if folder is None:
        return None
    repository = folder / f"models--{name.replace('/', '--')}"
    lock = _lock_file(repository)
    fcntl.flock(lock, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):  # it is yet to be downloaded
        os.utime(repository)
    return lock


@contextmanager
def held(name: str) -> Iterator[None]:
    """Keeps a model in the cache while the block runs."""
    lock = hold(name)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def repositories() -> list[tuple[float, int, Path]]:
    """(time of last use, size, folder) of each model in the cache."""
    folder = hub_folder()
    if folder is None:
        return []
    return [(path.stat().st_mtime, size_below(path), path) for path in folder.glob("models--*")]


def delete(repository: Path) -> int:
    """Deletes a model by its folder, unless someone uses it. Returns how many bytes that freed."""
    from huggingface_hub import scan_cache_dir

    with _lock_file(repository) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        before_bytes = size_below(repository.parent)
        found = scan_cache_dir(repository.parent)
        # Of this model alone: a copy of it under another name has the same commits.
        found = replace(found, repos=frozenset(item for item in found.repos if item.repo_path == repository))
        commits = [revision.commit_hash for item in found.repos for revision in item.revisions]
        if commits:
            found.delete_revisions(*commits).execute()  # also what it alone has in the store that models share
        shutil.rmtree(repository, ignore_errors=True)  # a download that was broken off is nothing that a scan finds
        return before_bytes - size_below(repository.parent)


def size_below(folder: Path) -> int:
    """Bytes of the files in a folder and below; what a link leads to is not of it."""
    found_bytes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            found_bytes += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return found_bytes


def _lock_file(repository: Path) -> BinaryIO:
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"hub-{zlib.crc32(repository.name.encode()) % _STRIPES}").open("ab")
