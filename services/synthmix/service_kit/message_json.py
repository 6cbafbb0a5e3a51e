"""Messages as the JSON that artifacts hold: field names as in the protos, and every field that has no presence."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)


def to_value(message: Message) -> dict[str, Any]:
    """The message as plain values, in the order of its fields; equal messages give equal ones, in equal order."""
    value: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _sort_maps(value, cast(Descriptor, message.DESCRIPTOR))
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


def _sort_maps(value: dict[str, Any], descriptor: Descriptor) -> None:
    """Sorts the entries of maps, whose order protobuf leaves to each process."""
    for field in descriptor.fields:
        if field.message_type is None or field.name not in value:
            continue
        if field.message_type.GetOptions().map_entry:
            value[field.name] = dict(sorted(value[field.name].items()))
            continue
        for one in value[field.name] if field.is_repeated else [value[field.name]]:
            if isinstance(one, dict):  # a Timestamp is text
                _sort_maps(one, field.message_type)
