"""One study: its steps on the other services, each as soon as what it is made of is there, then the report.

The services may restart, and another study may share or cancel a step: a step that ends as cancelled while this study
is not is submitted again.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.environment import WORKER_SERVICES, service_address
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.quantities import listed, shortened
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import STUDIES, ArtifactName
from synthmix.service_kit.tokens import token_for_services
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step, of_service, operation_of, recorded_steps

POLL_SECONDS = 0.5
# A study of hundreds of steps asks for each of them less often.
QUESTIONS_A_SECOND = 50.0
SHOWN_RUNNING = 3
LONGEST_STEP_MESSAGE = 200
STOP_TIMEOUT_SECONDS = 10.0


def open_step_services(requester: Requester | None = None) -> StepServices:
    """The services that do the steps, by the environment's addresses and token."""
    addresses = {service: service_address(service) for service in WORKER_SERVICES}
    return StepServices(addresses, token_for_services(), requester)


def run(context: OperationContext) -> ArtifactName:
    """Returns the study's name."""
    request = context.record.request
    target = ArtifactName.parse(context.record.target, field="target", collection=STUDIES)
    if find_manifest(context.store, target) is not None:
        return target
    steps = recorded_steps(request)
    progress = StudyProgress(context, steps)
    requester = replace(context.record.requested_by, study=str(target))
    with contextlib.closing(open_step_services(requester)) as services:
        made = run_study(context, services, progress, steps)
    adapters, image_sets, [evaluation] = (made[service] for service in WORKER_SERVICES)
    progress.show_report(progress_pb2.STATE_RUNNING)
    [report] = context.run_tasks(
        "synthmix.study_control.reporting:make_report",
        [
            {
                "target": str(target),
                "create_time": context.record.create_time,
                "spec": request["spec"],
                "split": request["split"],
                "owner": context.record.requested_by.owner,
                "adapters": adapters,
                "image_sets": image_sets,
                "evaluation": evaluation,
                "costs": progress.costs(),
            }
        ],
    )
    write_manifest(
        context.store,
        Manifest(
            name=target,
            inputs={
                "split": request["split"],
                "evaluation": evaluation,
                **{f"adapter-{index}": name for index, name in enumerate(adapters)},
                **{f"image-set-{index}": name for index, name in enumerate(image_sets)},
            },
            request={key: request[key] for key in ("spec", "split", "dataset")},
            recipe_version=request["recipe_version"],
            payloads=tuple(Payload(**payload) for payload in report["payloads"]),
            summary={"verdict": report["verdict"]},
        ),
    )
    progress.show_report(progress_pb2.STATE_SUCCEEDED)
    return target


def run_study(
    context: OperationContext, services: StepServices, progress: "StudyProgress", steps: Sequence[Step]
) -> dict[str, list[str]]:
    """Runs what was planned, and returns the names of what each service made. Raises what a step failed with."""
    run = StudyRun(context, services, progress, steps)
    try:
        run.run()
    except errors.Unavailable:
        raise  # the study goes on when the service is back, and so may its steps meanwhile
    except errors.SynthMixError:
        # Cancelled, or one step failed: nothing else that this study started is to go on.
        cancel_steps(services, steps, run.made)
        raise
    return {service: [run.made[step.target] for step in of_service(steps, service)] for service in WORKER_SERVICES}


class StudyProgress:
    """The study's steps as its operation's metadata shows them."""

    def __init__(self, context: OperationContext, steps: Sequence[Step]):
        self._context = context
        self._planned = steps
        self._shown = {
            step.target: progress_pb2.Step(
                display_name=step.display_name,
                target=step.target,
                unit=step.plan.unit,
                total=step.plan.total,
                state=progress_pb2.STATE_QUEUED,
            )
            for step in steps
        }
        self._report = progress_pb2.Step(
            display_name="report", total=1, unit="reports", state=progress_pb2.STATE_QUEUED
        )
        # Found on the way, by the steps: each once, in the order of finding.
        self._warnings: dict[str, None] = {}
        # What a host that died had begun; its own work is not reused work.
        self._begun = {
            step["target"]: int(step.get("reused", 0)) for step in context.earlier_steps if step.get("operation")
        }
        self.publish()

    def found(self, step: Step) -> None:
        """A step whose artifact is there: another study's work, unless this one had begun it."""
        shown = self._shown[step.target]
        shown.reused = self._begun.get(step.target, step.plan.total)
        shown.state = progress_pb2.STATE_SUCCEEDED
        shown.operation = str(operation_of(step, step.target))
        shown.done = step.plan.total

    def follow(self, step: Step, operation: operations_pb2.Operation) -> None:
        """Takes over what a step's operation says."""
        metadata = metadata_of(operation)
        succeeded = operation.done and metadata.state == progress_pb2.STATE_SUCCEEDED
        self._warnings |= dict.fromkeys(metadata.warnings)
        shown = self._shown[step.target]
        shown.reused = max(shown.reused, metadata.reused, self._begun.get(step.target, 0))
        shown.state = metadata.state
        shown.operation = operation.name
        shown.message = "" if operation.done else shortened(metadata.message, LONGEST_STEP_MESSAGE)
        shown.done = step.plan.total if succeeded else metadata.done

    def show_report(self, state: progress_pb2.State) -> None:
        """Tells that the report is being made, or that it is there."""
        self._report.state = state
        self._report.done = int(state == progress_pb2.STATE_SUCCEEDED)
        self.publish()

    def costs(self) -> list[dict[str, Any]]:
        """What each step was, for the report's table of costs."""
        return [
            {
                "name": step.display_name,
                "tasks": step.plan.total,
                "reused": self._shown[step.target].reused,
                "predicted_seconds": step.plan.predicted_seconds,
            }
            for step in self._planned
        ]

    def publish(self) -> None:
        """Writes into the operation's metadata what was found and followed since, and what runs now."""
        steps = [*self._shown.values(), self._report]
        running = [step.display_name for step in steps if step.state == progress_pb2.STATE_RUNNING]
        waiting = [step.display_name for step in steps if step.state == progress_pb2.STATE_QUEUED]
        if running:
            message = listed(running, SHOWN_RUNNING)
        elif waiting:
            message = f"waiting to begin: {listed(waiting, SHOWN_RUNNING)}"
        else:
            message = "done"
        self._context.reused = sum(step.reused == step.total > 0 for step in steps)
        self._context.update(
            message=message,
            done=sum(step.state == progress_pb2.STATE_SUCCEEDED for step in steps),
            total=len(steps),
            unit="steps",
            steps=[json_format.MessageToDict(step, preserving_proto_field_name=True) for step in steps],
            warnings=list(self._warnings),
        )


class StudyRun:
    """Runs a study's steps, each as soon as those that it is made of have succeeded.

    The grid is asked for at once: it begins with what needs no image set, and waits for each of these by itself.

    Attributes:
        made: The name of what each step makes, by its planned one, as far as it was asked for. They differ if a service
            was upgraded to another recipe since the study was planned.
    """

    def __init__(
        self, context: OperationContext, services: StepServices, progress: StudyProgress, steps: Sequence[Step]
    ):
        self._context = context
        self._services = services
        self._progress = progress
        self._steps = steps
        self._planned = {step.target for step in steps}
        self._asked: dict[str, Step] = {}
        self._running: dict[str, str] = {}
        self._finished: set[str] = set()
        self.made: dict[str, str] = {}

    def run(self) -> None:
        """Returns when all have succeeded. Raises what one failed with."""
        while True:
            for step in self._steps:
                self._context.raise_if_cancelled()
                self._look_after(step)
            self._progress.publish()
            if len(self._finished) == len(self._planned):
                return
            self._context.sleep(max(POLL_SECONDS, len(self._running) / QUESTIONS_A_SECOND))

    def _look_after(self, step: Step) -> None:
        if step.target in self._finished:
            return
        if step.target in self._running:
            self._follow(step)
        elif step.awaits_inputs or step.inputs & self._planned <= self._finished:
            self._begin(step)

    def _begin(self, step: Step) -> None:
        if find_manifest(self._context.store, ArtifactName.parse(step.target, field="target")) is not None:
            self._progress.found(step)
            self.made[step.target] = step.target
            self._finished.add(step.target)
        else:
            self._ask(step)

    def _ask(self, step: Step) -> None:
        asked = step.with_inputs(self.made)
        operation = asked.create(self._services)
        self._asked[step.target] = asked
        self._running[step.target] = operation.name
        self.made[step.target] = metadata_of(operation).target
        self._take_over(step, operation)

    def _follow(self, step: Step) -> None:
        if step.with_inputs(self.made).request != self._asked[step.target].request:
            # It waits for what is never made: a service made it by another recipe than was planned.
            self._services.cancel(self._running[step.target])
            self._ask(step)
            return
        operation = self._services.get_operation(self._running[step.target])
        if not self._take_over(step, operation) and operation.done:
            self._ask(step)  # someone else cancelled it, and this study still needs it

    def _take_over(self, step: Step, operation: operations_pb2.Operation) -> bool:
        """Takes over what a step's operation says, and whether it has succeeded."""
        self._progress.follow(step, operation)
        if not succeeded(step, operation):
            return False
        del self._running[step.target]
        self._finished.add(step.target)
        return True


def cancel_steps(services: StepServices, steps: Sequence[Step], made: Mapping[str, str]) -> None:
    """Cancels every step that is not finished and waits until it has stopped. `made` is StudyRun's.

    A step that others asked for as well goes on for them.
    """
    running = []
    for step in steps:
        name = str(operation_of(step, made.get(step.target, step.target)))
        # It was never started, or its artifact came from elsewhere; or it is another's, and was not asked for here yet.
        with contextlib.suppress(errors.NotFound, errors.PermissionDenied):
            services.cancel(name)
            if metadata_of(services.get_operation(name)).cancel_requested:
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
