"""The operations that do a study's steps: whether they have succeeded, and stopping them."""

import contextlib
from collections.abc import Mapping, Sequence

from google.longrunning import operations_pb2

from synthmix.service_kit import errors
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step, operation_of

STOP_TIMEOUT_SECONDS = 10.0


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
