"""Which group (chip, well, plate, date, patient) an image is of (leakage rule 1)."""

import time
from collections.abc import Callable, Sequence

import regex

from image_data.problems import refused_files
from image_data.source_listing import ListedImage
from image_data.user_text import normalised
from service_kit.errors import InvalidArgument, invalid_field, missing_field
from synthmix_api.datasets.v1 import datasets_pb2

PATTERN_FIELD = "dataset.group_rule.pattern"
COLUMN_FIELD = "dataset.group_rule.column"
LONGEST_PATTERN = 500
LONGEST_GROUP = 200
# A pattern such as (a+)+$ can search for ever: `regex` is Python's re with a time limit.
MOST_SECONDS = 20.0
NO_GROUPS_WARNING = (
    "group: none was stated, so that each image counts as independent of all others; if some share a chip, "
    "well, plate or patient, every result is too optimistic"
)


def check_rule(rule: datasets_pb2.GroupRule) -> None:
    """Raises InvalidArgument if the rule can't be one, before any image is looked at."""
    kind = rule.WhichOneof("rule")
    if kind is None or (kind == "none" and not rule.none):
        raise missing_field(
            "dataset.group_rule",
            "images of one chip, well, plate or patient must not be split: give a pattern "
            "with a named group, such as (?P<group>[^/]+)_, or a column, or state none: true",
        )
    if kind == "pattern":
        _compile(rule.pattern)
    if kind == "column" and not rule.column:
        raise missing_field(COLUMN_FIELD, "name the manifest's column")


def span_finder(rule: datasets_pb2.GroupRule) -> Callable[[str], tuple[int, int] | None] | None:
    """Where the pattern's group lies in a path; None if groups don't come from a pattern."""
    if rule.WhichOneof("rule") != "pattern":
        return None
    compiled = _compile(rule.pattern)

    def span(path: str) -> tuple[int, int] | None:
        try:
            match = compiled.search(path, timeout=MOST_SECONDS / 100)
        except TimeoutError:
            return None
        return match.span("group") if match and match["group"] else None

    return span


def groups_of(images: Sequence[ListedImage], rule: datasets_pb2.GroupRule) -> list[str]:
    """The group of each image. With none, its path.

    Raises:
        InvalidArgument: The pattern doesn't match some images, or takes too long.
    """
    kind = rule.WhichOneof("rule")
    if kind == "none":
        return [image.path for image in images]
    field = PATTERN_FIELD if kind == "pattern" else COLUMN_FIELD
    groups = _matches(images, rule.pattern) if kind == "pattern" else [image.group or "" for image in images]
    problems = [
        f"{image.path} gives {group!r}"
        for image, group in zip(images, groups, strict=True)
        if not group.isprintable() or len(group) > LONGEST_GROUP
    ]
    if problems:
        raise refused_files(
            field,
            "images have unusable groups",
            problems,
            f"groups have 1 to {LONGEST_GROUP} printable characters",
            reason="INVALID_GROUP",
        )
    return groups


def _matches(images: Sequence[ListedImage], pattern: str) -> list[str]:
    compiled = _compile(pattern)
    deadline = time.monotonic() + MOST_SECONDS
    groups, unmatched = [], []
    for image in images:
        try:
            match = compiled.search(image.path, timeout=max(0.001, deadline - time.monotonic()))
        except TimeoutError as error:
            raise invalid_field(
                PATTERN_FIELD,
                pattern,
                f"takes more than {MOST_SECONDS:g} s on {image.path!r}",
                "avoid a repetition inside a repetition",
                reason="PATTERN_TOO_SLOW",
            ) from error
        group = match["group"] if match else None
        if not group:
            unmatched.append(image.path)
        groups.append(normalised(group or ""))
    if unmatched:
        raise refused_files(
            PATTERN_FIELD,
            f"of {len(images):,} images get no group from {pattern!r}",
            unmatched,
            "change the pattern so that it matches the path of every image",
            reason="PATTERN_UNMATCHED",
        )
    return groups


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
