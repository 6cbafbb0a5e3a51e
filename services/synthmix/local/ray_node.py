"""Ray as a child: a head that never joins another cluster, on loopback, with token authentication."""

import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synthmix.local.ports import LOOPBACK, free_port
from synthmix.service_kit.environment import SERVICES, WORKER_SERVICES
from synthmix.service_kit.machine_memory import available_memory_bytes

NAME = "ray-node"
# A cluster has a worker group for each of the services, and hosts of operations on its head; here one node is all that.
LABELS = {f"synthmix.io/{role}": "true" for role in (*SERVICES, "operation-hosts")}
# What goes through Ray's object store is small (records, lists of keys): images and weights go through object storage.
OBJECT_STORE_BYTES = 512 * 1024 * 1024
METRICS_INTERVAL_MS = 1_000
# What a worker's process takes, with torch and what it keeps for its next task.
WORKER_BYTES = 1 << 30
ADDRESS_FILE = "ray_current_cluster"


# The options of all ports of a head, but for that of the dashboard's metrics, which is an environment variable.
DRIVERS_PORT = "port"
METRICS_PORT = "metrics-export-port"
PORT_OPTIONS = (
    DRIVERS_PORT,
    METRICS_PORT,
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
)


@dataclass(frozen=True)
class RayNode:
    """A Ray head to be started, on ports that are chosen. `folder` has a short path: sockets lie below it."""

    folder: Path
    ports: Mapping[str, int]
    dashboard_metrics_port: int
    cpus: int
    gpus: int
    auth_token: str = field(repr=False)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.ports[DRIVERS_PORT]}"

    @property
    def metrics_address(self) -> str:
        return f"{LOOPBACK}:{self.ports[METRICS_PORT]}"


def plan(folder: Path, cpus: int, gpus: int, taken_ports: set[int]) -> RayNode:
    """Chooses ports and a token."""
    ports = {option: free_port(taken_ports) for option in PORT_OPTIONS}
    return RayNode(folder, ports, free_port(taken_ports), cpus, gpus, auth_token=secrets.token_hex(32))


def command(node: RayNode) -> list[str]:
    """The head's command line, Ray's own `ray start`.

    It always starts a dashboard process and a Ray Client server, on fixed ports unless told others.
    """
    options = {
        **node.ports,
        "node-ip-address": LOOPBACK,
        "dashboard-host": LOOPBACK,
        "include-dashboard": "false",
        "min-worker-port": 0,  # any free port: a range of its own could meet the ports chosen here
        "max-worker-port": 0,
        "num-cpus": node.cpus,
        "num-gpus": node.gpus,
        "object-store-memory": OBJECT_STORE_BYTES,
        "labels": ",".join(f"{key}={value}" for key, value in LABELS.items()),
        "temp-dir": node.folder,
        "include-log-monitor": "false",  # it carries workers' output to drivers, and ours do not want it
    }
    start = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    return [*start, "--disable-usage-stats", "--no-monitor", *(f"--{name}={value}" for name, value in options.items())]


def driver_environment(node: RayNode) -> dict[str, str]:
    """What every process needs that connects to this Ray."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": node.auth_token,
        # Ray replaces 127.0.0.1 by the machine's address on the network, unless it may not form clusters of
        # several machines. The name is older than the use: it works on Linux, for the head and its drivers.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def environment(node: RayNode, inherited: Mapping[str, str]) -> dict[str, str]:
    """The head's environment, which its workers inherit."""
    return {
        **inherited,
        **driver_environment(node),
        "RAY_task_oom_retries": "0",  # TaskPool tries again, and not for ever
        # Where memory runs out, one task is ended at a time. Ray's own policy since 2.56 ends as many processes at once
        # as free a share of the memory: a task of 1 GiB, and the hosts of all services with it.
        "RAY_worker_killing_policy_by_group": "true",
        "RAY_metrics_report_interval_ms": str(METRICS_INTERVAL_MS),
        "RAY_num_workers_soft_limit": str(processes_kept(node.cpus, available_memory_bytes())),
        # On SIGTERM a head would wait 30 s for its actors to go elsewhere; there is nowhere else.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "DASHBOARD_METRIC_PORT": str(node.dashboard_metrics_port),
    }


def processes_kept(cpus: int, memory_bytes: int) -> int:
    """How many processes Ray keeps, also those that have nothing to do: hosts, and the workers of each service.

    Ray would keep one a processor, of which the hosts alone are more, and end a service's workers whenever another's
    tasks come: each task of a study would import torch anew. Half of the free memory is what they may take.
    """
    workers = min(len(WORKER_SERVICES) * cpus, memory_bytes // 2 // WORKER_BYTES)
    return len(SERVICES) + max(cpus, workers)


def forget_sessions(node: RayNode) -> None:
    """Removes what Ray left of earlier starts, but for the last one, which says why it ended."""
    # Their names begin with the times at which they began.
    for session in sorted(node.folder.glob("session_2*"))[:-1]:
        shutil.rmtree(session, ignore_errors=True)  # what stays goes with the stack


def is_ready(node: RayNode) -> bool:
    """Whether drivers can connect at once: its last act before that is to write down its address."""
    return (node.folder / ADDRESS_FILE).exists()
