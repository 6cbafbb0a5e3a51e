"""What this machine has for Ray to give out."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
NVIDIA_SMI_TIMEOUT_S = 20.0


def usable_cpus() -> int:
    """Processors that this process may use: a container's share, not the host's all."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = CGROUP_CPU_LIMIT.read_text().split()
    except FileNotFoundError:  # the root of the hierarchy has no limit, nor has a machine without cgroup v2
        return count
    return count if quota_us == "max" else max(1, min(count, int(quota_us) // int(period_us)))


def usable_gpus(environment: Mapping[str, str], say: Callable[[str], None]) -> int:
    """GPUs that CUDA would show to this process. Says so if there seem to be some that do not work."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        identifiers = [item.strip() for item in visible.split(",")]
        return next((index for index, item in enumerate(identifiers) if item in ("", "-1")), len(identifiers))
    try:
        return len(nvidia_gpus("index"))
    except (OSError, subprocess.SubprocessError) as error:
        say(f"no GPU is used: nvidia-smi fails ({error}); fix the driver, or set CUDA_VISIBLE_DEVICES")
        return 0


def nvidia_gpus(properties: str) -> list[str]:
    """A line for each GPU of which nvidia-smi knows, with such properties as "name,memory.total".

    Raises OSError and subprocess.SubprocessError if the program is there and fails.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={properties}", "--format=csv,noheader"]
    return subprocess.check_output(
        command, stderr=subprocess.PIPE, text=True, timeout=NVIDIA_SMI_TIMEOUT_S
    ).splitlines()
