"""Memory and disk of a stack while it runs, and whether they are flat."""

import itertools
import statistics
from collections.abc import Sequence
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


def memory_of(connection: Connection) -> dict[str, int]:
    """Bytes that no file backs (RssAnon), by role: each service, object storage, Ray, hosts, workers, and the stack."""
    found: dict[str, int] = {"stack": anonymous_bytes(connection.pid)}
    for name, pid in connection.pids.items():
        role = "stack" if name == "reaper" else name
        found[role] = found.get(role, 0) + anonymous_bytes(pid)
        for process in _children(pid):
            part = role
            if name == "ray-node":
                title = title_of(process)
                part = "hosts" if title.startswith("ray::HostActor") else "workers" if title[:5] == "ray::" else role
            found[part] = found.get(part, 0) + anonymous_bytes(process.pid)
    return found


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
        growth: Bytes from its beginning to its end, by the line that half of all pairs of samples lie above.
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
    after = [(at_s, value) for at_s, value in samples if at_s >= WARM_UP_SHARE * end_s]
    if len(after) < 2:
        raise ValueError(f"{len(after)} samples after the warm-up have no trend")
    step = -(-len(after) // MOST_POINTS)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(after[::step], 2)
        if later[0] > earlier[0]
    ]
    values = [value for _, value in after]
    return Trend(statistics.median(values), max(values), statistics.median(slopes) * (after[-1][0] - after[0][0]))


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
