"""Messages as the JSON that artifacts hold: field names as in the protos, and every field that has no presence."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)


def to_value(message: Message) -> dict[str, Any]:
    """The message as plain values."""
    value: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return value


def to_bytes(message: Message) -> bytes:
    """The message as a payload: equal messages give equal bytes."""
    return json.dumps(to_value(message), sort_keys=True, indent=1, ensure_ascii=False).encode()


def from_value(value: Mapping[str, Any], kind: type[AnyMessage]) -> AnyMessage:
    """The message that plain values stand for; fields that this version does not know are left out."""
    return json_format.ParseDict(dict(value), kind(), ignore_unknown_fields=True)


def from_bytes(data: bytes, kind: type[AnyMessage]) -> AnyMessage:
    """The message that a payload holds."""
    return from_value(json.loads(data), kind)
