"""Running a study's steps on the other services, each as soon as what it is made of is there.

The services may restart, and another study may share or cancel a step: a step that ends as cancelled while this study
is not is submitted again.
"""

from collections.abc import Sequence

from google.longrunning import operations_pb2

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.environment import WORKER_SERVICES
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control.step_operations import cancel_steps, succeeded
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step, of_service
from synthmix.study_control.study_progress import StudyProgress

POLL_SECONDS = 0.5
# A study of hundreds of steps asks for each of them less often.
QUESTIONS_A_SECOND = 50.0


def run_study(
    context: OperationContext, services: StepServices, progress: StudyProgress, steps: Sequence[Step]
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
        self._queued: set[str] = set()
        self._finished: set[str] = set()
        self.made: dict[str, str] = {}

    def run(self) -> None:
        """Returns when all have succeeded. Raises what one failed with."""
        while not self.advance():
            self._progress.publish()
            self._context.sleep(max(POLL_SECONDS, len(self._running) / QUESTIONS_A_SECOND))
        self._progress.publish()

    def advance(self) -> bool:
        """Begins what can begin, and looks at what runs. Returns whether all have succeeded."""
        for step in self._steps:
            self._context.raise_if_cancelled()
            self._look_after(step)
        return len(self._finished) == len(self._planned)

    @property
    def waits(self) -> bool:
        """Whether a step that was asked for gives no worker anything to do yet."""
        return not self._queued.isdisjoint(self._running)

    @property
    def finished(self) -> list[Step]:
        """The steps that have succeeded, in their order."""
        return [step for step in self._steps if step.target in self._finished]

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
        self._queued.discard(step.target)
        if metadata_of(operation).state == progress_pb2.STATE_QUEUED:
            self._queued.add(step.target)
        if not succeeded(step, operation):
            return False
        del self._running[step.target]
        self._finished.add(step.target)
        return True
