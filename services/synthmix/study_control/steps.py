"""A study's steps: one request to one service each, as they are planned, recorded and started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from google.longrunning.operations_pb2 import Operation
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from synthmix.api.operations.v1 import operations_pb2
from synthmix.service_kit.errors import SynthMixError
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.study_control import specification
from synthmix.study_control.step_services import StepServices, kind_of, recorded_kind


@dataclass(frozen=True)
class Step:
    """One request to one service, and its plan.

    Attributes:
        fields: Beginnings of the request's fields, and what they are in the specification: for errors.
    """

    service: str
    display_name: str
    request: Any
    plan: operations_pb2.Plan
    fields: Mapping[str, str]

    @property
    def target(self) -> str:
        return self.plan.target

    @property
    def awaits_inputs(self) -> bool:
        """Whether it may be asked for before what it is made of is there."""
        return kind_of(self.request).awaits_inputs

    @property
    def inputs(self) -> set[str]:
        """Every name in its request; those of other steps are what it is made of."""
        return {text for field in self._texts() for text in _values(self.request, field)}

    def create(self, services: StepServices) -> Operation:
        """Has the service do it. Raises with fields named as the specification names them."""
        with specification.study_terms(self.fields):
            return services.create(self.service, self.request)

    def with_inputs(self, made: Mapping[str, str]) -> Self:
        """The step with what earlier ones made, by its planned name, in its request."""
        request = type(self.request)()
        request.CopyFrom(self.request)
        for field in self._texts():
            names = [made.get(name, name) for name in _values(request, field)]
            if field.is_repeated:
                getattr(request, field.name)[:] = names
            else:
                setattr(request, field.name, names[0])
        return replace(self, request=request)

    def _texts(self) -> list[FieldDescriptor]:
        """The fields of its request that hold texts."""
        return [field for field, _ in self.request.ListFields() if field.cpp_type == field.CPPTYPE_STRING]

    def in_study_terms(self, error: SynthMixError) -> SynthMixError:
        return specification.in_study_terms(error, self.fields)

    def to_json(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "display_name": self.display_name,
            "resource": self.request.DESCRIPTOR.full_name,
            "request": json_format.MessageToDict(self.request, preserving_proto_field_name=True),
            "plan": json_format.MessageToDict(self.plan, preserving_proto_field_name=True),
            "fields": dict(self.fields),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        kind = recorded_kind(value["service"], value.get("resource", ""))
        return cls(
            service=value["service"],
            display_name=value["display_name"],
            request=json_format.ParseDict(value["request"], kind.resource(), ignore_unknown_fields=True),
            plan=json_format.ParseDict(value["plan"], operations_pb2.Plan(), ignore_unknown_fields=True),
            fields=value["fields"],
        )


def _values(request: Any, field: FieldDescriptor) -> list[str]:
    value = getattr(request, field.name)
    return list(value) if field.is_repeated else [value]


def recorded_steps(record: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps that a study's operation was planned with."""
    return tuple(Step.from_json(value) for value in record["steps"])


def operation_of(step: Step, target: str) -> OperationName:
    """The operation that makes a step's target: its id is the target's."""
    return OperationName(step.service, ArtifactName.parse(target, field="target").id)


def of_service(steps: Sequence[Step], service: str) -> tuple[Step, ...]:
    return tuple(step for step in steps if step.service == service)


def evaluated_sets(image_sets: Sequence[Step], *, unselected: bool) -> list[Step]:
    """Of a study's image sets those that classifiers are trained with.

    Args:
        unselected: Whether images are, too, that others were chosen among.
    """
    candidates = {step.request.candidates for step in image_sets}
    return [step for step in image_sets if unselected or step.target not in candidates]
