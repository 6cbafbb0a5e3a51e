"""Kubernetes objects that several programs of a test's cluster need alike."""

from collections.abc import Mapping, Sequence
from typing import Any

Object = dict[str, Any]


def server_objects(
    name: str,
    namespace: str,
    container: Mapping[str, Any],
    *,
    files: Mapping[str, str],
    rules: Sequence[Mapping[str, Any]],
    service: Mapping[str, Any],
    service_name: str | None = None,
    pod: Mapping[str, Any] | None = None,
) -> list[Object]:
    """A server of one pod, with its configuration in /etc/NAME, what it may read of the cluster, and its Service.

    Args:
        name: Of all of them.
        namespace: Where they are.
        container: Image, arguments, probes and so on.
        files: The configuration's, by name.
        rules: Of its ClusterRole.
        service: The Service's specification but its selector.
        service_name: Where it has to be another one.
        pod: What else its specification has.
    """
    metadata = {"name": name, "namespace": namespace}
    labels = {"app": name}
    configuration = {"name": "configuration", "mountPath": f"/etc/{name}"}
    specification = {
        "serviceAccountName": name,
        "containers": [
            {
                "name": name,
                "imagePullPolicy": "IfNotPresent",
                **container,
                "volumeMounts": [configuration, *container.get("volumeMounts", [])],
            }
        ],
        **(pod or {}),
        "volumes": [{"name": "configuration", "configMap": {"name": name}}, *(pod or {}).get("volumes", [])],
    }
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(files)},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": list(rules)},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": specification},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": service_name or name, "namespace": namespace},
            "spec": {**service, "selector": labels},
        },
    ]
