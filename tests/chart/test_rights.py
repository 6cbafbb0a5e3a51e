"""What the services do with the Kubernetes API, against a real one, with the rights that the chart gives them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from rendering import CHART, RELEASE

from cluster.access import Cluster
from synthmix.service_kit import errors, kubernetes_api
from synthmix.service_kit.authentication import Identity, KubernetesReviews, authenticate
from synthmix.service_kit.environment import KubernetesSettings, kubernetes_settings
from synthmix.service_kit.tokens import StaticTokens
from synthmix.study_control.clusters import KubernetesCluster, open_cluster
from synthmix.study_control.worker_groups import Scaling
from waiting import wait_until

NAMESPACE, PLAIN = "rights", "rights-plain"
PREFIX = f"{RELEASE}-synthmix"
AUDIENCE = "synthmix"
GET, CREATE = "/synthmix.studies.v1.StudyService/GetStudy", "/synthmix.studies.v1.StudyService/CreateStudy"
SCALE = "/synthmix.clusters.v1.ClusterService/ScaleWorkerGroup"


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    """The chart in NAMESPACE, and in PLAIN without the KubeRay operator."""
    for namespace, values in ((NAMESPACE, []), (PLAIN, [f"--values={CHART}/ci/plain-ray-values.yaml"])):
        cluster.create_namespace(namespace)
        cluster.helm("install", RELEASE, str(CHART), f"--namespace={namespace}", *values)
    wait_until(lambda: is_narrowed(cluster), "the API server goes by the admission policy", 30.0)
    yield cluster


def is_narrowed(cluster: Cluster) -> bool:
    """The API server hears of a new policy as controllers hear of objects: a moment later."""
    token = cluster.token_of(f"{PREFIX}-study-control", NAMESPACE)
    api = client.CustomObjectsApi(kubernetes_api.client_of(configuration_of(cluster, token)))
    try:
        api.patch_namespaced_custom_object(**RAY, body=patched("/spec/suspend", True, "add"), dry_run="All", **AS_PATCH)
    except client.ApiException as error:
        return bool(error.status == 422)
    return False


@pytest.fixture
def study_control(installed: Cluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An ApiClient as study_control's pods have it."""
    return connect_as(installed, monkeypatch, NAMESPACE, "study-control")


def connect_as(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, namespace: str, service: str) -> Any:
    token = cluster.token_of(f"{PREFIX}-{service}", namespace)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig_of(token)))
    return kubernetes_api.connect()


def refusal(reviews: KubernetesReviews, token: str, method: str = GET) -> errors.SynthMixError:
    with pytest.raises(errors.SynthMixError) as caught:
        asyncio.run(authenticate(f"Bearer {token}", method, StaticTokens.of("a static token"), reviews))
    return caught.value


@pytest.mark.parametrize("service", ["adapter-training", "study-control"])
def test_callers_are_who_the_cluster_says_and_may_what_it_says(
    installed: Cluster, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    core, rbac = client.CoreV1Api(installed.api()), client.RbacAuthorizationV1Api(installed.api())
    role_prefix = f"{NAMESPACE}-{PREFIX}"
    for role in ("stranger", "viewer", "editor"):
        name = f"{service}-{role}"
        core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": name}})
        if role != "stranger":
            binding = {
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": f"{role_prefix}-{role}",
                },
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
            }
            rbac.create_namespaced_role_binding(NAMESPACE, binding)
    api = connect_as(installed, monkeypatch, NAMESPACE, service)
    reviews = KubernetesReviews(api, AUDIENCE, NAMESPACE, role_prefix)
    tokens = {
        role: installed.token_of(f"{service}-{role}", NAMESPACE, AUDIENCE) for role in ("stranger", "viewer", "editor")
    }

    async def let_in() -> None:
        for role, method in (("viewer", GET), ("editor", GET), ("editor", CREATE), ("editor", SCALE)):
            await authenticate(f"Bearer {tokens[role]}", method, StaticTokens.of("a static token"), reviews)

    asyncio.run(let_in())
    for role, method in (("stranger", GET), ("viewer", CREATE), ("viewer", SCALE)):
        error = refusal(reviews, tokens[role], method)
        assert isinstance(error, errors.PermissionDenied)
        assert f"system:serviceaccount:{NAMESPACE}:{service}-{role}" in error.message
        assert f"{role_prefix}-{'viewer' if method == GET else 'editor'}" in error.message
    elsewhere = installed.token_of(f"{service}-editor", NAMESPACE, "somebody-else")
    for token, reason in (
        (elsewhere, "TOKEN_AUDIENCE"),
        ("nonsense", "TOKEN_WRONG"),
        (tokens["editor"][:-4], "TOKEN_WRONG"),
    ):
        error = refusal(reviews, token)
        assert isinstance(error, errors.Unauthenticated) and error.reason == reason
    # A token for the API server itself isn't for us.
    assert refusal(reviews, installed.token_of(f"{service}-editor", NAMESPACE)).reason == "TOKEN_AUDIENCE"


def test_worker_groups_are_read_and_scaled(study_control: Any) -> None:
    cluster = open_cluster(KubernetesSettings(namespace=NAMESPACE, ray_cluster=f"{PREFIX}-ray"))
    assert isinstance(cluster, KubernetesCluster)
    found = cluster.read()
    assert not found.warnings
    assert {group.name: (group.min_workers, group.max_workers) for group in found.worker_groups} == {
        "adapter-training": (0, 4),
        "image-synthesis": (0, 8),
        "classifier-evaluation": (0, 8),
        "study-control": (1, 4),
    }
    assert all(group.gpus_per_worker == (group.name != "study-control") for group in found.worker_groups)
    tried = cluster.scale(Scaling(worker_group="image-synthesis", min_workers=1, max_workers=64, validate_only=True))
    assert (tried.min_workers, tried.max_workers) == (1, 64)
    after = cluster.scale(Scaling(worker_group="image-synthesis", max_workers=2))
    assert (after.min_workers, after.max_workers) == (0, 2)
    bounds = {group.name: group.max_workers for group in cluster.read().worker_groups}
    assert bounds == {
        "adapter-training": 4,
        "image-synthesis": 2,
        "classifier-evaluation": 8,
        "study-control": 4,
    }
    with pytest.raises(errors.InvalidArgument, match="image-synthesis"):
        cluster.scale(Scaling(worker_group="image-synthesys", max_workers=2))


def patched(path: str, value: Any, operation: str = "replace") -> list[dict[str, Any]]:
    return [{"op": operation, "path": path} | ({} if operation == "remove" else {"value": value})]


RAY = {"group": "ray.io", "version": "v1", "namespace": NAMESPACE, "plural": "rayclusters", "name": f"{PREFIX}-ray"}
AS_PATCH = {"_content_type": "application/json-patch+json"}
GROUP, HEAD = "/spec/workerGroupSpecs/2", "/spec/headGroupSpec/template/spec"


@pytest.mark.parametrize(
    "body",
    [
        patched(f"{GROUP}/template/spec/containers/0/image", "evil"),
        patched(f"{GROUP}/template/spec/automountServiceAccountToken", True),
        patched(f"{GROUP}/template/spec/serviceAccountName", "default", "add"),
        patched(f"{GROUP}/template/metadata/annotations/x", "y", "add"),
        patched(f"{GROUP}/replicas", 7),
        patched(f"{GROUP}/suspend", True, "add"),
        patched(f"{GROUP}/labels", None, "remove"),
        patched(f"{GROUP}/groupName", "other"),
        patched(GROUP, None, "remove"),
        [{"op": "copy", "from": GROUP, "path": "/spec/workerGroupSpecs/-"}],
        [
            {"op": "copy", "from": GROUP, "path": "/spec/workerGroupSpecs/0"},
            *patched("/spec/workerGroupSpecs/1", 0, "remove"),
        ],
        patched(f"{HEAD}/containers/0/image", "evil"),
        patched(f"{HEAD}/automountServiceAccountToken", True),
        patched("/spec/enableInTreeAutoscaling", False),
        patched("/spec/autoscalerOptions/image", "evil", "add"),
        patched("/spec/suspend", True, "add"),
        patched("/spec/upgradeStrategy", None, "remove"),
        patched("/metadata/labels/x", "y", "add"),
        patched("/metadata/annotations", {"x": "y"}, "add"),
        patched("/metadata/finalizers", ["x.example/y"], "add"),
        [*patched(f"{GROUP}/maxReplicas", 3), *patched(f"{HEAD}/containers/0/image", "evil")],
    ],
    ids=lambda body: f"{body[-1]['op']} {body[-1]['path']}",
)
def test_study_control_changes_bounds_of_worker_groups_and_nothing_else(
    body: list[dict[str, Any]], installed: Cluster, study_control: Any
) -> None:
    clusters, anybody = client.CustomObjectsApi(study_control), client.CustomObjectsApi(installed.api())
    before = clusters.get_namespaced_custom_object(**RAY)
    with pytest.raises(client.ApiException) as caught:
        clusters.patch_namespaced_custom_object(**RAY, body=body, **AS_PATCH)
    assert caught.value.status == 422 and "study-control may" in caught.value.body, caught.value.body
    assert clusters.get_namespaced_custom_object(**RAY) == before
    # It is refused to study-control alone: nothing else is wrong with it.
    anybody.patch_namespaced_custom_object(**RAY, body=body, dry_run="All", **AS_PATCH)


def test_bounds_that_were_not_set_can_be(installed: Cluster, study_control: Any) -> None:
    clusters = client.CustomObjectsApi(study_control)
    for body in (patched(f"{GROUP}/minReplicas", 0, "remove"), patched(f"{GROUP}/minReplicas", 0, "add")):
        clusters.patch_namespaced_custom_object(**RAY, body=body, **AS_PATCH)


def test_a_service_knows_the_others_by_the_tokens_that_their_pods_have(
    installed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = client.CoreV1Api(installed.api())
    deployment = client.AppsV1Api(installed.api()).read_namespaced_deployment(f"{PREFIX}-adapter-training", NAMESPACE)
    variables = {item.name: item.value for item in deployment.spec.template.spec.containers[0].env if item.value}
    settings = kubernetes_settings(variables | {"SYNTHMIX_NAMESPACE": NAMESPACE})
    api = connect_as(installed, monkeypatch, NAMESPACE, "adapter-training")
    reviews = KubernetesReviews(
        api,
        settings.audience,
        NAMESPACE,
        settings.role_prefix,
        services_audience=settings.services_audience,
        service_accounts=settings.service_accounts,
    )
    delete = "/synthmix.adapters.v1.AdapterService/DeleteAdapter"

    def ask(account: str, audience: str, method: str = delete) -> Identity:
        token = installed.token_of(account, NAMESPACE, audience)
        return asyncio.run(authenticate(f"Bearer {token}", method, StaticTokens.of("a static token"), reviews))

    for service in ("study-control", "ray-head"):
        found = ask(f"{PREFIX}-{service}", settings.services_audience)
        assert found.names_others and not asyncio.run(found.administration.allows())
        with pytest.raises(errors.PermissionDenied):  # as a caller it may nothing
            ask(f"{PREFIX}-{service}", settings.audience)
    core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": "mallory"}})
    with pytest.raises(errors.Unauthenticated):
        ask("mallory", settings.services_audience)
    with pytest.raises(errors.Unauthenticated):  # nor is another service any that asks for others
        ask(f"{PREFIX}-image-synthesis", settings.services_audience)
    # Its token opens nothing of the API server itself.
    token = installed.token_of(f"{PREFIX}-ray-head", NAMESPACE, settings.services_audience)
    stolen = kubernetes_api.client_of(configuration_of(installed, token))
    with pytest.raises(client.ApiException) as refused:
        client.CoreV1Api(stolen).list_namespaced_pod(NAMESPACE)
    assert refused.value.status == 401


def configuration_of(cluster: Cluster, token: str) -> Any:
    configuration = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig_of(token)), client_configuration=configuration)
    return configuration


@pytest.mark.parametrize("role", ["editor", "admin"])
def test_an_administrator_may_change_what_is_anothers(
    role: str, installed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = f"changes-as-{role}"
    client.CoreV1Api(installed.api()).create_namespaced_service_account(NAMESPACE, {"metadata": {"name": account}})
    api = connect_as(installed, monkeypatch, NAMESPACE, "study-control")
    reviews = KubernetesReviews(api, AUDIENCE, NAMESPACE, f"{NAMESPACE}-{PREFIX}")
    token = installed.token_of(account, NAMESPACE, AUDIENCE)
    binding = {
        "metadata": {"name": account},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": f"{NAMESPACE}-{PREFIX}-{role}",
        },
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    }
    client.RbacAuthorizationV1Api(installed.api()).create_namespaced_role_binding(NAMESPACE, binding)
    delete = "/synthmix.studies.v1.StudyService/DeleteStudy"

    async def allows() -> bool:
        found = await authenticate(f"Bearer {token}", delete, StaticTokens.of("a static token"), reviews)
        assert f"--clusterrole {NAMESPACE}-{PREFIX}-admin" in found.administration.remedy
        return await found.administration.allows()

    assert asyncio.run(allows()) is (role == "admin")


def test_a_role_in_another_namespace_is_none_here(installed: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the very ClusterRole, and of the other release's."""
    account = {"metadata": {"name": "elsewhere"}}
    client.CoreV1Api(installed.api()).create_namespaced_service_account(PLAIN, account)
    for role in (f"{NAMESPACE}-{PREFIX}-admin", f"{PLAIN}-{PREFIX}-admin"):
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "elsewhere", "namespace": PLAIN}],
        }
        client.RbacAuthorizationV1Api(installed.api()).create_namespaced_role_binding(PLAIN, binding)
    api = connect_as(installed, monkeypatch, NAMESPACE, "study-control")
    reviews = KubernetesReviews(api, AUDIENCE, NAMESPACE, f"{NAMESPACE}-{PREFIX}")
    token = installed.token_of("elsewhere", PLAIN, AUDIENCE)
    methods = ("GetStudy", "ListStudies", "WatchStudy", "CreateStudy", "DeleteStudy")
    for method in methods:
        error = refusal(reviews, token, f"/synthmix.studies.v1.StudyService/{method}")
        assert isinstance(error, errors.PermissionDenied), method


def test_workers_as_deployments_are_scaled_too(installed: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    connect_as(installed, monkeypatch, PLAIN, "study-control")
    cluster = open_cluster(KubernetesSettings(namespace=PLAIN, worker_deployment_prefix=f"{PREFIX}-ray"))
    assert cluster is not None
    cluster.scale(Scaling(worker_group="image-synthesis", max_workers=3))
    assert {group.name: group.desired_workers for group in cluster.read().worker_groups} == {
        "adapter-training": 1,
        "image-synthesis": 3,
        "classifier-evaluation": 1,
        "study-control": 1,
    }


def test_study_control_may_nothing_else(installed: Cluster, study_control: Any) -> None:
    attempts = [
        lambda: client.CoreV1Api(study_control).list_namespaced_secret(NAMESPACE),
        lambda: client.CoreV1Api(study_control).read_namespaced_secret(f"{PREFIX}-object-storage", NAMESPACE),
        lambda: client.CoreV1Api(study_control).read_namespaced_secret(f"{PREFIX}-object-storage-user", NAMESPACE),
        lambda: client.CoreV1Api(study_control).delete_collection_namespaced_pod(NAMESPACE),
        lambda: client.AppsV1Api(study_control).list_namespaced_deployment(NAMESPACE),
        lambda: client.CustomObjectsApi(study_control).delete_namespaced_custom_object(
            "ray.io", "v1", NAMESPACE, "rayclusters", f"{PREFIX}-ray"
        ),
        lambda: client.CoordinationV1Api(study_control).list_namespaced_lease("kube-system"),
    ]
    for attempt in attempts:
        with pytest.raises(client.ApiException) as caught:
            attempt()
        assert caught.value.status == 403


def test_the_autoscaler_changes_the_size_of_its_cluster(installed: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """KubeRay binds rights once, to the account that the head had then."""
    api = connect_as(installed, monkeypatch, NAMESPACE, "ray-head")
    clusters, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
    assert clusters.get_namespaced_custom_object(**RAY)["metadata"]["name"] == RAY["name"]
    clusters.patch_namespaced_custom_object(**RAY, body=patched(f"{GROUP}/replicas", 3), dry_run="All", **AS_PATCH)
    assert core.list_namespaced_pod(NAMESPACE).items == []
    for call in (core.read_namespaced_pod, core.patch_namespaced_pod, core.patch_namespaced_pod_resize):
        with pytest.raises(client.ApiException) as missing:
            call("gone", NAMESPACE, **({} if call == core.read_namespaced_pod else {"body": {}}))
        assert missing.value.status == 404, "it may, and there is none"
    for attempt in (
        lambda: core.list_namespaced_secret(NAMESPACE),
        lambda: core.delete_namespaced_pod("gone", NAMESPACE),
        lambda: clusters.delete_namespaced_custom_object(**RAY),
        lambda: clusters.get_namespaced_custom_object(**{**RAY, "name": "others-ray"}),
    ):
        with pytest.raises(client.ApiException) as refused:
            attempt()
        assert refused.value.status == 403


def test_without_cluster_roles_gpus_are_a_warning(
    installed: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    namespace = "rights-few"
    installed.create_namespace(namespace)
    installed.helm("install", RELEASE, str(CHART), f"--namespace={namespace}", "--set", "access.clusterRoles=false")
    connect_as(installed, monkeypatch, namespace, "study-control")
    cluster = open_cluster(KubernetesSettings(namespace=namespace, ray_cluster=f"{PREFIX}-ray"))
    assert cluster is not None
    found = cluster.read()
    assert len(found.worker_groups) == 4
    assert "may not list nodes in the whole cluster" in found.warnings[0]
