"""Messages in the form that people write them."""

from typing import Any

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from synthmix.service_kit.settings_messages import is_map


def to_yaml(message: Message) -> str:
    """A message as YAML. Reading a specification's text gives it back."""
    return str(yaml.safe_dump(_plain(message), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110))


def _plain(message: Message) -> dict[str, Any]:
    """A message as dicts, lists and scalars. Unlike protobuf's JSON, it does not quote int64."""
    plain: dict[str, Any] = {}
    for item, value in message.ListFields():
        if is_map(item):
            plain[item.name] = dict(sorted(value.items()))
        elif item.is_repeated:
            plain[item.name] = [_plain_value(item, one) for one in value]
        else:
            plain[item.name] = _plain_value(item, value)
    return plain


def _plain_value(item: FieldDescriptor, value: Any) -> Any:
    if item.enum_type is not None:
        return item.enum_type.values_by_number[value].name
    if item.message_type is None:
        return value
    if item.message_type.full_name == "google.protobuf.Timestamp":
        return value.ToJsonString()
    return _plain(value)
