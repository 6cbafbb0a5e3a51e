"""A small Kubernetes API server in this process, over real HTTP: only what SynthMix asks of one.

Objects are JSON as the API has them, by resource, namespace and name. Writes raise the resourceVersion, a replacement
of an older one is a conflict, JSON patches honour `test`, and a dry run changes nothing.
"""

import asyncio
import base64
import copy
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

import fake_kubelet
from synthmix.service_kit.environment import SERVICES

SERVICE_TOKEN = "the service's own token"
NAMESPACE = "lab"
AUDIENCE = "synthmix"

PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}

Json = dict[str, Any]


class Failure(Exception):
    """An answer that isn't 2xx."""

    def __init__(self, code: int, message: str, **details: Any):
        super().__init__(message)
        self.code, self.status = code, {"kind": "Status", "status": "Failure", "code": code, "message": message}
        if details:
            self.status["details"] = details


def web_token(subject: str, *audiences: str, expiry_s: float = 4e9, number: int = 0) -> str:
    """A JSON Web Token as the cluster makes them, for AUDIENCE if no other is given; nobody checks its signature.

    Args:
        number: Tells tokens apart that say the same otherwise.
    """
    claims = {"sub": subject, "aud": list(audiences or (AUDIENCE,)), "exp": int(expiry_s), "jti": str(number)}
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims))
    return f"{'.'.join(parts)}.c2ln"


@dataclass(frozen=True)
class User:
    """Whom a token belongs to, for which audiences."""

    name: str
    audiences: tuple[str, ...] = (AUDIENCE,)
    groups: tuple[str, ...] = ("system:authenticated",)


@dataclass
class FakeKubernetes:
    """What the server has, and what it was asked.

    Attributes:
        objects: By (resource, namespace, name); the namespace of a node is "".
        users: By token.
        allowed: (user, verb, resource) of synthmix.io that SubjectAccessReviews allow, in NAMESPACE.
        forbidden: (verb, resource) that this service may not.
        failing: A status code that everything is answered with.
        losing_answers: Whether writes are carried out and answered with 504.
        before_write: Called with (verb, resource) before each write, such as to edit an object first.
        requests: (verb, resource) in order.
        reviews: The spec of every review.
        ports: Where on loopback a pod's port is, by (pod, port). Forwards to others find nothing that listens.
        issued: Gives the token of a TokenRequest's spec, and for how many seconds it is good.
    """

    objects: dict[tuple[str, str, str], Json] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    allowed: set[tuple[str, str, str]] = field(default_factory=set)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    failing: int | None = None
    losing_answers: bool = False
    before_write: Callable[[str, str], None] = lambda verb, resource: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    reviews: list[Json] = field(default_factory=list)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    issued: Callable[[Json], tuple[str, int]] = lambda spec: ("an account's token", spec["expirationSeconds"])
    url: str = ""
    lock: Any = field(default_factory=threading.RLock)
    version: int = 0

    def count(self, verb: str, resource: str) -> int:
        return self.requests.count((verb, resource))

    def put(self, resource: str, value: Json, namespace: str = NAMESPACE) -> Json:
        """Stores an object under its name, as a new version, and returns it."""
        with self.lock:
            self.version += 1
            metadata = value.setdefault("metadata", {})
            metadata["resourceVersion"] = str(self.version)
            metadata["namespace"] = namespace
            self.objects[resource, namespace, metadata["name"]] = value
            return value

    def get(self, resource: str, name: str, namespace: str = NAMESPACE) -> Json:
        try:
            return self.objects[resource, namespace, name]
        except KeyError:
            raise Failure(404, f'{resource} "{name}" not found', name=name, kind=resource) from None

    def answer(self, method: str, target: str, headers: Any, body: Any) -> Json:
        """Raises Failure."""
        url = urlsplit(target)
        match = PATH.fullmatch(url.path)
        assert match is not None, target
        resource, namespace, name = match["resource"], match["namespace"] or "", match["name"] or ""
        whole = f"{resource}/{match['subresource']}" if match["subresource"] else resource
        verb = VERBS.get(method) or ("get" if name else "list")
        options = {key: values[0] for key, values in parse_qs(url.query).items()}
        if verb in VERBS.values():
            self.before_write(verb, whole)
        with self.lock:
            self.requests.append((verb, whole))
            if self.failing:
                raise Failure(self.failing, "etcdserver: request timed out")
            if headers.get("authorization", "").lower() != f"bearer {SERVICE_TOKEN}":
                raise Failure(401, "Unauthorized")
            if (verb, whole) in self.forbidden:
                raise Failure(
                    403, f'{whole} is forbidden: User "system:serviceaccount:lab:study-control" cannot {verb}'
                )
            if whole == "pods/portforward":
                self.get("pods", name, namespace)
                return {}
            if whole == "serviceaccounts/token":
                self.get("serviceaccounts", name, namespace)
                token, seconds = self.issued(body["spec"])
                return body | {"spec": body["spec"] | {"expirationSeconds": seconds}, "status": {"token": token}}
            if whole == "tokenreviews":
                return self._review_token(body)
            if whole == "subjectaccessreviews":
                return self._review_access(body)
            if verb == "get":
                return self.get(resource, name, namespace)
            if verb == "list":
                return {"items": self._list(resource, namespace, options.get("labelSelector", ""))}
            new = self._written(verb, whole, namespace, name, headers.get("content-type", ""), body)
            if "dryRun" not in options:
                self.put(resource, new, namespace)
            if self.losing_answers:
                raise Failure(504, "the answer was lost")
            return scale_of(new) if whole == "deployments/scale" else new

    def _written(self, verb: str, resource: str, namespace: str, name: str, content_type: str, body: Any) -> Json:
        """The object as the write leaves it."""
        if verb == "create":
            if (resource, namespace, body["metadata"]["name"]) in self.objects:
                raise Failure(409, f'{resource} "{body["metadata"]["name"]}" already exists')
            return dict(body)
        if resource == "deployments/scale":
            assert content_type == "application/merge-patch+json"
            new = copy.deepcopy(self.get("deployments", name, namespace))
            new["spec"]["replicas"] = body["spec"]["replicas"]
            return new
        old = self.get(resource, name, namespace)
        if verb == "update":
            if body["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                raise Failure(409, f'Operation cannot be fulfilled on {resource} "{name}": please apply your changes')
            return dict(body)
        assert content_type == "application/json-patch+json", content_type
        new = copy.deepcopy(old)
        for operation in body:
            apply_operation(new, operation)
        return new

    def _list(self, resource: str, namespace: str, selector: str) -> list[Json]:
        wanted = dict(term.split("=") for term in selector.split(",") if term)
        return [
            value
            for (kind, place, _), value in self.objects.items()
            if kind == resource
            and namespace in ("", place)
            and wanted.items() <= value["metadata"].get("labels", {}).items()
        ]

    def _review_token(self, body: Json) -> Json:
        self.reviews.append(body["spec"])
        user = self.users.get(body["spec"]["token"])
        if user is None:
            return body | {"status": {"authenticated": False, "error": "[invalid bearer token]"}}
        if user.audiences == ():  # an authenticator that knows nothing of audiences
            return body | {"status": {"authenticated": True, "user": {"username": user.name}}}
        audiences = sorted({*user.audiences} & {*body["spec"]["audiences"]})
        if not audiences:
            said = f"token audiences {list(user.audiences)} is invalid for the target audiences {[AUDIENCE]}"
            return body | {"status": {"authenticated": False, "error": f"[invalid bearer token, {said}]"}}
        details = {"username": user.name, "uid": f"uid of {user.name}", "groups": list(user.groups)}
        details["extra"] = {"authentication.kubernetes.io/pod-name": ["a-pod"]}
        return body | {"status": {"authenticated": True, "audiences": audiences, "user": details}}

    def _review_access(self, body: Json) -> Json:
        self.reviews.append(body["spec"])
        wanted = body["spec"]["resourceAttributes"]
        ours = (wanted["group"], wanted["namespace"]) == ("synthmix.io", NAMESPACE)
        allowed = ours and (body["spec"]["user"], wanted["verb"], wanted["resource"]) in self.allowed
        return body | {"status": {"allowed": allowed}}


def scale_of(deployment: Json) -> Json:
    """The subresource scale, which leaves out a count of 0 in its spec."""
    replicas = deployment["spec"]["replicas"]
    return {
        "kind": "Scale",
        "metadata": {"name": deployment["metadata"]["name"]},
        "spec": {"replicas": replicas} if replicas else {},
        "status": {"replicas": deployment["status"].get("readyReplicas", 0)},
    }


def apply_operation(value: Json, operation: Json) -> None:
    """One operation of a JSON patch (RFC 6902): test, add or replace."""
    *parents, last = [int(part) if part.isdigit() else part for part in operation["path"].split("/")[1:]]
    place: Any = value
    try:
        for part in parents:
            place = place[part]
        found = place[last] if operation["op"] != "add" else None
    except (KeyError, IndexError):
        found = None
    if operation["op"] == "test":
        if found != operation["value"]:
            # Exactly what the API server says: no cause, no field.
            raise Failure(422, "the server rejected our request due to an error in our request", group="", kind="")
    else:
        if not isinstance(operation["value"], int) or operation["value"] > 1000:
            cause = {"reason": "FieldValueInvalid", "message": "must be an integer of 1000 or less", "field": last}
            raise Failure(422, f"RayCluster is invalid: {last}: must be 1000 or less", causes=[cause])
        place[last] = operation["value"]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FakeKubernetes]:
    """Serves until the block ends."""
    fake = FakeKubernetes()

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        arguments = (request.method, request.path_qs, request.headers, json.loads(body) if body else None)
        try:
            answer = await asyncio.to_thread(fake.answer, *arguments)
        except Failure as failure:
            return web.json_response(failure.status, status=failure.code)
        if request.match_info["path"].endswith("/portforward"):
            pod, port = request.path.split("/")[-2], int(request.query["ports"])
            return await fake_kubelet.serve_port_forward(request, pod, port, fake.ports.get((pod, port)))
        return web.json_response(answer)

    def application() -> web.Application:
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", handle)
        return application

    with fake_kubelet.serving(application, tls) as port:
        fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield fake


def write_kubeconfig(path: Path, url: str) -> Path:
    """A kubeconfig for this server, with this service's token."""
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "fake",
                "clusters": [{"name": "fake", "cluster": {"server": url}}],
                "users": [{"name": "service", "user": {"token": SERVICE_TOKEN}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "service"}}],
            }
        )
    )
    return path


def worker_group(name: str, least: int, most: int, *, gpus: int = 1, **more: Any) -> Json:
    """A worker group of a RayCluster."""
    limits = {"cpu": "4", "nvidia.com/gpu": str(gpus)} if gpus else {"cpu": "4"}
    return {
        "groupName": name,
        "minReplicas": least,
        "maxReplicas": most,
        "template": {"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": limits}}]}},
        **more,
    }


def ray_cluster(*groups: Json, name: str = "ray") -> Json:
    head = {"type": "HeadPodReady", "status": "True", "reason": "HeadPodRunningAndReady", "message": ""}
    return {
        "metadata": {"name": name},
        "spec": {"workerGroupSpecs": list(groups)},
        "status": {"conditions": [head]},
    }


def worker_pod(name: str, group: str, *, ready: bool = True, cluster: str = "ray") -> Json:
    labels = {"ray.io/cluster": cluster, "ray.io/node-type": "worker", "ray.io/group": group}
    return {"metadata": {"name": name, "labels": labels}, "status": {"conditions": [_condition(ready)]}}


def node(
    name: str, *, gpus: int = 0, amd: int = 0, product: str = "", ready: bool = True, cordoned: bool = False
) -> Json:
    allocatable = (
        {"cpu": "32"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {}) | ({"amd.com/gpu": amd} if amd else {})
    )
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product} if product else {}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"allocatable": allocatable, "capacity": allocatable, "conditions": [_condition(ready)]},
    }


def deployment(name: str, replicas: int, *, ready: int = 0, gpus: int = 1) -> Json:
    limits = {"nvidia.com/gpu": gpus} if gpus else {}
    template = {"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": limits}}]}}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "template": template},
        "status": {"readyReplicas": ready} if ready else {},
    }


def _condition(ready: bool) -> Json:
    return {"type": "Ready", "status": "True" if ready else "False"}


def release_services(instance: str = "synthmix", prefix: str = "synthmix", **annotations: str) -> list[Json]:
    """The chart's Services. tests/chart shows that they are as these."""
    notes = {"synthmix.io/token-secret": f"{prefix}-token"} | {
        f"synthmix.io/{key.replace('_', '-')}": value for key, value in annotations.items()
    }
    return [
        {
            "metadata": {
                "name": f"{prefix}-{service}",
                "labels": {**labels_of(service, instance), "app.kubernetes.io/part-of": "synthmix"},
                "annotations": notes,
            },
            "spec": {
                "selector": labels_of(service, instance),
                "ports": [{"name": "metrics", "port": 9090}, {"name": "grpc", "port": 50051, "targetPort": "grpc"}],
            },
        }
        for service in SERVICES
    ]


def labels_of(service: str, instance: str = "synthmix") -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "synthmix",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/component": service,
    }


def serving_pod(name: str, service: str, *, instance: str = "synthmix", port: int = 50051, **status: Any) -> Json:
    """A pod of a service that is ready, unless its status says otherwise."""
    ports = [{"name": "metrics", "containerPort": 9090}, {"name": "grpc", "containerPort": port}]
    return {
        "metadata": {"name": name, "labels": labels_of(service, instance)},
        "spec": {"containers": [{"name": service, "ports": ports}]},
        "status": {"phase": "Running", "conditions": [_condition(True)]} | status,
    }
