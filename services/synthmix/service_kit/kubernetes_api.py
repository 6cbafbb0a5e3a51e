"""The Kubernetes API: how it is reached, and its failures in SynthMix's words.

Its client library takes more than a second to import, so nothing here imports it before it is asked for.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from synthmix.service_kit.errors import FailedPrecondition, Unavailable

# Of one attempt; a second one follows where the connection broke or nothing came.
CALL_TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class Right:
    """What an RBAC rule allows: a verb on a resource of an API group, in a namespace or, if that is "", in all."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource} in {f'namespace {self.namespace}' if self.namespace else 'the whole cluster'}"


def connect() -> Any:
    """A kubernetes.client.ApiClient of the API server that KUBECONFIG names, or else of the cluster of this pod.

    Raises FailedPrecondition if there is neither. Sends nothing.
    """
    import yaml
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if os.environ.get("KUBECONFIG"):
            config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise FailedPrecondition(
            f"the Kubernetes API cannot be used ({error}); run in a pod that has a service account's token, set "
            "KUBECONFIG, or unset SYNTHMIX_KUBERNETES_AUDIENCE, SYNTHMIX_RAY_CLUSTER and "
            "SYNTHMIX_WORKER_DEPLOYMENT_PREFIX",
            reason="KUBERNETES_NOT_CONFIGURED",
        ) from None
    return client_of(configuration)


def client_of(configuration: Any) -> Any:
    """A kubernetes.client.ApiClient of a kubernetes.client.Configuration, with SynthMix's retries."""
    import urllib3
    from kubernetes import client

    # Every call that SynthMix makes may be made twice. Answers are not waited for: an overloaded server is a failure.
    configuration.retries = urllib3.Retry(
        total=1, status=0, redirect=0, allowed_methods=None, respect_retry_after_header=False
    )
    return client.ApiClient(configuration)


@contextmanager
def requiring(right: Right) -> Iterator[None]:
    """Around one call that needs this right.

    Raises:
        Unavailable: The API server is out of reach, or too busy.
        FailedPrecondition: It does not know this service, or the service lacks the right.
        ApiException: Any other answer; what 404, 409 and 422 mean is the caller's to say.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        if error.status == 401:
            raise FailedPrecondition(
                "the Kubernetes API server refuses this service's own token; check that the pod's service account "
                "exists, and restart the pod",
                reason="KUBERNETES_CREDENTIALS_REFUSED",
            ) from None
        if error.status == 403:
            kind = "Role" if right.namespace else "ClusterRole"
            raise FailedPrecondition(
                f"this service's account may not {right} (the API server says: {said_by(error)}); add to its {kind} a "
                f"rule with apiGroups [{right.group!r}], resources [{right.resource!r}], verbs [{right.verb!r}]",
                reason="RBAC_RIGHT_MISSING",
                metadata=asdict(right),
            ) from None
        if not error.status or error.status == 429 or error.status >= 500:
            raise _out_of_reach(right, said_by(error)) from None
        raise
    except (HTTPError, OSError) as error:
        raise _out_of_reach(right, str(getattr(error, "reason", None) or error)) from None


def as_json(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a method of the library answers, as JSON: its models of whole nodes and pods take long to build."""
    answer = call(*arguments, **options, _preload_content=False, _request_timeout=CALL_TIMEOUT_SECONDS)
    return json.loads(answer.data)


def said_by(error: Any) -> str:
    """The message of an ApiException's Status, or whatever else the server said."""
    return said_in(error.body) or " ".join(f"{error.status or 'no answer'} {error.reason or ''}".split())


def said_in(body: Any) -> str:
    """The message of a Status, as JSON; "" where it is none."""
    try:
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return ""


def _out_of_reach(right: Right, said: str) -> Unavailable:
    return Unavailable(
        f"the Kubernetes API server does not answer ({right}: {said}); try again in a moment",
        reason="KUBERNETES_UNAVAILABLE",
    )
