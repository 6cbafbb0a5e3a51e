"""What a release has: its services, their pods, and how its callers show who they are.

All of it is read from the Services that the chart labels and annotates; no name of an object is ever guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException

from synthmix.client.release.access import Access, asking
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import (
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    did_you_mean,
    invalid_field,
)
from synthmix.service_kit.kubernetes_api import Right, as_json
from synthmix.service_kit.quantities import listed, shortened

OURS = "app.kubernetes.io/part-of=synthmix"
INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
TOKEN_SECRET = "synthmix.io/token-secret"
AUDIENCE = "synthmix.io/token-audience"
CLIENT_ACCOUNT = "synthmix.io/client-service-account"
TLS_SECRET = "synthmix.io/tls-secret"
GRPC_PORT = "grpc"
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
MOST_PODS = 5
LONGEST_REASON = 160

Json = dict[str, Any]


@dataclass(frozen=True)
class PodsOfService:
    """Which pods serve one of the four services, by labels, and on which port: a number, or a container port's name.

    Attributes:
        name: The Service's, which its certificate is for.
    """

    name: str
    selector: Mapping[str, str]
    target_port: int | str


@dataclass(frozen=True)
class Release:
    """What the chart says of a release.

    Attributes:
        services: By the code's name of each.
        token_secret: The Secret whose key `token` is the static token.
        audience: What tokens of the cluster must be meant for; "" where they aren't taken.
        client_account: The service account that callers may be; "" where there is none.
        tls_secret: The Secret whose key `ca.crt` is the authority of its certificate; "" where it serves no TLS.
    """

    namespace: str
    name: str
    services: Mapping[str, PodsOfService]
    token_secret: str
    audience: str
    client_account: str
    tls_secret: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Pod:
    """A pod of a service.

    Attributes:
        port: Where it serves gRPC; None if no container has the Service's port.
        problem: Why it isn't ready; "" if it is.
    """

    name: str
    port: int | None
    problem: str


def parse_name(text: str, namespace: str) -> tuple[str, str]:
    """The namespace and the name of NAMESPACE/NAME, or of NAME in this namespace. Raises InvalidArgument."""
    place, slash, name = text.strip().rpartition("/")
    if not slash:
        place = namespace
    if not NAME.fullmatch(place) or not NAME.fullmatch(name):
        raise invalid_field(
            "release",
            text,
            "is not a release's name",
            "write NAMESPACE/NAME as `helm list --all-namespaces` shows them, or NAME for the context's namespace",
            reason="RELEASE_INVALID",
        )
    return place, name


def find_release(access: Access, text: str) -> Release:
    """Looks a release up.

    Raises:
        InvalidArgument: This can't be its name.
        NotFound: It isn't there; the message says what is.
        FailedPrecondition: Another version of the chart made it.
        SynthMixError: As `asking` does.
    """
    namespace, name = parse_name(text, access.namespace)
    with asking(access, Right("list", "services", "", namespace)):
        found = as_json(access.core.list_namespaced_service, namespace, label_selector=OURS)["items"]
    ours = [item for item in found if _label(item, INSTANCE) == name and _label(item, COMPONENT) in SERVICES]
    if not ours:
        raise _not_found(access, namespace, name, found)
    services = {_label(item, COMPONENT): item for item in ours}
    absent = [service for service in SERVICES if service not in services]
    notes = services[next(iter(services))]["metadata"].get("annotations") or {}
    if absent or TOKEN_SECRET not in notes:
        raise FailedPrecondition(
            f"release {namespace}/{name} has {f'no Service of {listed(absent)}' if absent else 'an older chart'}; "
            "bring it to this client's version by `helm upgrade`",
            reason="RELEASE_INCOMPLETE",
        )
    return Release(
        namespace=namespace,
        name=name,
        services={service: _pods_of_service(namespace, services[service]) for service in SERVICES},
        token_secret=notes[TOKEN_SECRET],
        audience=notes.get(AUDIENCE, ""),
        client_account=notes.get(CLIENT_ACCOUNT, ""),
        tls_secret=notes.get(TLS_SECRET, ""),
    )


def _pods_of_service(namespace: str, item: Json) -> PodsOfService:
    name, specification = item["metadata"]["name"], item["spec"]
    ports = [port for port in specification.get("ports") or () if port.get("name") == GRPC_PORT]
    if not ports or not specification.get("selector"):
        raise FailedPrecondition(
            f"Service {name} in namespace {namespace} has no {'selector' if ports else f'port named {GRPC_PORT}'}; "
            "bring the release back to what its chart says by `helm upgrade`",
            reason="RELEASE_INCOMPLETE",
        )
    return PodsOfService(name, specification["selector"], ports[0].get("targetPort") or ports[0]["port"])


def _not_found(access: Access, namespace: str, name: str, found: list[Json]) -> NotFound:
    here = sorted({_label(item, INSTANCE) for item in found if _label(item, COMPONENT) in SERVICES})
    if here:
        hint = f"{did_you_mean(name, here)}SynthMix's releases there: {listed(here)}"
    else:
        elsewhere = _releases_everywhere(access)
        hint = did_you_mean(f"{namespace}/{name}", elsewhere)
        if elsewhere:
            hint += f"SynthMix's releases in this cluster: {listed(elsewhere)}"
        else:
            hint += "`helm list --all-namespaces` shows the releases, and --kube-context chooses another cluster"
    missing = not here and not _namespace_exists(access, namespace)
    said = (
        f"there is no namespace {namespace!r}" if missing else f"there is no SynthMix release {name!r} in {namespace}"
    )
    where = f" of context {access.context!r}" if access.context else ""
    return NotFound(
        f"{said} at the Kubernetes API server{where}; {hint}", reason="RELEASE_NOT_FOUND", metadata={"release": name}
    )


def _releases_everywhere(access: Access) -> list[str]:
    """NAMESPACE/NAME of each that the caller may see: only a hint, so that whatever forbids it leaves it out."""
    try:
        with asking(access, Right("list", "services")):
            found = as_json(access.core.list_service_for_all_namespaces, label_selector=OURS)["items"]
    except (PermissionDenied, Unauthenticated, Unavailable):
        return []
    ours = (item for item in found if _label(item, COMPONENT) in SERVICES)
    return sorted({f"{item['metadata']['namespace']}/{_label(item, INSTANCE)}" for item in ours})


def _namespace_exists(access: Access, namespace: str) -> bool:
    """True where the caller may not know."""
    try:
        with asking(access, Right("get", "namespaces", "", namespace)):
            as_json(access.core.read_namespace, namespace)
    except (PermissionDenied, Unauthenticated, Unavailable):
        return True
    except ApiException as error:
        return bool(error.status != 404)
    return True


def pods_of(access: Access, release: Release, service: str) -> list[Pod]:
    """The service's pods but those that are ending, in the order of their names. Raises as `asking` does."""
    found = release.services[service]
    selector = ",".join(f"{key}={value}" for key, value in sorted(found.selector.items()))
    with asking(access, Right("list", "pods", "", release.namespace)):
        items = as_json(access.core.list_namespaced_pod, release.namespace, label_selector=selector)["items"]
    pods = [
        Pod(item["metadata"]["name"], _port(item, found.target_port), _problem(item))
        for item in items
        if not item["metadata"].get("deletionTimestamp")
    ]
    return sorted(pods, key=lambda pod: pod.name)


def ready_pods(access: Access, release: Release, service: str) -> list[tuple[str, int]]:
    """Name and port of each pod that serves.

    Raises:
        Unavailable: None is ready; the message says which pods there are, and what each waits for.
        SynthMixError: As `asking` does.
    """
    pods = pods_of(access, release, service)
    ready = [(pod.name, pod.port) for pod in pods if not pod.problem and pod.port is not None]
    if ready:
        return ready
    where = f"no pod of {service} of release {release} is ready"
    if not pods:
        remedy = f"it has none; see `kubectl --namespace {release.namespace} get deployments`"
    else:
        said = listed([f"{pod.name}: {pod.problem or 'has no such port'}" for pod in pods], MOST_PODS)
        remedy = f"{said}; `kubectl --namespace {release.namespace} describe pod {pods[0].name}` tells more"
    raise Unavailable(f"{where} ({remedy})", reason="NO_POD_READY", metadata={"service": service})


def _port(pod: Json, target: int | str) -> int | None:
    if isinstance(target, int):
        return target
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == target:
                return int(port["containerPort"])
    return None


def _problem(pod: Json) -> str:
    """Why a pod isn't ready, in the kubelet's or the scheduler's words; "" if it is."""
    status = pod.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        for state in ("waiting", "terminated"):
            found = (container.get("state") or {}).get(state)
            if found and (state == "waiting" or found.get("exitCode")):
                return _reason(found, f"container {container['name']} is {state}")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return _reason(scheduled, "it is not scheduled")
    return _reason(status, f"it is {status.get('phase', 'Unknown').lower()} and not ready yet")


def _reason(found: Json, otherwise: str) -> str:
    said = ": ".join(str(found[key]) for key in ("reason", "message") if found.get(key))
    return shortened(said, LONGEST_REASON) or otherwise


def _label(item: Json, key: str) -> str:
    return str((item["metadata"].get("labels") or {}).get(key, ""))
