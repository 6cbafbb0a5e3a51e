"""The stack that is soaked: a disk that may be filled, `synthmix up` on it as users run it, and what it leaves."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from synthmix.local import read_connection
from synthmix.local.home import Home
from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.errors import Unavailable

DISK_MIB = 2048
# Nobody means to have a larger one filled.
LARGEST_DISK_BYTES = 16 << 30
START_SECONDS = 240.0
STOP_SECONDS = 90.0
# Minutes, not days: what is deleted is to be gone before the end. They are longer than any work here takes.
ENVIRONMENT = {
    "SYNTHMIX_SWEEP_GRACE_HOURS": "0.05",
    "SYNTHMIX_SWEEP_UPLOAD_HOURS": "0.05",
    "SYNTHMIX_SWEEP_CHECKPOINT_HOURS": "0.25",
    "SYNTHMIX_SWEEP_LAID_ASIDE_HOURS": "0.1",
    # Trainings of seconds: two at once on two processors, each with one thread.
    "SYNTHMIX_ADAPTER_TRAINING_CPUS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def bounded_disk(given: Path | None, say: Callable[[str], None]) -> Iterator[tuple[Path, bool]]:
    """A folder for homes, and whether it is a file system of its own that may be filled.

    Args:
        given: Such a file system, by its folder. Without it root mounts one in memory, and others get a plain folder.
    """
    if given is not None:
        if shutil.disk_usage(given).total > LARGEST_DISK_BYTES:
            raise SystemExit(
                f"--disk {given} is on a file system of more than {LARGEST_DISK_BYTES >> 30} GiB, which would be "
                "filled; name a folder on a small one of its own, such as a tmpfs"
            )
        yield given.resolve(), True
        return
    folder = Path(tempfile.mkdtemp(prefix="synthmix-soak-"))
    options = f"size={DISK_MIB}m,mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "synthmix-soak", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    mounted = result is not None and result.returncode == 0
    if not mounted:
        why = result.stderr.strip() if result is not None else "only root mounts a small one; --disk names one"
        say(f"NO DISK IS FILLED: there is no file system that may be ({why})")
    try:
        yield folder, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


@contextmanager
def running_stack(home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`synthmix up` for the length of a `with` block, from when it is ready."""
    command = [sys.executable, "-m", "synthmix", "--home", str(home), "up"]
    with log.open("wb") as output:
        up = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        if not ask_until(lambda: _is_up(home, up), end_s=time.monotonic() + START_SECONDS, pause_s=0.2, will_do=bool):
            raise RuntimeError(f"the stack did not start in {START_SECONDS:.0f} s; see {log}")
        yield up
    finally:
        up.terminate()
        try:
            up.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            up.kill()  # its reaper ends the others
            up.wait()


def keep_logs(home: Home, out: Path) -> Path:
    """Copies the logs of the stack and of Ray's processes to where they outlive the home, and returns where that is."""
    kept = out / "logs"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(home.logs, kept)
    for path in temporary_paths(home):
        for session in path.glob("r/session_2*/logs"):
            shutil.copytree(session, kept / "ray" / session.parent.name, ignore_dangling_symlinks=True)
    return kept


def temporary_paths(home: Home) -> list[Path]:
    """What the stack keeps outside its home while it runs."""
    return [Path(path) for path in json.loads(home.running.read_text())["temporary_paths"]]


def _is_up(home: Path, up: subprocess.Popen[bytes]) -> bool:
    if up.poll() is not None:
        raise RuntimeError(f"the stack ended with status {up.returncode} while it started")
    try:
        read_connection(home)
    except Unavailable:
        return False
    return True
