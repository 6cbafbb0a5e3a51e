"""Fixtures of the chart's tests."""

from collections.abc import Iterator

import pytest
from api_server import ApiServer, install_definitions, running_api_server
from rendering import CHART, CI_VALUES, Rendered, render_chart


@pytest.fixture(params=["default", *[path.name.removesuffix("-values.yaml") for path in CI_VALUES]], scope="session")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """The chart with its own values, and with those of each file in ci/."""
    if request.param == "default":
        return render_chart()
    return render_chart([CHART / "ci" / f"{request.param}-values.yaml"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server that knows the operators' kinds."""
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        install_definitions(server)
        yield server
