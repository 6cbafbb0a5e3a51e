"""A study is killed in its middle, or cancelled: it ends with the same bytes, and nothing finished is done twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from studies import import_simulated, payload_digests, reduced_study, run_study, steps_of, wait_for

from service_kit.artifacts import find_manifest, list_artifacts
from service_kit.errors import Cancelled, Unavailable
from service_kit.object_store import ObjectStore
from service_kit.resource_names import ArtifactName
from service_kit.settings import SERVICES
from synthmix import Client
from synthmix.client import failure_of, metadata_of, result_of
from synthmix.embedded import Connection, embedded_stack, read_connection
from synthmix_api.operations.v1 import operations_pb2
from synthmix_api.studies.v1 import studies_pb2

# Long enough to be interrupted in each of its steps.
STUDY = {
    "adapters": {"rank": [4], "images_seen": [320]},
    "synthesis": {"prompt": "a brightfield image of {label} cells", "steps": 4},
    "mixtures": {"ratios": [0, 0.25], "synthetic_only": True},
    "seeds": 2,
}


@pytest.fixture(scope="module")
def undisturbed(client: Client, store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The payload digests of a study that nothing disturbs."""
    import_simulated(client, tmp_path_factory.mktemp("simulated"), "sim-kill")
    return payload_digests(store, run_study(client, reduced_study("kill", "sim-kill", **STUDY)))


@pytest.fixture
def other_stack(tmp_path: Path) -> Iterator[Connection]:
    """A stack of its own, which has done nothing yet."""
    with embedded_stack(tmp_path / "home") as connection:
        yield connection


def children_named(pid: int, *words: str) -> list[psutil.Process]:
    """Processes below pid whose command line or title has all the words."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if all(word in title for word in words):
            found.append(process)
    return found


def task_processes() -> list[psutil.Process]:
    """Processes that run a task: Ray titles them by its function."""
    return [
        process
        for module in ("adapter_training.", "image_synthesis.", "classifier_evaluation.")
        for process in children_named(os.getpid(), f"ray::{module}")
    ]


def wait_for_step(client: Client, name: str, step: str, done: int) -> None:
    """Waits until a step of the study has done so much."""

    def reached() -> bool:
        steps = steps_of(client, client.get_study(name))
        return step in steps and steps[step].done >= done

    wait_for(reached, f"{step} at {done}", timeout_s=240)


def kill(processes: list[psutil.Process]) -> None:
    assert processes, "there is nothing to kill"
    for process in processes:
        process.send_signal(signal.SIGKILL)


def test_killed_anywhere_a_study_ends_the_same(
    other_stack: Connection, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 of a worker in training, of each coordinator, of each service: then the same digests as undisturbed."""
    me = os.getpid()
    with Client.connect(other_stack.home) as client:
        store = ObjectStore(other_stack.object_store)
        import_simulated(client, tmp_path / "simulated", "sim-kill")
        submitted = client.submit_study(reduced_study("kill", "sim-kill", **STUDY))

        def stack_children(*words: str) -> list[psutil.Process]:
            return [
                process
                for process in children_named(me, *words)
                if process.environ().get("RAY_AUTH_TOKEN") == other_stack.ray_auth_token
            ]

        wait_for_step(client, "kill", "adapter", 16)
        kill(stack_children("ray::adapter_training.task"))
        wait_for_step(client, "kill", "images", 1)
        kill(stack_children("ray::Coordinator"))
        wait_for_step(client, "kill", "grid", 1)
        finished = {name: find_manifest(store, name) for name in list_artifacts(store, "cells")}
        for service in SERVICES:
            pid = read_connection(other_stack.home).pids[service]
            os.kill(pid, signal.SIGKILL)
        kill(stack_children("ray::Coordinator"))

        operation = client.wait(submitted, timeout_s=400)
        study = result_of(operation, studies_pb2.Study)
        assert payload_digests(store, study) == undisturbed
        # What was finished then is what is there now: a cell that is trained again has another time in its manifest.
        assert finished
        assert {name: find_manifest(store, name) for name in finished} == finished


def runs_at(home: Path) -> bool:
    try:
        read_connection(home)
    except Unavailable:
        return False
    return True


def test_a_whole_stack_that_is_killed_goes_on_when_it_is_started_again(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 of `synthmix up` in mid-training: the study goes on at the next start, to the same adapter."""
    home = tmp_path / "home"
    with subprocess.Popen([sys.executable, "-m", "synthmix", "--home", str(home), "up"], stdout=subprocess.PIPE) as up:
        wait_for(lambda: runs_at(home), "the stack's start")
        with Client.connect(home) as client:
            import_simulated(client, tmp_path / "simulated", "sim-kill")
            submitted = client.submit_study(reduced_study("kill", "sim-kill", **STUDY))
            wait_for_step(client, "kill", "adapter", 16)
        up.kill()
    with embedded_stack(home) as connection, Client.connect(home) as client:
        wait_for_step(client, "kill", "adapter", 320)
        store = ObjectStore(connection.object_store)
        wait_for(lambda: bool(list_artifacts(store, "adapters")), "the adapter")
        [adapter] = list_artifacts(store, "adapters")
        manifest = find_manifest(store, adapter)
        assert manifest is not None
        assert {payload.sha256 for payload in manifest.payloads} == {
            sha256 for key, sha256 in undisturbed.items() if key.startswith(str(adapter))
        }
        client.cancel(submitted.name)


def test_a_cancelled_study_stops_and_goes_on_from_what_is_done(
    client: Client, store: ObjectStore, undisturbed: dict[str, str]
) -> None:
    spec = reduced_study("cancelled", "sim-kill", **(STUDY | {"seeds": 4}))
    operation = client.submit_study(spec)
    target = ArtifactName.parse(metadata_of(operation).target, field="target")
    wait_for_step(client, "cancelled", "grid", 7)
    assert task_processes()
    client.cancel(operation.name)
    ended = client.wait(operation.name, timeout_s=10)
    assert isinstance(failure_of(ended), Cancelled)
    assert client.get_study("cancelled").state == operations_pb2.STATE_CANCELLED
    wait_for(lambda: not task_processes(), "the end of all tasks", timeout_s=10)
    assert find_manifest(store, target) is None
    done = len(list_artifacts(store, "cells"))
    time.sleep(3)
    assert len(list_artifacts(store, "cells")) == done

    study = run_study(client, spec)
    assert study.state == operations_pb2.STATE_SUCCEEDED
    steps = steps_of(client, study)
    assert steps["adapter"].reused == 320
    assert steps["grid"].reused >= 7
