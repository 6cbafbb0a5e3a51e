"""Finds and removes what a stack leaves running.

Every process of a stack inherits SYNTHMIX_STACK={marker}, so that all of them can be found, however deep they
were started and whoever adopted them.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from synthmix.local.home import Home, write_private
from synthmix.service_kit.errors import Internal

MARKER_VARIABLE = "SYNTHMIX_STACK"
CHILD_VARIABLE = "SYNTHMIX_STACK_CHILD"
KILL_DEADLINE_S = 10.0
SCAN_INTERVAL_S = 0.05


def record_run(home: Home, marker: str, temporary_paths: Sequence[Path]) -> None:
    """Notes what a sweep needs to know. Written before the first child starts."""
    write_private(home.running, {"marker": marker, "temporary_paths": [str(path) for path in temporary_paths]})


def sweep(home: Home) -> None:
    """Kills what is left of the stack that ran at a home, and removes its temporary files.

    Harmless if nothing is left. Raises Internal if a process cannot be killed.
    """
    try:
        running = json.loads(home.running.read_text())
    except FileNotFoundError:
        return
    kill_marked(running["marker"])
    home.connection.unlink(missing_ok=True)
    for path in map(Path, running["temporary_paths"]):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    home.running.unlink(missing_ok=True)


def kill_marked(marker: str, child: str | None = None) -> None:
    """Kills every process of a stack but this one, or those of one of its children only, until none is left.

    Raises Internal if some are alive after 10 s.
    """
    deadline_s = time.monotonic() + KILL_DEADLINE_S
    empty_scans = 0
    while empty_scans < 2:  # a process in the middle of exec shows no environment
        found = marked_processes(marker, child)
        empty_scans = 0 if found else empty_scans + 1
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if found and time.monotonic() > deadline_s:
            raise Internal(
                f"processes {[process.pid for process in found]} of the stack {marker} do not die; kill them, "
                "or restart the machine",
                reason="PROCESS_UNKILLABLE",
            )
        time.sleep(SCAN_INTERVAL_S)


def marked_processes(marker: str, child: str | None = None) -> list[psutil.Process]:
    """The live processes, this one excepted, that were started with a stack's marker.

    Ray's agents write their titles over their environment. They stay in the session of the child that they are of.
    """
    found, hidden = [], []
    sessions: set[int] = set()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment, session = process.environ(), os.getsid(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # ended, a zombie, or another user's
            continue
        if environment.get(MARKER_VARIABLE) == marker and child in (None, environment.get(CHILD_VARIABLE)):
            found.append(process)
            sessions.add(session)
        elif not environment:
            hidden.append((process, session))
    return found + [process for process, session in hidden if session in sessions - {os.getsid(0)}]
