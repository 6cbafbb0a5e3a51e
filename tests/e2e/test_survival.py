"""A study goes on while pods are deleted and the chart is upgraded, and ends with the bytes of an undisturbed one."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client
from release import Release

from studies import FEW, import_simulated, payload_digests, reduced_study, run_study, steps_of
from synthmix import Client
from synthmix.api.operations.v1 import operations_pb2
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import Unavailable
from waiting import wait_until

STUDY = reduced_study("disturbed", FEW)
STEP_TIMEOUT_S = 600.0
END_TIMEOUT_S = 900.0


@pytest.fixture(scope="module")
def undisturbed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of a study that nothing disturbs. All that it made is deleted again."""
    begin_anew(release, tmp_path_factory.mktemp("undisturbed"))
    with release.client() as client:
        return payload_digests(release.store(), run_study(client, STUDY))


@pytest.fixture
def caller(release: Release, undisturbed: dict[str, str], tmp_path: Path) -> Iterator[Client]:
    """A client of services that have nothing done yet."""
    begin_anew(release, tmp_path)
    with release.client() as client:
        yield client


def begin_anew(release: Release, folder: Path) -> None:
    """Empties the bucket, and imports the dataset."""
    release.store().delete_prefix("")
    with release.client() as client:
        import_simulated(client, folder / "simulated")


def ask(question: Callable[[], bool]) -> bool:
    """While pods come and go, a forward may lead nowhere."""
    try:
        return question()
    except Unavailable:
        return False


def wait_for_step(caller: Client, step: str, done: int) -> None:
    def reached() -> bool:
        steps = steps_of(caller, caller.get_study(STUDY.name))
        return step in steps and steps[step].done >= done

    wait_until(lambda: ask(reached), f"{step} is at {done}", STEP_TIMEOUT_S)


def delete_pods(release: Release, component: str) -> None:
    """Deletes all of a component, and waits until others are ready in their place."""
    core = client.CoreV1Api(release.cluster.api())
    with release.replaced(component, STEP_TIMEOUT_S) as pods:
        for pod in pods:
            core.delete_namespaced_pod(pod.metadata.name, release.namespace)


def wait_for_end(release: Release, caller: Client) -> dict[str, str]:
    def ended() -> bool:
        return caller.get_study(STUDY.name).state != operations_pb2.STATE_RUNNING

    wait_until(lambda: ask(ended), "the study has ended", END_TIMEOUT_S)
    study = caller.get_study(STUDY.name)
    assert study.state == operations_pb2.STATE_SUCCEEDED, study
    return payload_digests(release.store(), study)


def test_front_ends_and_workers_come_and_go(
    release: Release, caller: Client, undisturbed: dict[str, str], values: list[Path]
) -> None:
    """The worker that trains is deleted, an upgrade rolls every front end, then each front end's pods are deleted."""
    caller.submit_study(STUDY)
    wait_for_step(caller, "adapter", 16)
    delete_pods(release, "adapter-training-worker")
    annotation = f"upgraded={time.time():.0f}"
    options = [
        f"--set-string=services.{service}.podAnnotations.{annotation}"
        for service in ("adapterTraining", "imageSynthesis", "classifierEvaluation", "studyControl")
    ]
    release.upgrade(values, *options)
    for service in SERVICES:
        delete_pods(release, service)
    assert wait_for_end(release, caller) == undisturbed


@pytest.mark.parametrize("component", ["object-storage", "ray-head"])
def test_a_part_of_which_there_is_one_comes_back(
    release: Release, caller: Client, undisturbed: dict[str, str], component: str
) -> None:
    caller.submit_study(STUDY)
    wait_for_step(caller, "images", 1)
    started_s = time.monotonic()
    delete_pods(release, component)
    print(f"{component} is back after {time.monotonic() - started_s:.0f} s")
    wait_for_step(caller, "grid", 1)
    print(f"the study goes on {time.monotonic() - started_s:.0f} s after {component} was deleted")
    assert wait_for_end(release, caller) == undisturbed
