"""`synthmix cluster` and `synthmix scale`: the workers of a Kubernetes cluster."""

import argparse

from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.cli.connection import connect
from synthmix.cli.output import emit, note, table


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        cluster = client.get_cluster()
    problem = f"warning: {cluster.ray_problem}\n\n" if cluster.ray_problem else ""
    emit(arguments, cluster, f"{problem}{groups_text(cluster)}\n\n{nodes_text(cluster)}")


def scale(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        groups = {group.name: group for group in client.get_cluster().worker_groups}
        # An unknown name is sent as well: the server says what there is instead.
        before = groups.get(arguments.worker_group, clusters_pb2.WorkerGroup())
        after = client.scale_worker_group(arguments.worker_group, min_workers=arguments.min, max_workers=arguments.max)
    changes = f"min {before.min_workers} -> {after.min_workers}, max {before.max_workers} -> {after.max_workers}"
    emit(arguments, {"before": before, "after": after}, f"{after.name}: {changes}")
    if arguments.output == "text":
        note("the values of the next `helm upgrade` win: change them there too if this is to stay")


def groups_text(cluster: clusters_pb2.Cluster) -> str:
    rows = [
        (
            group.name,
            group.min_workers,
            group.max_workers,
            group.desired_workers,
            group.ready_workers,
            group.gpus_per_worker,
        )
        for group in cluster.worker_groups
    ]
    headers = ("WORKER GROUP", "MIN", "MAX", "DESIRED", "READY", "GPUS EACH")
    return table(headers, rows, right=headers[1:])


def nodes_text(cluster: clusters_pb2.Cluster) -> str:
    if cluster.warnings:
        return "\n".join(f"warning: {warning}" for warning in cluster.warnings)
    if not cluster.nodes:
        return "no node has GPUs"
    rows = [
        (node.name, node.gpu_product or "-", node.nvidia_gpus, node.amd_gpus, state_word(node))
        for node in cluster.nodes
    ]
    return table(("GPU NODE", "PRODUCT", "NVIDIA", "AMD", "STATE"), rows, right=("NVIDIA", "AMD"))


def state_word(node: clusters_pb2.Node) -> str:
    if not node.ready:
        return "not ready"
    return "ready" if node.schedulable else "cordoned"
