"""What a cluster has beside Kubernetes, for one that the tests make: CoreDNS, the KubeRay operator, and volumes."""

from pathlib import Path
from typing import Any

import yaml

from built_tools import tool
from cluster.images import program_files, write_image
from cluster.node_programs import DNS_ADDRESS
from cluster.objects import server_objects
from cluster.single_node import SingleNode

COREDNS_IMAGE = "localhost/synthmix/coredns:1"
OPERATOR_IMAGE = "localhost/synthmix/kuberay-operator:1"
OPERATOR_NAMESPACE = "kuberay-system"
COREFILE = """.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa
    cache 30
}
"""


def install_dns(node: SingleNode) -> None:
    """CoreDNS at the address that the kubelet tells pods."""
    import_program(node, COREDNS_IMAGE, tool("coredns"), "-conf", "/etc/coredns/Corefile")
    container = {
        "image": COREDNS_IMAGE,
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
    }
    node.cluster.create(
        server_objects(
            "coredns",
            "kube-system",
            container,
            files={"Corefile": COREFILE},
            rules=[
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
            service={
                "clusterIP": DNS_ADDRESS,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
            service_name="kube-dns",
            pod={
                "dnsPolicy": "Default",
                "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
            },
        )
    )


def install_operator(node: SingleNode, module: Path) -> None:
    """The KubeRay operator with its kinds, from its module's own manifests.

    Args:
        node: Where.
        module: Folder of github.com/ray-project/kuberay/ray-operator.
    """
    import_program(node, OPERATOR_IMAGE, tool("ray-operator"))
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}}
    ]
    for pattern in ("crd/bases/*.yaml", "rbac/*.yaml", "manager/manager.yaml", "manager/service.yaml"):
        for path in sorted((module / "config").glob(pattern)):
            if path.name != "kustomization.yaml":
                objects += [item for item in yaml.safe_load_all(path.read_text()) if item]
    for item in objects[1:]:
        if item["kind"] in ("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding"):
            item["metadata"]["namespace"] = OPERATOR_NAMESPACE
        for subject in item.get("subjects", []):
            subject["namespace"] = OPERATOR_NAMESPACE
        if item["kind"] == "Deployment":
            [container] = item["spec"]["template"]["spec"]["containers"]
            container |= {"image": OPERATOR_IMAGE, "imagePullPolicy": "Never", "command": ["/ray-operator"]}
            container["resources"] = {}  # a tenth of a processor would make it the slowest part of a test
    node.cluster.create(objects)


def make_volumes(node: SingleNode, count: int, size: str) -> None:
    """Volumes that claims of no storage class get, as folders of this machine that anybody may write to."""
    for index in range(count):
        folder = node.folder / "volumes" / str(index)
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        specification = {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(folder), "type": "Directory"},
        }
        metadata = {"name": f"folder-{index}"}
        node.cluster.create(
            [{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": specification}]
        )


def import_program(node: SingleNode, image: str, program: str, *arguments: str) -> None:
    """Makes an image of one program and the libraries that it needs, and gives it to the node."""
    archive = node.folder / "image.tar"
    write_image(archive, image, program_files(Path(program)), [f"/{Path(program).name}", *arguments])
    node.import_image(archive)
    archive.unlink()
