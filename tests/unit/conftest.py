"""What several unit tests share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fake_kubernetes
from memory_object_store import MemoryObjectStore
from release_lab import lab as lab
from release_lab import services as services
from synthmix.service_kit import kubernetes_api, transport


@pytest.fixture(autouse=True)
def base_models(any_base_model: None) -> None:
    """What a reference names is for the tests to say."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC asks as often as it would, and waits for milliseconds in between."""
    config = json.loads(transport.service_config())
    config["methodConfig"][0]["retryPolicy"] |= {"initialBackoff": "0.01s", "maxBackoff": "0.02s"}
    monkeypatch.setattr(transport, "service_config", lambda: json.dumps(config))


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore.created()


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fake_kubernetes.FakeKubernetes]:
    """A Kubernetes API server, which KUBECONFIG names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with fake_kubernetes.serving() as server:
        monkeypatch.setenv("KUBECONFIG", str(fake_kubernetes.write_kubeconfig(tmp_path / "kubeconfig", server.url)))
        yield server


@pytest.fixture
def api(kubernetes: fake_kubernetes.FakeKubernetes) -> Iterator[Any]:
    """A client of that server."""
    with kubernetes_api.connect() as client:
        yield client


@pytest.fixture
def clock() -> fake_kubernetes.Clock:
    return fake_kubernetes.Clock()
