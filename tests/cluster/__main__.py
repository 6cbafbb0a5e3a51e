"""A cluster of this machine's own, with all that SynthMix's chart needs; `make e2e-cluster` starts it.

It prints the variables that tests and tools find it by, and is gone after Ctrl-C.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from built_tools import module_folder, tool
from cluster.access import Cluster
from cluster.addons import import_program, install_dns, install_operator, make_volumes
from cluster.images import PREFIX, TAG, build_images
from cluster.prometheus import BUILT_IMAGE as PROMETHEUS
from cluster.single_node import running_single_node
from programs import BUILT, KUBERAY, TOOLS

STATE = TOOLS.parent / "e2e"
"""Logs stay here when the cluster is gone, and the node's images."""
MINIO = "localhost/synthmix/minio"
VALUES = {
    "images": {name: {"repository": f"{PREFIX}/{name}", "tag": TAG} for name in ("control", "worker")},
    "objectStorage": {"minio": {"image": {"repository": MINIO, "tag": "1"}}},
    "caches": {"freePercent": 0},
}
"""Tell the chart where this cluster's images are, and that its kubelet does not mind a disk that others have filled."""


@contextmanager
def running_cluster(folder: Path = STATE) -> Iterator[Cluster]:
    """Kubernetes here, with names, volumes, the KubeRay operator and every image, for the length of a `with` block."""
    if os.geteuid() != 0:
        raise RuntimeError("a cluster of this machine's own needs root; set KUBECONFIG to use another one")
    with only_one(folder):
        built = build_images()
        started_s = time.monotonic()
        with running_single_node(folder) as node:
            install_dns(node)
            install_operator(node, module_folder(KUBERAY))
            make_volumes(node, 20, "5Gi")
            import_program(node, f"{MINIO}:1", tool("minio"))
            import_program(node, PROMETHEUS, tool("prometheus"))
            print(f"the cluster runs after {time.monotonic() - started_s:.0f} s", flush=True)
            for name, id in built.items():
                node.import_built_image(name, id)
            print(f"it has its images after {time.monotonic() - started_s:.0f} s", flush=True)
            yield node.cluster


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keeps others from starting a cluster, whose first step is to end what an earlier one left running."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"a cluster runs already in {folder}: end it, or export KUBECONFIG to use it") from None
        yield


def write_values(folder: Path) -> Path:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return path


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), running_cluster() as cluster:
            values = write_values(STATE)
            variables = {"KUBECONFIG": cluster.kubeconfig, "E2E_VALUES": values, "E2E_PROMETHEUS_IMAGE": PROMETHEUS}
            print(
                "export", *(f"{name}={value}" for name, value in variables.items()), f"PATH={BUILT}:$PATH", flush=True
            )
            signal.pause()
    except (RuntimeError, TimeoutError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
