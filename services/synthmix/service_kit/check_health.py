"""Exits with 0 if the front end on this machine serves, with 1 otherwise.

`python -m synthmix.service_kit.check_health`, for container engines that can probe neither gRPC nor HTTP themselves.
Kubernetes can, and does.
"""

import os
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HEALTH_PATH = "/healthz"
TIMEOUT_SECONDS = 3.0


def problem_at(port: int | str) -> str:
    """Why the front end at a port of this machine does not serve, as gRPC defines health; "" if it does."""
    # A proxy that the environment names cannot reach this machine's loopback.
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return f"nothing answers on port {port}: {error.details()}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"port {port} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    return ""


def main() -> None:
    port = os.environ.get("SYNTHMIX_METRICS_LISTEN", "0.0.0.0:9090").rpartition(":")[2]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://127.0.0.1:{port}{HEALTH_PATH}", timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError as error:
        raise SystemExit(error.read().decode().strip()) from None
    except OSError as error:
        raise SystemExit(f"nothing answers on port {port}: {error}") from None


if __name__ == "__main__":
    main()
