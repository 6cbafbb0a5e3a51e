"""Group patterns: regular expressions whose named group says an image's chip, well, plate, date or patient.

A user's pattern such as (a+)+$ can search for ever: `regex` is Python's re with a time limit. The client imports this
module too.
"""

import time
from collections.abc import Callable, Sequence

import regex

from synthmix.service_kit.errors import InvalidArgument, invalid_field, missing_field

PATTERN_FIELD = "dataset.group_rule.pattern"
LONGEST_PATTERN = 500
MOST_SECONDS = 20.0
"""For all paths together."""
_MOST_SECONDS_A_PATH = 2.0


def check_pattern(pattern: str) -> None:
    """Raises InvalidArgument if it can't be a group pattern."""
    _compile(pattern)


def pattern_span(pattern: str) -> Callable[[str], tuple[int, int] | None]:
    """A function that says where the pattern's group lies in a path; None if it finds none.

    Raises:
        InvalidArgument: It can't be a group pattern; the function raises it if the search takes too long.
    """
    compiled = _compile(pattern)

    def span(path: str) -> tuple[int, int] | None:
        match = _search(compiled, path, _MOST_SECONDS_A_PATH)
        return match.span("group") if match and match["group"] else None

    return span


def find_groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """What the pattern's group is in each path; "" where it finds none. Raises InvalidArgument."""
    compiled = _compile(pattern)
    deadline = time.monotonic() + MOST_SECONDS
    groups = []
    for path in paths:
        match = _search(compiled, path, max(0.001, deadline - time.monotonic()))
        groups.append((match["group"] if match else None) or "")
    return groups


def _search(compiled: "regex.Pattern[str]", path: str, seconds: float) -> "regex.Match[str] | None":
    try:
        return compiled.search(path, timeout=seconds)
    except TimeoutError as error:
        raise invalid_field(
            PATTERN_FIELD,
            compiled.pattern,
            f"takes too long on {path!r}",
            "avoid a repetition inside a repetition",
            reason="PATTERN_TOO_SLOW",
        ) from error


def _compile(pattern: str) -> "regex.Pattern[str]":
    if not pattern:
        raise missing_field(PATTERN_FIELD, "give a regular expression with a named group, such as (?P<group>[^/]+)_")
    if len(pattern) > LONGEST_PATTERN:
        raise _invalid(pattern, f"is longer than {LONGEST_PATTERN} characters")
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise _invalid(pattern, f"is not a regular expression ({error})") from error
    if "group" not in compiled.groupindex:
        raise _invalid(pattern, "has no named group (?P<group>...)")
    return compiled


def _invalid(pattern: str, problem: str) -> InvalidArgument:
    return invalid_field(
        PATTERN_FIELD,
        pattern,
        problem,
        "use one with a named group around what images of one group share, such as (?P<group>[^/]+)_",
        reason="INVALID_PATTERN",
    )
