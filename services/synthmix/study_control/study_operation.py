"""One study: its steps on the other services, in order, then the report.

The services may restart, and another study may share or cancel a step: a step that ends as cancelled while this study
isn't is submitted again.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import STUDIES, ArtifactName, OperationName
from synthmix.service_kit.settings import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    required,
    service_address,
)
from synthmix.study_control import planning, specification
from synthmix.study_control.step_services import STEP_SERVICES, StepServices

POLL_SECONDS = 0.5
STOP_TIMEOUT_SECONDS = 10.0
REPORT_STEP = "report"


def open_step_services() -> StepServices:
    """The services that do the steps, by the environment's addresses and token."""
    addresses = {service: service_address(service) for service in STEP_SERVICES}
    return StepServices(addresses, required(os.environ, "SYNTHMIX_TOKEN"))


def run(context: OperationContext) -> ArtifactName:
    """Returns the study's name."""
    target = ArtifactName.parse(context.record.target, field="target", collection=STUDIES)
    if find_manifest(context.store, target) is not None:
        return target
    spec = json_format.ParseDict(context.record.request["spec"], studies_pb2.StudySpec())
    with open_step_services() as services:
        study = planning.lay_out(context.store, services, spec)
        if study.name != target:
            raise errors.FailedPrecondition(
                f"{target} was planned by another version of SynthMix; submit the study again", reason="RECIPE_CHANGED"
            )
        progress = StudyProgress(context, study)
        try:
            run_steps(context, services, progress, study.adapters, "create_adapter")
            run_steps(context, services, progress, study.image_sets, "create_image_set")
            run_steps(context, services, progress, (study.evaluation,), "create_evaluation")
        except errors.Unavailable:
            raise  # the study goes on when the service is back, and so may its steps meanwhile
        except errors.SynthMixError:
            # Cancelled, or one step failed: nothing else that this study started is to go on.
            cancel_steps(services, study)
            raise
    progress.start_report()
    made = make_report(context, study, progress)
    write_manifest(
        context.store,
        Manifest(
            name=target,
            inputs={
                "split": study.split.name,
                "evaluation": study.evaluation.plan.target,
                **{f"adapter-{index}": step.plan.target for index, step in enumerate(study.adapters)},
                **{f"image-set-{index}": step.plan.target for index, step in enumerate(study.image_sets)},
            },
            request=context.record.request,
            recipe_version=study.request["recipe_version"],
            payloads=tuple(Payload(**payload) for payload in made["payloads"]),
            summary={"verdict": made["verdict"]},
        ),
    )
    progress.finish()
    return target


def make_report(context: OperationContext, study: planning.StudySteps, progress: "StudyProgress") -> dict[str, Any]:
    """Has a worker write the report; returns its payloads and the verdict."""
    [made] = context.run_tasks(
        "synthmix.study_control.reporting:make_report",
        [
            {
                "target": context.record.target,
                "create_time": context.record.create_time,
                "spec": context.record.request["spec"],
                "split": study.split.name,
                "adapters": [step.plan.target for step in study.adapters],
                "image_sets": [step.plan.target for step in study.image_sets],
                "evaluation": study.evaluation.plan.target,
                "costs": progress.costs(),
            }
        ],
    )
    assert isinstance(made, dict)
    return made


class StudyProgress:
    """The study's steps as its operation's metadata shows them."""

    def __init__(self, context: OperationContext, study: planning.StudySteps):
        self._context = context
        self._steps = [
            progress_pb2.Step(
                display_name=step.display_name,
                target=step.plan.target,
                unit=step.plan.unit,
                total=step.plan.total,
                state=progress_pb2.STATE_QUEUED,
            )
            for step in study.steps
        ]
        self._predicted_seconds = [step.plan.predicted_seconds for step in study.steps]
        self._steps.append(
            progress_pb2.Step(display_name=REPORT_STEP, total=1, unit="reports", state=progress_pb2.STATE_QUEUED)
        )
        # What a coordinator that died had begun; its own work isn't reused work.
        self._begun = {
            step["target"]: int(step.get("reused", 0)) for step in context.earlier_steps if step.get("operation")
        }
        self._publish("planning")

    def follow(self, step: planning.Step, operation: operations_pb2.Operation) -> None:
        """Takes over what a step's operation says."""
        metadata = metadata_of(operation)
        [shown] = [item for item in self._steps if item.target == step.plan.target]
        found_whole = operation.done and shown.state == progress_pb2.STATE_QUEUED and step.plan.done == step.plan.total
        if found_whole and shown.target not in self._begun:
            shown.reused = step.plan.total
        else:
            shown.reused = max(shown.reused, metadata.reused, self._begun.get(shown.target, 0))
        shown.state = metadata.state
        shown.operation = operation.name
        shown.done = (
            step.plan.total if operation.done and metadata.state == progress_pb2.STATE_SUCCEEDED else metadata.done
        )
        self._publish(step.display_name)

    def costs(self) -> list[dict[str, Any]]:
        """What each step was, for the report's table of costs."""
        return [
            {
                "name": step.display_name,
                "tasks": step.total,
                "reused": step.reused,
                "predicted_seconds": seconds,
            }
            for step, seconds in zip(self._steps, self._predicted_seconds, strict=False)
        ]

    def start_report(self) -> None:
        self._steps[-1].state = progress_pb2.STATE_RUNNING
        self._publish(REPORT_STEP)

    def finish(self) -> None:
        self._steps[-1].state = progress_pb2.STATE_SUCCEEDED
        self._steps[-1].done = 1
        self._publish("done")

    def _publish(self, message: str) -> None:
        finished = sum(step.state == progress_pb2.STATE_SUCCEEDED for step in self._steps)
        self._context.reused = sum(step.reused == step.total > 0 for step in self._steps)
        self._context.update(
            message=message,
            done=finished,
            total=len(self._steps),
            unit="steps",
            steps=[json_format.MessageToDict(step, preserving_proto_field_name=True) for step in self._steps],
        )


def run_steps(
    context: OperationContext,
    services: StepServices,
    progress: StudyProgress,
    steps: Sequence[planning.Step],
    method: str,
) -> None:
    """Runs steps of one service at once and returns when all have succeeded."""
    running: dict[str, planning.Step] = {}
    for step in steps:
        context.raise_if_cancelled()
        operation = getattr(services, method)(step.request)
        progress.follow(step, operation)
        if not succeeded(operation):
            running[operation.name] = step
    while running:
        context.sleep(POLL_SECONDS)
        for name, step in list(running.items()):
            operation = services.get_operation(name)
            progress.follow(step, operation)
            if succeeded(operation):
                del running[name]
            elif operation.done:
                # Someone else cancelled it, and this study still needs it.
                getattr(services, method)(step.request)


def cancel_steps(services: StepServices, study: planning.StudySteps) -> None:
    """Cancels every step that isn't finished and waits until it has stopped. An operation's id is its target's."""
    running = []
    for service, steps in (
        (ADAPTER_TRAINING, study.adapters),
        (IMAGE_SYNTHESIS, study.image_sets),
        (CLASSIFIER_EVALUATION, (study.evaluation,)),
    ):
        for step in steps:
            target = ArtifactName.parse(step.plan.target, field="target")
            name = str(OperationName(service, target.id))
            with contextlib.suppress(errors.NotFound):  # it was never started, or its artifact came from elsewhere
                services.cancel(name)
                running.append(name)
    for name in running:
        services.wait(name, timeout_s=STOP_TIMEOUT_SECONDS)


def succeeded(operation: operations_pb2.Operation) -> bool:
    """Whether it has. Raises what it failed with, unless it was cancelled."""
    if operation.HasField("error"):
        error = errors.from_status(operation.error)
        if isinstance(error, errors.Cancelled):
            return False
        raise specification.in_study_terms(error)
    return bool(operation.done)
