"""The probe for container engines: a server that serves, one that stops, and none; and the local stack's, by gRPC."""

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from synthmix.local.ports import free_port
from synthmix.service_kit import check_health, metrics


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the server says of itself; the last counts."""
    address = f"127.0.0.1:{free_port(set())}"
    monkeypatch.setenv("SYNTHMIX_METRICS_LISTEN", address)
    problems = [""]
    metrics.serve(address, lambda: problems[-1])
    return problems


@pytest.fixture
def servicer() -> Iterator[tuple[health.HealthServicer, int]]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, port
    server.stop(None).wait()


def test_a_server_that_serves_passes(problems: list[str]) -> None:
    check_health.main()


def test_a_server_that_stops_fails(problems: list[str]) -> None:
    problems.append("it is NOT_SERVING")
    with pytest.raises(SystemExit, match=r"^it is NOT_SERVING$"):
        check_health.main()


def test_no_server_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_METRICS_LISTEN", "0.0.0.0:1")
    with pytest.raises(SystemExit, match="nothing answers on port 1"):
        check_health.main()


def test_grpc_tells_it_too(servicer: tuple[health.HealthServicer, int]) -> None:
    health_servicer, port = servicer
    assert check_health.problem_at(port) == ""
    health_servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert check_health.problem_at(port) == f"port {port} is NOT_SERVING"
    assert check_health.problem_at(1).startswith("nothing answers on port 1")
