"""Small files that users name: read whole, and never a pipe or device that would keep the reader waiting for ever."""

import os
import stat
from pathlib import Path

from synthmix.service_kit.errors import InvalidArgument

LARGEST_FILE_BYTES = 1024 * 1024
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISSOCK, "socket"),
)


def read_user_file(path: Path, *, pipe_remedy: str = "give a file") -> bytes:
    """A file's bytes. A shell's <(command) is read as well, since something writes to it.

    Args:
        pipe_remedy: What to do instead of naming a pipe.

    Raises:
        InvalidArgument: There is no such file, it isn't one, or it has more than 1 MiB.
    """
    shown = str(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not _is_shells_pipe(path, mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "special file")
            remedy = "give a file" if kind == "folder" else pipe_remedy
            raise InvalidArgument(f"{shown} is a {kind}, not a file; {remedy}", reason="FILE_UNREADABLE")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(
            f"{shown} cannot be read: {error.strerror}; check the path and that you may read it",
            reason="FILE_UNREADABLE",
        ) from None
    except ValueError:  # a NUL
        raise InvalidArgument(f"{shown!r} is no path; give one without NUL", reason="FILE_UNREADABLE") from None
    return check_size(shown, data)


def check_size(source: str, data: bytes) -> bytes:
    """The data. Raises InvalidArgument if it has more than 1 MiB."""
    if len(data) > LARGEST_FILE_BYTES:
        raise InvalidArgument(f"{source} is larger than 1 MiB; is it the right file?", reason="FILE_TOO_LARGE")
    return data


def _is_shells_pipe(path: Path, mode: int) -> bool:
    """Such as /dev/fd/63, which has no name of its own in the file system."""
    return stat.S_ISFIFO(mode) and not os.path.exists(os.path.realpath(path))
