"""Regular expressions of callers. They are RE2's, whose time to compile and to search grows linearly.

The client imports this module too.
"""

from typing import Any

import re2

MOST_MEMORY_BYTES = 1024 * 1024
"""Of a compiled expression and of what RE2 keeps while it searches."""


def compiled(pattern: str) -> Any:
    """The expression, ready to search.

    Raises:
        UnicodeEncodeError: It is not Unicode text.
        ValueError: It is no expression of RE2's, which says why.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MOST_MEMORY_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(error.args[0].decode(errors="replace")) from error
