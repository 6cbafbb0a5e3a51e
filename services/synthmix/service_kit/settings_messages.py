"""Settings messages by their descriptors alone: defaults, checks, the form that is addressed, and back from a record.

An option is declared once, as a field with rules (protos/synthmix/options/v1/field_rules.proto). A default that depends
on something else, such as the base model, is not declared: it is code of the step that the settings are of.

    full = with_defaults(adapter.settings)       # every field that a user may leave out has its declared value
    set_default(full, "alpha", full.rank)        # and those of the step's own code
    check(full, "adapter.settings", problems)    # all faults at once
    request = {"settings": canonical(full)}      # what the artifact's digest is of
    from_canonical(request["settings"], adapters_pb2.AdapterSettings) == full
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar, cast

from google.api import field_behavior_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from synthmix.api.options.v1 import field_rules_pb2
from synthmix.service_kit.errors import Problems, check_choice, invalid_field, printable

M = TypeVar("M", bound=Message)

LONGEST_SHORT_TEXT = 1000

_READERS: dict[int, Any] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_BOOL: lambda text: {"true": True, "false": False}[text],
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
}


def rules_of(field: FieldDescriptor) -> field_rules_pb2.FieldRules:
    """What is declared on a field; empty if nothing is."""
    rules: field_rules_pb2.FieldRules = field.GetOptions().Extensions[field_rules_pb2.rules]
    return rules


def is_map(field: FieldDescriptor) -> bool:
    """Whether it holds values by keys. Its rules are those of each value."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def path_of_key(path: str, key: str | int) -> str:
    """The path of one of a map's values. A key may be any text of a user's."""
    return f"{path}[{printable(str(key))}]"


@cache
def has_rules(descriptor: Descriptor) -> bool:
    """Whether it is a settings message: whether any of its own fields has rules."""
    return any(field.GetOptions().HasExtension(field_rules_pb2.rules) for field in descriptor.fields)


@cache
def default_of(field: FieldDescriptor) -> Any:
    """The declared default: a value, or a tuple of them for a repeated field; None if there is none."""
    values = tuple(_READERS[field.cpp_type](text) for text in rules_of(field).default)
    if field.is_repeated:
        return values or None
    return values[0] if values else None


@cache
def required_fields(descriptor: Descriptor) -> tuple[str, ...]:
    """The fields that have to be given where the message is."""
    return tuple(
        field.name
        for field in descriptor.fields
        if field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    )


def with_defaults(message: M) -> M:
    """A copy in which every field that is left out has its declared default, down to the settings in it.

    But for those that other fields may exclude: fill_left_out. Settings that have a field which has to be given are
    there only if they were given.
    """
    full = type(message)()
    full.CopyFrom(message)
    _fill(full)
    return full


def set_default(message: Message, field: str, value: Any) -> None:
    """Sets a field that was left out. One that says 0, or is empty, was set to that, and is checked as such."""
    if not message.HasField(field):
        setattr(message, field, value)


def fill_left_out(message: Message, field: str) -> None:
    """Gives a field whose default is declared and not filled in (`left_out`) its default if it is not set."""
    set_default(message, field, default_of(cast(Descriptor, message.DESCRIPTOR).fields_by_name[field]))


def check(message: Message, path: str, problems: Problems) -> None:
    """Collects an InvalidArgument for every value that its field's rules forbid, down to the settings in it.

    Args:
        path: The message's own, such as "adapter.settings"; "" for a whole request.
    """
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.message_type is not None and not is_map(field):
            if has_rules(field.message_type):
                for one_name, one in _each(field, value, name):
                    check(one, one_name, problems)
            continue
        for position, (one_name, one) in enumerate(_each(field, value, name)):
            with problems:
                _check_value(field, one, one_name)
            if rules_of(field).unique and one in list(value)[:position]:
                problem, remedy = "is there twice", "leave one of them out"
                problems.found.append(invalid_field(one_name, one, problem, remedy, reason="DUPLICATE_VALUE"))


def canonical(message: Message, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The settings as JSON without the fields that equal their declared default: what digests are of.

    So an option that is added, with a default that changes nothing, leaves every address as it is; and a default that
    is changed does not change the address of what was made with the old one: the recipe version has to.

    Args:
        without: Fields that the request says in another form, such as an input by its digest.
    """
    said = type(message)()
    said.CopyFrom(message)
    for field in without:
        said.ClearField(field)
    _strip(said)
    value: dict[str, Any] = json_format.MessageToDict(said, preserving_proto_field_name=True)
    return value


def from_canonical(value: dict[str, Any], kind: type[M]) -> M:
    """The settings that a canonical form says, with their defaults. Fields of a later version are ignored."""
    return with_defaults(json_format.ParseDict(value, kind(), ignore_unknown_fields=True))


def in_words(settings: Message) -> dict[str, str]:
    """Each setting as a reader wants it, such as {"Pretrained": "yes", "Image size": "64 pixels"}.

    In the order of the fields. Messages within the settings are left out.
    """
    return {
        field.name.replace("_", " ").capitalize(): (
            "; ".join(f"{key}: {_value_in_words(field, item)}" for key, item in sorted(value.items()))
            if is_map(field)
            else "; ".join(_value_in_words(field, item) for item in value)
            if field.is_repeated
            else _value_in_words(field, value)
        )
        for field, value in settings.ListFields()
        if field.message_type is None or is_map(field)
    }


def distinguishing_names(settings: Sequence[Sequence[Message]], alone: str) -> list[str]:
    """A short name for each thing, such as "rank 16, steps 25".

    Args:
        settings: Of each thing, its settings messages: of the same kinds in the same order, with their defaults.
        alone: The name of a thing that differs from no other, since there is one only.
    """
    names: list[list[str]] = [[] for _ in settings]
    for messages in zip(*settings, strict=True):
        for field, values in differing_fields(messages):
            for name, value in zip(names, values, strict=True):
                if value not in (None, ()):  # what others set says enough
                    name.append(_named_value(field, value))
    return [", ".join(name) or alone for name in names]


def differing_fields(messages: Sequence[Message]) -> Iterator[tuple[FieldDescriptor, list[Any]]]:
    """The fields in which messages of one kind differ, in their order, each with its value in every message.

    A value that is not set is None, that of a repeated field a tuple, and that of a map one of its keys and values.
    """
    for field in cast(Descriptor, messages[0].DESCRIPTOR).fields:
        values = [_value_if_set(message, field) for message in messages]
        if any(value != values[0] for value in values):
            yield field, values


def _value_in_words(field: FieldDescriptor, value: Any) -> str:
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "yes" if value else "no"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return str(value)
    text = f"{value:.10g}" if isinstance(value, float) else f"{value:,}"
    return f"{text} {rules_of(field).unit}".rstrip()


def _value_if_set(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if is_map(field):
        return tuple(sorted(value.items()))
    if field.is_repeated:
        return tuple(value)
    return value if message.HasField(field.name) else None


def _named_value(field: FieldDescriptor, value: Any) -> str:
    words = field.name.replace("_", " ")
    if is_map(field):
        value = "; ".join(f"{key}: {repr(one).removesuffix('.0')}" for key, one in value)
    if isinstance(value, tuple):
        value = "; ".join(repr(one).removesuffix(".0") if isinstance(one, float) else str(one) for one in value)
    if isinstance(value, bool):
        return f"{words} {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"{words} {repr(value).removesuffix('.0')} {rules_of(field).unit}".rstrip()
    return f"{words} {printable(str(value), longest=LONGEST_SHORT_TEXT)}"


def _fill(message: Message) -> None:
    for field in cast(Descriptor, message.DESCRIPTOR).fields:
        if field.message_type is not None:
            if not has_rules(field.message_type):
                continue
            inner = getattr(message, field.name)
            if not field.is_repeated:
                if required_fields(field.message_type) and not message.HasField(field.name):
                    continue
                inner.SetInParent()
            for _, one in _each(field, inner, field.name):
                _fill(one)
            continue
        default = default_of(field)
        if default is None or rules_of(field).left_out:
            continue
        if not field.is_repeated:
            set_default(message, field.name, default)
        elif not getattr(message, field.name):
            getattr(message, field.name).extend(default)


def _strip(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and has_rules(field.message_type):
            for _, one in _each(field, value, field.name):
                _strip(one)
            if not field.is_repeated and not value.ListFields():
                message.ClearField(field.name)
        elif field.message_type is None and (tuple(value) if field.is_repeated else value) == default_of(field):
            message.ClearField(field.name)


def _each(field: FieldDescriptor, value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each value of a field with its path."""
    if is_map(field):
        for key in sorted(value):
            yield path_of_key(name, key), value[key]
        return
    if not field.is_repeated:
        yield name, value
        return
    for position, one in enumerate(value):
        yield f"{name}[{position}]", one


def _check_value(field: FieldDescriptor, value: Any, path: str) -> None:
    rules = rules_of(field)
    choices = list(getattr(rules, "in"))
    if choices:
        check_choice(path, value, choices)
    if isinstance(value, str | bool):
        return
    low, above = (rules.gt, True) if rules.HasField("gt") else (rules.gte if rules.HasField("gte") else None, False)
    high, below = (rules.lt, True) if rules.HasField("lt") else (rules.lte if rules.HasField("lte") else None, False)
    inside = (low is None or (value > low if above else value >= low)) and (
        high is None or (value < high if below else value <= high)
    )
    if not inside or not math.isfinite(value):  # NaN is inside nothing
        remedy = f"use {_range_in_words(low, above, high, below)} {rules.unit}".rstrip()
        raise invalid_field(path, value, "is out of range", remedy, reason="OUT_OF_RANGE")


def _range_in_words(low: float | None, above: bool, high: float | None, below: bool) -> str:
    if low is not None and high is not None and above == below:
        return f"a value {'strictly ' if above else ''}between {low:.10g} and {high:.10g}"
    words = [
        *([f"{'above' if above else 'of at least'} {low:.10g}"] if low is not None else []),
        *([f"{'below' if below else 'of at most'} {high:.10g}"] if high is not None else []),
    ]
    return f"a value {' and '.join(words)}" if words else "a finite value"
