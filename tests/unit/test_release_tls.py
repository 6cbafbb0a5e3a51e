"""A release that serves TLS: trusted by its Secret's authority or by one that is given, for its Services' names."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import fake_services as fake
from certificates import Authority, new_authority
from fake_kubernetes import NAMESPACE, FakeKubernetes
from release_lab import RELEASE, connect, failure, get_study, install, port_of
from synthmix.client.endpoints import find_endpoints
from synthmix.service_kit import errors
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.tls import server_credentials

NAMES = [f"synthmix-{service}" for service in SERVICES]


@pytest.fixture
def authority() -> Authority:
    return new_authority()


@contextmanager
def release(
    kubernetes: FakeKubernetes, authority: Authority, folder: Path, names: Sequence[str] = NAMES
) -> Iterator[None]:
    """One whose certificate is for these names."""
    credentials = server_credentials(authority.write_server(folder, names))
    with fake.serving(credentials=credentials) as services:
        services.answers["GetStudy"] = lambda request, context: fake.study()
        install(kubernetes, port_of(services), tls_secret="services-tls")
        data = {"ca.crt": base64.b64encode(authority.pem).decode()}
        kubernetes.put("secrets", {"metadata": {"name": "services-tls"}, "data": data})
        yield


def written(authority: Authority, folder: Path) -> Path:
    path = folder / "authority.pem"
    path.write_bytes(authority.pem)
    return path


def test_its_services_are_trusted_by_the_authority_in_its_secret(
    kubernetes: FakeKubernetes, authority: Authority, tmp_path: Path
) -> None:
    with release(kubernetes, authority, tmp_path):
        get_study()
        with connect() as client:
            for service in SERVICES:
                client.check_health(service)


def test_an_authority_that_is_given_takes_the_place_of_the_secrets(
    kubernetes: FakeKubernetes, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with release(kubernetes, authority, tmp_path):
        kubernetes.forbidden = {("get", "secrets")}
        get_study(token=fake.TOKEN, tls_ca=written(authority, tmp_path))
        monkeypatch.setenv("SYNTHMIX_TLS_CA", str(written(authority, tmp_path)))
        get_study(token=fake.TOKEN)
        others = written(new_authority("another"), tmp_path)
        error = failure(lambda: get_study(token=fake.TOKEN, tls_ca=others))
        assert f"study-control at release {RELEASE} shows a certificate that cannot be verified" in error.message


def test_the_release_s_own_authority_comes_before_that_of_the_environment(
    kubernetes: FakeKubernetes, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable may be meant for another stack; what is given with the command is meant for this one."""
    others = written(new_authority("another"), tmp_path)
    monkeypatch.setenv("SYNTHMIX_TLS_CA", str(others))
    with release(kubernetes, authority, tmp_path):
        get_study()
        error = failure(lambda: get_study(tls_ca=others))
        assert "shows a certificate that cannot be verified" in error.message
        kubernetes.forbidden = {("get", "secrets")}
        error = failure(lambda: get_study(token=fake.TOKEN))
        assert "shows a certificate that cannot be verified" in error.message, "the variable's is all there is"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("forbidden", "you may not get secrets/services-tls"),
        ("absent", "Secret services-tls in namespace lab cannot be read"),
        ("empty", "Secret services-tls in namespace lab has no key ca.crt"),
        ("no base64", "key ca.crt of Secret services-tls in namespace lab is not base64"),
    ],
)
def test_where_the_authority_is_not_known_a_file_is_asked_for(
    kubernetes: FakeKubernetes, authority: Authority, tmp_path: Path, fault: str, said: str
) -> None:
    with release(kubernetes, authority, tmp_path):
        key = ("secrets", NAMESPACE, "services-tls")
        if fault == "forbidden":
            kubernetes.forbidden = {("get", "secrets")}
        elif fault == "absent":
            del kubernetes.objects[key]
        else:
            kubernetes.objects[key]["data"] = {} if fault == "empty" else {"ca.crt": "%%%"}
        error = failure(lambda: connect(token=fake.TOKEN))
        assert isinstance(error, errors.FailedPrecondition) and said in error.message
        assert "by --tls-ca or SYNTHMIX_TLS_CA" in error.message


def test_a_certificate_is_for_the_name_of_its_service(
    kubernetes: FakeKubernetes, authority: Authority, tmp_path: Path
) -> None:
    with release(kubernetes, authority, tmp_path, names=["synthmix-image-synthesis"]):
        error = failure(get_study)
        assert f"study-control at release {RELEASE} shows a certificate for another name" in error.message


def test_an_authority_for_a_release_without_tls_is_refused(lab: FakeKubernetes, tmp_path: Path) -> None:
    error = failure(lambda: find_endpoints(release=RELEASE, tls_ca=tmp_path))
    assert isinstance(error, errors.InvalidArgument) and "--tls-ca is of no use with release" in error.message
    get_study()
