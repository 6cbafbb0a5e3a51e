"""Fixtures of the end-to-end tests: the chart, installed into a cluster that runs it.

$KUBECONFIG names the cluster, which then needs the KubeRay operator and images: $E2E_VALUES names a file of values that
says which, and whatever else the chart has to be told there, and $E2E_PROMETHEUS_IMAGE a Prometheus of its own choice.
Without $KUBECONFIG, a cluster is made on this machine.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from release import Release, running_release

from cluster.__main__ import running_cluster, write_values
from cluster.access import Cluster
from cluster.prometheus import BUILT_IMAGE, READERS, Prometheus, running_prometheus

PUBLISHED_IMAGE = "quay.io/prometheus/prometheus:v3.5.0"
GIVEN = os.environ.get("KUBECONFIG")
HUB_PORTS = [443, 6443]
"""The API server's, here and in most clusters, are a hub's too: it is its address by which workers do not reach it."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if GIVEN:
        yield Cluster(Path(GIVEN))
        return
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def values(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of what this cluster, its Prometheus and the tests make the chart be told."""
    folder = tmp_path_factory.mktemp("values")
    common = folder / "common.yaml"
    network = {**READERS["networkPolicy"], "baseModelHub": {"ports": HUB_PORTS}}
    common.write_text(yaml.safe_dump({"networkPolicy": network}))
    if GIVEN:
        return [common, *(Path(path) for path in [os.environ.get("E2E_VALUES")] if path)]
    return [common, write_values(folder)]


@pytest.fixture(scope="session")
def prometheus(cluster: Cluster) -> Iterator[Prometheus]:
    image = os.environ.get("E2E_PROMETHEUS_IMAGE") or PUBLISHED_IMAGE
    with running_prometheus(cluster, image if GIVEN else BUILT_IMAGE) as prometheus:
        yield prometheus


@pytest.fixture(scope="session")
def release(
    cluster: Cluster, prometheus: Prometheus, values: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """Watched by Prometheus from its beginning."""
    with running_release(cluster, values, tmp_path_factory.mktemp("release")) as release:
        yield release
