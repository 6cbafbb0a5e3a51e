"""What a study's operation shows of its steps while they run."""

from collections.abc import Collection, Sequence
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.quantities import listed, shortened
from synthmix.study_control.steps import Step, operation_of

SHOWN_RUNNING = 3
LONGEST_STEP_MESSAGE = 200


class StudyProgress:
    """The study's steps as its operation's metadata shows them."""

    def __init__(self, context: OperationContext, steps: Sequence[Step]):
        self._context = context
        self._shown: dict[str, progress_pb2.Step] = {}
        # Steps that have ended otherwise than by success, and that the study goes on without.
        self._given_up: set[str] = set()
        self._search: progress_pb2.Step | None = None
        self._report = progress_pb2.Step(
            display_name="report", total=1, unit="reports", state=progress_pb2.STATE_QUEUED
        )
        # Found on the way, by the steps: each once, in the order of finding.
        self._warnings: dict[str, None] = {}
        # What a host that died had begun; its own work is not reused work.
        self._begun = {
            step["target"]: int(step.get("reused", 0)) for step in context.earlier_steps if step.get("operation")
        }
        self.add(steps)
        self.publish()

    def add(self, steps: Sequence[Step]) -> None:
        """Shows more steps; those that are shown stay as they are."""
        for step in steps:
            self._shown.setdefault(
                step.target,
                progress_pb2.Step(
                    display_name=step.display_name,
                    target=step.target,
                    unit=step.plan.unit,
                    total=step.plan.total,
                    state=progress_pb2.STATE_QUEUED,
                ),
            )

    def give_up(self, steps: Sequence[Step], state: progress_pb2.State) -> None:
        """Shows of steps that are not done how they ended; no longer shows those that have not begun."""
        for step in steps:
            shown = self._shown[step.target]
            if shown.state == progress_pb2.STATE_SUCCEEDED:
                continue
            if not shown.operation:
                del self._shown[step.target]
                continue
            shown.state, shown.message = state, ""
            self._given_up.add(step.target)

    def show_search(self, *, done: float, total: float, message: str, is_over: bool) -> None:
        """Shows how much of a search's budget is spent, in seconds of worker time, and what it is at."""
        self._search = progress_pb2.Step(
            display_name="search",
            state=progress_pb2.STATE_SUCCEEDED if is_over else progress_pb2.STATE_RUNNING,
            done=min(round(done), round(total)),
            total=round(total),
            unit="seconds",
            message=message,
        )

    def found(self, step: Step) -> None:
        """A step whose artifact is there: another study's work, unless this one had begun it."""
        shown = self._shown[step.target]
        if shown.state == progress_pb2.STATE_SUCCEEDED:
            return  # of its search
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

    def costs(self, steps: Sequence[Step], counted: Collection[str] = ()) -> list[dict[str, Any]]:
        """What each step was, for the report's table of costs.

        Args:
            counted: What is not to be counted again, since a search has made it.
        """
        return [
            {
                "name": step.display_name,
                "tasks": step.plan.total,
                "reused": step.plan.total if step.target in counted else self._shown[step.target].reused,
                "predicted_seconds": step.plan.predicted_seconds,
            }
            for step in steps
        ]

    def was_found(self, step: Step) -> bool:
        """Whether all of a step had been there before this study began it."""
        shown = self._shown[step.target]
        return shown.state == progress_pb2.STATE_SUCCEEDED and shown.reused >= step.plan.total > 0

    def publish(self) -> None:
        """Writes into the operation's metadata what was found and followed since, and what runs now."""
        steps = [*([self._search] if self._search is not None else ()), *self._shown.values(), self._report]
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
            done=len(self._given_up) + sum(step.state == progress_pb2.STATE_SUCCEEDED for step in steps),
            total=len(steps),
            unit="steps",
            steps=[json_format.MessageToDict(step, preserving_proto_field_name=True) for step in steps],
            warnings=list(self._warnings),
        )
