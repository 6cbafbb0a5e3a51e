"""Fixtures of the chart's tests."""

import pytest
from rendering import CHART, CI_VALUES, Rendered, render_chart


@pytest.fixture(params=["default", *[path.name.removesuffix("-values.yaml") for path in CI_VALUES]], scope="session")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """The chart with its own values, and with those of each file in ci/."""
    if request.param == "default":
        return render_chart()
    return render_chart([CHART / "ci" / f"{request.param}-values.yaml"])
