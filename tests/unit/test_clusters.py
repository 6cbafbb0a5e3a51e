"""The cluster service: worker groups and GPU nodes of a Kubernetes API server, and the times that plans predict by."""

import asyncio
from typing import Any

import pytest

from fake_kubernetes import NAMESPACE, FakeKubernetes, deployment, node, ray_cluster, worker_group, worker_pod
from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    KubernetesSettings,
)
from synthmix.study_control import planning
from synthmix.study_control.clusters import ClusterService, open_cluster
from synthmix.study_control.planning import StudySteps
from synthmix.study_control.steps import Step
from synthmix.study_control.study_service import StudyService

SYNTHESIS = "image-synthesis"
ON_RAY = KubernetesSettings(namespace=NAMESPACE, ray_cluster="ray")
ON_DEPLOYMENTS = KubernetesSettings(namespace=NAMESPACE, worker_deployment_prefix="lab-ray")


@pytest.fixture
def service(kubernetes: FakeKubernetes) -> ClusterService:
    """On a RayCluster with two groups."""
    groups = [worker_group("adapter-training", 0, 2, gpus=4), worker_group(SYNTHESIS, 1, 8, replicas=3)]
    kubernetes.put("rayclusters", ray_cluster(*groups))
    return ClusterService(open_cluster(ON_RAY))


@pytest.fixture
def on_deployments(kubernetes: FakeKubernetes) -> ClusterService:
    kubernetes.put("deployments", deployment("lab-ray-adapter-training", 1, ready=1, gpus=2))
    kubernetes.put("deployments", deployment(f"lab-ray-{SYNTHESIS}", 0))
    return ClusterService(open_cluster(ON_DEPLOYMENTS))


def get(service: ClusterService) -> clusters_pb2.Cluster:
    return asyncio.run(service.GetCluster(clusters_pb2.GetClusterRequest(), None))  # type: ignore[arg-type]


def scale(service: ClusterService, worker_group: str = SYNTHESIS, **bounds: Any) -> clusters_pb2.WorkerGroup:
    request = clusters_pb2.ScaleWorkerGroupRequest(worker_group=worker_group, **bounds)
    return asyncio.run(service.ScaleWorkerGroup(request, None))  # type: ignore[arg-type]


def refusal(service: ClusterService, worker_group: str = SYNTHESIS, **bounds: Any) -> errors.SynthMixError:
    with pytest.raises(errors.SynthMixError) as caught:
        scale(service, worker_group, **bounds)
    return caught.value


def bounds(kubernetes: FakeKubernetes) -> list[tuple[str, int, int]]:
    groups = kubernetes.get("rayclusters", "ray")["spec"]["workerGroupSpecs"]
    return [(group["groupName"], group["minReplicas"], group["maxReplicas"]) for group in groups]


# What there is


def test_groups_with_their_ready_workers(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    for pod in (
        worker_pod("a", SYNTHESIS),
        worker_pod("b", SYNTHESIS),
        worker_pod("c", SYNTHESIS, ready=False),
        worker_pod("d", SYNTHESIS, cluster="another"),
    ):
        kubernetes.put("pods", pod)
    cluster = get(service)
    assert cluster.namespace == NAMESPACE
    assert list(cluster.worker_groups) == [
        clusters_pb2.WorkerGroup(name="adapter-training", max_workers=2, gpus_per_worker=4),
        clusters_pb2.WorkerGroup(
            name=SYNTHESIS, min_workers=1, max_workers=8, desired_workers=3, ready_workers=2, gpus_per_worker=1
        ),
    ]


@pytest.mark.parametrize(
    ("more", "desired"),
    [({}, 2), ({"replicas": 0}, 2), ({"replicas": 3}, 3), ({"replicas": 9}, 4), ({"replicas": 3, "suspend": True}, 0)],
)
def test_desired_workers_are_what_the_operator_makes_of_it(
    more: dict[str, Any], desired: int, kubernetes: FakeKubernetes
) -> None:
    kubernetes.put("rayclusters", ray_cluster(worker_group(SYNTHESIS, 2, 4, **more)))
    assert get(ClusterService(open_cluster(ON_RAY))).worker_groups[0].desired_workers == desired


def test_nodes_with_gpus(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    broken = node("gpu-4", gpus=8)
    broken["status"]["allocatable"] = {"cpu": "32", "nvidia.com/gpu": "0"}
    for item in (
        node("cpu-1"),
        node("gpu-1", gpus=8, product="NVIDIA-A100-SXM4-40GB"),
        node("gpu-2", gpus=4, cordoned=True),
        node("gpu-3", amd=2, ready=False),
        broken,
    ):
        kubernetes.put("nodes", item, namespace="")
    assert [
        (item.name, item.gpu_product, item.nvidia_gpus, item.amd_gpus, item.schedulable, item.ready)
        for item in get(service).nodes
    ] == [
        ("gpu-1", "NVIDIA-A100-SXM4-40GB", 8, 0, True, True),
        ("gpu-2", "", 4, 0, False, True),
        ("gpu-3", "", 0, 2, True, False),
        ("gpu-4", "", 0, 0, True, True),
    ]


def test_nodes_that_may_not_be_listed_are_a_warning(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    kubernetes.forbidden.add(("list", "nodes"))
    cluster = get(service)
    assert [group.name for group in cluster.worker_groups] == ["adapter-training", SYNTHESIS]
    [warning] = cluster.warnings
    assert "may not list nodes in the whole cluster" in warning
    assert "ClusterRole a rule with apiGroups [''], resources ['nodes'], verbs ['list']" in warning


def test_groups_of_deployments(on_deployments: ClusterService) -> None:
    assert list(get(on_deployments).worker_groups) == [
        clusters_pb2.WorkerGroup(
            name="adapter-training",
            min_workers=1,
            max_workers=1,
            desired_workers=1,
            ready_workers=1,
            gpus_per_worker=2,
        ),
        clusters_pb2.WorkerGroup(name=SYNTHESIS, gpus_per_worker=1),
    ]


@pytest.mark.parametrize(
    ("conditions", "problem"),
    [
        ([("HeadPodReady", "True", "HeadPodRunningAndReady", "")], ""),
        ([("HeadPodReady", "False", "ContainersNotReady", "ImagePullBackOff")], "is not ready: ImagePullBackOff"),
        ([("HeadPodReady", "False", "HeadPodNotFound", "")], "Ray's head is not ready: HeadPodNotFound"),
        (
            [("HeadPodReady", "False", "HeadPodNotFound", ""), ("ReplicaFailure", "True", "Failed", "quota exceeded")],
            "a pod of RayCluster ray cannot be made: quota exceeded",
        ),
        ([], f"operator has not begun with RayCluster ray: it does not run, does not watch namespace {NAMESPACE}"),
    ],
)
def test_a_ray_that_does_not_run_is_a_problem(
    conditions: list[tuple[str, str, str, str]], problem: str, kubernetes: FakeKubernetes
) -> None:
    ray = ray_cluster(worker_group(SYNTHESIS, 0, 4))
    keys = ("type", "status", "reason", "message")
    ray["status"]["conditions"] = [dict(zip(keys, values, strict=True)) for values in conditions]
    kubernetes.put("rayclusters", ray)
    found = get(ClusterService(open_cluster(ON_RAY))).ray_problem
    assert problem in found and bool(problem) == bool(found)


def test_a_head_that_is_a_deployment(on_deployments: ClusterService, kubernetes: FakeKubernetes) -> None:
    assert "there is no Deployment lab-ray-head" in get(on_deployments).ray_problem
    kubernetes.put("deployments", deployment("lab-ray-head", 1))
    assert get(on_deployments).ray_problem == "Ray's head, Deployment lab-ray-head, has no ready pod"
    kubernetes.put("deployments", deployment("lab-ray-head", 1, ready=1))
    assert get(on_deployments).ray_problem == ""


def test_a_group_says_which_gpus_it_wants(kubernetes: FakeKubernetes) -> None:
    group = worker_group(SYNTHESIS, 0, 4)
    group["template"]["spec"]["nodeSelector"] = {"pool": "x", "nvidia.com/gpu.product": "NVIDIA-L4"}
    kubernetes.put("rayclusters", ray_cluster(group))
    assert get(ClusterService(open_cluster(ON_RAY))).worker_groups[0].gpu_product == "NVIDIA-L4"


# Scaling a RayCluster


def test_scaling_changes_one_group(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    group = scale(service, min_workers=4, max_workers=16)
    assert (group.name, group.min_workers, group.max_workers, group.desired_workers) == (SYNTHESIS, 4, 16, 4)
    assert bounds(kubernetes) == [("adapter-training", 0, 2), (SYNTHESIS, 4, 16)]
    assert kubernetes.get("rayclusters", "ray")["spec"]["workerGroupSpecs"][1]["replicas"] == 3, "the autoscaler's"


@pytest.mark.parametrize(("given", "then"), [({"max_workers": 12}, (1, 12)), ({"min_workers": 0}, (0, 8))])
def test_what_is_not_given_stays(
    given: dict[str, int], then: tuple[int, int], service: ClusterService, kubernetes: FakeKubernetes
) -> None:
    scale(service, **given)
    assert bounds(kubernetes)[1] == (SYNTHESIS, *then)


def test_a_group_that_leaves_its_bounds_to_the_defaults(kubernetes: FakeKubernetes) -> None:
    spec = worker_group(SYNTHESIS, 0, 0)
    del spec["minReplicas"], spec["maxReplicas"]
    kubernetes.put("rayclusters", ray_cluster(spec))
    service = ClusterService(open_cluster(ON_RAY))
    assert get(service).worker_groups[0].max_workers == 2**31 - 1
    scale(service, max_workers=3)
    assert bounds(kubernetes) == [(SYNTHESIS, 0, 3)]


def test_validation_changes_nothing_and_asks_for_the_right(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    group = scale(service, max_workers=12, validate_only=True)
    assert (group.min_workers, group.max_workers) == (1, 12)
    assert bounds(kubernetes)[1] == (SYNTHESIS, 1, 8)
    kubernetes.forbidden.add(("patch", "rayclusters"))
    assert refusal(service, max_workers=12, validate_only=True).reason == "RBAC_RIGHT_MISSING"


def test_a_group_that_moves_meanwhile_is_found_again(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    """By the index alone, the group that took its place would be scaled."""

    def move(verb: str, resource: str) -> None:
        kubernetes.before_write = lambda verb, resource: None
        cluster = kubernetes.get("rayclusters", "ray")
        cluster["spec"]["workerGroupSpecs"].reverse()
        kubernetes.put("rayclusters", cluster)

    kubernetes.before_write = move
    scale(service, max_workers=12)
    assert bounds(kubernetes) == [(SYNTHESIS, 1, 12), ("adapter-training", 0, 2)]
    assert kubernetes.count("patch", "rayclusters") == 2


def test_bounds_that_change_meanwhile_are_checked_again(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    def lower(verb: str, resource: str) -> None:
        kubernetes.before_write = lambda verb, resource: None
        cluster = kubernetes.get("rayclusters", "ray")
        cluster["spec"]["workerGroupSpecs"][1]["maxReplicas"] = 2
        kubernetes.put("rayclusters", cluster)

    kubernetes.before_write = lower
    error = refusal(service, min_workers=5)
    assert error.message.startswith("min_workers: 5 is more than max_workers, 2")
    assert bounds(kubernetes)[1] == (SYNTHESIS, 1, 2)


def test_the_autoscalers_edits_are_no_conflict(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    def autoscale(verb: str, resource: str) -> None:
        cluster = kubernetes.get("rayclusters", "ray")
        cluster["spec"]["workerGroupSpecs"][1]["replicas"] += 1
        kubernetes.put("rayclusters", cluster)

    kubernetes.before_write = autoscale
    scale(service, max_workers=12)
    assert kubernetes.count("patch", "rayclusters") == 1


def test_edits_without_end(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    def edit(verb: str, resource: str) -> None:
        cluster = kubernetes.get("rayclusters", "ray")
        cluster["spec"]["workerGroupSpecs"][1]["maxReplicas"] += 1

    kubernetes.before_write = edit
    error = refusal(service, max_workers=12)
    assert isinstance(error, errors.Unavailable)
    assert error.reason == "CONCURRENT_EDITS"


def test_a_change_that_was_not_answered_may_be_asked_for_again(
    service: ClusterService, kubernetes: FakeKubernetes
) -> None:
    kubernetes.losing_answers = True
    assert isinstance(refusal(service, max_workers=12), errors.Unavailable)
    kubernetes.losing_answers = False
    assert scale(service, max_workers=12).max_workers == 12


# Errors of the request


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({}, "min_workers", "is required; give min_workers, max_workers or both"),
        ({"min_workers": -1}, "min_workers", "-1 is negative; use 0 or more"),
        ({"min_workers": 0, "max_workers": -2}, "max_workers", "-2 is negative; use 0 or more"),
        (
            {"min_workers": 3, "max_workers": 2},
            "min_workers",
            "3 is more than max_workers, 2; raise max_workers too, or give less",
        ),
        ({"min_workers": 9}, "min_workers", "9 is more than max_workers, 8; raise max_workers too, or give less"),
        ({"max_workers": 0}, "max_workers", "0 is less than min_workers, 1; lower min_workers too, or give more"),
    ],
)
def test_bounds_that_cannot_be(
    given: dict[str, int], field: str, said: str, service: ClusterService, kubernetes: FakeKubernetes
) -> None:
    error = refusal(service, **given)
    assert isinstance(error, errors.InvalidArgument)
    [violation] = error.violations
    assert (violation.field, violation.description) == (field, said)
    assert kubernetes.count("patch", "rayclusters") == 0


def test_a_group_must_be_named(service: ClusterService) -> None:
    assert refusal(service, "", max_workers=1).violations[0].field == "worker_group"


@pytest.mark.parametrize("kind", ["service", "on_deployments"])
def test_an_unknown_group_names_the_known_ones_and_the_nearest(kind: str, request: pytest.FixtureRequest) -> None:
    error = refusal(request.getfixturevalue(kind), "image-synthesys", max_workers=1)
    assert isinstance(error, errors.InvalidArgument)
    assert error.message == (
        "worker_group: 'image-synthesys' is not one of the choices; did you mean 'image-synthesis'? "
        "use one of: adapter-training, image-synthesis"
    )


# Errors of the cluster


def test_without_kubernetes() -> None:
    service = ClusterService(open_cluster(KubernetesSettings()))
    error = refusal(service, max_workers=1)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "NO_CLUSTER"
    assert "synthmix up --cpus N --gpus N" in error.message
    with pytest.raises(errors.FailedPrecondition, match="do not run on Kubernetes"):
        get(service)


@pytest.mark.parametrize(
    ("verb", "resource", "named"),
    [
        ("get", "rayclusters", "get rayclusters.ray.io in namespace lab"),
        ("patch", "rayclusters", "patch rayclusters.ray.io in namespace lab"),
        ("list", "pods", "list pods in namespace lab"),
    ],
)
def test_a_missing_right_is_named(
    verb: str, resource: str, named: str, service: ClusterService, kubernetes: FakeKubernetes
) -> None:
    kubernetes.forbidden.add((verb, resource))
    error = refusal(service, max_workers=12)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "RBAC_RIGHT_MISSING"
    assert error.message.startswith(f"this service's account may not {named} (the API server says: ")
    assert f"verbs ['{verb}']" in error.message


def test_an_api_server_out_of_reach(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    kubernetes.failing = 503
    assert isinstance(refusal(service, max_workers=12), errors.Unavailable)
    with pytest.raises(errors.Unavailable):
        get(service)


def test_a_ray_cluster_that_is_not_there(kubernetes: FakeKubernetes) -> None:
    error = refusal(ClusterService(open_cluster(ON_RAY)), max_workers=12)
    assert isinstance(error, errors.FailedPrecondition)
    assert "there is no RayCluster ray in namespace lab" in error.message
    assert "SYNTHMIX_RAY_CLUSTER" in error.message


def test_a_change_that_the_api_server_refuses(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    error = refusal(service, max_workers=1001)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.message.endswith("RayCluster is invalid: maxReplicas: must be 1000 or less")
    assert kubernetes.count("patch", "rayclusters") == 1


# Scaling Deployments


@pytest.mark.parametrize("given", [{"min_workers": 3}, {"max_workers": 3}, {"min_workers": 3, "max_workers": 3}])
def test_scaling_a_deployment(
    given: dict[str, int], on_deployments: ClusterService, kubernetes: FakeKubernetes
) -> None:
    group = scale(on_deployments, **given)
    assert (group.min_workers, group.max_workers, group.desired_workers, group.ready_workers) == (3, 3, 3, 0)
    assert kubernetes.get("deployments", f"lab-ray-{SYNTHESIS}")["spec"]["replicas"] == 3
    assert kubernetes.count("patch", "deployments") == 0, "the right to scale is no right to change what runs"


def test_a_deployment_has_no_minimum_and_maximum(on_deployments: ClusterService, kubernetes: FakeKubernetes) -> None:
    error = refusal(on_deployments, min_workers=1, max_workers=3)
    assert isinstance(error, errors.InvalidArgument)
    assert error.reason == "WORKERS_NOT_AUTOSCALED"
    assert error.message.startswith("max_workers: 3 differs from min_workers, 1; give only one")
    assert kubernetes.get("deployments", f"lab-ray-{SYNTHESIS}")["spec"]["replicas"] == 0


def test_validating_a_deployments_scale(on_deployments: ClusterService, kubernetes: FakeKubernetes) -> None:
    assert scale(on_deployments, max_workers=3, validate_only=True).max_workers == 3
    assert kubernetes.get("deployments", f"lab-ray-{SYNTHESIS}")["spec"]["replicas"] == 0


def test_a_missing_right_to_scale_deployments(on_deployments: ClusterService, kubernetes: FakeKubernetes) -> None:
    kubernetes.forbidden.add(("patch", "deployments/scale"))
    error = refusal(on_deployments, max_workers=3)
    assert isinstance(error, errors.FailedPrecondition)
    assert "patch deployments/scale.apps in namespace lab" in error.message


def test_deployments_that_are_not_there(kubernetes: FakeKubernetes) -> None:
    service = ClusterService(open_cluster(ON_DEPLOYMENTS))
    with pytest.raises(errors.FailedPrecondition, match="none of the Deployments lab-ray-adapter-training"):
        get(service)


# Predicted times


def study(adapters: list[float], image_sets: list[tuple[float, int]], grid: tuple[float, int]) -> StudySteps:
    """A study by each step's seconds and tasks; an adapter of 0 seconds is there already."""

    def step(service: str, name: str, seconds: float, tasks: int) -> Step:
        return Step(service, name, None, operations_pb2.Plan(target=name, predicted_seconds=seconds, tasks=tasks), {})

    return StudySteps(
        studies_pb2.StudySpec(),
        datasets_pb2.Dataset(),
        datasets_pb2.Split(),
        (
            *(step(ADAPTER_TRAINING, "adapter", seconds, 1 if seconds else 0) for seconds in adapters),
            *(step(IMAGE_SYNTHESIS, "images", *item) for item in image_sets),
            step(CLASSIFIER_EVALUATION, "grid", *grid),
        ),
        {},
    )


def cluster(*groups: tuple[str, int, int], gpus: tuple[int, ...] = ()) -> clusters_pb2.Cluster:
    """Groups by (name, max_workers, gpus_per_worker), and a ready node for each number of GPUs."""
    return clusters_pb2.Cluster(
        worker_groups=[
            clusters_pb2.WorkerGroup(name=name, max_workers=most, gpus_per_worker=each) for name, most, each in groups
        ],
        nodes=[clusters_pb2.Node(nvidia_gpus=count, ready=True, schedulable=True) for count in gpus],
    )


ALL = ("adapter-training", SYNTHESIS, "classifier-evaluation")


def test_a_phase_takes_its_time_divided_by_the_workers_in_whole_rounds() -> None:
    steps = study([100.0, 100.0, 100.0], [(80.0, 4), (80.0, 4)], (600.0, 60))
    assert steps.plan().predicted_wall_seconds == 0.0, "as on one machine"
    plan = planning.with_wall_time(steps, cluster(*((name, 2, 1) for name in ALL), gpus=(8,)))
    assert plan.predicted_seconds == 1060.0
    assert plan.predicted_wall_seconds == pytest.approx(2 * 100.0 + 4 * 20.0 + 30 * 10.0)
    assert [item.workers for item in plan.steps] == [2] * 6
    assert not plan.warnings


def test_more_workers_than_tasks_are_no_faster() -> None:
    plan = planning.with_wall_time(study([100.0], [(80.0, 4)], (0.0, 0)), cluster(*((name, 50, 0) for name in ALL)))
    assert plan.predicted_wall_seconds == pytest.approx(100.0 + 20.0)


def test_a_study_that_is_done_takes_no_time() -> None:
    plan = planning.with_wall_time(study([0.0], [(0.0, 0)], (0.0, 0)), cluster())
    assert (plan.predicted_wall_seconds, list(plan.warnings)) == (0.0, [])


@pytest.mark.parametrize(
    ("most", "each", "gpus", "workers"),
    [
        (4, 1, (8,), 4),
        (16, 1, (8,), 8),
        (16, 4, (6, 6), 2),  # a worker's GPUs are on one node
        (16, 0, (), 16),
        (16, 1, (), 0),
        (0, 1, (8,), 0),
    ],
)
def test_workers_that_run_at_once(most: int, each: int, gpus: tuple[int, ...], workers: int) -> None:
    found = cluster((SYNTHESIS, most, each), gpus=gpus)
    found.nodes.add(nvidia_gpus=32, ready=True, schedulable=False)
    found.nodes.add(nvidia_gpus=32, ready=False, schedulable=True)
    assert planning.workers_at_once(found.worker_groups[0], found) == workers


def test_workers_run_where_their_kind_of_gpu_is() -> None:
    found = cluster((SYNTHESIS, 64, 1), gpus=(4, 64))
    for item, product in zip(found.nodes, ("NVIDIA-L4", "NVIDIA-H100-80GB-HBM3"), strict=True):
        item.gpu_product = product
    [group] = found.worker_groups
    for wanted, workers in (("", 64), ("NVIDIA-L4", 4), ("NVIDIA-A100-SXM4-80GB", 0)):
        group.gpu_product = wanted
        assert planning.workers_at_once(group, found) == workers


def test_a_step_that_no_worker_can_run_is_a_warning() -> None:
    found = cluster(("adapter-training", 2, 8), (SYNTHESIS, 2, 1), gpus=(4,))
    plan = planning.with_wall_time(study([100.0], [(80.0, 4)], (600.0, 60)), found)
    assert plan.predicted_wall_seconds == 0.0
    [warning] = plan.warnings
    assert warning.startswith("no worker can run now for adapter-training, classifier-evaluation: ")
    plan = planning.with_wall_time(study([0.0], [(80.0, 4)], (0.0, 0)), found)
    assert (plan.predicted_wall_seconds, list(plan.warnings)) == (40.0, []), "what is done needs no worker"


def test_a_ray_that_does_not_run_is_a_warning() -> None:
    found = cluster(*((name, 2, 0) for name in ALL))
    found.ray_problem = "its image isn't there"
    plan = planning.with_wall_time(study([100.0], [(80.0, 4)], (600.0, 60)), found)
    assert list(plan.warnings) == ["no task can run now, and the study would wait: its image isn't there"]
    assert plan.predicted_wall_seconds > 0.0


def test_gpus_that_are_not_known_predict_nothing() -> None:
    found = cluster(*((name, 2, 1) for name in ALL))
    found.warnings.append("the nodes' GPUs are not known: no right")
    plan = planning.with_wall_time(study([100.0], [(80.0, 4)], (600.0, 60)), found)
    assert plan.predicted_wall_seconds == 0.0
    assert list(plan.warnings) == ["the nodes' GPUs are not known: no right"]


def test_a_plan_is_made_even_if_the_cluster_cannot_be_read(service: ClusterService, kubernetes: FakeKubernetes) -> None:
    steps = study([100.0], [(80.0, 4)], (0.0, 0))
    for item in (node("gpu-1", gpus=4), node("gpu-2", gpus=4)):
        kubernetes.put("nodes", item, namespace="")
    studies = StudyService(None, None, None, open_cluster(ON_RAY))  # type: ignore[arg-type]
    assert studies._plan(steps).predicted_wall_seconds == pytest.approx(100.0 + 20.0)
    kubernetes.failing = 503
    plan = studies._plan(steps)
    assert (plan.predicted_seconds, plan.predicted_wall_seconds) == (180.0, 0.0)
    assert plan.warnings[0].startswith("how long it takes on this cluster is not predicted: the Kubernetes API server")
    assert StudyService(None, None, None, None)._plan(steps) == steps.plan()  # type: ignore[arg-type]
