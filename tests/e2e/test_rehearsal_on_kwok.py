"""How a large cluster would scale: GPUs that KWOK pretends, and the real operator, autoscaler and scheduler.

The pods on those nodes run no Ray, so tasks stay pending: demand lasts until its study is cancelled.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from release import Release

from cluster.fake_gpus import GPUS, Node, running_fake_gpus
from studies import FEW, import_simulated, reduced_study, run_study
from synthmix.api.studies.v1 import studies_pb2
from waiting import wait_until

SYNTHESIS, TRAINING, CLASSIFIERS = (
    "image-synthesis-worker",
    "adapter-training-worker",
    "classifier-evaluation-worker",
)
A100, H100 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3"
RESERVED = {"key": "reserved", "value": "others", "effect": "NoSchedule"}
NODES = [
    *(Node(f"a100-{index}", A100) for index in range(8)),
    Node("h100-0", H100),
    Node("a100-reserved", A100, [RESERVED]),
]
SCALE_TIMEOUT_S = 300.0
GROUP = {
    "resources": {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": 1},
    },
    "task": {"cpus": 4, "gpus": 1},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}
VALUES = {
    "workers": {
        "adapterTraining": {**GROUP, "max": 8, "gpuProduct": H100},
        "imageSynthesis": {**GROUP, "max": 64, "gpuProduct": A100},
        "classifierEvaluation": {**GROUP, "max": 8, "gpuProduct": H100},
    },
    "ray": {"autoscaler": {"pendingIdleTimeoutSeconds": 15}},
}


@pytest.fixture(scope="module")
def adapter(release: Release, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that is trained before the GPUs are only pretended."""
    with release.client() as caller:
        import_simulated(caller, tmp_path_factory.mktemp("simulated"))
        run_study(caller, reduced_study("trained-before", FEW))


@pytest.fixture(scope="module")
def rehearsed(
    release: Release, values: list[Path], adapter: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """The release with workers that ask for GPUs. Pretended ones among real ones would prove nothing."""
    nodes = client.CoreV1Api(release.cluster.api()).list_node().items
    if any(int(node.status.allocatable.get("nvidia.com/gpu", 0)) for node in nodes):
        pytest.skip("this cluster has GPUs of its own: the rehearsal is for one that has none")
    folder = tmp_path_factory.mktemp("rehearsal")
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    with running_fake_gpus(release.cluster, NODES, folder):
        try:
            release.upgrade_all([*values, path])
            yield release
        finally:
            release.upgrade_all(values)


def test_the_gpus_are_counted_by_product(rehearsed: Release) -> None:
    checks = json.loads(rehearsed.synthmix("--output", "json", "doctor", "--services", "--wait", "60").stdout)["checks"]
    [found] = [check["found"] for check in checks if check["name"] == "Kubernetes' GPUs"]
    assert found == f"80 on 10 of 10 GPU nodes ({A100}, {H100})"


def test_pending_images_scale_synthesis_alone(rehearsed: Release) -> None:
    """4,800 images are 75 shards, which want more workers than there may be."""
    synthesis = {"prompt": "a brightfield image of {label} cells", "steps": 4, "per_class": 2400}
    placed = scale_and_back(rehearsed, reduced_study("many-images", FEW, synthesis=synthesis), SYNTHESIS, 64)
    assert {node: placed.count(node) for node in placed} == {f"a100-{index}": GPUS for index in range(8)}


def test_pending_adapters_scale_training_alone(rehearsed: Release) -> None:
    study = reduced_study("many-adapters", FEW, adapters={"rank": list(range(5, 15)), "images_seen": [320]})
    assert scale_and_back(rehearsed, study, TRAINING, 8) == ["h100-0"] * 8


def test_one_study_keeps_all_groups_busy_at_once(rehearsed: Release) -> None:
    """One of its adapters is there and wants images, the other one wants training, and further seeds real images."""
    groups = (SYNTHESIS, TRAINING, CLASSIFIERS)
    wait(lambda: not any(rehearsed.pods(group) for group in groups), "no worker of an earlier study is left")
    adapters = {"rank": [4, 6], "images_seen": 320}
    synthesis = {"prompt": "a brightfield image of {label} cells", "steps": 5}
    with rehearsed.client() as caller:
        caller.submit_study(reduced_study("all-at-once", FEW, adapters=adapters, synthesis=synthesis, seeds=3))
        wait(lambda: all(running(rehearsed, group) for group in groups), "pods of all three groups run")
        caller.cancel_study("all-at-once")
        wait(lambda: not any(rehearsed.pods(group) for group in groups), "no worker is left")


def running(release: Release, component: str) -> int:
    return sum(pod.status.phase == "Running" for pod in release.pods(component))


def scale_and_back(release: Release, study: studies_pb2.StudySpec, component: str, most: int) -> list[str]:
    """Submits a study whose tasks one group of workers is for, waits until they are at their most, and cancels it.

    Returns:
        The node of each of these workers.
    """
    groups = (SYNTHESIS, TRAINING, CLASSIFIERS)
    others = set(groups) - {component}
    # An upgrade leaves each group as many workers as an earlier study had, until the autoscaler finds nothing for them.
    wait(lambda: not any(release.pods(group) for group in groups), "no worker of an earlier study is left")
    strangers: list[Any] = []

    def number(count: Callable[[Release, str], int] = lambda release, group: len(release.pods(group))) -> int:
        strangers.extend(pod for other in others for pod in release.pods(other))
        return count(release, component)

    with release.client() as caller:
        caller.submit_study(study)
        first_s = wait(lambda: number() > 0, f"a pod of {component}")
        all_s = wait(lambda: number(running) == most, f"{most} pods of {component} run")
        placed = [pod.spec.node_name for pod in release.pods(component)]
        time.sleep(10)
        assert number() == most, "there are more than the bound"
        caller.cancel_study(study.name)
        none_s = wait(lambda: number() == 0, f"no pod of {component} is left")
    print(
        f"\n{component}: the first pod after {first_s:.0f} s, all {most} run {all_s:.0f} s later; "
        f"none is left {none_s:.0f} s after the study was cancelled"
    )
    assert strangers == []
    return placed


def wait(holds: Callable[[], bool], what: str) -> float:
    """Seconds that it took."""
    started_s = time.monotonic()
    wait_until(holds, what, SCALE_TIMEOUT_S, poll_s=0.5)
    return time.monotonic() - started_s
