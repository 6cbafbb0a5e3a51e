"""Ray as a child: a head that never joins another cluster, on loopback, with token authentication."""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synthmix.local.ports import LOOPBACK, free_port

NAME = "ray-node"
# A cluster has a worker group for each of the services, and coordinators on its head; here one node is all of them.
LABELS = {
    f"synthmix.io/{role}": "true"
    for role in ("adapter-training", "image-synthesis", "classifier-evaluation", "study-control", "coordinators")
}
# What goes through Ray's object store is small (records, lists of keys): images and weights go through object
# storage.
OBJECT_STORE_BYTES = 512 * 1024 * 1024
METRICS_INTERVAL_MS = 1_000
ADDRESS_FILE = "ray_current_cluster"


@dataclass(frozen=True)
class RayPorts:
    """All ports of a head. Drivers use gcs, Prometheus uses metrics."""

    gcs: int
    metrics: int
    client_server: int
    node_manager: int
    object_manager: int
    runtime_env_agent: int
    dashboard: int
    dashboard_metrics: int
    agent_http: int
    agent_grpc: int


@dataclass(frozen=True)
class RayNode:
    """A Ray head to be started, on ports that are chosen. `folder` has a short path: sockets lie below it."""

    folder: Path
    ports: RayPorts
    cpus: int
    gpus: int
    auth_token: str = field(repr=False)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.ports.gcs}"

    @property
    def metrics_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.metrics}"


def plan(folder: Path, cpus: int, gpus: int, taken_ports: set[int]) -> RayNode:
    """Chooses ports and a token."""
    ports = RayPorts(**{name: free_port(taken_ports) for name in RayPorts.__dataclass_fields__})
    return RayNode(folder, ports, cpus, gpus, auth_token=secrets.token_hex(32))


def command(node: RayNode) -> list[str]:
    """The head's command line, Ray's own `ray start`.

    It always starts a dashboard process and a Ray Client server, on fixed ports unless told others.
    """
    ports = node.ports
    options = {
        "node-ip-address": LOOPBACK,
        "port": ports.gcs,
        "ray-client-server-port": ports.client_server,
        "node-manager-port": ports.node_manager,
        "object-manager-port": ports.object_manager,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "dashboard-agent-listen-port": ports.agent_http,
        "dashboard-agent-grpc-port": ports.agent_grpc,
        "dashboard-host": LOOPBACK,
        "dashboard-port": ports.dashboard,
        "include-dashboard": "false",
        "metrics-export-port": ports.metrics,
        "min-worker-port": 0,  # any free port: a range of its own could meet the ports chosen here
        "max-worker-port": 0,
        "num-cpus": node.cpus,
        "num-gpus": node.gpus,
        "object-store-memory": OBJECT_STORE_BYTES,
        "labels": ",".join(f"{key}={value}" for key, value in LABELS.items()),
        "temp-dir": node.folder,
        "include-log-monitor": "false",  # it carries workers' output to drivers, and ours don't want it
    }
    return [
        sys.executable,
        "-P",
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--no-monitor",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


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
        "RAY_metrics_report_interval_ms": str(METRICS_INTERVAL_MS),
        # On SIGTERM a head would wait 30 s for its actors to go elsewhere; there is nowhere else.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "DASHBOARD_METRIC_PORT": str(node.ports.dashboard_metrics),
    }


def is_ready(node: RayNode) -> bool:
    """Whether drivers can connect at once: its last act before that is to write down its address."""
    return (node.folder / ADDRESS_FILE).exists()
