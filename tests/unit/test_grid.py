"""An evaluation's grid over workers that a test ends: each trial from when its images are there."""

import threading
from pathlib import Path
from typing import Any

import pytest

from fake_backend import FakeBackend
from image_archives import dataset, plates
from local_services import LocalServices
from memory_object_store import MemoryObjectStore
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.classifier_evaluation import evaluation_operation, planning
from synthmix.classifier_evaluation.evaluation_operation import FIDELITY, TRIAL, Grid
from synthmix.client.study_file import parse_document
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, NotFound
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.task_pool import TaskCall, TaskPool, TaskResult
from synthmix.study_control import planning as studies
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.steps import of_service
from waiting import wait_until

STUDY = """
name: a
dataset: cells
adapters: {rank: [4, 8]}
mixtures: {ratios: [0, 0.5, 1], controls: [duplicated_real, reconstructed_real]}
seeds: 2
"""


class Running:
    """A grid that runs in a thread, over a study of two image sets which are not made yet."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, slots: int = 1, awaits: bool = True):
        monkeypatch.setattr(evaluation_operation, "LOOK_SECONDS", 0.01)
        self.store = MemoryObjectStore.created()
        claim_name(self.store, LOCAL, "cells", dataset(self.store, folder, plates()).name, account=None, replace=False)
        self.services = LocalServices(self.store)
        spec = parse_document(STUDY, studies_pb2.StudySpec, "study.yaml").message
        self.study = studies.lay_out(self.store, self.services, spec, LOCAL)  # type: ignore[arg-type]
        for step in of_service(self.study.steps, ADAPTER_TRAINING):
            self.services.create(ADAPTER_TRAINING, step.request)
        [evaluation] = of_service(self.study.steps, CLASSIFIER_EVALUATION)
        planned = planning.plan(self.store, evaluation.request, validate_only=False, await_image_sets=True)
        self.backend = FakeBackend(slots)
        record = records.OperationRecord(
            OperationName(CLASSIFIER_EVALUATION, planned.id), "evaluations", planned.plan.target, {}, records.now()
        )
        self.context = OperationContext(self.store, record, TaskPool(self.backend, fewest_waiting=1))
        self.shown: list[dict[str, Any]] = []
        monkeypatch.setattr(self.context, "update", lambda **fields: self.shown.append(fields))
        trials = planning.grid(planned.request)
        self.grid = Grid(self.context, planned.request, planned.names["split"], trials, awaits=awaits)
        self.fidelity: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.fidelity = self.grid.run()
        except BaseException as error:
            self.error = error

    def make_image_set(self, number: int, images: int | None = None) -> None:
        request = of_service(self.study.steps, IMAGE_SYNTHESIS)[number].request
        made = type(request)()
        made.CopyFrom(request)
        for item in made.class_images:
            item.images = images or item.images
        self.services.create(IMAGE_SYNTHESIS, made)

    def end_next(self) -> str:
        """Ends the next task, and tells which it was."""
        wait_until(lambda: bool(self.backend.running), "a task")
        call = self.backend.running[0][0]
        self.backend.end(TaskResult({"of": "images"} if call.function == FIDELITY else "trials/x", 1.0), call)
        return said(call)

    @property
    def message(self) -> str:
        return next(fields["message"] for fields in reversed(self.shown) if "message" in fields)

    def join(self) -> "Running":
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self


def said(call: TaskCall) -> str:
    if call.function == FIDELITY:
        return "fidelity"
    assert call.function == TRIAL
    trial = call.keywords["trial"]
    return f"{trial.mixture.kind} {trial.mixture.ratio:g} seed {trial.seed}"


def test_each_trial_begins_when_its_images_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(tmp_path, monkeypatch)
    wait_until(lambda: running.message == "training classifiers, waiting for 2 image sets", "the real ones")
    assert [running.end_next() for _ in range(6)] == [
        f"{kind} seed {seed}" for seed in (0, 1) for kind in ("real 0", "duplicated_real 0.5", "duplicated_real 1")
    ]
    assert not running.context.waits
    wait_until(lambda: running.message == "waiting for 2 image sets", "nothing more may begin")
    assert running.context.waits
    running.make_image_set(1)
    assert [running.end_next() for _ in range(4)] == [
        f"append {ratio} seed {seed}" for seed in (0, 1) for ratio in ("0.5", "1")
    ]
    wait_until(lambda: running.message == "waiting for 1 image set", "the other one")
    assert not running.backend.running
    running.make_image_set(0)
    wait_until(lambda: len(running.backend.running) == 2, "the window")
    rest = [running.end_next() for _ in range(7)]
    assert rest[0] == "fidelity", "what others build on goes first"
    assert sorted(rest[1:]) == sorted(
        [f"append {ratio} seed {seed}" for seed in (0, 1) for ratio in ("0.5", "1")]
        + [f"reconstructed_real 0 seed {seed}" for seed in (0, 1)]
    )
    assert running.join().fidelity == {"of": "images"}
    assert running.message == "training classifiers" and not running.context.waits
    assert max(fields.get("done", 0) for fields in running.shown) == 16


def test_what_is_restored_waits_for_the_task_that_restores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(tmp_path, monkeypatch, slots=20)
    for number in range(2):
        running.make_image_set(number)
    wait_until(lambda: len(running.backend.running) == 15, "fidelity, and all but two trials")
    assert not any("reconstructed" in said(call) for call, _ in running.backend.running)
    [fidelity] = [call for call, _ in running.backend.running if call.function == FIDELITY]
    running.backend.end(TaskResult({"of": "images"}, 1.0), fidelity)
    wait_until(lambda: len(running.backend.running) == 16, "those two")
    while running.backend.running:
        running.backend.end()
    assert running.join().error is None


def test_an_image_set_that_comes_too_small_fails_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(tmp_path, monkeypatch)
    [first, _] = of_service(running.study.steps, IMAGE_SYNTHESIS)
    monkeypatch.setattr(planning, "needed_images", lambda *arguments: {"alpha": 10_000})
    running.make_image_set(0)
    assert isinstance(running.join().error, FailedPrecondition)
    assert first.target in str(running.error)
    wait_until(lambda: len(running.backend.running) == 0, "what ran was ended")


def test_who_does_not_wait_is_told_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Running(tmp_path, monkeypatch, awaits=False).join().error, NotFound)


def test_waiting_ends_when_it_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(tmp_path, monkeypatch)
    for _ in range(6):
        running.end_next()
    running.context.cancel()
    assert isinstance(running.join().error, Cancelled)


def test_a_request_waits_for_image_sets_only_if_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(tmp_path, monkeypatch)
    [evaluation] = of_service(running.study.steps, CLASSIFIER_EVALUATION)
    request: evaluations_pb2.Evaluation = evaluation.request
    with pytest.raises(NotFound):
        planning.plan(running.store, request, validate_only=False)
    planned = planning.plan(running.store, request, validate_only=False, await_image_sets=True)
    assert planned.plan.target == evaluation.target, "the name does not tell whether it waited"
    running.context.cancel()
