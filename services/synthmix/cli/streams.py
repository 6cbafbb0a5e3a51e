"""Standard input, output and error as they may be: without Unicode, closed, full, or a pipe whose reader has left.

Light, as it is imported before everything else.
"""

import codecs
import io
import os
import sys
from typing import TextIO

ENCODING_ERRORS = "synthmix.terminal"
_PLAIN = {
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{NO-BREAK SPACE}": " ",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}


def prepare_streams() -> None:
    """Makes the three streams usable: after this, no text can fail to be written for the sake of its characters."""
    codecs.register_error(ENCODING_ERRORS, _replacement)
    _fill_gaps()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ENCODING_ERRORS)


def encodes_everything(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def discard(stream: TextIO) -> None:
    """Sends what is still to be written nowhere: otherwise Python would complain once more while it exits."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    except (OSError, ValueError):  # no file lies behind it
        pass


def _fill_gaps() -> None:
    """A closed descriptor would be given to the next file or socket that is opened, and be written to as output."""
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest that is free, so this very one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # cannot be written to, and says so when it is
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _replacement(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for characters that the stream can't encode: a plain form, or the escape that Python writes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = _PLAIN.get(error.object[error.start])
    if plain is not None:
        return plain, error.start + 1
    one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    return codecs.backslashreplace_errors(one)[0], error.start + 1
