"""Errors about what a user gives to be imported. Files that cannot be used are listed at once, not one by one."""

from collections.abc import Sequence

from synthmix.service_kit.errors import MOST_LISTED, FieldViolation, InvalidArgument, invalid_field, listing, printable


def refused_files(field: str, what: str, problems: Sequence[str], remedy: str, *, reason: str) -> InvalidArgument:
    """An InvalidArgument that says what is wrong and what to do, and lists the first problems.

    Args:
        field: The request's field.
        what: What is wrong, for the beginning of the message, such as "images cannot be read".
        problems: One line a file, each beginning with the file's name.
        remedy: What to do.
        reason: UPPER_SNAKE.
    """
    return InvalidArgument(
        f"{field}: {len(problems):,} {what}; {remedy}{listing(problems)}",
        reason=reason,
        violations=[FieldViolation(field, printable(problem)) for problem in problems[:MOST_LISTED]],
        metadata={"left_out": str(len(problems) - MOST_LISTED)} if len(problems) > MOST_LISTED else None,
    )


def unreadable_manifest(field: str, name: str, problem: str, remedy: str) -> InvalidArgument:
    """An InvalidArgument that says why a manifest, the file `name`, cannot be read."""
    return invalid_field(field, name, problem, remedy, reason="MANIFEST_UNREADABLE")
