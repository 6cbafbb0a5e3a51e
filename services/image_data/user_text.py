"""Labels, groups and cells as users write them: what is the same text, and what means that there is none.

Only the standard library: the client imports it too.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from image_data.problems import refused_files

# What spreadsheets, pandas and R write for a value that isn't there.
_MISSING = frozenset(
    (
        "",
        "nan",
        "-nan",
        "na",
        "n/a",
        "<na>",
        "#n/a",
        "#na",
        "#n/a n/a",
        "null",
        "none",
        "nil",
        "nat",
        "#null!",
        "(null)",
    )
)


def normalised(text: str) -> str:
    """Unicode's composed form, without blanks at the ends, and with single spaces for every run of blanks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_missing(text: str) -> bool:
    """Whether a normalised cell says that its value isn't known."""
    return text.casefold() in _MISSING


def compared(text: str) -> str:
    """The form in which two labels, or two column names, are the same: normalised and without case."""
    return unicodedata.normalize("NFC", normalised(text).casefold())


def check_spellings(field: str, labels: Iterable[str]) -> None:
    """Raises InvalidArgument if classes differ in case alone: two spellings of one class, as a rule."""
    spellings = defaultdict(set)
    for label in labels:
        spellings[compared(label)].add(label)
    twice = [" and ".join(repr(label) for label in sorted(same)) for same in spellings.values() if len(same) > 1]
    if twice:
        raise refused_files(
            field,
            "names of classes differ in capital letters alone",
            sorted(twice),
            "spell each class in one way",
            reason="LABELS_DIFFER_IN_CASE",
        )
