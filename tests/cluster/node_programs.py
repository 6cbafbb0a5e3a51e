"""What each program of a node is told: its flags, and the files that they name."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from cluster.api_server import ApiServer

NAME = "synthmix-e2e"
"""Of the network namespace, and of the node."""
HOST_ADDRESS, NODE_ADDRESS = "10.213.0.1", "10.213.0.2"
POD_RANGE, SERVICE_RANGE, DNS_ADDRESS = "10.214.0.0/16", "10.215.0.0/16", "10.215.0.10"
PAUSE_IMAGE = "localhost/synthmix/pause:1"
CNI_PLUGINS = "/usr/lib/cni"
CGROUPS = Path("/sys/fs/cgroup")


def containerd_socket() -> Path:
    return run_folder() / "containerd.sock"


def run_folder() -> Path:
    """For sockets, whose paths must be short, and containers' pipes."""
    return Path("/run") / NAME


def containerd_arguments(folder: Path) -> dict[str, object]:
    cni = folder / "cni"
    cni.mkdir(exist_ok=True)
    (cni / "10-bridge.conflist").write_text(
        json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": NAME,
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": "pods",
                        "isGateway": True,
                        "hairpinMode": True,
                        "ipam": {
                            "type": "host-local",
                            "ranges": [[{"subnet": POD_RANGE}]],
                            "routes": [{"dst": "0.0.0.0/0"}],
                            "dataDir": str(run_folder() / "addresses"),
                        },
                    },
                    {"type": "portmap", "capabilities": {"portMappings": True}},
                ],
            }
        )
    )
    configuration = folder / "containerd.toml"
    configuration.write_text(
        f"""
version = 2
root = "{folder / "containerd"}"
state = "{run_folder() / "containerd"}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
                    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{containerd_socket()}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
    )
    return {"config": configuration}


def controller_manager_arguments(server: ApiServer, configs: Mapping[str, Path]) -> dict[str, object]:
    return {
        "kubeconfig": configs["kube-controller-manager"],
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "service-account-private-key-file": server.folder / "service-accounts.key",
        "root-ca-file": server.certificate,
        "cluster-cidr": POD_RANGE,
        "service-cluster-ip-range": SERVICE_RANGE,
    }


def kubelet_arguments(folder: Path, kubeconfig: Path) -> dict[str, object]:
    resolve = folder / "resolv.conf"
    resolve.write_text("")  # nothing outside is reached
    configuration = folder / "kubelet.yaml"
    configuration.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": NODE_ADDRESS,
                "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
                "authorization": {"mode": "AlwaysAllow"},
                "cgroupDriver": "cgroupfs",
                "cgroupRoot": f"/{NAME}",
                "failCgroupV1": False,
                "failSwapOn": False,
                "containerRuntimeEndpoint": f"unix://{containerd_socket()}",
                "clusterDNS": [DNS_ADDRESS],
                "clusterDomain": "cluster.local",
                "resolvConf": str(resolve),
                "podLogsDir": str(folder / "pod-logs"),
                "volumePluginDir": str(folder / "volume-plugins"),
                "localStorageCapacityIsolation": True,
                "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "imageGCHighThresholdPercent": 100,
                "nodeStatusUpdateFrequency": "4s",
                "healthzBindAddress": NODE_ADDRESS,
                "maxPods": 60,
            }
        )
    )
    make_cgroup_root()
    return {
        "config": configuration,
        "kubeconfig": kubeconfig,
        "root-dir": folder / "kubelet",
        "cert-dir": folder / "kubelet-certificates",
        "hostname-override": NAME,
        "node-ip": NODE_ADDRESS,
    }


def kube_proxy_arguments(folder: Path, kubeconfig: Path) -> dict[str, object]:
    configuration = folder / "kube-proxy.yaml"
    configuration.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "clusterCIDR": POD_RANGE,
                "hostnameOverride": NAME,
                "clientConnection": {"kubeconfig": str(kubeconfig)},
                "conntrack": {"maxPerCore": 0, "min": 0},  # the machine's own limits stay
            }
        )
    )
    return {"config": configuration}


def kube_router_arguments(kubeconfig: Path) -> dict[str, object]:
    """It enforces NetworkPolicies, and does nothing else: no CNI plugin of Debian does."""
    return {
        "kubeconfig": kubeconfig,
        "run-firewall": "true",
        "run-router": "false",
        "run-service-proxy": "false",
        "run-loadbalancer": "false",
        "hostname-override": NAME,
        "service-cluster-ip-range": SERVICE_RANGE,
        "health-port": "0",
    }


def make_cgroup_root() -> None:
    """The kubelet wants its root in every hierarchy."""
    for hierarchy in CGROUPS.iterdir():
        if (hierarchy / "cgroup.procs").exists():
            (hierarchy / NAME).mkdir(exist_ok=True)
    # A group of processors has none until it is told which.
    for file in ("cpuset.cpus", "cpuset.mems"):
        with suppress(FileNotFoundError):
            (CGROUPS / "cpuset" / NAME / file).write_text((CGROUPS / "cpuset" / file).read_text())
