"""A release in a fake cluster, whose services are in this process: what the tests of `--release` share."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fake_services as fake
from fake_kubernetes import (
    NAMESPACE,
    SERVICE_TOKEN,
    FakeKubernetes,
    release_services,
    serving_pod,
    write_kubeconfig,
)
from synthmix.client.client import Client
from synthmix.service_kit import errors
from synthmix.service_kit.environment import SERVICES

RELEASE = f"{NAMESPACE}/synthmix"

MEBIBYTE = 2**20

LONG_S = 300.0  # a deadline: nothing takes as long, on the slowest machine

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}


@pytest.fixture
def services() -> Iterator[fake.FakeServices]:
    with fake.serving() as services:
        services.answers["GetStudy"] = lambda request, context: fake.study()
        services.answers["UploadFile"] = fake.upload
        yield services


@pytest.fixture
def lab(kubernetes: FakeKubernetes, services: fake.FakeServices) -> FakeKubernetes:
    install(kubernetes, port_of(services))
    return kubernetes


def port_of(services: fake.FakeServices) -> int:
    return int(services.address.rpartition(":")[2])


def install(kubernetes: FakeKubernetes, port: int | None, token: str = fake.TOKEN, **annotations: str) -> None:
    """A release whose services have a pod each, all of which are at this port of loopback."""
    for item in release_services(**annotations):
        kubernetes.put("services", item)
    for service in SERVICES:
        add_pod(kubernetes, f"{service}-a", service, port)
    data = {"token": base64.b64encode(token.encode()).decode()}
    kubernetes.put("secrets", {"metadata": {"name": "synthmix-token"}, "data": data})


def add_pod(kubernetes: FakeKubernetes, name: str, service: str, at: int | None, **more: Any) -> None:
    kubernetes.put("pods", serving_pod(name, service, **more))
    if at is not None:
        kubernetes.ports[name, 50051] = at


def write_contexts(folder: Path, url: str, token: str = SERVICE_TOKEN, **cluster: Any) -> Path:
    """A kubeconfig of two contexts, the current one without a namespace."""
    path = folder / "kubeconfig"
    content = json.loads(write_kubeconfig(path, url).read_text())
    content["clusters"][0]["cluster"] |= cluster
    content["users"][0]["user"]["token"] = token
    content["contexts"].append(
        {"name": "lab", "context": {"cluster": "fake", "user": "service", "namespace": NAMESPACE}}
    )
    path.write_text(json.dumps(content))
    return path


def failure(work: Callable[[], object]) -> errors.SynthMixError:
    with pytest.raises(errors.SynthMixError) as caught:
        work()
    return caught.value


def connect(**options: Any) -> Client:
    return Client.connect(release=RELEASE, **options)


def get_study(**options: Any) -> object:
    with connect(**options) as client:
        return client.get_study("demo")
