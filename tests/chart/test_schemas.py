"""Every object that the chart makes, against every version of Kubernetes that it supports and the operators' kinds."""

from typing import Any

import pytest
from rendering import Rendered
from schemas import KUBERNETES_VERSIONS, problems


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_objects_are_what_kubernetes_and_operators_define(rendered: Rendered, version: str) -> None:
    found = [
        f"{item['kind']} {item['metadata']['name']} {problem}"
        for item in rendered.objects
        for problem in problems(item, version)
    ]
    assert not found


def service(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (service(selectors={}), "$.spec.selectors: unknown field"),
        (service(ports=[{"port": "grpc"}]), "$.spec.ports[0].port: 'grpc' isn't numeric"),
        (service(ports={"port": 1}), "$.spec.ports: {'port': 1} has the wrong shape"),
        (service() | {"apiVersion": "v7"}, "v7 Service isn't a kind of Kubernetes 0.34.4"),
        (
            {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {}, "spec": {"headGroupSpecs": {}}},
            "$.spec: 'headGroupSpec' is a required property",
        ),
    ],
)
def test_what_is_wrong_is_found(item: dict[str, Any], problem: str) -> None:
    assert problem in problems(item, "0.34.4")
