"""Errors about many files at once: a user mends an archive in one go, not file by file."""

from collections.abc import Sequence

from synthmix.service_kit.errors import MOST_LISTED, FieldViolation, InvalidArgument, listing, printable


def refused_files(field: str, what: str, problems: Sequence[str], remedy: str, *, reason: str) -> InvalidArgument:
    """An InvalidArgument that says what is wrong and what to do, and lists the first problems.

    Args:
        field: The request's field.
        what: What is wrong, for the beginning of the message, such as "images can't be read".
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
