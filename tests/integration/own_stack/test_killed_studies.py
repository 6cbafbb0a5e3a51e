"""A study is killed in its middle: it ends with the same bytes, and nothing finished is done twice."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from stack_processes import children_named, up
from studies import FEW, import_simulated, payload_digests, reduced_study, wait_for_step
from synthmix import Client
from synthmix.api.operations.v1 import operations_pb2
from synthmix.local import local_stack, read_connection
from synthmix.service_kit.artifacts import Manifest, find_manifest, list_artifacts
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.s3_object_store import S3ObjectStore
from waiting import wait_until


def kill(processes: list[psutil.Process]) -> None:
    assert processes, "there is nothing to kill"
    for process in processes:
        process.send_signal(signal.SIGKILL)


def test_killed_anywhere_a_study_ends_the_same(
    undisturbed_digests: Callable[[], dict[str, str]], tmp_path: Path
) -> None:
    """kill -9 of a worker in training, of each host of operations, of each service, and of the whole stack, one by one.

    Then the same digests as undisturbed, and nothing that was finished has been done again.
    """
    home = tmp_path / "home"
    with up(home) as process:
        before = read_connection(home)
        with Client.connect(home) as client:
            import_simulated(client, tmp_path / "simulated")
            client.submit_study(reduced_study("reduced", FEW))

            wait_for_step(client, "reduced", "adapter", 16)
            kill(children_named(process.pid, "ray::synthmix.adapter_training.task"))
            wait_for_step(client, "reduced", "images", 1)
            kill(children_named(process.pid, "ray::HostActor"))
            wait_for_step(client, "reduced", "grid", 2)  # the first takes real images alone, and may have gone before
            done = manifests(S3ObjectStore(before.object_store))
            for service in SERVICES:
                os.kill(before.pids[service], signal.SIGKILL)
            kill(children_named(process.pid, "ray::HostActor"))
            wait_until(lambda: read_connection(home).pids != before.pids, "new services")
        process.kill()
        process.wait()

    with local_stack(home) as connection, Client.connect(home) as client:
        store = S3ObjectStore(connection.object_store)
        wait_until(
            lambda: client.get_study("reduced").state == operations_pb2.STATE_SUCCEEDED,
            "the end",
            timeout_s=400,
            poll_s=0.2,
        )
        digests = payload_digests(store, client.get_study("reduced"))
        # A trial that is trained again would have another time in its manifest.
        assert done
        assert {name: manifest for name, manifest in manifests(store).items() if name in done} == done
    assert digests == undisturbed_digests()


def manifests(store: ObjectStore) -> dict[ArtifactName, Manifest | None]:
    """Of the adapter, the image set and the trials that there are."""
    return {
        name: find_manifest(store, name)
        for kind in ("adapters", "image-sets", "trials")
        for name in list_artifacts(store, kind)
    }
