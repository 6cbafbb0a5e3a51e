"""One study: its steps on the other services, in order, then the report.

The services may restart, and another study may share or cancel a step: a step that ends as cancelled while this study
isn't is submitted again.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import STUDIES, ArtifactName
from synthmix.service_kit.settings import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    required,
    service_address,
)
from synthmix.study_control.step_services import STEP_SERVICES, StepServices
from synthmix.study_control.steps import KINDS, Step, of_service, operation_of, recorded_steps

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
    steps = recorded_steps(context.record.request)
    progress = StudyProgress(context, steps)
    with open_step_services() as services:
        made = run_study(context, services, progress, steps)
    progress.start_report()
    report = make_report(context, made, progress)
    write_manifest(
        context.store,
        Manifest(
            name=target,
            inputs={
                "split": context.record.request["split"],
                "evaluation": made[CLASSIFIER_EVALUATION][0],
                **{f"adapter-{index}": name for index, name in enumerate(made[ADAPTER_TRAINING])},
                **{f"image-set-{index}": name for index, name in enumerate(made[IMAGE_SYNTHESIS])},
            },
            request={key: context.record.request[key] for key in ("spec", "split", "dataset")},
            recipe_version=context.record.request["recipe_version"],
            payloads=tuple(Payload(**payload) for payload in report["payloads"]),
            summary={"verdict": report["verdict"]},
        ),
    )
    progress.finish()
    return target


def run_study(
    context: OperationContext, services: StepServices, progress: "StudyProgress", steps: Sequence[Step]
) -> dict[str, list[str]]:
    """Runs what was planned, and returns the names of what each service made. Raises what a step failed with."""
    made: dict[str, str] = {}
    try:
        for service in KINDS:
            run_steps(context, services, progress, of_service(steps, service), made)
    except errors.Unavailable:
        raise  # the study goes on when the service is back, and so may its steps meanwhile
    except errors.SynthMixError:
        # Cancelled, or one step failed: nothing else that this study started is to go on.
        cancel_steps(services, steps, made)
        raise
    return {service: [made[step.target] for step in of_service(steps, service)] for service in KINDS}


def make_report(context: OperationContext, made: Mapping[str, list[str]], progress: "StudyProgress") -> dict[str, Any]:
    """Has a worker write the report; returns its payloads and the verdict."""
    [report] = context.run_tasks(
        "synthmix.study_control.reporting:make_report",
        [
            {
                "target": context.record.target,
                "create_time": context.record.create_time,
                "spec": context.record.request["spec"],
                "split": context.record.request["split"],
                "adapters": made[ADAPTER_TRAINING],
                "image_sets": made[IMAGE_SYNTHESIS],
                "evaluation": made[CLASSIFIER_EVALUATION][0],
                "costs": progress.costs(),
            }
        ],
    )
    assert isinstance(report, dict)
    return report


class StudyProgress:
    """The study's steps as its operation's metadata shows them."""

    def __init__(self, context: OperationContext, steps: Sequence[Step]):
        self._context = context
        self._steps = [
            progress_pb2.Step(
                display_name=step.display_name,
                target=step.target,
                unit=step.plan.unit,
                total=step.plan.total,
                state=progress_pb2.STATE_QUEUED,
            )
            for step in steps
        ]
        self._predicted_seconds = [step.plan.predicted_seconds for step in steps]
        self._steps.append(
            progress_pb2.Step(display_name=REPORT_STEP, total=1, unit="reports", state=progress_pb2.STATE_QUEUED)
        )
        # What a coordinator that died had begun; its own work isn't reused work.
        self._begun = {
            step["target"]: int(step.get("reused", 0)) for step in context.earlier_steps if step.get("operation")
        }
        self._publish("planning")

    def found(self, step: Step) -> None:
        """A step whose artifact is there: another study's work, unless this one had begun it."""
        shown = self._shown(step)
        shown.reused = self._begun.get(step.target, step.plan.total)
        shown.state = progress_pb2.STATE_SUCCEEDED
        shown.operation = str(operation_of(step, step.target))
        shown.done = step.plan.total
        self._publish(step.display_name)

    def follow(self, step: Step, operation: operations_pb2.Operation) -> None:
        """Takes over what a step's operation says."""
        metadata = metadata_of(operation)
        shown = self._shown(step)
        shown.reused = max(shown.reused, metadata.reused, self._begun.get(step.target, 0))
        shown.state = metadata.state
        shown.operation = operation.name
        shown.done = (
            step.plan.total if operation.done and metadata.state == progress_pb2.STATE_SUCCEEDED else metadata.done
        )
        self._publish(step.display_name)

    def _shown(self, step: Step) -> progress_pb2.Step:
        [shown] = [item for item in self._steps if item.target == step.target]
        return shown

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
    steps: Sequence[Step],
    made: dict[str, str],
) -> None:
    """Runs steps of one service at once and returns when all have succeeded.

    Args:
        made: The name of what each earlier step made, by its planned one; these steps' are added. They differ if a
            service was upgraded to another recipe since the study was planned.
    """
    running: dict[str, Step] = {}
    for step in steps:
        context.raise_if_cancelled()
        if find_manifest(context.store, ArtifactName.parse(step.target, field="target")) is not None:
            progress.found(step)
            made[step.target] = step.target
            continue
        step = step.with_inputs(made)
        operation = step.create(services)
        progress.follow(step, operation)
        if not succeeded(step, operation):
            running[operation.name] = step
        made[step.target] = metadata_of(operation).target
    while running:
        context.sleep(POLL_SECONDS)
        for name, step in list(running.items()):
            operation = services.get_operation(name)
            progress.follow(step, operation)
            if succeeded(step, operation):
                del running[name]
            elif operation.done:
                # Someone else cancelled it, and this study still needs it.
                step.create(services)


def cancel_steps(services: StepServices, steps: Sequence[Step], made: Mapping[str, str]) -> None:
    """Cancels every step that isn't finished and waits until it has stopped. `made` is run_steps'."""
    running = []
    for step in steps:
        name = str(operation_of(step, made.get(step.target, step.target)))
        with contextlib.suppress(errors.NotFound):  # it was never started, or its artifact came from elsewhere
            services.cancel(name)
            running.append(name)
    for name in running:
        services.wait(name, timeout_s=STOP_TIMEOUT_SECONDS)


def succeeded(step: Step, operation: operations_pb2.Operation) -> bool:
    """Whether it has. Raises what it failed with, unless it was cancelled."""
    if operation.HasField("error"):
        error = errors.from_status(operation.error)
        if isinstance(error, errors.Cancelled):
            return False
        raise step.in_study_terms(error)
    return bool(operation.done)
