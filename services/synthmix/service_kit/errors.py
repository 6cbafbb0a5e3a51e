"""One root error, and its form on the wire: google.rpc.Status with ErrorInfo and BadRequest (AIP-193)."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2

from synthmix.service_kit.error_limits import LONGEST_MESSAGE_BYTES, bounded_metadata, bounded_text, bounded_violations

DOMAIN = "synthmix"
MOST_PROBLEMS = 100
MOST_LISTED = 20
LONGEST_ITEM = 200
ITEM_INDENT = "  "


@dataclass(frozen=True)
class FieldViolation:
    """A field of a request, as a path such as `mixtures.ratios[2]`, and what is wrong with its value."""

    field: str
    description: str


class SynthMixError(Exception):
    """Root of every error that a user may see.

    Args:
        message: What is wrong and how to put it right, in one or two sentences; what they speak of follows them, an
            item a line, indented (see `listing`). Several faults have a line each. It is the whole text: logs,
            terminals and clients show it as it is.
        reason: UPPER_SNAKE cause, stable between versions.
        violations: The fields at fault, if it is the request's: what the message says, for programs.
        metadata: Further facts, for programs.
    """

    code = code_pb2.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: str = "INTERNAL",
        violations: Iterable[FieldViolation] = (),
        metadata: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})

    def __reduce__(self) -> Any:
        # Ray carries errors between processes; keyword-only arguments need help to survive that.
        kind = partial(type(self), reason=self.reason, violations=self.violations, metadata=self.metadata)
        return kind, (self.message,)


class InvalidArgument(SynthMixError):
    """The request cannot be carried out as it is written."""

    code = code_pb2.INVALID_ARGUMENT


class NotFound(SynthMixError):
    code = code_pb2.NOT_FOUND


class AlreadyExists(SynthMixError):
    code = code_pb2.ALREADY_EXISTS


class FailedPrecondition(SynthMixError):
    """The request is well formed, but the state of the system or of its inputs forbids it."""

    code = code_pb2.FAILED_PRECONDITION


class Unauthenticated(SynthMixError):
    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(SynthMixError):
    """The caller is known, and may not do this."""

    code = code_pb2.PERMISSION_DENIED


class Unavailable(SynthMixError):
    """A dependency does not answer; the same request may succeed later."""

    code = code_pb2.UNAVAILABLE


class ResourceExhausted(SynthMixError):
    """Something that the request needs is used up, such as the room of a disk; trying again does not help."""

    code = code_pb2.RESOURCE_EXHAUSTED


class Cancelled(SynthMixError):
    code = code_pb2.CANCELLED


class DataLoss(SynthMixError):
    """Stored bytes are not those that were written."""

    code = code_pb2.DATA_LOSS


class Unimplemented(SynthMixError):
    code = code_pb2.UNIMPLEMENTED


class Internal(SynthMixError):
    """A defect of SynthMix; the log has the stack trace."""


_BY_CODE: dict[int, type[SynthMixError]] = {kind.code: kind for kind in SynthMixError.__subclasses__()}


def invalid_field(
    field: str, value: object, problem: str, remedy: str, *, reason: str = "INVALID_FIELD"
) -> InvalidArgument:
    """An InvalidArgument that names the field, its value, what is wrong and what to do."""
    description = f"{_shown(value)} {problem}; {remedy}"
    return InvalidArgument(f"{field}: {description}", reason=reason, violations=[FieldViolation(field, description)])


def missing_field(field: str, remedy: str) -> InvalidArgument:
    description = f"is required; {remedy}"
    return InvalidArgument(
        f"{field} {description}", reason="FIELD_MISSING", violations=[FieldViolation(field, description)]
    )


def unmet_precondition(
    field: str, description: str, *, reason: str, metadata: dict[str, str] | None = None
) -> FailedPrecondition:
    """A FailedPrecondition that names the field, and says what is wrong and what to do."""
    violations = [FieldViolation(field, description)]
    return FailedPrecondition(f"{field}: {description}", reason=reason, violations=violations, metadata=metadata)


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raises InvalidArgument, with the nearest choice, if value is not one of the choices."""
    known = list(choices)
    if value in known:
        return
    remedy = f"{did_you_mean(value, known)}use one of: {', '.join(known)}"
    raise invalid_field(field, value, "is not one of the choices", remedy, reason="UNKNOWN_CHOICE")


def listing(items: Sequence[str], *, most: int = MOST_LISTED) -> str:
    """What goes behind a message's sentences: an item a line, and how many were left out. "" if there are none.

    Args:
        items: Such as file names. They may be a user's: none gets to a terminal with its control characters.
    """
    lines = [f"{ITEM_INDENT}{printable(item)}" for item in items[:most]]
    if len(items) > most:
        lines.append(f"{ITEM_INDENT}and {len(items) - most:,} more")
    return "".join(f"\n{line}" for line in lines)


def printable(text: str, *, longest: int = LONGEST_ITEM) -> str:
    """Text of a user's in one line of bounded length, its control characters escaped."""
    shown = repr(text)[1:-1]
    return shown if len(shown) <= longest else f"{shown[: longest // 2 - 3]} ... {shown[3 - longest // 2 :]}"


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """A question that names the nearest of what is known, with a space behind it; "" if nothing is near.

    Compared without case: ALPHA means alpha.
    """
    by_form: dict[str, str] = {}
    for name in known:
        by_form.setdefault(name.casefold(), name)
    nearest = difflib.get_close_matches(value.casefold(), by_form, n=1, cutoff=0.5)
    return f"did you mean {by_form[nearest[0]]!r}? " if nearest else ""


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Raises InvalidArgument if value is not between low and high."""
    if not low <= value <= high:  # written so that NaN is outside
        remedy = f"use a value between {low:g} and {high:g}"
        raise invalid_field(field, value, "is out of range", remedy, reason="OUT_OF_RANGE")


class Problems:
    """Collects every InvalidArgument of a request, so that a user fixes them in one go.

    problems = Problems()
    with problems:
        check_range(...)
    with problems:
        check_choice(...)
    problems.raise_if_any()

    A list of a million bad values is a million problems: after MOST_PROBLEMS they are only counted.
    """

    def __init__(self) -> None:
        self.found: list[InvalidArgument] = []
        self._more = 0

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, InvalidArgument):
            return False
        if len(self.found) < MOST_PROBLEMS:
            self.found.append(error)
        else:
            self._more += 1
        return True

    def raise_if_any(self) -> None:
        """Raises one InvalidArgument for all that was collected, each fault once."""
        distinct = list({error.message: error for error in self.found}.values())
        if len(distinct) == 1:
            raise distinct[0]
        if distinct:
            more = [FieldViolation("", f"and {self._more:,} more")] if self._more else []
            raise InvalidArgument(
                "\n".join([*(error.message for error in distinct), *(item.description for item in more)]),
                reason="SEVERAL_FIELDS",
                violations=[*(violation for error in distinct for violation in error.violations), *more],
            )


def to_status(error: SynthMixError) -> status_pb2.Status:
    """The error as google.rpc.Status, small enough to be sent: what was left out is said in it."""
    status = status_pb2.Status(code=error.code, message=bounded_text(error.message, LONGEST_MESSAGE_BYTES))
    metadata = bounded_metadata(error.metadata)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.violations:
        violations = bounded_violations([(item.field, item.description) for item in error.violations])
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    return status


def from_status(status: status_pb2.Status) -> SynthMixError:
    """The error that a google.rpc.Status stands for."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
    return _BY_CODE.get(status.code, Internal)(
        status.message,
        reason=info.reason or code_pb2.Code.Name(status.code),
        violations=[FieldViolation(item.field, item.description) for item in bad_request.field_violations],
        metadata=dict(info.metadata),
    )


def to_json(error: SynthMixError) -> dict[str, Any]:
    return json_format.MessageToDict(to_status(error))


def from_json(value: dict[str, Any]) -> SynthMixError:
    """What a record says. Details of kinds that this version does not know are left out."""
    known = ("google.rpc.ErrorInfo", "google.rpc.BadRequest")
    details = [item for item in value.get("details", []) if item["@type"].rpartition("/")[2] in known]
    status = json_format.ParseDict(value | {"details": details}, status_pb2.Status(), ignore_unknown_fields=True)
    return from_status(status)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
