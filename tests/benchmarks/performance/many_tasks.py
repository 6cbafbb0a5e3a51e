"""Ten thousand tasks of 10 ms on 128 simulated GPUs: the way of a host's tasks to workers beside a bare Ray driver.

Ray's own cluster utility starts the nodes, whose GPUs are numbers, and the task sleeps and imports nothing. So the
machine's processors do nothing but what Ray and the host need for a task, and what they can do a second is compared.
The 128 workers take 9 GB of memory, and two minutes of two processors to start.
"""

import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from side_by_side import FEWEST_PAIRS, Row, environment, run
from sleeping_tasks import HOST, SETTINGS, Host, Took, bare_sleep
from synthmix.local.ports import free_port
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION
from synthmix.service_kit.operation_hosts import CALLS_AT_ONCE
from synthmix.service_kit.ray_connection import NAMESPACE

TESTS = Path(__file__).resolve().parents[2]
# GPUs, nodes and tasks.
FULL, QUICK = (128, 4, 10_000), (16, 2, 1_000)
TASK_SECONDS = 0.01
GROUP = {f"synthmix.io/{CLASSIFIER_EVALUATION}": "true"}
# Longer tasks, by which one sees from what length on the workers are kept busy.
LONGER_SECONDS = (0.1, 0.3, 1.0)
ROUNDS_OF_LONGER = 5


@contextmanager
def cluster(gpus: int, nodes: int) -> Iterator[Any]:
    """Ray, connected to so many nodes, which have so many GPUs together, and to a head without any."""
    with tempfile.TemporaryDirectory(prefix="smx") as folder:
        (Path(folder) / "ray").mkdir()
        os.environ |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Workers import the task from there.
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        }
        import ray
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "include_log_monitor": False,
            "ray_client_server_port": free_port(set()),
        }
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(nodes):
                started.add_node(num_cpus=gpus // nodes, num_gpus=gpus // nodes, labels=GROUP)
            ray.init(started.address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
            yield ray
        finally:
            ray.shutdown()
            started.shutdown()


def processor_seconds() -> dict[str, float]:
    """What this process, Ray's daemons, its workers and the host have used of processors so far."""
    found = {"driver": sum(psutil.Process().cpu_times()[:2]), "host": 0.0, "workers": 0.0, "Ray's daemons": 0.0}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title, seconds = " ".join(process.cmdline()), sum(process.cpu_times()[:2])
            role = "host" if title.startswith("ray::Host") else "workers" if "ray::" in title else "Ray's daemons"
            found[role] += seconds
    return found


def with_processor_seconds(loop: Callable[[], Took]) -> Took:
    before, took, after = processor_seconds(), loop(), processor_seconds()
    return replace(took, processor_s={role: after[role] - before[role] for role in after})


def bare(ray: Any, tasks: int, seconds: float) -> Took:
    """All tasks at once, which is what a driver does first, and asks Ray the least."""
    # As ours: by default Ray would start a process for each task that holds a GPU.
    remote = ray.remote(max_calls=0, num_cpus=SETTINGS.cpus, num_gpus=SETTINGS.gpus)(bare_sleep)
    start_s = time.perf_counter()
    worker_s = sum(ray.get([remote.remote(seconds) for _ in range(tasks)]))
    return Took(time.perf_counter() - start_s, worker_s)


def in_windows(ray: Any, tasks: int, seconds: float, window: int) -> Took:
    """No more at once than Ray needs to keep each GPU busy."""
    remote = ray.remote(max_calls=0, num_cpus=SETTINGS.cpus, num_gpus=SETTINGS.gpus)(bare_sleep)
    start_s, worker_s = time.perf_counter(), 0.0
    running: list[Any] = []
    for _ in range(tasks):
        if len(running) == window:
            ended, running = ray.wait(running, num_returns=window // 4)
            worker_s += sum(ray.get(ended))
        running.append(remote.remote(seconds))
    worker_s += sum(ray.get(running))
    return Took(time.perf_counter() - start_s, worker_s)


def measure(quick: bool) -> list[Row]:
    gpus, nodes, tasks = QUICK if quick else FULL
    with cluster(gpus, nodes) as ray:
        host = ray.remote(Host).options(name=HOST, num_cpus=0, max_concurrency=CALLS_AT_ONCE).remote()
        numbers = iter(range(1_000))

        def ours(tasks: int, seconds: float) -> Took:
            took: Took = ray.get(host.run.remote(next(numbers), tasks, seconds))
            return took

        loops: dict[str, Callable[[], Took]] = {
            "ours": partial(ours, tasks, TASK_SECONDS),
            "at once": partial(bare, ray, tasks, TASK_SECONDS),
            "in windows": partial(in_windows, ray, tasks, TASK_SECONDS, 2 * gpus),
        }
        # Every worker is started, which takes a minute of two processors.
        ours(4 * gpus, 1.0)
        first_s = {name: loop().wall_s for name, loop in loops.items()}
        peer = min(("at once", "in windows"), key=first_s.__getitem__)
        found: dict[str, list[Took]] = {"ours": [], peer: []}
        for number in range(FEWEST_PAIRS):
            for name in found if number % 2 == 0 else reversed(found):
                found[name].append(with_processor_seconds(loops[name]))
        longer = {} if quick else {s: ours(ROUNDS_OF_LONGER * gpus, s) for s in LONGER_SECONDS}
    return rows(found["ours"], found[peer], peer, tasks, gpus, longer)


def milliseconds(each: list[Took], tasks: int) -> str:
    """The processor time of a task, by who uses it."""
    shares = {
        role: 1000 * statistics.median(took.processor_s[role] for took in each) / tasks for role in each[0].processor_s
    }
    return ", ".join(f"{role} {share:.2f} ms" for role, share in shares.items())


def rows(ours: list[Took], peer: list[Took], how: str, tasks: int, gpus: int, longer: dict[float, Took]) -> list[Row]:
    def busy(took: Took) -> float:
        return took.worker_s / (gpus * took.wall_s)

    ratios = [other.wall_s / own.wall_s for own, other in zip(ours, peer, strict=True)]
    ours_s, peer_s = (statistics.median(took.wall_s for took in each) / tasks for each in (ours, peer))
    what = f"{tasks:,} tasks of {TASK_SECONDS * 1000:.0f} ms on {gpus} simulated GPUs"
    lengths = "".join(f"; {busy(took):.0%} of tasks of {seconds:g} s" for seconds, took in longer.items())
    return [
        Row(
            f"{what}, in wall time",
            f"a bare Ray driver, its tasks {how}",
            "task",
            0.9,
            ratios,
            ratios,
            ours_s,
            peer_s,
            note=f"The bare driver ends {1 / peer_s:,.0f} tasks a second, ours {1 / ours_s:,.0f}. Processor time of a "
            f"task of ours: {milliseconds(ours, tasks)}; of the bare driver's: {milliseconds(peer, tasks)}.",
            environment=environment(),
        ),
        Row(
            f"{what}: share of the slots that are busy",
            "a task in each slot at any time",
            "task",
            0.85,
            [busy(took) for took in ours],
            [busy(took) for took in ours],
            ours_s,
            TASK_SECONDS / gpus,
            note=f"The bare driver: {statistics.median(map(busy, peer)):.0%}. Ours{lengths}" if longer else "",
            environment=environment(),
        ),
    ]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
