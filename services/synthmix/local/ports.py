"""Free ports on loopback."""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

from synthmix.service_kit.errors import FailedPrecondition

LOOPBACK = "127.0.0.1"
# Below the range that outgoing connections take ports from (32768 and up on Linux, 49152 on macOS): a child
# that is started again must find its port free. The upper end leaves room for partners at +10000.
LOWEST_PORT = 12_000
HIGHEST_PORT = 21_999
ATTEMPTS = 1_000


def free_port(taken: set[int], *, partner_offset: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on, added to `taken`.

    No other process of this user gets it while this one lives: the program that is to listen there may not have begun,
    or may be starting again.

    Args:
        taken: Ports that this process has spoken for though nobody listens on them yet.
        partner_offset: If given, port + partner_offset is free and added as well.
    """
    for _ in range(ATTEMPTS):
        port = random.randint(LOWEST_PORT, HIGHEST_PORT)
        wanted = {port, port + partner_offset}
        if not wanted & taken and all(_is_free(number) and _reserve(number) for number in wanted):
            taken |= wanted
            return port
    raise FailedPrecondition(
        f"no free port on {LOOPBACK} between {LOWEST_PORT} and {HIGHEST_PORT} in {ATTEMPTS} attempts; stop "
        "some of the programs that listen there",
        reason="NO_FREE_PORT",
    )


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex((LOOPBACK, port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """Whether the port is this process' now, until it ends."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):  # POSIX allows both of a lock that another process holds
        return False
    return True


@cache
def _reservations() -> int:
    """The descriptor of an empty file whose bytes stand for ports; it stays open, as the locks go with it."""
    path = Path(tempfile.gettempdir()) / f"synthmix-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
