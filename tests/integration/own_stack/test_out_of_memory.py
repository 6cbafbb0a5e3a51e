"""A task that takes more memory than there is, on a Ray of its own whose memory monitor ends it early."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray._private.utils import get_system_memory, get_used_memory

from real_servers import running
from synthmix.local import ray_node
from synthmix.service_kit.task_pool import TASK_ATTEMPTS

TESTS = Path(__file__).parents[2]
GIBIBYTE = 2**30
ROOM_BYTES = 6 * GIBIBYTE
"""That all processes, of other tests as well, may take besides what they have, before the monitor ends a task."""
NEEDED_BYTES = 12 * GIBIBYTE

# What a host does, in a process that the monitor leaves alone: its pool of tasks, here without its pauses. The actor
# stands for the host to the tasks.
HOST = """
import json, os, sys
import ray
from synthmix.service_kit.environment import WorkerSettings
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.ray_tasks import RayTasks
from synthmix.service_kit.task_pool import Batch, TaskCall, TaskPool

class Host:
    def report(self, *what):
        pass

    def note_begun(self, operation):
        pass

RayConnection(os.environ["SYNTHMIX_RAY_ADDRESS"]).ensure()
host = ray.remote(Host).options(name="host", num_cpus=0, max_restarts=-1).remote()
pool = TaskPool(RayTasks("host", "adapter-training", WorkerSettings(cpus=1, gpus=0)), first_backoff_s=0.05)
operation, function = f"operations/adapter-training/{'a' * 32}", "probe_operations:take_memory"
arguments = [{"number": number, "folder": sys.argv[1]} for number in range(2)]
batch = Batch(("ada", "", operation), lambda index: 0)
pool.add(batch, [TaskCall(operation, number, function, keywords) for number, keywords in enumerate(arguments)])
outcomes = dict(batch.outcomes.get(timeout=300) for _ in arguments)
error, other = outcomes[0], outcomes[1]
print(json.dumps([getattr(error, "reason", ""), str(error), getattr(other, "value", str(other))]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a driver of a Ray that ends what takes the machine's memory beyond a little more than is in use."""
    if psutil.virtual_memory().available < NEEDED_BYTES:
        pytest.skip(f"less than {NEEDED_BYTES / GIBIBYTE:.0f} GiB of memory are available")
    with tempfile.TemporaryDirectory(prefix="smx") as folder:  # Ray's sockets need a short path
        yield from _environment(Path(folder), tmp_path)


def _environment(folder: Path, logs: Path) -> Iterator[dict[str, str]]:
    node = ray_node.plan(folder, cpus=2, gpus=0, taken_ports=set())
    settings = {
        "RAY_memory_usage_threshold": f"{(get_used_memory() + ROOM_BYTES) / get_system_memory():.4f}",
        "RAY_memory_monitor_refresh_ms": "50",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    command = ray_node.command(node)
    of_head = ray_node.environment(node, os.environ) | settings
    with running("ray", command, of_head, logs, lambda: ray_node.is_ready(node)):
        yield of_head | {"SYNTHMIX_RAY_ADDRESS": node.address}  # which hosts inherit, as Ray's processes


def test_a_task_that_takes_more_memory_than_there_is_fails_and_nothing_else_does(
    environment: dict[str, str], tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", HOST, str(tmp_path)],
        env=environment,
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=330,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    reason, message, other = json.loads(result.stdout)
    assert reason == "OUT_OF_MEMORY", message
    assert f"took more memory than its node has, and was ended for it, in each of {TASK_ATTEMPTS} attempts" in message
    assert "smaller images or batches" in message
    assert other == 1, "a task beside it ends well"
    attempts = len((tmp_path / "attempts").read_text().splitlines())
    assert 1 <= attempts <= TASK_ATTEMPTS, "it is also ended before it has begun, if others take the memory"
