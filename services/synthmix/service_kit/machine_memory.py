"""How much memory is free here."""

from pathlib import Path

import psutil


def available_memory_bytes(
    limit: Path = Path("/sys/fs/cgroup/memory.max"), used: Path = Path("/sys/fs/cgroup/memory.current")
) -> int:
    """What is free on the machine or in the container, whichever is less."""
    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # not in a container, or in one whose limit is "max"
        return free
