"""What commands print: results to standard output, as text or as JSON; everything else to standard error."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any, TextIO, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from synthmix.cli import outcomes
from synthmix.cli.streams import discard, encodes_everything
from synthmix.client.study_file import PlacedViolation
from synthmix.service_kit import message_json
from synthmix.service_kit.errors import ITEM_INDENT, FieldViolation, SynthMixError, listing, printable

M = TypeVar("M", bound=Message)
MINE = "requested_by_me"


def emit(arguments: argparse.Namespace, value: Any, text: str) -> None:
    """Prints a command's result: the value if JSON was asked for, otherwise the text.

    Args:
        value: A message, or dicts and lists of messages and scalars.
    """
    print(json_text(_jsonable(value), sys.stdout) if arguments.output == "json" else text)


def note(text: str) -> None:
    """Says something that isn't the result: progress, hints, warnings."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:  # its disk is full, or it was closed: there is nobody to tell, and the result is still wanted
        discard(sys.stderr)


def print_error(arguments: argparse.Namespace, error: SynthMixError) -> None:
    note(json_text(error_value(error), sys.stderr) if arguments.output == "json" else error_text(error))


def ended_badly(arguments: argparse.Namespace, error: SynthMixError) -> int:
    """Prints the error that an operation ended with, and returns the exit code for it."""
    print_error(arguments, error)
    return outcomes.of_outcome(error)


def json_text(value: Any, stream: TextIO) -> str:
    """JSON that the stream can encode: what it can't is escaped as JSON escapes it."""
    return json.dumps(value, indent=2, ensure_ascii=not encodes_everything(stream))


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
        "exit_code": outcomes.of_error(error),
    }


def error_text(error: SynthMixError) -> str:
    """The error for a person: its message, each fault with its place in the user's file, and then what they speak of.

    Violations repeat the message for programs. One that the message doesn't say follows it.
    """
    left = list(error.violations)
    lines = []
    for line in error.message.splitlines() or [error.reason]:
        if line.startswith(ITEM_INDENT):
            lines.append(line)
            continue
        said = next((item for item in left if item.field in line and item.description in line), None)
        if said is None:
            lines.append(f"error: {line}")
            continue
        left.remove(said)
        place = _place(said)
        whole = line in (f"{said.field}: {said.description}", f"{said.field} {said.description}")
        shown = _violation_text(said) if whole else line
        lines.append(f"error: {shown}" if not place or place in line else f"error: {place}: {shown}")
    # A list that says how many more there are is whole as it is.
    cut = re.fullmatch(rf"{ITEM_INDENT}and [\d,]+ more", error.message.rpartition("\n")[2])
    unsaid = [] if cut else [item for item in left if item.description not in error.message]
    return "\n".join(lines) + listing(
        [f"{_place(item)}: {_violation_text(item)}" if _place(item) else _violation_text(item) for item in unsaid]
    )


def _violation_text(item: FieldViolation) -> str:
    return f"{item.field}: {item.description}" if item.field else item.description


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


def number(value: float) -> str:
    """A count in full, and another number to six digits."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.6g}"


def with_owners(
    headers: Sequence[str], rows: Iterable[Sequence[object]], items: Sequence[Any]
) -> tuple[list[str], list[list[object]]]:
    """A table's headers and rows with a column that says whose each item is, if any is not the caller's own.

    Args:
        items: The messages that the rows are of.
    """
    if all(item.requested_by_me or not item.requested_by for item in items):
        return list(headers), [list(row) for row in rows]
    owners = ["" if item.requested_by_me else owners_text(item) for item in items]
    return [*headers, "OWNER"], [[*row, owner] for row, owner in zip(rows, owners, strict=True)]


def without_own(message: M) -> M:
    """What is shown of a resource: whose it is only if it is not the caller's own."""
    shown = type(message)()
    shown.CopyFrom(message)
    if getattr(shown, MINE):
        shown.ClearField("requested_by")
        shown.ClearField(MINE)
    return shown


def owners_text(item: Any) -> str:
    """Who asked for a resource or an operation, in one line."""
    return ", ".join(printable(owner) for owner in item.requested_by)


def human_time(time: Timestamp) -> str:
    """Local time to the minute, or a dash for none."""
    return f"{time.ToDatetime().replace(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M}" if time.seconds else "-"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Message):
        return message_json.to_value(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
