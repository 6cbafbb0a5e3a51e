"""`--release` against a real API server, with the chart as it installs and the rights that it gives.

No kubelet runs here, so that pods are only written down; a port forward goes from the API server to a fake one.
"""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from aiohttp import web
from kubernetes import client, config
from rendering import CHART, RELEASE

import fake_kubelet
import fake_services as fake
from cluster.access import Cluster
from synthmix import Client
from synthmix.client.release.access import connect_as_caller
from synthmix.client.release.discovery import find_release, ready_pods
from synthmix.client.release.tokens import ReleaseToken
from synthmix.service_kit import errors, kubernetes_api
from synthmix.service_kit.authentication import KubernetesReviews, authenticate
from synthmix.service_kit.environment import SERVICES, STUDY_CONTROL
from synthmix.service_kit.tokens import StaticTokens

NAMESPACE, RENAMED, PEOPLE = "reached", "reached-renamed", "people"
PREFIX = f"{RELEASE}-synthmix"
NODE = "fake-node"
AUDIENCE = "synthmix"
GET, CREATE = "/synthmix.studies.v1.StudyService/GetStudy", "/synthmix.studies.v1.StudyService/CreateStudy"
ADA = ",".join(
    f"access.clients.subjects[0].{key}={value}"
    for key, value in {"kind": "ServiceAccount", "name": "ada", "namespace": PEOPLE}.items()
)
SERVICES_RULE = client.V1PolicyRule(api_groups=[""], resources=["services"], verbs=["list"])
PODS_RULE = client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["list"])


@pytest.fixture(scope="module")
def services() -> Iterator[fake.FakeServices]:
    with fake.serving() as services:
        services.answers["GetStudy"] = lambda request, context: fake.study()
        yield services


@pytest.fixture(scope="module")
def kubelet(services: fake.FakeServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a kubelet whose every pod's every port is the services'."""
    target = int(services.address.rpartition(":")[2])

    async def forward(request: web.Request) -> web.StreamResponse:
        return await fake_kubelet.serve_port_forward(
            request, request.match_info["pod"], int(request.query["port"]), target
        )

    def application() -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/portForward/{namespace}/{pod}", forward)
        return application

    tls = fake_kubelet.server_tls(*fake_kubelet.make_certificate(tmp_path_factory.mktemp("kubelet")))
    with fake_kubelet.serving(application, tls) as port:
        yield port


@pytest.fixture(scope="module")
def installed(cluster: Cluster, kubelet: int) -> Cluster:
    """The chart, with names of its own and with others, both with a pod of each service on the node of the kubelet."""
    core = client.CoreV1Api(cluster.api())
    core.create_node({"metadata": {"name": NODE}})
    address = {"type": "InternalIP", "address": "127.0.0.1"}
    endpoint = {"kubeletEndpoint": {"Port": kubelet}}
    core.patch_node_status(NODE, {"status": {"addresses": [address], "daemonEndpoints": endpoint}})
    core.create_namespace({"metadata": {"name": PEOPLE}})
    for account in ("ada", "bob"):
        core.create_namespaced_service_account(PEOPLE, {"metadata": {"name": account}})
    others = "fullnameOverride=cells,nameOverride=imaging,access.existingSecret=ours,access.clients.role=viewer"
    for namespace, values in ((NAMESPACE, ADA), (RENAMED, f"{ADA},{others}")):
        cluster.create_namespace(namespace)
        options = [f"--namespace={namespace}", "--set", f"access.clients.enabled=true,{values}"]
        cluster.helm("install", RELEASE, str(CHART), *options)
        make_pods(cluster, namespace)
    token = base64.b64encode(b"a token of ours").decode()
    core.create_namespaced_secret(RENAMED, {"metadata": {"name": "ours"}, "data": {"token": token}})
    return cluster


def make_pods(cluster: Cluster, namespace: str) -> None:
    """Does what controllers, scheduler and kubelet would: a ready pod for each Deployment of a service."""
    api = cluster.api()
    core, found = client.CoreV1Api(api), client.AppsV1Api(api).list_namespaced_deployment(namespace).items
    deployments = {item.metadata.labels["app.kubernetes.io/component"]: item for item in found}
    for service in SERVICES:
        template = deployments[service].spec.template
        template.metadata.name, template.spec.node_name = f"{service}-0", NODE
        core.create_namespaced_pod(namespace, {"metadata": template.metadata, "spec": template.spec})
        ready = {"type": "Ready", "status": "True"}
        core.patch_namespaced_pod_status(
            f"{service}-0", namespace, {"status": {"phase": "Running", "conditions": [ready]}}
        )


def become(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, account: str) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig_of(cluster.token_of(account, PEOPLE))))


@pytest.fixture
def administrator(installed: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig))


@pytest.fixture
def ada(installed: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom the chart's values name, and who may nothing else."""
    become(installed, monkeypatch, "ada")


def token_for(release: str) -> ReleaseToken:
    access = connect_as_caller()
    return ReleaseToken(access, find_release(access, release))


def lets_in(cluster: Cluster, namespace: str, prefix: str, token: str, method: str) -> bool:
    """What study-control's pods would say of a call."""
    configuration = client.Configuration()
    path = cluster.kubeconfig_of(cluster.token_of(f"{prefix}-study-control", namespace))
    config.load_kube_config(str(path), client_configuration=configuration)
    reviews = KubernetesReviews(kubernetes_api.client_of(configuration), AUDIENCE, namespace, f"{namespace}-{prefix}")
    try:
        asyncio.run(authenticate(f"Bearer {token}", method, StaticTokens.of("a static token"), reviews))
    except errors.PermissionDenied:
        return False
    return True


def test_a_client_of_the_chart_reaches_every_service(ada: None) -> None:
    with Client.connect(release=f"{NAMESPACE}/{RELEASE}") as caller:
        for service in SERVICES:
            caller.check_health(service)
    with Client.connect(release=f"{NAMESPACE}/{RELEASE}", token=fake.TOKEN) as caller:
        assert caller.get_study("demo").name == fake.STUDY


@pytest.mark.parametrize(("namespace", "prefix", "may_create"), [(NAMESPACE, PREFIX, True), (RENAMED, "cells", False)])
def test_a_client_of_the_chart_is_its_service_account(
    installed: Cluster, ada: None, namespace: str, prefix: str, may_create: bool
) -> None:
    token = token_for(f"{namespace}/{RELEASE}")
    shown = token()
    assert token.origin == f"service account {prefix}-client"
    assert lets_in(installed, namespace, prefix, shown, GET)
    assert lets_in(installed, namespace, prefix, shown, CREATE) == may_create


@pytest.mark.parametrize(("namespace", "secret"), [(NAMESPACE, f"{PREFIX}-token"), (RENAMED, "ours")])
def test_who_may_read_the_secret_shows_its_token(
    installed: Cluster, administrator: None, namespace: str, secret: str
) -> None:
    token = token_for(f"{namespace}/{RELEASE}")
    data = client.CoreV1Api(installed.api()).read_namespaced_secret(secret, namespace).data
    assert token() == base64.b64decode(data["token"]).decode()
    assert token.origin == f"Secret {secret}"


@pytest.mark.parametrize(("namespace", "prefix"), [(NAMESPACE, PREFIX), (RENAMED, "cells")])
def test_services_and_pods_are_found_by_what_the_chart_writes(administrator: None, namespace: str, prefix: str) -> None:
    access = connect_as_caller()
    found = find_release(access, f"{namespace}/{RELEASE}")
    assert set(found.services) == set(SERVICES)
    assert (found.audience, found.client_account) == (AUDIENCE, f"{prefix}-client")
    for service in SERVICES:
        assert ready_pods(access, found, service) == [(f"{service}-0", 50051)]


def test_a_release_that_is_not_there(administrator: None) -> None:
    with pytest.raises(errors.NotFound, match=f"did you mean '{RELEASE}'"):
        Client.connect(release=f"{NAMESPACE}/lap")
    with pytest.raises(errors.NotFound, match=f"no namespace 'reach'.* did you mean '{NAMESPACE}/{RELEASE}'"):
        Client.connect(release=f"reach/{RELEASE}")


def test_a_client_of_the_chart_learns_no_more_than_the_release(ada: None) -> None:
    with pytest.raises(errors.NotFound) as caught:
        Client.connect(release=f"{NAMESPACE}/absent")
    assert RENAMED not in caught.value.message
    with pytest.raises(errors.PermissionDenied):
        Client.connect(release=f"default/{RELEASE}")


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ([], "list services"),
        ([SERVICES_RULE], "list pods"),
        ([SERVICES_RULE, PODS_RULE], "get pods/portforward"),
    ],
    ids=["none", "services", "services and pods"],
)
def test_each_right_that_is_missing_is_named(
    installed: Cluster, monkeypatch: pytest.MonkeyPatch, rules: Sequence[Any], missing: str
) -> None:
    rbac = client.RbacAuthorizationV1Api(installed.api())
    rbac.create_namespaced_role(NAMESPACE, {"metadata": {"name": "bob"}, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bob"}
    subjects = [{"kind": "ServiceAccount", "name": "bob", "namespace": PEOPLE}]
    rbac.create_namespaced_role_binding(
        NAMESPACE, {"metadata": {"name": "bob"}, "roleRef": reference, "subjects": subjects}
    )
    become(installed, monkeypatch, "bob")
    try:
        with (
            pytest.raises(errors.PermissionDenied, match=f"you may not {missing} in namespace {NAMESPACE}") as caught,
            Client.connect(release=f"{NAMESPACE}/{RELEASE}", token="t") as caller,
        ):
            caller.check_health(STUDY_CONTROL)
        assert f"system:serviceaccount:{PEOPLE}:bob" in caught.value.message
        if rules:
            with pytest.raises(errors.Unauthenticated, match=r"secrets/.* you may not create serviceaccounts/token"):
                Client.connect(release=f"{NAMESPACE}/{RELEASE}")
    finally:
        rbac.delete_namespaced_role_binding("bob", NAMESPACE)
        rbac.delete_namespaced_role("bob", NAMESPACE)


def test_what_the_installation_prints(installed: Cluster) -> None:
    """Word for word but for the study."""
    notes = installed.helm("get", "notes", RELEASE, f"--namespace={NAMESPACE}").stdout
    assert f"synthmix --release {NAMESPACE}/{RELEASE} doctor --services" in notes
    assert "port-forward" not in notes and "SYNTHMIX_TOKEN" not in notes


def test_with_an_ingress_the_installation_tells_of_it_too(installed: Cluster) -> None:
    namespace = "reached-outside"
    installed.create_namespace(namespace)
    installed.helm("install", RELEASE, str(CHART), f"--namespace={namespace}", f"--values={CHART}/ci/full-values.yaml")
    notes = installed.helm("get", "notes", RELEASE, f"--namespace={namespace}").stdout
    assert "export SYNTHMIX_ADDRESS=https://synthmix.lab.example\n" in notes
    assert f"synthmix --release {namespace}/{RELEASE} doctor" in notes
    installed.helm("uninstall", RELEASE, f"--namespace={namespace}")
