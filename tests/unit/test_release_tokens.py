"""The token of calls to a release: given, of its Secret, or of its service account."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import fake_services as fake
from fake_kubernetes import (
    NAMESPACE,
    FakeKubernetes,
    Json,
)
from release_lab import (
    RELEASE,
    connect,
    failure,
    get_study,
    install,
    port_of,
)
from synthmix.client.endpoints import find_endpoints
from synthmix.client.release.access import connect_as_caller
from synthmix.client.release.connection import OpenRelease
from synthmix.client.release.discovery import find_release
from synthmix.client.release.tokens import ReleaseToken
from synthmix.service_kit import errors


def test_a_token_that_is_given_wins(lab: FakeKubernetes) -> None:
    lab.forbidden = {("get", "secrets")}
    get_study(token=fake.TOKEN)
    assert lab.count("get", "secrets") == 0
    found = find_endpoints(release=RELEASE, environment={"SYNTHMIX_TOKEN": "from outside"})
    assert found.bearer() == "from outside"
    assert found.release is not None
    found.release.close()


def test_the_token_of_the_secret_that_the_chart_names(kubernetes: FakeKubernetes, services: fake.FakeServices) -> None:
    install(kubernetes, port_of(services), token="not this one", token_secret="ours")
    data = {"token": base64.b64encode(fake.TOKEN.encode()).decode()}
    kubernetes.put("secrets", {"metadata": {"name": "ours"}, "data": data})
    get_study()


def own_token(kubernetes: FakeKubernetes, port: int, secret: str = "forbidden") -> None:
    """A release whose Secret gives no token, and that has a service account for clients."""
    install(kubernetes, port, token_audience="studies", client_service_account="synthmix-client")
    kubernetes.put("serviceaccounts", {"metadata": {"name": "synthmix-client"}})
    if secret == "forbidden":
        kubernetes.forbidden = {("get", "secrets")}
    elif secret == "absent":
        del kubernetes.objects["secrets", NAMESPACE, "synthmix-token"]
    else:
        kubernetes.objects["secrets", NAMESPACE, "synthmix-token"]["data"] = {"token": secret}


@pytest.mark.parametrize("secret", ["forbidden", "absent", "", "%%%", "w6Q="])
def test_a_token_of_the_service_account(kubernetes: FakeKubernetes, services: fake.FakeServices, secret: str) -> None:
    own_token(kubernetes, port_of(services), secret)
    asked: list[Json] = []
    kubernetes.issued = lambda spec: (asked.append(spec), (fake.TOKEN, 3600))[1]  # type: ignore[func-returns-value]
    get_study()
    assert asked == [{"audiences": ["studies"], "expirationSeconds": 3600}]


@pytest.mark.parametrize(
    ("annotations", "forbidden", "account", "said"),
    [
        ({}, {"secrets"}, True, "access.kubernetes.enabled"),
        ({"token_audience": "a"}, {"secrets"}, True, "access.clients.enabled"),
        ({"token_audience": "a", "client_service_account": "c"}, {"secrets"}, False, "gives no token"),
        (
            {"token_audience": "a", "client_service_account": "c"},
            {"secrets", "serviceaccounts/token"},
            True,
            "you may not create serviceaccounts/token of c in lab",
        ),
    ],
)
def test_without_any_token_both_ways_are_told(
    kubernetes: FakeKubernetes, annotations: dict[str, str], forbidden: set[str], account: bool, said: str
) -> None:
    install(kubernetes, None, **annotations)
    kubernetes.forbidden = {(verb, resource) for verb in ("get", "create") for resource in forbidden}
    if account:
        kubernetes.put("serviceaccounts", {"metadata": {"name": "c"}})
    error = failure(connect)
    assert isinstance(error, errors.Unauthenticated) and error.reason == "TOKEN_MISSING"
    assert "you may not get secrets/synthmix-token in namespace lab" in error.message
    assert said in error.message and "SYNTHMIX_TOKEN" in error.message


@pytest.fixture
def renewing(kubernetes: FakeKubernetes, clock: Any) -> tuple[ReleaseToken, list[int]]:
    """A service account's token, of which each new one is a number more and good for 600 s: the least there is."""
    own_token(kubernetes, 1)
    issued: list[int] = []

    def issue(spec: Json) -> tuple[str, int]:
        issued.append(len(issued) + 1)
        return f"token {issued[-1]}", 600

    kubernetes.issued = issue
    access = connect_as_caller()
    return ReleaseToken(access, find_release(access, RELEASE), clock), issued


def test_a_token_is_renewed_before_it_ends(renewing: Any, clock: Any) -> None:
    token, _ = renewing
    seen = []
    for _ in range(12):
        seen.append(token())
        clock.now_s += 100
    assert seen == ["token 1"] * 5 + ["token 2"] * 5 + ["token 3"] * 2
    assert "token" not in repr(token._held)


@pytest.mark.parametrize("fault", ["failing", "forbidden"])
def test_a_token_that_cannot_be_renewed_is_used_to_its_end(
    kubernetes: FakeKubernetes, renewing: Any, clock: Any, fault: str
) -> None:
    token, _ = renewing
    assert token() == "token 1"
    if fault == "failing":
        kubernetes.failing = 503
    else:
        kubernetes.forbidden = {("create", "serviceaccounts/token")}
    clock.now_s += 590
    assert token() == "token 1" and token() == "token 1"
    assert kubernetes.count("create", "serviceaccounts/token") == 2, "it isn't asked for at each call"
    clock.now_s += 11
    error = failure(token)
    assert isinstance(error, errors.Unavailable if fault == "failing" else errors.Unauthenticated)
    kubernetes.failing, kubernetes.forbidden = None, set()
    assert token() == "token 2"


def test_calls_after_the_renewal_show_the_new_token(
    kubernetes: FakeKubernetes, services: fake.FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_token(kubernetes, port_of(services))
    kubernetes.issued = lambda spec: (fake.TOKEN, 0)  # ends at once: each call needs a new one
    with connect() as client:
        client.get_study("demo")
        monkeypatch.setattr(fake, "TOKEN", "the next")
        client.get_study("demo")
        kubernetes.forbidden = {("get", "secrets"), ("create", "serviceaccounts/token")}
        error = failure(lambda: client.get_study("demo"))
        assert isinstance(error, errors.Unauthenticated) and error.reason == "TOKEN_ENDED"
        streamed = failure(lambda: list(client.watch_study("demo")))
        assert streamed.reason == "TOKEN_ENDED"


def test_many_threads_ask_for_one_token(renewing: Any) -> None:
    token, issued = renewing
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: token(), range(32))) == {"token 1"}
    assert issued == [1]


def test_what_is_kept_shows_no_token(lab: FakeKubernetes) -> None:
    opened = OpenRelease(RELEASE, token="secret")
    assert str(opened) == f"release {RELEASE}" and "secret" not in repr(opened)
    opened.close()
