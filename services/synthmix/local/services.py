"""The four services as children, each `python -m {its package}`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from synthmix.local.ports import LOOPBACK, accepts_connections, free_port
from synthmix.service_kit.check_health import problem_at
from synthmix.service_kit.environment import SERVICES


@dataclass(frozen=True)
class Service:
    """A service to be started, on ports that are chosen."""

    name: str
    grpc_port: int
    metrics_port: int

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.grpc_port}"

    @property
    def metrics_address(self) -> str:
        return f"{LOOPBACK}:{self.metrics_port}"


def plan(taken_ports: set[int]) -> list[Service]:
    """Chooses ports for all services."""
    return [Service(name, free_port(taken_ports), free_port(taken_ports)) for name in SERVICES]


def command(service: Service) -> list[str]:
    """The service's command line."""
    return [sys.executable, "-P", "-m", f"synthmix.{service.name.replace('-', '_')}"]


def environment(service: Service, inherited: Mapping[str, str]) -> dict[str, str]:
    return {
        **inherited,
        "SYNTHMIX_LISTEN": service.address,
        "SYNTHMIX_METRICS_LISTEN": service.metrics_address,
    }


def is_ready(service: Service) -> bool:
    """Whether its health, as gRPC defines it, is SERVING."""
    return accepts_connections(service.grpc_port) and not problem_at(service.grpc_port)
