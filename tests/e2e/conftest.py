"""Fixtures of the end-to-end tests: the chart, installed into a cluster that runs it.

$KUBECONFIG names the cluster, which then needs the KubeRay operator and images: $E2E_VALUES names a file of values that
says which, and whatever else the chart has to be told there. Without it, a cluster is made on this machine.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from release import Release, running_release

from cluster.__main__ import running_cluster, write_values
from cluster.access import Cluster
from cluster.prometheus import Prometheus, running_prometheus

GIVEN = os.environ.get("KUBECONFIG")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if GIVEN:
        yield Cluster(Path(GIVEN))
        return
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def values(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of what this cluster makes the chart be told."""
    if GIVEN:
        return [Path(path) for path in [os.environ.get("E2E_VALUES")] if path]
    return [write_values(tmp_path_factory.mktemp("values"))]


@pytest.fixture(scope="session")
def prometheus(cluster: Cluster) -> Iterator[Prometheus]:
    with running_prometheus(cluster) as prometheus:
        yield prometheus


@pytest.fixture(scope="session")
def release(
    cluster: Cluster, prometheus: Prometheus, values: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """Watched by Prometheus from its beginning."""
    with running_release(cluster, values, tmp_path_factory.mktemp("release")) as release:
        yield release
