"""Exits with 0 if the front end on this machine serves, with 1 otherwise.

`python -m synthmix.service_kit.check_health`, for container engines that can't probe gRPC themselves. Kubernetes can,
and does.
"""

import os

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 3.0


def main() -> None:
    port = os.environ.get("SYNTHMIX_LISTEN", "0.0.0.0:50051").rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise SystemExit(f"nothing answers on port {port}: {error.details()}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise SystemExit(f"port {port} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")


if __name__ == "__main__":
    main()
