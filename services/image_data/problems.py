"""Errors about many files at once: a user mends an archive in one go, not file by file."""

from collections.abc import Sequence

from service_kit.errors import FieldViolation, InvalidArgument

MOST_LISTED = 20


def refused_files(field: str, what: str, problems: Sequence[str], remedy: str, *, reason: str) -> InvalidArgument:
    """An InvalidArgument that lists the first problems, each beginning with the file's name.

    Args:
        field: The request's field.
        what: What is wrong, for the beginning of the message, such as "images can't be read".
        problems: One line a file.
        remedy: What to do.
        reason: UPPER_SNAKE.
    """
    listed = [repr(problem)[1:-1] for problem in problems[:MOST_LISTED]]  # names are the user's: no control characters
    more = f"; and {len(problems) - MOST_LISTED:,} more" if len(problems) > MOST_LISTED else ""
    return InvalidArgument(
        f"{field}: {len(problems):,} {what}; {remedy}: {'; '.join(listed)}{more}",
        reason=reason,
        violations=[FieldViolation(field, line) for line in listed],
    )
