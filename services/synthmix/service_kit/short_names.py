"""Names that tell several things of one kind apart, by the settings in which they differ."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from synthmix.service_kit.errors import printable
from synthmix.service_kit.settings_messages import rules_of

LONGEST_TEXT = 1000


def distinguishing_names(settings: Sequence[Sequence[Message]], alone: str) -> list[str]:
    """A short name for each thing, such as "rank 16, steps 25".

    Args:
        settings: Of each thing, its settings messages: of the same kinds in the same order, with their defaults.
        alone: The name of a thing that differs from no other, since there is one only.
    """
    names: list[list[str]] = [[] for _ in settings]
    for messages in zip(*settings, strict=True):
        for field in messages[0].DESCRIPTOR.fields:
            values = [_value(message, field) for message in messages]
            if any(value != values[0] for value in values):
                for name, value in zip(names, values, strict=True):
                    name.append(_shown(field, value))
    return [", ".join(name) or alone for name in names]


def _value(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return tuple(value)
    return value if message.HasField(field.name) else None


def _shown(field: FieldDescriptor, value: Any) -> str:
    words = field.name.replace("_", " ")
    if value is None:
        return f"{words} not set"
    if isinstance(value, bool):
        return f"{words} {str(value).lower()}"
    if isinstance(value, (int, float)):
        unit = rules_of(field).unit
        return f"{words} {repr(value).removesuffix('.0')}{f' {unit}' if unit else ''}"
    return f"{words} {printable(str(value), longest=LONGEST_TEXT)}"
