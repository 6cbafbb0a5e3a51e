"""A whole Kubernetes of one node on this Linux machine: it runs pods.

All of it lives in a network namespace of its own, joined to the machine by one pair of interfaces, and in one folder
of state; when it ends, logs and images are left. Its programs: etcd, the API server, controller manager, scheduler,
kubelet and kube-proxy of `go.mod` beside this file, kube-router, containerd, runc and the CNI plugins of Debian.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from kubernetes import client

from built_tools import tool
from cluster.access import Cluster
from cluster.api_server import running_api_server, write_kubeconfig
from cluster.images import export_image, write_image
from cluster.node_programs import (
    CGROUPS,
    CNI_PLUGINS,
    HOST_ADDRESS,
    NAME,
    NODE_ADDRESS,
    PAUSE_IMAGE,
    POD_RANGE,
    SERVICE_RANGE,
    containerd_arguments,
    containerd_socket,
    controller_manager_arguments,
    kube_proxy_arguments,
    kube_router_arguments,
    kubelet_arguments,
    run_folder,
)
from synthmix.local.children import Child, stop_children, wait_until_ready
from waiting import wait_until

INTERFACE = "synthmix"  # a name has 15 letters at most
START_TIMEOUT_S = 120.0
STOP_GRACE_S = 15.0
IN_NAMESPACE = ("nsenter", f"--net=/run/netns/{NAME}")
# Name and group, as the API server's own roles know them. No role comes with kube-router.
USERS = {
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kube-router": ("kube-router", "system:masters"),
    "kubelet": (f"system:node:{NAME}", "system:nodes"),
}


@dataclass(frozen=True)
class SingleNode:
    """A running cluster of one node."""

    cluster: Cluster
    folder: Path

    def import_image(self, archive: Path) -> None:
        """Gives the node an image, from an archive in Docker's or the OCI's layout."""
        self.images("import", str(archive))

    def import_built_image(self, name: str, id: str) -> None:
        """Gives the node an image that the builder has, unless it has that one already."""
        label = "synthmix.built-from"
        if f"{label}={id}" in self.images("list", f"name=={name}"):
            return
        with export_image(name) as export:
            run(*self._images("import", "-"), stdin=export.stdout)
        assert export.returncode == 0, f"{name} could not be exported"
        self.images("label", name, f"{label}={id}")

    def images(self, *arguments: str) -> str:
        """Calls containerd about the images that pods can have."""
        return run(*self._images(*arguments))

    def _images(self, *arguments: str) -> list[str]:
        return [tool("ctr"), f"--address={containerd_socket()}", "--namespace=k8s.io", "images", *arguments]


def run(*command: str, check: bool = True, stdin: IO[bytes] | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=stdin)
    if check and result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


@contextmanager
def running_single_node(folder: Path) -> Iterator[SingleNode]:
    """A cluster of one node, ready for pods, for the length of a `with` block. Needs root."""
    clean_up(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run_folder().mkdir(parents=True)
    tokens = {user: os.urandom(16).hex() for user in USERS}
    with ExitStack() as stack:
        stack.callback(clean_up, folder)
        make_network()
        server = stack.enter_context(
            running_api_server(
                folder,
                address=NODE_ADDRESS,
                port=6443,
                inside=IN_NAMESPACE,
                options={
                    "authorization-mode": "Node,RBAC",
                    "allow-privileged": "true",
                    "kubelet-preferred-address-types": "InternalIP",  # no name server knows the node
                    "service-cluster-ip-range": SERVICE_RANGE,
                },
                users={tokens[user]: USERS[user] for user in USERS},
            )
        )
        node = SingleNode(server.cluster, folder)
        configs = {
            user: write_kubeconfig(folder / f"kubeconfig-{user}", server.url, server.certificate, token)
            for user, token in tokens.items()
        }
        _start(stack, folder, "containerd", containerd_arguments(folder), _containerd_answers)
        import_pause_image(node)
        for program, arguments, answers in (
            ("kube-controller-manager", controller_manager_arguments(server, configs), lambda: True),
            ("kube-scheduler", {"kubeconfig": configs["kube-scheduler"], "leader-elect": "false"}, lambda: True),
            ("kubelet", kubelet_arguments(folder, configs["kubelet"]), _kubelet_answers),
            ("kube-proxy", kube_proxy_arguments(folder, configs["kube-proxy"]), lambda: True),
            ("kube-router", kube_router_arguments(configs["kube-router"]), lambda: True),
        ):
            _start(stack, folder, program, arguments, answers)
        wait_until(lambda: _is_ready(node.cluster), "the node is ready")
        yield node


def make_network() -> None:
    """A namespace with one address for the node; the machine has the other end."""
    inside, outside = f"{INTERFACE}-n", f"{INTERFACE}-h"
    run("ip", "netns", "add", NAME)
    run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", NAME)
    run("ip", "address", "add", f"{HOST_ADDRESS}/30", "dev", outside)
    run("ip", "link", "set", outside, "up")
    for command in (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "address", "add", f"{NODE_ADDRESS}/30", "dev", inside),
        ("ip", "link", "set", inside, "up"),
        ("ip", "route", "add", "default", "via", HOST_ADDRESS),
        ("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"),
    ):
        run(*IN_NAMESPACE, *command)
    # Pods and services are reached from the machine as from a neighbour of the node.
    for range_ in (POD_RANGE, SERVICE_RANGE):
        run("ip", "route", "replace", range_, "via", NODE_ADDRESS)


def import_pause_image(node: SingleNode) -> None:
    """What holds a pod's namespaces: one static program that waits."""
    folder = node.folder / "pause"
    folder.mkdir(exist_ok=True)
    (folder / "pause.c").write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    run("gcc", "-Os", "-static", "-s", "-o", str(folder / "pause"), str(folder / "pause.c"))
    archive = folder / "image.tar"
    write_image(archive, PAUSE_IMAGE, {"pause": folder / "pause"}, ["/pause"])
    node.import_image(archive)


def clean_up(folder: Path) -> None:
    """Ends what is left running, and removes every trace but logs and images. Harmless if there is none."""
    for pid in run("ip", "netns", "pids", NAME, check=False).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (process / "cmdline").read_bytes()
            if b"containerd-shim" in arguments and str(run_folder()).encode() in arguments:
                os.kill(int(process.name), signal.SIGKILL)
    groups = [group for hierarchy in CGROUPS.iterdir() for group in [hierarchy / NAME] if group.is_dir()]
    for group in groups:
        for members in group.rglob("cgroup.procs"):
            for pid in members.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed(mounts):
        if place.startswith((f"{folder}/", f"{run_folder()}/")):
            run("umount", "--lazy", place, check=False)
    run("ip", "link", "delete", f"{INTERFACE}-h", check=False)  # a namespace takes a moment to let go of it
    if (Path("/run/netns") / NAME).exists():
        run("ip", "netns", "delete", NAME)
    # Images stay, in containerd's own folder: some have gigabytes.
    for inside in ("etcd", "kubelet", "cni", "certificates", "volumes"):
        shutil.rmtree(folder / inside, ignore_errors=True)
    shutil.rmtree(run_folder(), ignore_errors=True)
    for group in groups:
        for inner in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)):
            _remove_cgroup(inner)
        _remove_cgroup(group)


def _remove_cgroup(group: Path) -> None:
    def removed() -> bool:
        with suppress(OSError):  # its processes take a moment to die
            group.rmdir()
        return not group.exists()

    wait_until(removed, f"the control group {group} is empty", STOP_GRACE_S)


def _start(
    stack: ExitStack, folder: Path, program: str, arguments: Mapping[str, object], answers: Callable[[], bool]
) -> None:
    command = [*IN_NAMESPACE, tool(program), *(f"--{name}={value}" for name, value in arguments.items())]
    environment = {"PATH": f"{CNI_PLUGINS}:/usr/sbin:/usr/bin:/sbin:/bin"}
    child = Child(program, command, environment, folder=folder, log=folder / f"{program}.log")
    child.start()
    stack.callback(stop_children, [child], STOP_GRACE_S)
    wait_until_ready({child: answers}, timeout_s=START_TIMEOUT_S, say_ready=lambda child: None, check_stop=lambda: None)


def _containerd_answers() -> bool:
    command = [tool("ctr"), f"--address={containerd_socket()}", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _kubelet_answers() -> bool:
    with suppress(URLError, OSError), urlopen(f"http://{NODE_ADDRESS}:10248/healthz", timeout=2.0) as answer:
        return bool(answer.status == 200)
    return False


def _is_ready(cluster: Cluster) -> bool:
    nodes = client.CoreV1Api(cluster.api()).list_node().items
    return any(
        condition.type == "Ready" and condition.status == "True"
        for node in nodes
        for condition in node.status.conditions or []
    )
