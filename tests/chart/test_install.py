"""The chart installed into a real API server, in a namespace that admits only pods of the level "restricted"."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client
from rendering import CHART, CI_VALUES, RELEASE, plain_and_encoded

from cluster.access import Cluster

RAY = {"group": "ray.io", "version": "v1", "plural": "rayclusters"}
PREFIX = f"{RELEASE}-synthmix"


def install(cluster: Cluster, namespace: str, *options: str) -> None:
    cluster.create_namespace(namespace)
    result = cluster.helm("install", RELEASE, str(CHART), f"--namespace={namespace}", *options)
    assert "warning" not in result.stderr.lower(), result.stderr


def secrets_of(cluster: Cluster, namespace: str) -> dict[str, dict[str, str]]:
    found = client.CoreV1Api(cluster.api()).list_namespaced_secret(namespace).items
    return {item.metadata.name: item.data for item in found if not item.metadata.name.startswith("sh.helm.")}


def objects_of(cluster: Cluster, namespace: str) -> set[str]:
    """Kind and name of everything that the release's label is on, in the namespace and in the cluster."""
    api = cluster.api()
    label = {"label_selector": f"app.kubernetes.io/instance={RELEASE}"}
    lists: list[Callable[..., Any]] = [
        client.CoreV1Api(api).list_namespaced_secret,
        client.CoreV1Api(api).list_namespaced_service,
        client.CoreV1Api(api).list_namespaced_service_account,
        client.CoreV1Api(api).list_namespaced_config_map,
        client.AppsV1Api(api).list_namespaced_deployment,
        client.AppsV1Api(api).list_namespaced_stateful_set,
        client.BatchV1Api(api).list_namespaced_job,
        client.NetworkingV1Api(api).list_namespaced_network_policy,
        client.PolicyV1Api(api).list_namespaced_pod_disruption_budget,
        client.RbacAuthorizationV1Api(api).list_namespaced_role,
        client.RbacAuthorizationV1Api(api).list_namespaced_role_binding,
    ]
    found = {f"{read.__name__} {item.metadata.name}" for read in lists for item in read(namespace, **label).items}
    rbac = client.RbacAuthorizationV1Api(api)
    admission = client.AdmissionregistrationV1Api(api)
    for read in (
        rbac.list_cluster_role,
        rbac.list_cluster_role_binding,
        admission.list_validating_admission_policy,
        admission.list_validating_admission_policy_binding,
    ):
        found |= {
            f"{read.__name__} {item.metadata.name}"
            for item in read(**label).items
            if item.metadata.name.startswith(f"{namespace}-")
        }
    clusters = client.CustomObjectsApi(api).list_namespaced_custom_object(**RAY, namespace=namespace, **label)["items"]
    return found | {f"RayCluster {item['metadata']['name']}" for item in clusters}


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_every_object_is_admitted_without_a_warning(cluster: Cluster, values: Any) -> None:
    namespace = f"admits-{values.stem}"
    install(cluster, namespace, f"--values={values}")
    assert cluster.helm("uninstall", RELEASE, f"--namespace={namespace}").stderr == ""


def test_upgrade_and_rollback_keep_secrets_and_what_the_autoscaler_decided(cluster: Cluster) -> None:
    namespace = "upgrades"
    install(cluster, namespace)
    before = secrets_of(cluster, namespace)
    assert set(before) == {
        f"{PREFIX}-{name}" for name in ("token", "ray-token", "object-storage", "object-storage-user")
    }
    rays = client.CustomObjectsApi(cluster.api())

    def groups() -> dict[str, tuple[int, int]]:
        found = rays.get_namespaced_custom_object(**RAY, namespace=namespace, name=f"{PREFIX}-ray")
        return {
            item["groupName"]: (item["replicas"], item["maxReplicas"]) for item in found["spec"]["workerGroupSpecs"]
        }

    rays.patch_namespaced_custom_object(
        **RAY,
        namespace=namespace,
        name=f"{PREFIX}-ray",
        body=[{"op": "replace", "path": "/spec/workerGroupSpecs/2/replicas", "value": 5}],
        _content_type="application/json-patch+json",
    )
    assert groups()["image-synthesis"] == (5, 8)
    changes = (
        "images.worker.tag=next,workers.imageSynthesis.max=6,workers.adapterTraining.task.cpus=2,commonLabels.team=ours"
    )
    options = [f"--namespace={namespace}", "--set", changes]
    cluster.helm("upgrade", RELEASE, str(CHART), *options)
    assert groups() == {
        "adapter-training": (0, 4),
        "classifier-evaluation": (0, 8),
        "image-synthesis": (5, 6),
        "study-control": (1, 4),
    }
    assert secrets_of(cluster, namespace) == before
    cluster.helm("rollback", RELEASE, "1", f"--namespace={namespace}")
    assert groups()["image-synthesis"][1] == 8
    assert secrets_of(cluster, namespace) == before


def test_a_token_that_is_being_rotated_outlives_an_upgrade(cluster: Cluster) -> None:
    """As the chart's README rotates it."""
    namespace = "rotates"
    install(cluster, namespace)
    core, name = client.CoreV1Api(cluster.api()), f"{PREFIX}-token"
    old = secrets_of(cluster, namespace)[name]["token"]
    rotated = {"token": base64.b64encode(b"new").decode(), "previous-token": old}
    core.patch_namespaced_secret(name, namespace, {"data": rotated})
    cluster.helm("upgrade", RELEASE, str(CHART), f"--namespace={namespace}", "--set", "commonLabels.team=ours")
    assert secrets_of(cluster, namespace)[name] == rotated
    core.patch_namespaced_secret(name, namespace, {"data": {"previous-token": None}})
    cluster.helm("upgrade", RELEASE, str(CHART), f"--namespace={namespace}")
    assert secrets_of(cluster, namespace)[name] == {"token": rotated["token"]}


def test_uninstall_leaves_nothing(cluster: Cluster) -> None:
    """But MinIO's volume, as NOTES.txt says: the claim is its StatefulSet's, and no controller runs here to make it."""
    namespace = "leaves"
    install(cluster, namespace)
    assert f"RayCluster {PREFIX}-ray" in objects_of(cluster, namespace)
    cluster.helm("uninstall", RELEASE, f"--namespace={namespace}")
    assert objects_of(cluster, namespace) == set()


def test_values_and_notes_hold_no_secret(cluster: Cluster) -> None:
    namespace = "tells"
    install(cluster, namespace)
    secrets = [value for data in secrets_of(cluster, namespace).values() for value in data.values()]
    told = cluster.helm("get", "values", "--all", RELEASE, f"--namespace={namespace}").stdout
    told += cluster.helm("get", "notes", RELEASE, f"--namespace={namespace}").stdout
    assert len(secrets) == 6 and not [value for value in plain_and_encoded(secrets) if value in told]
