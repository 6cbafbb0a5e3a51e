"""Disturbing a stack, and knowing which errors of its callers that excuses."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from soak.schedule import Kind, Planned
from synthmix import Client
from synthmix.local import Connection, read_connection
from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import ResourceExhausted, SynthMixError, Unavailable
from synthmix.service_kit.storage_space import REASON as STORAGE_FULL
from synthmix.service_kit.storage_space import reserve_bytes

# A caller may still meet what a disturbance left behind: Ray starts anew, and operations wait for their next attempt.
AFTERMATH_SECONDS = 120.0
RECOVERY_SECONDS = 120.0
WORKER_SECONDS = 30.0
BALLAST = "ballast"
# Of the reserve that no object may take, so much is left to records and logs when the disk is full.
LEFT_SHARE = 0.75


@dataclass
class Disturbance:
    """What was done to the stack.

    Attributes:
        what: What was done to whom, in words.
        restarted: The children of the stack that have to come back as other processes.
        began_s, ended_s: Seconds of time.monotonic; it goes on while it has no end.
        recovery_s: From its end until all children run and all services serve; None if that took too long.
    """

    kind: Kind
    began_s: float
    what: str = ""
    restarted: tuple[str, ...] = ()
    ended_s: float = float("inf")
    recovery_s: float | None = None


class Excuses:
    """Which errors the disturbances excuse. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.disturbances: list[Disturbance] = []

    def begin(self, kind: Kind) -> Disturbance:
        disturbance = Disturbance(kind, time.monotonic())
        with self._lock:
            self.disturbances.append(disturbance)
        return disturbance

    def excuse(self, error: SynthMixError, since_s: float) -> bool:
        """Whether a call that began then may have failed so: UNAVAILABLE, or no room while the disk is full."""
        if isinstance(error, Unavailable):
            return self._disturbed(since_s, tuple(Kind))
        if isinstance(error, ResourceExhausted) and error.reason == STORAGE_FULL:
            return self._disturbed(since_s, (Kind.DISK,))
        return False

    def _disturbed(self, since_s: float, kinds: tuple[Kind, ...]) -> bool:
        with self._lock:
            return any(item.kind in kinds and since_s < item.ended_s + AFTERMATH_SECONDS for item in self.disturbances)


class Disturber:
    """Does to a stack what was planned.

    Args:
        home: Where it runs.
        disk: A file system of the home's own, which may be filled; None if there is none.
        say: Told of what is done.
    """

    def __init__(self, home: Path, disk: Path | None, excuses: Excuses, seed: int, say: Callable[[str], None]):
        self._home, self._disk, self._excuses, self._say = home, disk, excuses, say
        self._rng = random.Random(f"{seed} disturbances")
        self._actions: dict[Kind, Callable[[Connection, Disturbance, float], None]] = {
            Kind.SERVICE: self._kill_service,
            Kind.RAY_NODE: self._kill_ray_node,
            Kind.WORKER: self._kill_worker,
            Kind.STORAGE: self._kill_storage,
            Kind.HANG: self._hang,
            Kind.DISK: self._fill,
        }

    def disturb(self, planned: Planned, stopping: threading.Event) -> Disturbance:
        """Returns what was done, when it is over and the stack has recovered, or has not in time.

        Args:
            stopping: Ends what lasts for a while.
        """
        self._stopping = stopping
        before = read_connection(self._home)
        done = self._excuses.begin(planned.kind)
        try:
            self._actions[planned.kind](before, done, planned.seconds)
        finally:
            done.ended_s = time.monotonic()
        done.recovery_s = self._recovered(before, done)
        self._say(
            f"{done.what}; the stack is whole again after "
            f"{'more than ' if done.recovery_s is None else ''}{done.recovery_s or RECOVERY_SECONDS:.0f} s"
        )
        return done

    def _recovered(self, before: Connection, done: Disturbance) -> float | None:
        """Seconds until the stack's own supervisor had brought everything back; None if it did not in time."""

        def is_whole() -> bool:
            now = read_connection(self._home)
            if any(now.pids[name] == before.pids[name] for name in done.restarted):
                return False
            with Client.connect(self._home) as client:
                for service in SERVICES:
                    client.check_health(service, timeout_s=5.0)
            return True

        end_s = time.monotonic() + RECOVERY_SECONDS
        try:
            whole = ask_until(is_whole, end_s=end_s, pause_s=0.5, will_do=bool, is_passing=_passes)
        except SynthMixError:
            return None
        return time.monotonic() - done.ended_s if whole else None

    def _kill_service(self, connection: Connection, done: Disturbance, _: float) -> None:
        self._kill_child(connection, done, self._rng.choice(SERVICES))

    def _kill_ray_node(self, connection: Connection, done: Disturbance, _: float) -> None:
        self._kill_child(connection, done, "ray-node", *SERVICES)  # the services begin anew with it

    def _kill_storage(self, connection: Connection, done: Disturbance, _: float) -> None:
        self._kill_child(connection, done, "object-storage")

    def _kill_child(self, connection: Connection, done: Disturbance, name: str, *dependents: str) -> None:
        done.what, done.restarted = f"{name} was killed", (name, *dependents)
        os.kill(connection.pids[name], signal.SIGKILL)

    def _kill_worker(self, connection: Connection, done: Disturbance, _: float) -> None:
        """A process that runs a task, or the host of a service's operations, which is a worker of Ray as well."""
        # There is none at all for a while after Ray began anew.
        workers = ask_until(
            lambda: _workers(connection), end_s=time.monotonic() + WORKER_SECONDS, pause_s=0.5, will_do=bool
        )
        hosts = [process for process, title in workers.items() if title.startswith("ray::HostActor")]
        tasks = [process for process, title in workers.items() if title.startswith("ray::synthmix.")]
        of_kind = self._rng.choice([tasks or list(workers), hosts or list(workers)])
        if not of_kind:
            done.what = "there was no worker to kill"
            return
        process = self._rng.choice(sorted(of_kind, key=lambda item: item.pid))
        done.what = f"{workers[process]} was killed"
        process.kill()

    def _hang(self, connection: Connection, done: Disturbance, seconds: float) -> None:
        done.what = f"object storage accepted calls and answered none for {seconds:.0f} s"
        process = psutil.Process(connection.pids["object-storage"])
        process.suspend()
        try:
            self._stopping.wait(seconds)
        finally:
            process.resume()

    def _fill(self, connection: Connection, done: Disturbance, seconds: float) -> None:
        assert self._disk is not None, "no disk may be filled"
        ballast = self._disk / BALLAST
        left_bytes = int(LEFT_SHARE * reserve_bytes(self._disk))
        size_bytes = shutil.disk_usage(self._disk).free - left_bytes
        done.what = f"the disk had {left_bytes >> 20} MiB left for {seconds:.0f} s"
        try:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, size_bytes))
            self._stopping.wait(seconds)
        finally:
            ballast.unlink(missing_ok=True)


def _workers(connection: Connection) -> dict[psutil.Process, str]:
    """Ray's workers that run a task or an actor or did so, and their titles."""
    below = psutil.Process(connection.pids["ray-node"]).children(recursive=True)
    titles = {process: title_of(process) for process in below}
    kinds = ("ray::HostActor", "ray::synthmix.", "ray::IDLE")
    return {process: title for process, title in titles.items() if title.startswith(kinds)}


def title_of(process: psutil.Process) -> str:
    """What a process shows as its command line, which Ray's workers change; "" if it has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def _passes(error: Exception) -> bool:
    return isinstance(error, SynthMixError)
