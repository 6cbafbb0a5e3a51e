"""The cluster service: what the Kubernetes cluster has for SynthMix, and how many workers each group may have."""

import asyncio
from typing import Any

import grpc

from synthmix.api.clusters.v1 import clusters_pb2, clusters_pb2_grpc
from synthmix.service_kit import kubernetes_api
from synthmix.service_kit.environment import KubernetesSettings
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.kubernetes_api import Right, as_json, requiring
from synthmix.study_control.worker_groups import DeploymentGroups, RayClusterGroups, WorkerGroups, is_ready, product_of


class KubernetesCluster:
    """The cluster that the workers run on. Its methods block.

    Args:
        api: A kubernetes.client.ApiClient.
    """

    def __init__(self, api: Any, namespace: str, groups: WorkerGroups):
        self._api = api
        self._namespace = namespace
        self._groups = groups

    def read(self) -> clusters_pb2.Cluster:
        """Nodes that may not be listed, which takes a right in the whole cluster, are a warning.

        Raises SynthMixError.
        """
        cluster = clusters_pb2.Cluster(
            namespace=self._namespace, worker_groups=self._groups.read(), ray_problem=self._groups.ray_problem()
        )
        try:
            cluster.nodes.extend(self._read_nodes())
        except FailedPrecondition as error:
            cluster.warnings.append(f"the nodes' GPUs are not known: {error.message}")
        return cluster

    def _read_nodes(self) -> list[clusters_pb2.Node]:
        from kubernetes import client

        with requiring(Right("list", "nodes")):
            nodes = as_json(client.CoreV1Api(self._api).list_node)["items"]
        return [_node(node) for node in nodes if _has_gpus(node)]

    def scale(self, request: clusters_pb2.ScaleWorkerGroupRequest) -> clusters_pb2.WorkerGroup:
        """Raises SynthMixError."""
        return self._groups.scale(request)


def open_cluster(settings: KubernetesSettings) -> KubernetesCluster | None:
    """The cluster of the settings; None if they name none. Raises FailedPrecondition if it has no API server."""
    if not settings.ray_cluster and not settings.worker_deployment_prefix:
        return None
    api = kubernetes_api.connect()
    groups: WorkerGroups
    if settings.ray_cluster:
        groups = RayClusterGroups(api, settings.namespace, settings.ray_cluster)
    else:
        groups = DeploymentGroups(api, settings.namespace, settings.worker_deployment_prefix)
    return KubernetesCluster(api, settings.namespace, groups)


class ClusterService(clusters_pb2_grpc.ClusterServiceServicer):
    """Answers for the cluster, if there is one.

    Args:
        cluster: None if the workers do not run on Kubernetes.
    """

    def __init__(self, cluster: KubernetesCluster | None):
        self._cluster = cluster

    async def GetCluster(
        self, request: clusters_pb2.GetClusterRequest, context: grpc.aio.ServicerContext
    ) -> clusters_pb2.Cluster:
        return await asyncio.to_thread(self._known().read)

    async def ScaleWorkerGroup(
        self, request: clusters_pb2.ScaleWorkerGroupRequest, context: grpc.aio.ServicerContext
    ) -> clusters_pb2.WorkerGroup:
        return await asyncio.to_thread(self._known().scale, request)

    def _known(self) -> KubernetesCluster:
        if self._cluster is None:
            raise FailedPrecondition(
                "SynthMix's workers do not run on Kubernetes here, so there are no worker groups; on one machine "
                "`synthmix up --cpus N --gpus N` says what workers may use, and on a cluster the chart sets "
                "SYNTHMIX_RAY_CLUSTER or SYNTHMIX_WORKER_DEPLOYMENT_PREFIX",
                reason="NO_CLUSTER",
            )
        return self._cluster


def _has_gpus(node: dict[str, Any]) -> bool:
    """Also a node whose GPUs cannot be given out now, since its driver or device plugin fails."""
    return any(_gpus(node, kind) or _gpus(node, kind, of="capacity") for kind in ("nvidia", "amd")) or bool(
        _product(node)
    )


def _node(node: dict[str, Any]) -> clusters_pb2.Node:
    return clusters_pb2.Node(
        name=node["metadata"]["name"],
        gpu_product=_product(node),
        nvidia_gpus=_gpus(node, "nvidia"),
        amd_gpus=_gpus(node, "amd"),
        schedulable=not node.get("spec", {}).get("unschedulable", False),
        ready=is_ready(node),
    )


def _gpus(node: dict[str, Any], kind: str, *, of: str = "allocatable") -> int:
    return int(node.get("status", {}).get(of, {}).get(f"{kind}.com/gpu", 0))


def _product(node: dict[str, Any]) -> str:
    return product_of(node["metadata"].get("labels", {}))
