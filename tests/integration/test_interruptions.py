"""A study is killed in its middle, or cancelled: it ends with the same bytes, and nothing finished is done twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from studies import FEW, import_simulated, payload_digests, reduced_study, run_study, steps_of
from synthmix import Client
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import failure_of, metadata_of
from synthmix.local import local_stack, read_connection
from synthmix.service_kit.artifacts import Manifest, find_manifest, list_artifacts
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import Cancelled, Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.s3_object_store import S3ObjectStore
from waiting import wait_until


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
        for process in children_named(os.getpid(), f"ray::synthmix.{module}")
    ]


def wait_for_step(client: Client, name: str, step: str, done: int) -> None:
    """Waits until a step of the study has done so much."""

    def reached() -> bool:
        steps = steps_of(client, client.get_study(name))
        return step in steps and steps[step].done >= done

    wait_until(reached, f"{step} at {done}", timeout_s=240)


def kill(processes: list[psutil.Process]) -> None:
    assert processes, "there is nothing to kill"
    for process in processes:
        process.send_signal(signal.SIGKILL)


def runs_at(home: Path) -> bool:
    try:
        read_connection(home)
    except Unavailable:
        return False
    return True


def test_killed_anywhere_a_study_ends_the_same(finished: studies_pb2.Study, store: ObjectStore, tmp_path: Path) -> None:
    """kill -9 of a worker in training, of each host of operations, of each service, and of the whole stack, one by one.

    Then the same digests as undisturbed, and nothing that was finished has been done again.
    """
    home = tmp_path / "home"
    with subprocess.Popen([sys.executable, "-m", "synthmix", "--home", str(home), "up"], stdout=subprocess.PIPE) as up:
        wait_until(lambda: runs_at(home), "the stack's start")
        before = read_connection(home)
        with Client.connect(home) as client:
            import_simulated(client, tmp_path / "simulated")
            client.submit_study(reduced_study("reduced", FEW))

            wait_for_step(client, "reduced", "adapter", 16)
            kill(children_named(up.pid, "ray::synthmix.adapter_training.task"))
            wait_for_step(client, "reduced", "images", 1)
            kill(children_named(up.pid, "ray::HostActor"))
            wait_for_step(client, "reduced", "grid", 2)  # the first takes real images alone, and may have gone before
            done = manifests(S3ObjectStore(before.object_store))
            for service in SERVICES:
                os.kill(before.pids[service], signal.SIGKILL)
            kill(children_named(up.pid, "ray::HostActor"))
            wait_until(lambda: read_connection(home).pids != before.pids, "new services")
        up.kill()

    with local_stack(home) as connection, Client.connect(home) as client:
        other_store = S3ObjectStore(connection.object_store)
        wait_until(
            lambda: client.get_study("reduced").state == operations_pb2.STATE_SUCCEEDED, "the end", timeout_s=400
        )
        assert payload_digests(other_store, client.get_study("reduced")) == payload_digests(store, finished)
        # A trial that is trained again would have another time in its manifest.
        assert done
        assert {name: manifest for name, manifest in manifests(other_store).items() if name in done} == done


def manifests(store: ObjectStore) -> dict[ArtifactName, Manifest | None]:
    """Of the adapter, the image set and the trials that there are."""
    return {
        name: find_manifest(store, name)
        for kind in ("adapters", "image-sets", "trials")
        for name in list_artifacts(store, kind)
    }


def test_a_cancelled_study_stops_and_goes_on_from_what_is_done(
    client: Client, store: ObjectStore, finished: studies_pb2.Study
) -> None:
    spec = reduced_study("cancelled", FEW, seeds=3)
    operation = client.submit_study(spec)
    target = ArtifactName.parse(metadata_of(operation).target, field="target")
    wait_for_step(client, "cancelled", "grid", 4)  # three are those of the finished study
    assert task_processes()
    client.cancel(operation.name)
    ended = client.wait(operation.name, timeout_s=10)
    assert isinstance(failure_of(ended), Cancelled)
    assert client.get_study("cancelled").state == operations_pb2.STATE_CANCELLED
    wait_until(lambda: not task_processes(), "the end of all tasks", timeout_s=10)
    assert find_manifest(store, target) is None
    done = len(list_artifacts(store, "trials"))
    time.sleep(3)
    assert len(list_artifacts(store, "trials")) == done

    study = run_study(client, spec)
    assert study.state == operations_pb2.STATE_SUCCEEDED
    steps = steps_of(client, study)
    assert steps["adapter"].reused == 320
    assert steps["grid"].reused >= 4
