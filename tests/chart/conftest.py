"""Fixtures of the chart's tests."""

from collections.abc import Iterator

import pytest
import yaml
from kubernetes import client
from rendering import CHART, CI_VALUES, Rendered, render_chart
from schemas import DEFINITIONS, Loader

from built_tools import module_folder
from cluster.access import Cluster
from cluster.api_server import running_api_server


@pytest.fixture(params=["default", *[path.name.removesuffix("-values.yaml") for path in CI_VALUES]], scope="session")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """The chart with its own values, and with those of each file in ci/."""
    if request.param == "default":
        return render_chart()
    return render_chart([CHART / "ci" / f"{request.param}-values.yaml"])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real API server that knows the operators' kinds."""
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        install_definitions(server.cluster)
        yield server.cluster


def install_definitions(cluster: Cluster) -> None:
    """The kinds of KubeRay, Prometheus' operator, cert-manager and the Gateway API."""
    definitions = client.ApiextensionsV1Api(cluster.api())
    for module, pattern in DEFINITIONS.values():
        for path in module_folder(module).glob(pattern):
            definition = yaml.load(path.read_text(), Loader=Loader)
            definition["metadata"].pop("labels", None)  # cert-manager's are a template's
            definitions.create_custom_resource_definition(definition)
