"""Study control's front end as a pod of a cluster would run it: its callers' tokens, its worker groups."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fake_kubernetes import AUDIENCE, NAMESPACE, FakeKubernetes, User, ray_cluster, web_token, worker_group
from memory_object_store import MemoryObjectStore
from synthmix.api.clusters.v1 import clusters_pb2, clusters_pb2_grpc
from synthmix.service_kit.environment import SERVICES, variable_prefix
from synthmix.study_control import front_end

TOKEN = "correct horse"
EDITOR, VIEWER = web_token("ada"), web_token("bob")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def pod(kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of the pod; its address."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        "SYNTHMIX_LISTEN": address,
        "SYNTHMIX_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "SYNTHMIX_TOKEN": TOKEN,
        "SYNTHMIX_RAY_ADDRESS": "127.0.0.1:1",
        "SYNTHMIX_OBJECT_STORE_ENDPOINT": "http://memory.invalid",
        "SYNTHMIX_OBJECT_STORE_ACCESS_KEY": "unused",
        "SYNTHMIX_OBJECT_STORE_SECRET_KEY": "unused",
        "SYNTHMIX_NAMESPACE": NAMESPACE,
        "SYNTHMIX_KUBERNETES_AUDIENCE": AUDIENCE,
        "SYNTHMIX_RAY_CLUSTER": "ray",
    } | {f"{variable_prefix(service)}_ADDRESS": "127.0.0.1:1" for service in SERVICES}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(front_end, "open_object_store", MemoryObjectStore.created)
    kubernetes.put("rayclusters", ray_cluster(worker_group("image-synthesis", 0, 4)))
    return address


def with_front_end(address: str, body: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        serving = asyncio.create_task(front_end.start())
        async with grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            try:
                await body(channel)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.wait_for(serving, 20)

    asyncio.run(main())


def test_it_serves_the_clusters_callers(pod: str, kubernetes: FakeKubernetes) -> None:
    kubernetes.users = {EDITOR: User("ada"), VIEWER: User("bob")}
    kubernetes.allowed = {("ada", "get", "clusters"), ("ada", "update", "clusters"), ("bob", "get", "clusters")}

    async def body(channel: grpc.aio.Channel) -> None:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING, "probes need no token"
        stub = clusters_pb2_grpc.ClusterServiceStub(channel)
        request = clusters_pb2.ScaleWorkerGroupRequest(worker_group="image-synthesis", max_workers=6)

        def shown(token: str) -> tuple[tuple[str, str], ...]:
            return (("authorization", f"Bearer {token}"),)

        for token in (TOKEN, EDITOR, VIEWER):
            cluster = await stub.GetCluster(clusters_pb2.GetClusterRequest(), metadata=shown(token))
            assert [group.name for group in cluster.worker_groups] == ["image-synthesis"]
        assert (await stub.ScaleWorkerGroup(request, metadata=shown(EDITOR))).max_workers == 6
        for token, code in (
            (VIEWER, grpc.StatusCode.PERMISSION_DENIED),
            (web_token("mallory"), grpc.StatusCode.UNAUTHENTICATED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ScaleWorkerGroup(request, metadata=shown(token))
            assert caught.value.code() is code

    with_front_end(pod, body)


def test_it_serves_while_the_api_server_is_out_of_reach(pod: str, kubernetes: FakeKubernetes) -> None:
    kubernetes.failing = 503

    async def body(channel: grpc.aio.Channel) -> None:
        stub = clusters_pb2_grpc.ClusterServiceStub(channel)
        for token in (TOKEN, EDITOR):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetCluster(
                    clusters_pb2.GetClusterRequest(), metadata=(("authorization", f"Bearer {token}"),)
                )
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "the Kubernetes API server does not answer" in (caught.value.details() or "")

    with_front_end(pod, body)


def test_a_front_end_without_a_cluster_says_so_in_one_line(pod: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(SystemExit, match="study-control: the Kubernetes API cannot be used"):
        front_end.main()
