"""The probe for container engines that do not speak gRPC: a server that serves, one that stops, and none."""

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from synthmix.service_kit import check_health


@pytest.fixture
def servicer(monkeypatch: pytest.MonkeyPatch) -> Iterator[health.HealthServicer]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    monkeypatch.setenv("SYNTHMIX_LISTEN", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    yield servicer
    server.stop(None).wait()


def test_a_server_that_serves_passes(servicer: health.HealthServicer) -> None:
    check_health.main()


def test_a_server_that_stops_fails(servicer: health.HealthServicer) -> None:
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(SystemExit, match="NOT_SERVING"):
        check_health.main()


def test_no_server_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_LISTEN", "0.0.0.0:1")
    with pytest.raises(SystemExit, match="nothing answers on port 1"):
        check_health.main()
