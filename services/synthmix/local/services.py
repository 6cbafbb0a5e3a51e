"""The four services as children, each `python -m {its package}`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from synthmix.local.ports import LOOPBACK, accepts_connections, free_port
from synthmix.service_kit.environment import SERVICES

HEALTH_TIMEOUT_S = 2.0


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
    if not accepts_connections(service.grpc_port):
        return False
    import grpc  # not at the top: whoever only reads stack.json needs no gRPC
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # A proxy that the user's environment names can't reach this machine's loopback.
    with grpc.insecure_channel(service.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
