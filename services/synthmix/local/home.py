"""A stack's home: one folder that keeps everything between runs, and that one stack at a time may use.

object-storage/    what object storage holds
cache/             verified copies of payloads; may be emptied at any time
logs/              a log of each child, and of the run before
logs/incidents/    stack traces of our own faults, by number; the oldest go
credentials.json   the keys of object storage, made once
users.json         what these keys may do, as object storage reads it
certificate.pem    what object storage's own servers show to one another (see certificate)
lock               held while a stack runs
running.json       what a stack that did not stop by itself leaves behind (see sweep)
stack.json         how to reach the running stack (see connection)
"""

import fcntl
import json
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.errors import FailedPrecondition

LOCK_ATTEMPT_S = 1.0


class Home:
    """The paths of a home."""

    def __init__(self, folder: Path):
        folder = self.folder = folder.expanduser().absolute()
        self.object_storage = folder / "object-storage"
        self.cache = folder / "cache"
        self.logs = folder / "logs"
        self.incidents = self.logs / "incidents"
        self.credentials = folder / "credentials.json"
        self.certificate = folder / "certificate.pem"
        self.users = folder / "users.json"
        self.lock = folder / "lock"
        self.running = folder / "running.json"
        self.connection = folder / "stack.json"


@dataclass(frozen=True)
class ObjectStorageKeys:
    """What object storage's only user shows."""

    access_key: str
    secret_key: str = field(repr=False)


def prepare(folder: Path) -> Home:
    """Makes the folders of a home. Raises FailedPrecondition if they cannot be made."""
    home = Home(folder)
    try:
        home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in (home.object_storage, home.cache, home.logs):
            part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(
            f"home {home.folder} cannot be used ({error.strerror}: {error.filename}); choose another folder "
            "with --home or SYNTHMIX_HOME",
            reason="HOME_UNUSABLE",
        ) from error
    return home


def lock(home: Home) -> int:
    """Takes the home for this process, until the descriptor that it returns is closed or the process ends.

    Raises:
        FailedPrecondition: A stack runs there, or the file system cannot lock.
    """
    # Not inherited by children: a child that outlives this process must not keep the home.
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # A reader of stack.json holds the lock for an instant, to see whether a stack does.
        ask_until(
            lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB),
            end_s=time.monotonic() + LOCK_ATTEMPT_S,
            pause_s=0.05,
            is_passing=lambda error: isinstance(error, BlockingIOError),
        )
    except BlockingIOError:
        pid = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
        os.close(descriptor)
        raise FailedPrecondition(
            f"a stack runs at home {home.folder} already, as process {pid}; use it, stop it, or "
            "choose another home with --home or SYNTHMIX_HOME",
            reason="STACK_RUNNING",
            metadata={"home": str(home.folder), "pid": pid},
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise FailedPrecondition(
            f"home {home.folder} is on a file system that cannot lock files ({error.strerror}); choose "
            "another home with --home or SYNTHMIX_HOME",
            reason="HOME_UNUSABLE",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def is_locked(home: Home) -> bool:
    """Whether a stack runs there. Unlike a process id in a file, a lock does not outlive a reboot."""
    try:
        descriptor = os.open(home.lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def object_storage_keys(home: Home) -> ObjectStorageKeys:
    """The home's keys, made at its first start. Raises FailedPrecondition if the file cannot be understood."""
    try:
        text = home.credentials.read_text()
    except FileNotFoundError:
        keys = ObjectStorageKeys(access_key=secrets.token_hex(10), secret_key=secrets.token_urlsafe(30))
        write_private(home.credentials, asdict(keys))
        return keys
    try:
        return ObjectStorageKeys(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise FailedPrecondition(
            f"{home.credentials} cannot be understood ({type(error).__name__}: {error}); delete it, and new "
            "keys to the same data are made",
            reason="CREDENTIALS_INVALID",
        ) from error


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON that only this user can read."""
    write_private_text(path, json.dumps(value, indent=2) + "\n")


def write_private_text(path: Path, text: str) -> None:
    """Writes a file that only this user can read, in one step: a reader sees the old file or the new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:  # mkstemp makes it 0600
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
