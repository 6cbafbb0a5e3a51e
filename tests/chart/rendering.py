"""The chart as Helm renders it."""

import base64
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from built_tools import tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "synthmix"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "lab", "imaging"
RAY_CLUSTER = "ray.io/v1/RayCluster"


class RenderError(Exception):
    """What Helm says instead of rendering."""


@dataclass(frozen=True)
class Rendered:
    """What Helm would send to the cluster."""

    objects: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.objects if item["kind"] == kind]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        [found] = [item for item in self.of_kind(kind) if item["metadata"]["name"] == name]
        return found

    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """The name and the pod template (or the pod itself) of everything that makes pods."""
        found = [(item["metadata"]["name"], item) for item in self.of_kind("Pod")]
        for kind in ("Deployment", "StatefulSet", "Job"):
            found += [(item["metadata"]["name"], item["spec"]["template"]) for item in self.of_kind(kind)]
        for cluster in self.of_kind("RayCluster"):
            found.append(("ray-head", cluster["spec"]["headGroupSpec"]["template"]))
            found += [(group["groupName"], group["template"]) for group in cluster["spec"]["workerGroupSpecs"]]
        return found


def render_chart(
    values: Sequence[Path] = (), set_values: Sequence[str] = (), *, api_versions: Sequence[str] = (RAY_CLUSTER,)
) -> Rendered:
    """`helm template`. Raises RenderError with what Helm says."""
    command = [tool("helm"), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34.0"]
    command += [f"--values={path}" for path in values] + [f"--set={item}" for item in set_values]
    command += [f"--api-versions={item}" for item in api_versions]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RenderError(result.stderr)
    return Rendered([item for item in yaml.safe_load_all(result.stdout) if item])


def plain_and_encoded(secrets: list[str]) -> list[str]:
    """What Secrets hold, and as their data spell it."""
    return [*secrets, *(base64.b64decode(value).decode() for value in secrets)]
