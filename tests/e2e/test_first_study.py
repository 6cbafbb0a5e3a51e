"""A study from outside of the cluster to its report, and what Prometheus and the dashboards see of it."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from release import Release, is_ready

from cluster.prometheus import CHART_FILES, Prometheus
from waiting import wait_until

SCRAPED_TIMEOUT_S = 120.0
STUDY = "from-outside"
RECORDED_TIMEOUT_S = 150.0
OF_GPUS = re.compile(r"ray_node_(gpus|gram)|Name=\"GPU\"|gpu_seconds.* > 0")


@pytest.fixture(scope="module")
def fired_before(release: Release, prometheus: Prometheus) -> set[str]:
    """Alerts about what other tests did to the release, such as to its workers."""
    return prometheus.firing(release.namespace)


@pytest.fixture(scope="module")
def report(release: Release, fired_before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the report of a study that was imported, submitted and waited for by the command line."""
    return release.study_to_report(STUDY, tmp_path_factory.mktemp("study"))


def test_every_pod_is_ready(release: Release) -> None:
    components = {pod.metadata.labels["app.kubernetes.io/component"] for pod in release.pods()}
    assert {"study-control", "adapter-training", "object-storage", "ray-head"} <= components
    wait_until(
        lambda: all(is_ready(pod) for pod in release.pods() if pod.status.phase == "Running"), "every pod is ready"
    )
    restarts = {
        pod.metadata.name: status.restart_count
        for pod in release.pods()
        for status in pod.status.container_statuses or []
        if status.restart_count
    }
    # Elsewhere volumes and images may take longer than anything waits.
    assert restarts == {} or os.environ.get("KUBECONFIG"), "what starts first waits for the rest"


def test_the_release_tests_itself(release: Release) -> None:
    release.helm("test")


def test_a_study_from_outside_ends_with_a_report(report: Path) -> None:
    content = json.loads((report / "report.json").read_text())
    assert content["comparison"]["verdict"]["sentence"]
    assert content["study"]["name"] == STUDY
    assert "<html" in (report / "report.html").read_text()


def test_prometheus_sees_every_pod_and_no_alert_fires(
    release: Release, prometheus: Prometheus, fired_before: set[str], report: Path
) -> None:
    def scraped() -> bool:
        pods = {pod.metadata.name for pod in release.pods() if pod.status.phase == "Running"}
        return {labels["pod"] for labels, value in prometheus.query("up == 1")} >= pods

    wait_until(scraped, "every pod is scraped", SCRAPED_TIMEOUT_S, poll_s=1.0)
    # A worker that has nothing to do any more may end right now.
    wait_until(lambda: not prometheus.down(release.namespace), "no pod is not scraped", SCRAPED_TIMEOUT_S, poll_s=1.0)
    assert prometheus.firing(release.namespace) - fired_before == set()


def dashboard_queries() -> dict[str, str]:
    """Every query of every dashboard, by the dashboard's and the panel's name."""
    found = {}
    for path in sorted((CHART_FILES / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for number, target in enumerate(panel.get("targets", [])):
                found[f"{path.stem}: {panel['title']} {number}"] = target["expr"]
    return found


def test_every_dashboard_query_returns_data(release: Release, prometheus: Prometheus, report: Path) -> None:
    """Over the last half hour; but for GPUs in a cluster that has none."""
    expected = {
        name: expression
        for name, expression in dashboard_queries().items()
        if prometheus.query("ray_node_gpus_available") or not OF_GPUS.search(expression)
    }
    assert len(expected) > 50
    for variable, value in {"$namespace": release.namespace, "$__rate_interval": "5m", "$__range": "1h"}.items():
        expected = {name: expression.replace(variable, value) for name, expression in expected.items()}

    def without_data() -> list[str]:
        return [name for name, expression in expected.items() if not prometheus.has_data(expression)]

    # Recording rules are evaluated once a minute.
    with suppress(TimeoutError):
        wait_until(lambda: not without_data(), "every query returns data", RECORDED_TIMEOUT_S, poll_s=5.0)
    assert without_data() == []
