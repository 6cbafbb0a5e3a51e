"""The chart's release in a cluster, and how its users reach it: by its name, as NOTES.txt tells them."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from google.protobuf import json_format
from kubernetes import client

from built_tools import tool
from chart.rendering import CHART, NAMESPACE, RELEASE
from cluster.access import Cluster
from studies import FEW, reduced_study
from synthmix import Client
from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset
from synthmix.local.children import Child, stop_children
from synthmix.local.ports import LOOPBACK, free_port
from synthmix.service_kit.environment import SERVICES, STUDY_CONTROL, ObjectStoreSettings
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore
from waiting import wait_until

PREFIX = f"{RELEASE}-synthmix"
INSTALL_TIMEOUT = "10m"
RAY_START_TIMEOUT_S = 300.0
# A forward ends when its pod does; the next one finds another.
FORWARD = 'while true; do "$@" & trap "kill $!; exit" TERM; wait $!; sleep 0.5; done'

# For Python that runs in a pod. A name that is not known is an error: it says nothing of what is reached.
CONNECTS = """
import socket
def connects(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
        return True
    except OSError as error:
        if isinstance(error, socket.gaierror): raise
        return False
"""


@dataclass(frozen=True)
class Release:
    """A release that is up.

    Attributes:
        cluster: Where, in which
        namespace: it is.
        storage_port: On this machine's loopback, of object storage, which its users don't reach.
    """

    cluster: Cluster
    namespace: str
    storage_port: int

    @property
    def name(self) -> str:
        """What `--release` takes."""
        return f"{self.namespace}/{RELEASE}"

    @property
    def control_image(self) -> str:
        return str(self.pods(STUDY_CONTROL)[0].spec.containers[0].image)

    def role(self, name: str) -> str:
        """The ClusterRole for callers: viewer, editor or admin."""
        return f"{self.namespace}-{PREFIX}-{name}"

    def client(self, token: str | None = None, tls_ca: Path | None = None) -> Client:
        """One that shows this token, or the one that whoever may read Secrets is given."""
        return Client.connect(release=self.name, token=token, tls_ca=tls_ca)

    def synthmix(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, as a user has it outside of the cluster."""
        environment = {**os.environ, "SYNTHMIX_RELEASE": self.name}
        command = [sys.executable, "-m", "synthmix", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def study_to_report(self, name: str, folder: Path) -> Path:
        """Runs the reduced study on simulated images, all by the command line, and returns its report's folder."""
        write_simulated_dataset(folder / "cells", SimulatedCellsSettings(images_per_class=32, chips=8))
        self.synthmix(
            "datasets", "import", str(folder / "cells"), "--name", FEW, "--group-pattern", GROUP_PATTERN, "--simulated"
        )
        specification = folder / "study.yaml"
        specification.write_text(yaml.safe_dump(json_format.MessageToDict(reduced_study(name, FEW))))
        self.synthmix("studies", "submit", str(specification), "--wait")
        self.synthmix("studies", "report", name, "--to", str(folder / "report"))
        return folder / "report"

    def helm(self, *command: str) -> str:
        """What a command of Helm's about the release prints."""
        return self.cluster.helm(*command, RELEASE, f"--namespace={self.namespace}").stdout

    def upgrade(self, values: Sequence[Path], *options: str) -> None:
        """Installs the chart anew, and waits for its front ends, and until they have been reached."""
        self.cluster.helm("upgrade", RELEASE, str(CHART), *_options(self.namespace, values), *options)
        self._wait_until_replaced()

    def upgrade_all(self, values: Sequence[Path]) -> None:
        """The same with values by which the Ray cluster is another one: the operator replaces its pods."""
        with self.replaced("ray-head", RAY_START_TIMEOUT_S):
            self.upgrade(values)

    def roll_back_all(self) -> None:
        """Goes back to what the latest `upgrade_all` replaced."""
        with self.replaced("ray-head", RAY_START_TIMEOUT_S):
            self.helm("rollback", "--wait", f"--timeout={INSTALL_TIMEOUT}")
            self._wait_until_replaced()

    def _wait_until_replaced(self) -> None:
        # The forward of object storage may lead to a pod that is ending, and break with it.
        wait_until(lambda: not self.pods(ending=True), "the pods that were replaced are gone")
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            with self.client() as caller:
                try:
                    for service in SERVICES:
                        caller.check_health(service)
                except Unavailable:
                    return False
            return True

        wait_until(answers, "every service is reached")

    def secret(self, name: str) -> dict[str, str]:
        return secret_of(self.cluster, self.namespace, name)

    def store(self) -> ObjectStore:
        secret = self.secret(f"{PREFIX}-object-storage-user")
        return S3ObjectStore(
            ObjectStoreSettings(
                endpoint_url=f"http://{LOOPBACK}:{self.storage_port}",
                bucket="synthmix",
                access_key=secret["access-key"],
                secret_key=secret["secret-key"],
            )
        )

    def pods(self, component: str | None = None, *, ending: bool = False) -> list[Any]:
        """Those of the release, or of one component, that aren't ending, or are."""
        labels = {"app.kubernetes.io/instance": RELEASE}
        if component:
            labels["app.kubernetes.io/component"] = component
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = client.CoreV1Api(self.cluster.api()).list_namespaced_pod(self.namespace, label_selector=selector).items
        return [pod for pod in found if bool(pod.metadata.deletion_timestamp) == ending]

    def are_ready(self, component: str) -> bool:
        """Whether there are pods of it, all of them ready."""
        pods = self.pods(component)
        return bool(pods) and all(is_ready(pod) for pod in pods)

    @contextmanager
    def replaced(self, component: str, timeout_s: float) -> Iterator[list[Any]]:
        """Waits, after a `with` block that ends the component's pods, until others are ready in their place."""
        pods = self.pods(component)
        assert pods, f"there is no pod of {component}"
        yield pods
        before = {pod.metadata.uid for pod in pods}
        wait_until(
            lambda: self.are_ready(component) and not before & {pod.metadata.uid for pod in self.pods(component)},
            f"{component} has other pods",
            timeout_s,
        )


def is_ready(pod: Any) -> bool:
    return any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or [])


def secret_of(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    data = client.CoreV1Api(cluster.api()).read_namespaced_secret(name, namespace).data
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


@contextmanager
def running_release(
    cluster: Cluster,
    values: Sequence[Path],
    folder: Path,
    namespace: str = NAMESPACE,
    objects: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Release]:
    """Installs the chart with the values of ci/small-values.yaml and those given, and removes it in the end.

    Args:
        objects: What is there before it, in its namespace, such as Secrets.
    """
    cluster.create_namespace(namespace)
    if objects:
        cluster.create(objects)
    cluster.helm("install", RELEASE, str(CHART), *_options(namespace, values))
    with ExitStack() as stack:
        stack.callback(cluster.kubectl, "delete", "namespace", namespace)  # waits
        stack.callback(cluster.helm, "uninstall", RELEASE, f"--namespace={namespace}")
        stack.enter_context(patch.dict(os.environ, {"KUBECONFIG": str(cluster.kubeconfig)}))
        storage_port = free_port(set())
        _forward(stack, cluster, namespace, folder, f"statefulset/{PREFIX}-minio", f"{storage_port}:9000")
        release = Release(cluster, namespace, storage_port)
        wait_until(lambda: release.are_ready("ray-head"), "Ray's head is ready", RAY_START_TIMEOUT_S)
        release.wait_until_it_answers()
        yield release


def _options(namespace: str, values: Sequence[Path]) -> list[str]:
    files = (CHART / "ci" / "small-values.yaml", *values)
    return [
        f"--namespace={namespace}",
        *(f"--values={file}" for file in files),
        "--wait",
        f"--timeout={INSTALL_TIMEOUT}",
    ]


def _forward(stack: ExitStack, cluster: Cluster, namespace: str, folder: Path, target: str, ports: str) -> None:
    kubectl = [tool("kubectl"), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    command = ["bash", "-c", FORWARD, "forward", *kubectl, "port-forward", target, ports]
    name = target.replace("/", "-")
    child = Child(name, command, {"PATH": "/usr/bin:/bin"}, folder=folder, log=folder / f"{name}.log")
    child.start()
    stack.callback(stop_children, [child], 5.0)
