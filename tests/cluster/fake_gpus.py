"""GPU nodes that are nothing but objects: KWOK says that they are ready, and that their pods run."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from built_tools import module_folder, tool
from cluster.access import Cluster
from programs import KWOK
from synthmix.local.children import Child, stop_children

GPUS = 8
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
"""Of what KWOK's module has for nodes and pods: ready and running at once."""
MARK = "kwok.x-k8s.io/node"


@dataclass(frozen=True)
class Node:
    """A node of eight GPUs.

    Attributes:
        name: Its name.
        product: What NVIDIA's feature discovery would label it with.
        taints: Beside the one that GPU nodes have.
    """

    name: str
    product: str
    taints: Sequence[dict[str, str]] = field(default_factory=tuple)

    def manifest(self) -> dict[str, Any]:
        resources = {
            "cpu": "128",
            "memory": "1Ti",
            "pods": "110",
            "ephemeral-storage": "2Ti",
            "nvidia.com/gpu": str(GPUS),
        }
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "nvidia.com/gpu.product": self.product,
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels, "annotations": {MARK: "fake"}},
            "spec": {"taints": [GPU_TAINT, *self.taints]},
            "status": {"allocatable": resources, "capacity": resources, "phase": "Running"},
        }


@contextmanager
def running_fake_gpus(cluster: Cluster, nodes: Sequence[Node], folder: Path) -> Iterator[None]:
    """The nodes, and KWOK beside the cluster, for the length of a `with` block."""
    stages = module_folder(KWOK) / "kustomize" / "stage"
    configuration = folder / "kwok.yaml"
    configuration.write_text(
        "\n---\n".join(path.read_text() for part in STAGES for path in stages.glob(f"{part}/[!k]*.yaml"))
    )
    command = [
        tool("kwok"),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config={configuration}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={MARK}=fake",
        "--node-lease-duration-seconds=40",
    ]
    # Streamed lists need an etcd newer than Debian's.
    environment = {**os.environ, "KUBE_FEATURE_WatchListClient": "false"}
    kwok = Child("kwok", command, environment, folder=folder, log=folder / "kwok.log")
    kwok.start()
    manifests = [node.manifest() for node in nodes]
    try:
        cluster.create(manifests)
        cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *(f"node/{node.name}" for node in nodes))
        yield
    finally:
        cluster.delete(manifests)
        stop_children([kwok], 5.0)
