"""What commands print: results to standard output, as text or as JSON; everything else to standard error."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from service_kit.errors import FieldViolation, SynthMixError
from synthmix.cli import exit_codes
from synthmix.study_file import PlacedViolation


def emit(arguments: argparse.Namespace, value: Any, text: str) -> None:
    """Prints a command's result: the value if JSON was asked for, otherwise the text.

    Args:
        value: A message, or dicts and lists of messages and scalars.
    """
    if arguments.output == "json":
        text = json.dumps(_jsonable(value), indent=2, ensure_ascii=False)
    print(text)


def note(text: str) -> None:
    """Says something that isn't the result: progress, hints, warnings."""
    print(text, file=sys.stderr, flush=True)


def print_error(arguments: argparse.Namespace, error: SynthMixError) -> None:
    if arguments.output == "json":
        note(json.dumps(error_value(error), indent=2, ensure_ascii=False))
    else:
        note(error_text(error))


def error_value(error: SynthMixError) -> dict[str, Any]:
    """The error as JSON: google.rpc.Status without its envelopes, and with places in the user's file."""
    violations = [
        {"field": item.field, "description": item.description, "place": _place(item)} for item in error.violations
    ]
    return {
        "error": {
            "code": code_pb2.Code.Name(error.code),
            "reason": error.reason,
            "message": error.message,
            "violations": violations,
            "metadata": error.metadata,
        },
        "exit_code": exit_codes.of_error(error),
    }


def error_text(error: SynthMixError) -> str:
    """The error for a person: each violation on a line of its own, with its place in the user's file."""
    violations = [_violation_text(item) for item in error.violations]
    # A message that only strings its violations together would say everything twice.
    if not violations or not all(item.description in error.message for item in error.violations):
        violations.insert(0, error.message)
    return "\n".join(f"error: {line}" for line in violations)


def _violation_text(item: FieldViolation) -> str:
    said = f"{item.field}: {item.description}" if item.field else item.description
    place = _place(item)
    return f"{place}: {said}" if place else said


def _place(item: FieldViolation) -> str:
    return item.place if isinstance(item, PlacedViolation) else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> str:
    """Aligned columns. `right` names the columns of numbers."""
    lines = [[str(item) for item in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(headers), *lines]) for index in range(len(headers))]
    numbers = {headers.index(name) for name in right}

    def aligned(line: Sequence[str]) -> str:
        cells = (
            item.rjust(width) if index in numbers else item.ljust(width)
            for index, (item, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(aligned(line) for line in [list(headers), *lines])


def human_duration(seconds: float) -> str:
    """Such as 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    days, rest_h = divmod(hours, 24)
    if days:
        return f"{days} d {rest_h} h"
    if hours:
        return f"{hours} h {rest_min} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def human_time(time: Timestamp) -> str:
    """Local time to the minute, or a dash for none."""
    return f"{time.ToDatetime().replace(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M}" if time.seconds else "-"


def human_bytes(count: float) -> str:
    """Such as 512 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Message):
        return json_format.MessageToDict(
            value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
