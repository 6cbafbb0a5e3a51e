"""A release that serves TLS, by a Secret that is given: a study from outside to its report, and nothing in clear."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from release import PREFIX, Release, running_release

from certificates import Authority, new_authority
from cluster.access import Cluster
from synthmix.local.ports import LOOPBACK
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import Unavailable

NAMESPACE, SECRET = "with-tls", "our-certificate"
# Its pods share the node with another release.
WORKER = {"resources": {"requests": {"cpu": "100m"}}}
VALUES = {
    "tls": {"enabled": True, "existingSecret": SECRET},
    "workers": dict.fromkeys(("adapterTraining", "imageSynthesis", "classifierEvaluation"), WORKER),
}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority()


@pytest.fixture(scope="module")
def encrypted(
    cluster: Cluster, values: list[Path], authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("encrypted")
    (folder / "tls.yaml").write_text(yaml.safe_dump(VALUES))
    names = [f"{PREFIX}-{server}" for server in (*SERVICES, "minio")]
    tls = authority.write_server(folder, names)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {
            "tls.crt": tls.certificate.read_text(),
            "tls.key": tls.key.read_text(),
            "ca.crt": authority.pem.decode(),
        },
    }
    with running_release(cluster, [*values, folder / "tls.yaml"], folder, NAMESPACE, [secret]) as release:
        yield release


def test_a_study_goes_over_tls_to_its_report(encrypted: Release, tmp_path: Path) -> None:
    """Services and workers have no other way to one another and to object storage."""
    encrypted.helm("test")
    report = encrypted.study_to_report("over-tls", tmp_path)
    assert "<html" in (report / "report.html").read_text()


def test_who_does_not_encrypt_is_refused(encrypted: Release) -> None:
    with encrypted.client() as reached:
        for service in SERVICES:
            reached.check_health(service)
            with grpc.insecure_channel(reached.endpoints.addresses[service]) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                with pytest.raises(grpc.RpcError) as refused:
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, service
    with pytest.raises(HTTPError, match="Bad Request"):
        urlopen(f"http://{LOOPBACK}:{encrypted.storage_port}/minio/health/live", timeout=10)


def test_a_caller_trusts_the_authority_of_the_secret_alone(
    encrypted: Release, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ours.pem").write_bytes(authority.pem)
    (tmp_path / "another.pem").write_bytes(new_authority("another").pem)
    ssl.get_server_certificate((LOOPBACK, encrypted.storage_port), ca_certs=str(tmp_path / "ours.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.get_server_certificate((LOOPBACK, encrypted.storage_port), ca_certs=str(tmp_path / "another.pem"))
    with (
        encrypted.client(tls_ca=tmp_path / "another.pem") as caller,
        pytest.raises(Unavailable, match="shows a certificate that cannot be verified"),
    ):
        caller.check_health(SERVICES[0])
