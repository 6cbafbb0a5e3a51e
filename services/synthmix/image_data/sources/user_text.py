"""Labels, groups and cells as users write them: what is the same text, and what means that there is none.

Only the standard library: the client imports it too.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

# Blanks of any width, but no line breaks: inside a name those are a table's fault (a quotation mark too few), so that
# they stay, and are refused as control characters.
_BLANKS = re.compile(r"[^\S\n\r\v\f\x1c-\x1f\x85\u2028\u2029]+")
# Characters without width or ink, which come along unseen when text is copied: soft hyphen, zero-width blanks and
# joiners, direction marks, byte order marks.
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")


def words(text: str) -> frozenset[str]:
    """The words of a text: a long list of names, as one reads it."""
    return frozenset(text.split())


# What spreadsheets, pandas and R write for a value that is not there.
_MISSING = frozenset(("", "#n/a n/a")) | words(
    "nan -nan +nan 1.#ind -1.#ind 1.#qnan -1.#qnan na n/a <na> #n/a #na null <null> (null) #null! none nil nat"
    " #ref! #value! #name? #num! #div/0!"
)
MISSING_SPELLINGS = (
    "empty cells, NaN, NA, N/A, NaT, null, None, nil and a spreadsheet's errors such as #N/A count as missing, in "
    "capitals or not; if one is truly a name, write it out, such as 'no cell'"
)
"""For the remedy of an error about missing values."""


@lru_cache(maxsize=65_536)
def normalised(text: str) -> str:
    """A name as it is kept.

    In Unicode's composed form, without unseen characters, without blanks at the ends, and with one space for every
    run of blanks. Capitals are kept.
    """
    if text.isascii():
        return _BLANKS.sub(" ", text).strip()
    return _BLANKS.sub(" ", unicodedata.normalize("NFC", _UNSEEN.sub("", text))).strip()


def free_text(text: str) -> str:
    """A text as it is kept: as a name, with one space for a line break as well; "" if it says that there is none."""
    kept = " ".join(unicodedata.normalize("NFC", _UNSEEN.sub("", text)).split())
    return "" if is_missing(kept) else kept


def is_missing(text: str) -> bool:
    """Whether a normalised cell says that its value is not known.

    `-`, `?` and `unknown` do not: they may be classes (negative, undecided). Folders are named by hand, so that one
    named None is a class.
    """
    return text.casefold() in _MISSING


@lru_cache(maxsize=65_536)
def compared(text: str) -> str:
    """The form in which two names are the same: normalised, without case, letters of any width alike (NFKC)."""
    folded = unicodedata.normalize("NFKC", normalised(text)).casefold()
    return normalised(unicodedata.normalize("NFKC", folded))


def spelt_twice(names: Iterable[str]) -> list[str]:
    """Names that are the same when they are compared, a line for each such set.

    They are two spellings of one thing, as a rule: of a class, they would be two that no classifier tells apart; of
    a group, one plate would be split into train and test.
    """
    spellings = defaultdict(set)
    for name in set(names):
        spellings[compared(name)].add(name)
    return sorted(" and ".join(repr(name) for name in sorted(same)) for same in spellings.values() if len(same) > 1)
