"""The Kubernetes API as the person at the command line has it, and its failures in their words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.kube_config import KubeConfigMerger
from urllib3.exceptions import HTTPError

from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    did_you_mean,
)
from synthmix.service_kit.kubernetes_api import Right, client_of, said_by
from synthmix.service_kit.quantities import listed, shortened

IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LONGEST_SAID = 300


@dataclass(frozen=True)
class Access:
    """A way to the API server.

    Attributes:
        api: A kubernetes.client.ApiClient.
        namespace: What a name without a namespace lies in.
        context: Of the kubeconfig; "" in a pod.
    """

    api: Any
    namespace: str
    context: str = ""

    @property
    def server(self) -> str:
        return str(self.api.configuration.host).rstrip("/")

    @property
    def core(self) -> Any:
        return client.CoreV1Api(self.api)


def connect_as_caller(context: str | None = None) -> Access:
    """By the kubeconfig ($KUBECONFIG, ~/.kube/config) and its current context or this one; in a pod, by its account.

    Sends nothing, but for what the kubeconfig's own login program does.

    Raises:
        FailedPrecondition: There is no kubeconfig, or it can't be used.
        InvalidArgument: It has no such context.
    """
    configuration = client.Configuration()
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        if context is None and os.environ.get("KUBERNETES_SERVICE_HOST") and IN_CLUSTER_NAMESPACE.is_file():
            return _of_this_pod(configuration)
        raise FailedPrecondition(
            f"there is no kubeconfig at {paths}; say where it is by KUBECONFIG, or let your cluster's own program "
            "write it (`kubectl config get-contexts` shows what it has)",
            reason="KUBECONFIG_MISSING",
        )
    try:
        chosen = _current(paths) if context is None else _named(_contexts(paths), context, paths)
        config.load_kube_config(paths, context=chosen["name"], client_configuration=configuration)
    except (config.ConfigException, OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise FailedPrecondition(
            f"the kubeconfig at {paths} cannot be used ({_one_line(str(error))}); see whether `kubectl cluster-info` "
            "works with it, and choose a context by --kube-context or `kubectl config use-context`",
            reason="KUBECONFIG_INVALID",
        ) from None
    return Access(client_of(configuration), chosen["context"].get("namespace") or "default", chosen["name"])


def _of_this_pod(configuration: Any) -> Access:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise FailedPrecondition(
            f"this pod's service account cannot be used ({error}); give it a token, or set KUBECONFIG",
            reason="KUBECONFIG_MISSING",
        ) from None
    return Access(client_of(configuration), IN_CLUSTER_NAMESPACE.read_text().strip())


def _current(paths: str) -> dict[str, Any]:
    _, active = config.list_kube_config_contexts(paths)
    return dict(active)


def _contexts(paths: str) -> list[dict[str, Any]]:
    """All contexts, even where none is the current one, which the library insists on."""
    merged = KubeConfigMerger(paths).config
    return [item.value for item in merged["contexts"]] if merged is not None else []


def _named(contexts: list[dict[str, Any]], name: str, paths: str) -> dict[str, Any]:
    for item in contexts:
        if item["name"] == name:
            return item
    known = [item["name"] for item in contexts]
    raise InvalidArgument(
        f"the kubeconfig at {paths} has no context {name!r}; {did_you_mean(name, known)}it has: {listed(known)}",
        reason="KUBE_CONTEXT_UNKNOWN",
    )


@contextmanager
def asking(access: Access, right: Right) -> Iterator[None]:
    """Around one call that needs this right.

    Raises:
        PermissionDenied: The caller lacks it.
        Unauthenticated: The API server doesn't know the caller.
        Unavailable: It is out of reach, or too busy.
        ApiException: Any other answer; what 404 means is for whoever asks to say.
    """
    try:
        yield
    except ApiException as error:
        if error.status == 401:
            raise refused(access) from None
        if error.status == 403:
            raise forbidden(right, said_by(error)) from None
        if not error.status or error.status == 429 or error.status >= 500:
            raise _out_of_reach(access, right, said_by(error)) from None
        raise
    except config.ConfigException as error:
        raise refused(access, str(error)) from None
    except (HTTPError, OSError) as error:
        raise _out_of_reach(access, right, str(getattr(error, "reason", None) or error)) from None


def refused(access: Access, said: str = "") -> Unauthenticated:
    return Unauthenticated(
        f"the Kubernetes API server at {access.server} refuses the kubeconfig's credentials"
        f"{f' ({_one_line(said)})' if said else ''}; log in again with your cluster's own program, and see whether "
        "`kubectl auth whoami` works",
        reason="KUBERNETES_CREDENTIALS_REFUSED",
    )


def forbidden(right: Right, said: str) -> PermissionDenied:
    scope = f"--namespace {right.namespace}" if right.namespace else "--all-namespaces"
    resource = f"{right.resource}.{right.group}" if right.group else right.resource
    return PermissionDenied(
        f"you may not {right} (the API server says: {_one_line(said)}); ask an administrator for this right, which the "
        f"chart's value access.clients gives, and check it by `kubectl auth can-i {right.verb} {resource} {scope}`",
        reason="RBAC_RIGHT_MISSING",
        metadata=asdict(right),
    )


def _out_of_reach(access: Access, right: Right, said: str) -> Unavailable:
    return Unavailable(
        f"the Kubernetes API server at {access.server} does not answer ({right}: {_one_line(said)}); check the "
        "kubeconfig's context, your network and VPN, then try again",
        reason="KUBERNETES_UNAVAILABLE",
    )


def _one_line(text: str) -> str:
    return shortened(" ".join(text.split()), LONGEST_SAID)
