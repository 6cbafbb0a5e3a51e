"""A real Prometheus in a cluster, set up by the files that the chart has for one without its operator."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from cluster.access import Cluster
from cluster.objects import server_objects

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
CHART_FILES = Path(__file__).parents[2] / "charts" / "synthmix" / "files"
NAMESPACE = "synthmix-monitoring"
READERS = {"networkPolicy": {"metricsReaders": [{"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: NAMESPACE}}}]}}
"""Values of the chart that let it read metrics."""
BUILT_IMAGE = "localhost/synthmix/prometheus:1"
INTERVAL = "5s"
START_TIMEOUT = "--timeout=2m"


@dataclass(frozen=True)
class Prometheus:
    """Its HTTP API, through the API server."""

    cluster: Cluster

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of its answer."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        proxy = f"/api/v1/namespaces/{NAMESPACE}/services/prometheus:9090/proxy"
        answer = json.loads(self.cluster.kubectl("get", "--raw", f"{proxy}/api/v1/{path}{query}").stdout)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an expression gives now."""
        return [(item["metric"], float(item["value"][1])) for item in self.get("query", query=expression)["result"]]

    def has_data(self, expression: str, *, seconds: float = 1800.0) -> bool:
        """Whether a graph of an expression over the last so many seconds shows anything."""
        end_s = time.time()
        span = {"start": str(end_s - seconds), "end": str(end_s), "step": "5"}
        return bool(self.get("query_range", query=expression, **span)["result"])

    def down(self, namespace: str) -> set[str]:
        """A namespace's pods that it can't scrape."""
        targets = [item for item in self.get("targets", state="active")["activeTargets"] if item["health"] != "up"]
        return {item["labels"]["pod"] for item in targets if item["labels"]["namespace"] == namespace}

    def firing(self, namespace: str) -> set[str]:
        """Names of alerts about a namespace. Those about one that is gone fire for hours."""
        alerts = [item for item in self.get("alerts")["alerts"] if item["state"] == "firing"]
        return {item["labels"]["alertname"] for item in alerts if item["labels"].get("namespace") == namespace}


@contextmanager
def running_prometheus(cluster: Cluster, image: str) -> Iterator[Prometheus]:
    """One that asks every few seconds, and forgets all with its pod, for the length of a `with` block."""
    configuration = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["alerts.yaml"],
        "scrape_config_files": ["scrape.yaml"],
    }
    container = {
        "image": image,
        "args": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"],
        # Workers take all of a small node's processors; what watches them must not starve.
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "readinessProbe": {
            "httpGet": {"path": "/-/ready", "port": 9090},
            "periodSeconds": 2,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    objects = server_objects(
        "prometheus",
        NAMESPACE,
        container,
        files={
            "prometheus.yml": yaml.safe_dump(configuration),
            **{name: (CHART_FILES / name).read_text() for name in ("alerts.yaml", "scrape.yaml")},
        },
        rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}],
        service={"ports": [{"port": 9090}]},
        pod={"volumes": [{"name": "data", "emptyDir": {}}]},
    )
    cluster.create([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *objects])
    try:
        cluster.kubectl("rollout", "status", f"--namespace={NAMESPACE}", "deployment/prometheus", START_TIMEOUT)
        yield Prometheus(cluster)
    finally:
        cluster.delete(objects)
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait")
