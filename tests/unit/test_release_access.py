"""The way to the API server: kubeconfigs, contexts, TLS, credentials and rights."""

import base64
import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest

import fake_kubelet
import fake_services as fake
from fake_kubernetes import (
    FakeKubernetes,
    serving,
)
from release_lab import (
    connect,
    failure,
    get_study,
    install,
    port_of,
    write_contexts,
)
from synthmix.client.client import Client
from synthmix.service_kit import errors


def test_the_name_alone_is_in_the_contexts_namespace(lab: FakeKubernetes, tmp_path: Path, services: Any) -> None:
    path = write_contexts(tmp_path, lab.url)
    assert os.environ["KUBECONFIG"] == str(path)
    with Client.connect(release="synthmix", kube_context="lab") as client:
        assert client.get_study("demo").name == fake.STUDY
    assert isinstance(failure(lambda: Client.connect(release="synthmix")), errors.NotFound)  # in "default"


def test_no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    error = failure(connect)
    assert isinstance(error, errors.FailedPrecondition) and str(tmp_path / "absent") in error.message
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / ".kube" / "config") in failure(connect).message


@pytest.mark.parametrize("text", ["", "nonsense", "contexts: [", "[]", "apiVersion: v1\nkind: Config\ncontexts: []\n"])
def test_a_kubeconfig_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    error = failure(connect)
    assert isinstance(error, errors.FailedPrecondition) and error.reason == "KUBECONFIG_INVALID"
    assert str(path) in error.message


def test_a_context_that_is_unknown(lab: FakeKubernetes, tmp_path: Path) -> None:
    write_contexts(tmp_path, lab.url)
    error = failure(lambda: connect(kube_context="lap"))
    assert isinstance(error, errors.InvalidArgument)
    assert "no context 'lap'; did you mean 'lab'? it has: fake, lab" in error.message


def test_an_api_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_contexts(tmp_path, "http://127.0.0.1:1")))
    error = failure(connect)
    assert isinstance(error, errors.Unavailable) and "http://127.0.0.1:1 does not answer" in error.message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_api_server_that_is_too_busy(lab: FakeKubernetes, status: int) -> None:
    lab.failing = status
    assert isinstance(failure(connect), errors.Unavailable)


@pytest.mark.parametrize("way", ["authority in the file", "client certificate", "unverified", "another name"])
def test_tls_as_a_kubeconfig_may_have_it(
    services: fake.FakeServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    certificate, key = fake_kubelet.make_certificate(tmp_path, "DNS:api.example" if way == "another name" else "")
    tls = fake_kubelet.server_tls(certificate, key)
    cluster: dict[str, Any] = {"certificate-authority": str(certificate)}
    if way == "authority in the file":
        cluster = {"certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode()}
    elif way == "client certificate":
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificate)
    elif way == "unverified":
        cluster = {"insecure-skip-tls-verify": True}
    else:
        cluster["tls-server-name"] = "api.example"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(tls) as kubernetes:
        install(kubernetes, port_of(services))
        path = write_contexts(tmp_path, kubernetes.url, **cluster)
        if way == "client certificate":
            content = json.loads(path.read_text())
            content["users"][0]["user"] |= {"client-certificate": str(certificate), "client-key": str(key)}
            path.write_text(json.dumps(content))
        monkeypatch.setenv("KUBECONFIG", str(path))
        get_study()


def test_an_api_server_that_is_not_who_it_should_be(services: Any, tmp_path: Path, monkeypatch: Any) -> None:
    certificate, key = fake_kubelet.make_certificate(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(fake_kubelet.server_tls(certificate, key)) as kubernetes:
        install(kubernetes, port_of(services))
        write_contexts(tmp_path, kubernetes.url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        error = failure(connect)
    assert isinstance(error, errors.Unavailable) and "certificate" in error.message.lower()


def test_credentials_that_are_refused(lab: FakeKubernetes, tmp_path: Path) -> None:
    write_contexts(tmp_path, lab.url, token="an old one")
    error = failure(connect)
    assert isinstance(error, errors.Unauthenticated) and "log in again" in error.message
    assert "an old one" not in error.message


@pytest.mark.parametrize(("verb", "resource"), [("list", "services"), ("list", "pods"), ("get", "pods/portforward")])
def test_a_right_that_is_missing_is_named(lab: FakeKubernetes, verb: str, resource: str) -> None:
    lab.forbidden = {(verb, resource)}
    error = failure(get_study)
    assert isinstance(error, errors.PermissionDenied) and error.reason == "RBAC_RIGHT_MISSING"
    assert f"you may not {verb} {resource} in namespace lab" in error.message
    assert (
        "access.clients" in error.message and f"`kubectl auth can-i {verb} {resource} --namespace lab`" in error.message
    )
