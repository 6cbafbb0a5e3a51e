"""Defaults of request fields. A field with presence that says 0 was set to 0, and is checked as such."""

from typing import Any

from google.protobuf.message import Message


def set_default(message: Message, field: str, value: Any) -> None:
    """Sets a field that the user left out. A text field is left out if it is empty."""
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    left_out = not message.HasField(field) if descriptor.has_presence else not getattr(message, field)
    if left_out:
        setattr(message, field, value)
