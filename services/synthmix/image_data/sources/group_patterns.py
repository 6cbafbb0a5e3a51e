"""Group patterns: regular expressions whose named group says an image's chip, well, plate, date or patient.

They are RE2's, whose time to compile and to search grows linearly: no pattern of a caller keeps a process busy. That
leaves out look-around and back-references. The client imports this module too.
"""

from collections.abc import Callable, Sequence
from typing import Any

from synthmix.service_kit.errors import InvalidArgument, invalid_field, missing_field
from synthmix.service_kit.regular_expressions import compiled

PATTERN_FIELD = "dataset.group_rule.pattern"
LONGEST_PATTERN = 500
SYNTAX = "re2"
"""Part of an import's request: change it when the same pattern may find other groups."""

_LOOK_AROUND = (
    "write what stands around the group into the pattern, outside the named group, such as plate-(?P<group>[0-9]+)_ "
    "instead of (?<=plate-)(?P<group>[0-9]+)(?=_)"
)
_BACK_REFERENCE = "write what is repeated once more, or name the group of each image in a column of a manifest"
_REPETITION = "use a plain repetition, such as [0-9]+: RE2 never searches long"
# What RE2 says of what other regular expressions have, and what it is. Of two that match, the first one counts.
_CONSTRUCTS = (
    ("(?=", "look-ahead", _LOOK_AROUND),
    ("(?!", "look-ahead", _LOOK_AROUND),
    ("(?<=", "look-behind", _LOOK_AROUND),
    ("(?<!", "look-behind", _LOOK_AROUND),
    ("(?P=", "a back-reference", _BACK_REFERENCE),
    ("(?(", "a condition", "use alternatives, such as (?:plate|chip)-(?P<group>[0-9]+)"),
    ("(?>", "an atomic group", _REPETITION),
    ("(?#", "a comment", "leave it out"),
    ("\\Z", r"\Z", r"use \z, or $"),
    ("\\k", "a back-reference", _BACK_REFERENCE),
    *((f"\\{digit}", "a back-reference", _BACK_REFERENCE) for digit in range(1, 10)),
)


def check_pattern(pattern: str) -> None:
    """Raises InvalidArgument if it cannot be a group pattern."""
    _compile(pattern)


def pattern_span(pattern: str) -> Callable[[str], tuple[int, int] | None]:
    """A function that says where the pattern's group lies in a path; None if it finds none.

    Raises:
        InvalidArgument: It cannot be a group pattern.
    """
    search, group = _compile(pattern)

    def span(path: str) -> tuple[int, int] | None:
        match = search(path)
        return match.span(group) if match and match[group] else None

    return span


def find_groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """What the pattern's group is in each path; "" where it finds none. Raises InvalidArgument."""
    search, group = _compile(pattern)
    matches = (search(path) for path in paths)
    return [(match[group] if match else None) or "" for match in matches]


def _compile(pattern: str) -> tuple[Callable[[str], Any], int]:
    """What searches for the pattern, and the number of its group."""
    if not pattern:
        raise missing_field(PATTERN_FIELD, "give a regular expression with a named group, such as (?P<group>[^/]+)_")
    if len(pattern) > LONGEST_PATTERN:
        raise _invalid(pattern, f"is longer than {LONGEST_PATTERN} characters")
    try:
        expression = compiled(pattern)
    except UnicodeEncodeError as error:
        raise _invalid(pattern, "is not Unicode text") from error
    except ValueError as error:
        raise _refused(pattern, str(error)) from error
    if "group" not in expression.groupindex:
        raise _invalid(pattern, "has no named group (?P<group>...)")
    return expression.search, expression.groupindex["group"]


def _refused(pattern: str, said: str) -> InvalidArgument:
    what, _, where = said.partition(": ")
    if what == "pattern too large - compile failed":
        return _invalid(pattern, "is too large", "repeat less in it, such as [^/]+ instead of [^/]{900}")
    if what == "bad repetition operator" and where.endswith("+"):
        return _invalid(pattern, f"has a possessive repetition ({where}), which RE2 does not have", _REPETITION)
    for start, construct, remedy in _CONSTRUCTS:
        # Of some, RE2 tells the first letters only.
        if where and (where.startswith(start) or (where == "(?P" and start == "(?P=" and start in pattern)):
            return _invalid(pattern, f"has {construct} ({start}), which RE2 does not have", remedy)
    return _invalid(pattern, f"is not a regular expression ({said})")


def _invalid(
    pattern: str,
    problem: str,
    remedy: str = "use one with a named group around what images of one group share, such as (?P<group>[^/]+)_",
) -> InvalidArgument:
    return invalid_field(PATTERN_FIELD, pattern, problem, remedy, reason="INVALID_PATTERN")
