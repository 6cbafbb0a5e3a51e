"""Asking the services for the plans of a study's steps, and collecting what they refuse."""

from collections.abc import Mapping
from typing import Any

from synthmix.service_kit.errors import FieldViolation, InvalidArgument, Problems, SynthMixError
from synthmix.study_control import specification
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step


class StepPlanner:
    """Asks services for plans, and collects what they refuse. What a grid has in common is refused once."""

    def __init__(self, services: StepServices, problems: Problems):
        self._services = services
        self._problems = problems
        self._refused: set[FieldViolation] = set()

    def step(self, service: str, display_name: str, request: Any, fields: Mapping[str, str]) -> Step | None:
        """The planned step; None if the service refuses it."""
        try:
            plan = self._services.plan(service, request)
        except InvalidArgument as error:
            self._refuse(error, fields)
            return None
        except SynthMixError as error:
            raise specification.in_study_terms(error, fields) from None
        return Step(service, display_name, request, plan, fields)

    def _refuse(self, error: InvalidArgument, fields: Mapping[str, str]) -> None:
        new = [item for item in error.violations if item not in self._refused]
        self._refused.update(new)
        if len(new) == len(error.violations):
            self._problems.found.append(specification.in_study_terms(error, fields))
            return
        for item in new:
            field = specification.study_field(item.field, fields)
            self._problems.found.append(
                InvalidArgument(
                    f"{field}: {item.description}",
                    reason=error.reason,
                    violations=[FieldViolation(field, item.description)],
                )
            )
