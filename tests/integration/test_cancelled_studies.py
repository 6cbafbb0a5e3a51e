"""A study that is cancelled stops, and goes on from what is done when it is asked for again."""

import os
import time

import psutil

from stack_processes import children_named
from studies import FEW, reduced_study, run_study, steps_of, wait_for_step
from synthmix import Client
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import failure_of, metadata_of
from synthmix.service_kit.artifacts import find_manifest, list_artifacts
from synthmix.service_kit.errors import Cancelled
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from waiting import wait_until


def task_processes() -> list[psutil.Process]:
    """Processes that run a task: Ray titles them by its function."""
    return [
        process
        for module in ("adapter_training.", "image_synthesis.", "classifier_evaluation.")
        for process in children_named(os.getpid(), f"ray::synthmix.{module}")
    ]


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
