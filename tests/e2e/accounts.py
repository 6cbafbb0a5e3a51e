"""Service accounts of a test's own, and the roles that they are given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kubernetes import client

from cluster.access import Cluster

AUDIENCE = "synthmix"
"""What the release takes tokens for."""


@dataclass(frozen=True)
class Account:
    """A service account.

    Attributes:
        cluster: Where, in which
        namespace: it is.
    """

    cluster: Cluster
    namespace: str
    name: str

    @property
    def user(self) -> str:
        """As the API server names it, and after it the services."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def token(self, audience: str | None = AUDIENCE) -> str:
        """For a release's services; for the API server itself if the audience is None."""
        return self.cluster.token_of(self.name, self.namespace, audience)

    @contextmanager
    def bound(self, role: str, namespace: str) -> Iterator[None]:
        """Has a ClusterRole's rights in a namespace for the length of a `with` block."""
        rbac = client.RbacAuthorizationV1Api(self.cluster.api())
        binding = {
            "metadata": {"name": f"{self.name}-{role}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}],
        }
        rbac.create_namespaced_role_binding(namespace, binding)
        try:
            yield
        finally:
            rbac.delete_namespaced_role_binding(f"{self.name}-{role}", namespace)


@contextmanager
def made_account(cluster: Cluster, namespace: str, name: str) -> Iterator[Account]:
    """A service account without any right, for the length of a `with` block."""
    core = client.CoreV1Api(cluster.api())
    core.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
    try:
        yield Account(cluster, namespace, name)
    finally:
        core.delete_namespaced_service_account(name, namespace)
