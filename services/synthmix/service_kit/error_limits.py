"""How much of an error travels: gRPC carries it in HTTP/2's trailers, of which peers accept 8 KiB.

The trailers hold the message twice: percent-encoded, where a character beyond ASCII takes up to 12 bytes, and in the
status, which is encoded as base64. An error that is too large would reach its caller as RESOURCE_EXHAUSTED.
"""

import re
from collections.abc import Mapping, Sequence

from google.rpc import error_details_pb2

LONGEST_MESSAGE_BYTES = 1200
LONGEST_FIELD_BYTES = 200
LONGEST_DESCRIPTION_BYTES = 600
LONGEST_METADATA_BYTES = 300
MOST_METADATA = 16
MOST_VIOLATIONS = 20
MOST_VIOLATION_BYTES = 2000
MOST_METADATA_BYTES = 800
# Kept for what says how many were left out, so that an error that is bounded once more stays as it is.
LEFT_OUT_BYTES = 40
LEFT_OUT = "left_out"
_AND_MORE = re.compile(r" *and ([\d,]+) more")


def bounded_text(text: str, most_bytes: int) -> str:
    """The text, or its beginning and its end, where remedies stand, with what was left out between them.

    A list, of an item or a fault a line, keeps its first lines, and says how many more there are.

    Args:
        most_bytes: As gRPC encodes it: three for each byte that is not printable ASCII.
    """
    text = text.encode(errors="backslashreplace").decode()  # a lone surrogate cannot be sent
    if len(text) <= most_bytes and _cost(text) <= most_bytes:
        return text
    if "\n  " in text:
        return _bounded_lines(text.split("\n"), most_bytes)
    room = most_bytes - len(f" ... ({len(text):,} characters left out) ... ")
    head = _fitting(text, room * 2 // 3)
    tail = _fitting(text[::-1], room - room * 2 // 3)[::-1]
    return f"{head} ... ({len(text) - len(head) - len(tail):,} characters left out) ... {tail}"


def _bounded_lines(lines: list[str], most_bytes: int) -> str:
    room = most_bytes - LEFT_OUT_BYTES
    kept = [bounded_text(lines[0], room * 2 // 3)]
    for line in lines[1:]:
        if _cost("\n".join([*kept, line])) > room:
            break
        kept.append(line)
    left = lines[len(kept) :]
    if not left:
        return "\n".join(kept)
    indent = left[0][: len(left[0]) - len(left[0].lstrip(" "))]
    counted = _AND_MORE.fullmatch(left[-1])
    count = len(left) - 1 + int(counted[1].replace(",", "")) if counted else len(left)
    return "\n".join([*kept, f"{indent}and {count:,} more"])


def bounded_violations(violations: Sequence[tuple[str, str]]) -> list[error_details_pb2.BadRequest.FieldViolation]:
    """The first violations, of (field, description); the last one says how many were left out, and names no field."""
    kept: list[error_details_pb2.BadRequest.FieldViolation] = []
    size_bytes = 0
    for number, (field, description) in enumerate(violations):
        item = error_details_pb2.BadRequest.FieldViolation(
            field=bounded_text(field, LONGEST_FIELD_BYTES),
            description=bounded_text(description, LONGEST_DESCRIPTION_BYTES),
        )
        size_bytes += item.ByteSize()
        is_last = number == len(violations) - 1
        if size_bytes > MOST_VIOLATION_BYTES - LEFT_OUT_BYTES * (not is_last) or (
            len(kept) == MOST_VIOLATIONS - 1 and not is_last
        ):
            kept.append(
                error_details_pb2.BadRequest.FieldViolation(description=f"and {len(violations) - number:,} more")
            )
            break
        kept.append(item)
    return kept


def bounded_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The first entries, each cut; "left_out" says how many are not shown."""
    kept: dict[str, str] = {}
    size_bytes = 0
    for number, (key, value) in enumerate(sorted(metadata.items(), key=lambda item: item[0] == LEFT_OUT)):
        key, value = (bounded_text(text, LONGEST_METADATA_BYTES) for text in (key, value))
        size_bytes += len(key.encode()) + len(value.encode())
        is_last = number == len(metadata) - 1
        if size_bytes > MOST_METADATA_BYTES - LEFT_OUT_BYTES * (not is_last) or (
            len(kept) == MOST_METADATA - 1 and not is_last
        ):
            kept[LEFT_OUT] = str(len(metadata) - number)
            break
        kept[key] = value
    return kept


def _cost(text: str) -> int:
    return sum(1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode()) for character in text)


def _fitting(text: str, most_bytes: int) -> str:
    """The longest beginning of at most so many encoded bytes."""
    cost = 0
    for length, character in enumerate(text):
        cost += _cost(character)
        if cost > most_bytes:
            return text[:length]
    return text
