"""The processes of a local stack, as tests start, find and name them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from waiting import wait_until

START_TIMEOUT_S = 120.0


@contextmanager
def up(home: Path, *, wait: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """`synthmix up` in a process of its own, as users run it."""
    with (home.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "synthmix", "--home", str(home), "up"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        if wait:
            wait_until(
                lambda: (home / "stack.json").exists() or process.poll() is not None,
                "the stack to start",
                START_TIMEOUT_S,
            )
            assert process.poll() is None, (home.parent / "up.log").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


def marker_of(home: Path) -> str:
    """What all processes of a stack have in their environments."""
    return str(json.loads((home / "running.json").read_text())["marker"])


def children_named(pid: int, *words: str) -> list[psutil.Process]:
    """Processes below pid whose command line or title has all the words."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if all(word in title for word in words):
            found.append(process)
    return found
