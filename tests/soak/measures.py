"""Memory and disk of a stack while it runs, and whether they are flat."""

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from soak.disturbances import title_of
from soak.stack import temporary_paths
from synthmix.local import Connection
from synthmix.local.home import Home

MIB = 1 << 20
# What is left out at the beginning: imports, caches and the first of everything.
WARM_UP_SHARE = 0.25
# A shorter run says nothing: each process lives for minutes between two kills.
SHORTEST_MINUTES = 60.0
# How much more there may be at the end of what is looked at than at its beginning.
GROWTH_SHARE = 0.10
GROWTH_LEAST_BYTES = 64 * MIB
MOST_POINTS = 400
WORKERS, LARGEST_WORKER, SMALL_WORKERS = "workers", "largest worker", "small workers"
ALL, ALL_OTHERS = "all", "all but workers"
# They are as large as the number of workers that have had work since Ray began anew, which is chance: see
# `importing_workers`, by which they are judged.
SHOWN_ONLY = (WORKERS, ALL)
# A worker that has imported what it trains and samples with takes 500 MiB and more, and one that has not 100 at most.
IMPORTED_BYTES = 200 * MIB
# Services whose workers import it. Each keeps as many as there are processors.
IMPORTING_SERVICES = 3


@dataclass(frozen=True)
class ProcessMemory:
    """What a process of the stack takes.

    Attributes:
        role: A service, object storage, ray-node, hosts, workers, or the stack.
        age_s: Seconds since it began.
        bytes: Those that no file backs (RssAnon).
    """

    role: str
    pid: int
    age_s: float
    bytes: int


def processes_of(connection: Connection) -> list[ProcessMemory]:
    """Every process of the stack."""
    found = [_measured("stack", psutil.Process(connection.pid))] if psutil.pid_exists(connection.pid) else []
    for name, pid in connection.pids.items():
        role = "stack" if name == "reaper" else name
        for process in _family(pid):
            part = role
            if name == "ray-node" and process.pid != pid:
                title = title_of(process)
                part = "hosts" if title.startswith("ray::HostActor") else "workers" if title[:5] == "ray::" else role
            found.append(_measured(part, process))
    return [process for process in found if process.bytes]


def memory_of(processes: Iterable[ProcessMemory]) -> dict[str, int]:
    """Bytes by role; those of the largest worker alone, of workers that have imported nothing, and of all others."""
    found = {WORKERS: 0, LARGEST_WORKER: 0, SMALL_WORKERS: 0, ALL_OTHERS: 0, ALL: 0}
    for process in processes:
        found[process.role] = found.get(process.role, 0) + process.bytes
        found[ALL] += process.bytes
        if process.role == WORKERS:
            found[LARGEST_WORKER] = max(found[LARGEST_WORKER], process.bytes)
            found[SMALL_WORKERS] += process.bytes if process.bytes < IMPORTED_BYTES else 0
        else:
            found[ALL_OTHERS] += process.bytes
    return found


def importing_workers(processes: Iterable[ProcessMemory]) -> int:
    """How many workers have imported what they train and sample with."""
    return sum(process.role == WORKERS and process.bytes >= IMPORTED_BYTES for process in processes)


def anonymous_bytes(pid: int) -> int:
    """A process's memory that no file backs, so that what several map is not counted several times; 0 if it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def disk_of(home: Home) -> dict[str, int]:
    """Bytes that are taken on the disk by object storage, the cache, logs, and temporary files outside the home."""
    return {
        "object storage": taken_bytes(home.object_storage),
        "cache": taken_bytes(home.cache),
        "logs": taken_bytes(home.logs),
        "temporary files": sum(map(taken_bytes, temporary_paths(home))),
    }


def taken_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:  # it went meanwhile
            continue
    return total


@dataclass(frozen=True)
class Trend:
    """How something went on after the warm-up.

    Attributes:
        median, largest: Bytes.
        growth: Bytes from its beginning to its end.
    """

    median: float
    largest: float
    growth: float

    @property
    def bound(self) -> float:
        return max(GROWTH_LEAST_BYTES, GROWTH_SHARE * self.median)

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.bound


def trend(samples: Sequence[tuple[float, float]], end_s: float) -> Trend:
    """The trend of (seconds since the start, bytes), of which the first quarter of the time is left out.

    The slope is Theil's and Sen's, the median over all pairs: what is killed and comes back is no slope.
    """
    after = _after_warm_up(samples, end_s)
    step = -(-len(after) // MOST_POINTS)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(after[::step], 2)
        if later[0] > earlier[0]
    ]
    return _trend(after, statistics.median(slopes) * (after[-1][0] - after[0][0]))


def _after_warm_up(samples: Sequence[tuple[float, float]], end_s: float) -> list[tuple[float, float]]:
    """At least two."""
    after = [(at_s, value) for at_s, value in samples if at_s >= WARM_UP_SHARE * end_s]
    if len(after) < 2:
        raise ValueError(f"{len(after)} samples after the warm-up have no trend")
    return after


def _trend(after: Sequence[tuple[float, float]], growth: float) -> Trend:
    values = [value for _, value in after]
    return Trend(statistics.median(values), max(values), growth)


def _measured(role: str, process: psutil.Process) -> ProcessMemory:
    try:
        age_s = time.time() - process.create_time()
    except psutil.NoSuchProcess:
        return ProcessMemory(role, process.pid, 0.0, 0)
    return ProcessMemory(role, process.pid, age_s, anonymous_bytes(process.pid))


def _family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; none if it ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
