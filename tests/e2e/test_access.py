"""Who gets in, by gRPC, by network and by Kubernetes' API, and that no secret lies about."""

import json
from collections.abc import Iterator

import grpc
import pytest
from accounts import Account, made_account
from kubernetes import client
from release import CONNECTS, PREFIX, Release

from cluster.access import Cluster
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.service_kit import errors
from synthmix.service_kit.environment import SERVICES, STUDY_CONTROL
from waiting import wait_until

FOREIGN = "foreign"
# What a pod of somebody else tries: TCP connections, and a request to Kubernetes' API with its own account.
INTRUDER = f"""
{CONNECTS}
import json, ssl, sys, urllib.error, urllib.request
def status(path):
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    token = {{"Authorization": "Bearer " + open(folder + "/token").read()}}
    context = ssl.create_default_context(cafile=folder + "/ca.crt")
    context.check_hostname = False
    request = urllib.request.Request("https://" + API + path, headers=token)
    try:
        return urllib.request.urlopen(request, timeout=10, context=context).status
    except urllib.error.HTTPError as error:
        return error.code
API, targets, paths = json.loads(sys.argv[1])
print(json.dumps([[connects(*target) for target in targets], [status(path) for path in paths]]))
"""


@pytest.fixture
def account(release: Release) -> Iterator[Account]:
    """A service account of the release's namespace that may look at studies."""
    with (
        made_account(release.cluster, release.namespace, "looks") as account,
        account.bound(release.role("viewer"), release.namespace),
    ):
        yield account


def list_datasets(release: Release, token: str) -> None:
    with release.client(token) as caller:
        list(caller.list_datasets())


def test_a_caller_without_a_token_is_unauthenticated(release: Release) -> None:
    with release.client() as reached, grpc.insecure_channel(reached.endpoints.addresses[STUDY_CONTROL]) as channel:
        datasets = datasets_pb2_grpc.DatasetServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            datasets.ListDatasets(datasets_pb2.ListDatasetsRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_caller_with_a_wrong_token_is_unauthenticated(release: Release) -> None:
    with pytest.raises(errors.Unauthenticated):
        list_datasets(release, "wrong")


def test_a_service_account_gets_in_by_its_audience_and_role(release: Release, account: Account) -> None:
    list_datasets(release, account.token())
    with release.client(account.token()) as viewer, pytest.raises(errors.PermissionDenied):
        viewer.scale_worker_group("image-synthesis", max_workers=2)
    with pytest.raises(errors.Unauthenticated, match="audience"):
        list_datasets(release, account.token("somebody-else"))


def test_a_foreign_pod_reaches_nothing_and_may_read_nothing(release: Release) -> None:
    domain = f"{release.namespace}.svc.cluster.local"
    within = [
        *((f"{PREFIX}-{service}.{domain}", port) for service in SERVICES for port in (50051, 9090)),
        (f"{PREFIX}-minio.{domain}", 9000),
        *((f"{PREFIX}-ray-head-svc.{domain}", port) for port in (6379, 8265, 10001, 8080)),
    ]
    # That the API server is reached shows that what isn't reached is refused, not lost.
    outside = ("kubernetes.default.svc.cluster.local", 443)
    paths = [
        f"/api/v1/namespaces/{release.namespace}/secrets",
        f"/apis/ray.io/v1/namespaces/{release.namespace}/rayclusters",
        "/version",
    ]
    reached, statuses = run_pod(release.cluster, release.control_image, [outside[0], [*within, outside], paths])
    assert dict(zip([*within, outside], reached, strict=True)) == {**dict.fromkeys(within, False), outside: True}
    assert statuses == [403, 403, 200]


def run_pod(cluster: Cluster, image: str, arguments: object) -> list[list[object]]:
    """What INTRUDER prints in a pod of a namespace of its own."""
    core = client.CoreV1Api(cluster.api())
    cluster.create_namespace(FOREIGN)
    try:
        security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "intruder",
            "image": image,
            "command": ["python", "-c", INTRUDER, json.dumps(arguments)],
            "securityContext": security,
        }
        profile = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        specification = {"restartPolicy": "Never", "securityContext": profile, "containers": [container]}
        wait_until(
            lambda: bool(core.list_namespaced_service_account(FOREIGN).items), "the namespace has a service account"
        )
        core.create_namespaced_pod(FOREIGN, {"metadata": {"name": "intruder"}, "spec": specification})
        wait_until(
            lambda: core.read_namespaced_pod("intruder", FOREIGN).status.phase in ("Succeeded", "Failed"),
            "the pod has ended",
        )
        return json.loads(core.read_namespaced_pod_log("intruder", FOREIGN, _preload_content=False).data)
    finally:
        core.delete_namespace(FOREIGN)


def test_no_secret_lies_about(release: Release) -> None:
    """Not in a ConfigMap, in what a container logs, or in what Helm tells of its values."""
    core = client.CoreV1Api(release.cluster.api())
    names = [f"{PREFIX}-{name}" for name in ("token", "ray-token", "object-storage", "object-storage-user")]
    secrets = [value for name in names for value in release.secret(name).values()]
    assert all(len(secret) > 15 for secret in secrets)
    places = {
        "ConfigMaps": json.dumps(
            core.api_client.sanitize_for_serialization(core.list_namespaced_config_map(release.namespace))
        ),
        "helm get values": release.helm("get", "values", "--all"),
        "helm get notes": release.helm("get", "notes"),
    }
    for pod in release.pods():
        for container in pod.spec.containers:
            name = pod.metadata.name
            places[f"{name} {container.name}"] = core.read_namespaced_pod_log(
                name, release.namespace, container=container.name, _preload_content=False
            ).data.decode(errors="replace")
    assert any(len(text) > 100 for name, text in places.items() if "ray-head" in name)
    assert [name for name, text in places.items() if any(secret in text for secret in secrets)] == []
