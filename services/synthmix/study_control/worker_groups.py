"""The groups of workers on a Kubernetes cluster, and how many each may have.

Either the KubeRay operator runs them, as worker groups of a RayCluster between a minimum and a maximum that Ray's
autoscaler moves in, or they are plain Deployments, whose number of workers is fixed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import FailedPrecondition, Unavailable, check_choice, invalid_field, missing_field
from synthmix.service_kit.kubernetes_api import CALL_TIMEOUT_SECONDS, Right, as_json, requiring, said_by

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu")
# GPU feature discovery's label of a node, and AMD's node labeller's.
PRODUCT_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name")

RAY_API = {"group": "ray.io", "version": "v1", "plural": "rayclusters"}
# What a RayCluster's definition fills in where a group does not say.
RAY_MIN_REPLICAS = 0
RAY_MAX_REPLICAS = 2**31 - 1
PATCH_ATTEMPTS = 5

Group = clusters_pb2.WorkerGroup
Scaling = clusters_pb2.ScaleWorkerGroupRequest


class WorkerGroups(Protocol):
    def read(self) -> list[Group]:
        """Every group. Raises SynthMixError."""
        ...

    def ray_problem(self) -> str:
        """Why no task can run; empty if one can. Raises SynthMixError."""
        ...

    def scale(self, request: Scaling) -> Group:
        """The group as it is then. Raises SynthMixError; changes nothing if only validating."""
        ...


def asked_bounds(request: Scaling) -> dict[str, int]:
    """The bounds that a request sets; the others stay. Raises InvalidArgument for what no group could have."""
    if not request.worker_group:
        raise missing_field("worker_group", "name a group, such as image-synthesis; `synthmix cluster` shows them")
    bounds = {field: getattr(request, field) for field in ("min_workers", "max_workers") if request.HasField(field)}
    if not bounds:
        raise missing_field("min_workers", "give min_workers, max_workers or both")
    for field, workers in bounds.items():
        if workers < 0:
            raise invalid_field(field, workers, "is negative", "use 0 or more", reason="OUT_OF_RANGE")
    return bounds


class RayClusterGroups:
    """The worker groups of a RayCluster. One replica of a group counts as one worker.

    Args:
        api: A kubernetes.client.ApiClient.
        name: The RayCluster's.
    """

    def __init__(self, api: Any, namespace: str, name: str):
        self._api = api
        self._namespace = namespace
        self._name = name

    def read(self) -> list[Group]:
        specs = self._read_specs()
        ready = self._ready_workers()
        return [_ray_group(spec, ready) for spec in specs]

    def ray_problem(self) -> str:
        """As the operator's conditions of the RayCluster tell it."""
        found = self._read_cluster().get("status", {}).get("conditions") or ()
        conditions = {condition["type"]: condition for condition in found}
        head, failure = conditions.get("HeadPodReady"), conditions.get("ReplicaFailure")
        if head is not None and head["status"] == "True":
            return ""
        if failure is not None and failure["status"] == "True":
            return f"a pod of RayCluster {self._name} cannot be made: {failure.get('message') or failure['reason']}"
        if head is not None:
            return f"Ray's head is not ready: {head.get('message') or head['reason']}"
        return (
            f"the KubeRay operator has not begun with RayCluster {self._name}: it does not run, does not watch "
            f"namespace {self._namespace}, or refuses it, which `kubectl describe raycluster` would tell"
        )

    def scale(self, request: Scaling) -> Group:
        """Patches the group at its place, if it is there still and as it was read; otherwise reads it anew.

        Raises:
            InvalidArgument: There is no such group, or its minimum would be more than its maximum.
            FailedPrecondition: The service lacks a right, or the API server refuses the change.
            Unavailable: The API server is out of reach, or the RayCluster is being edited all the time.
        """
        bounds = asked_bounds(request)
        ready = self._ready_workers()
        for _ in range(PATCH_ATTEMPTS):
            specs = self._read_specs()
            names = [spec["groupName"] for spec in specs]
            check_choice("worker_group", request.worker_group, names)
            index = names.index(request.worker_group)
            changes = _ray_changes(bounds, _ray_group(specs[index], ready))
            patched = self._patch(_json_patch(index, specs[index], changes), dry_run=request.validate_only)
            if patched is not None:
                return _ray_group(patched[index], ready)
        raise Unavailable(
            f"RayCluster {self._name} changes all the time; nothing was scaled, try again in a moment",
            reason="CONCURRENT_EDITS",
        )

    def _read_specs(self) -> list[dict[str, Any]]:
        specs: list[dict[str, Any]] = self._read_cluster()["spec"].get("workerGroupSpecs") or []
        return specs

    def _read_cluster(self) -> dict[str, Any]:
        from kubernetes import client
        from kubernetes.client.exceptions import NotFoundException

        try:
            with requiring(self._right("get")):
                cluster: dict[str, Any] = client.CustomObjectsApi(self._api).get_namespaced_custom_object(
                    **RAY_API, namespace=self._namespace, name=self._name, _request_timeout=CALL_TIMEOUT_SECONDS
                )
                return cluster
        except NotFoundException:
            raise FailedPrecondition(
                f"there is no RayCluster {self._name} in namespace {self._namespace}; check that the KubeRay operator "
                "and the RayCluster are installed, and SYNTHMIX_RAY_CLUSTER",
                reason="RAY_CLUSTER_NOT_FOUND",
            ) from None

    def _patch(self, patch: list[dict[str, Any]], *, dry_run: bool) -> list[dict[str, Any]] | None:
        """The groups after the patch; None if they are not as it expects them."""
        from kubernetes import client
        from kubernetes.client.exceptions import ConflictException, UnprocessableEntityException

        options = {"dry_run": "All"} if dry_run else {}
        try:
            with requiring(self._right("patch")):
                cluster = client.CustomObjectsApi(self._api).patch_namespaced_custom_object(
                    **RAY_API,
                    namespace=self._namespace,
                    name=self._name,
                    body=patch,
                    _content_type="application/json-patch+json",
                    _request_timeout=CALL_TIMEOUT_SECONDS,
                    **options,
                )
        except ConflictException:
            return None
        except UnprocessableEntityException as error:
            if _names_causes(error):
                raise FailedPrecondition(
                    f"the API server refuses this change of RayCluster {self._name}: {said_by(error)}",
                    reason="CHANGE_REFUSED",
                ) from None
            return None  # a `test` of the patch failed
        specs: list[dict[str, Any]] = cluster["spec"]["workerGroupSpecs"]
        return specs

    def _ready_workers(self) -> Mapping[str, int]:
        """Ready pods by group."""
        from kubernetes import client

        with requiring(Right("list", "pods", "", self._namespace)):
            pods = as_json(
                client.CoreV1Api(self._api).list_namespaced_pod,
                self._namespace,
                label_selector=f"ray.io/cluster={self._name},ray.io/node-type=worker",
            )
        return Counter(pod["metadata"]["labels"]["ray.io/group"] for pod in pods["items"] if is_ready(pod))

    def _right(self, verb: str) -> Right:
        return Right(verb, RAY_API["plural"], RAY_API["group"], self._namespace)


class DeploymentGroups:
    """Workers as Deployments, one for each service: {prefix}-image-synthesis and so on.

    Args:
        api: A kubernetes.client.ApiClient.
    """

    def __init__(self, api: Any, namespace: str, prefix: str):
        self._api = api
        self._namespace = namespace
        self._prefix = prefix

    def read(self) -> list[Group]:
        found = [group for group in map(self._find, SERVICES) if group is not None]
        if not found:
            names = ", ".join(f"{self._prefix}-{service}" for service in SERVICES)
            raise FailedPrecondition(
                f"namespace {self._namespace} has none of the Deployments {names}; check "
                "SYNTHMIX_WORKER_DEPLOYMENT_PREFIX",
                reason="WORKER_DEPLOYMENTS_NOT_FOUND",
            )
        return found

    def ray_problem(self) -> str:
        name = f"{self._prefix}-head"
        deployment = self._read(name)
        if deployment is None:
            return f"there is no Deployment {name} for Ray's head in namespace {self._namespace}"
        ready = deployment.get("status", {}).get("readyReplicas", 0)
        return "" if ready else f"Ray's head, Deployment {name}, has no ready pod"

    def scale(self, request: Scaling) -> Group:
        """Sets the Deployment's replicas: its minimum and its maximum are the same.

        Raises:
            InvalidArgument: There is no such group, or the minimum and the maximum differ.
            FailedPrecondition: The service lacks a right.
            Unavailable: The API server is out of reach.
        """
        from kubernetes import client

        bounds = asked_bounds(request)
        groups = {group.name: group for group in self.read()}
        check_choice("worker_group", request.worker_group, groups)
        workers, *others = set(bounds.values())
        if others:
            raise invalid_field(
                "max_workers",
                request.max_workers,
                f"differs from min_workers, {request.min_workers}",
                "give only one, or the same for both: these workers are a Deployment, which Ray's autoscaler does not "
                "change; for a minimum and a maximum, have the KubeRay operator run the workers",
                reason="WORKERS_NOT_AUTOSCALED",
            )
        options = {"dry_run": "All"} if request.validate_only else {}
        # The subresource, so that the service needs no right to change what the workers run.
        with requiring(Right("patch", "deployments/scale", "apps", self._namespace)):
            as_json(
                client.AppsV1Api(self._api).patch_namespaced_deployment_scale,
                f"{self._prefix}-{request.worker_group}",
                self._namespace,
                {"spec": {"replicas": workers}},
                _content_type="application/merge-patch+json",
                **options,
            )
        group = groups[request.worker_group]
        group.min_workers = group.max_workers = group.desired_workers = workers
        return group

    def _find(self, service: str) -> Group | None:
        deployment = self._read(f"{self._prefix}-{service}")
        if deployment is None:
            return None
        replicas = deployment["spec"].get("replicas", 0)
        return Group(
            name=service,
            min_workers=replicas,
            max_workers=replicas,
            desired_workers=replicas,
            ready_workers=deployment.get("status", {}).get("readyReplicas", 0),
            **_gpus_of_pod(deployment["spec"]["template"]),
        )

    def _read(self, name: str) -> dict[str, Any] | None:
        """A Deployment."""
        from kubernetes import client
        from kubernetes.client.exceptions import NotFoundException

        try:
            with requiring(Right("get", "deployments", "apps", self._namespace)):
                read = client.AppsV1Api(self._api).read_namespaced_deployment
                deployment: dict[str, Any] = as_json(read, name, self._namespace)
                return deployment
        except NotFoundException:
            return None


def is_ready(item: Mapping[str, Any]) -> bool:
    """Whether a pod or a node, as JSON, has the condition Ready."""
    conditions: Sequence[Mapping[str, Any]] = item.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _ray_group(spec: Mapping[str, Any], ready: Mapping[str, int]) -> Group:
    name = spec["groupName"]
    least, most = spec.get("minReplicas", RAY_MIN_REPLICAS), spec.get("maxReplicas", RAY_MAX_REPLICAS)
    return Group(
        name=name,
        min_workers=least,
        max_workers=most,
        # As the operator decides it.
        desired_workers=0 if spec.get("suspend") else max(least, min(most, spec.get("replicas", least))),
        ready_workers=ready.get(name, 0),
        **_gpus_of_pod(spec["template"]),
    )


def _ray_changes(asked: Mapping[str, int], group: Group) -> dict[str, int]:
    """The fields to change. Raises InvalidArgument if the minimum would be more than the maximum."""
    least, most = asked.get("min_workers", group.min_workers), asked.get("max_workers", group.max_workers)
    if least > most:
        field, value, problem, remedy = (
            ("max_workers", most, f"is less than min_workers, {least}", "lower min_workers too, or give more")
            if "min_workers" not in asked
            else ("min_workers", least, f"is more than max_workers, {most}", "raise max_workers too, or give less")
        )
        raise invalid_field(field, value, problem, remedy, reason="MIN_ABOVE_MAX")
    return {"minReplicas": least, "maxReplicas": most}


def _json_patch(index: int, spec: Mapping[str, Any], changes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Changes the group at an index, provided that it is the group that was read, with the bounds that were read."""
    path = f"/spec/workerGroupSpecs/{index}"
    tests = {"groupName": spec["groupName"]} | {key: spec[key] for key in changes if key in spec}
    return [
        *({"op": "test", "path": f"{path}/{key}", "value": value} for key, value in tests.items()),
        *({"op": "add", "path": f"{path}/{key}", "value": value} for key, value in changes.items()),
    ]


def _names_causes(error: Any) -> bool:
    """Whether a 422 says which field is invalid. One for a patch whose `test` failed does not."""
    return '"causes"' in (error.body or "")


def _gpus_of_pod(template: Mapping[str, Any]) -> dict[str, Any]:
    """A group's fields of GPUs."""
    limits = [container.get("resources", {}).get("limits") or {} for container in template["spec"]["containers"]]
    return {
        "gpus_per_worker": sum(int(limit.get(name, 0)) for limit in limits for name in GPU_RESOURCES),
        "gpu_product": product_of(template["spec"].get("nodeSelector") or {}),
    }


def product_of(labels: Mapping[str, Any]) -> str:
    """The kind of GPU that a node's labels say, or that a pod's selector asks of a node; empty if none."""
    return next((str(labels[name]) for name in PRODUCT_LABELS if name in labels), "")
