"""A listing's pages (AIP-158). A token is opaque to clients: the position after the last item, tied to nothing else."""

import base64
from collections.abc import Mapping
from typing import TypeVar

from synthmix.service_kit.errors import invalid_field

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000

Item = TypeVar("Item")


def newest_first(times: Mapping[Item, str], page_size: int, page_token: str) -> tuple[list[Item], str]:
    """The items of one page, the newest first, and the next page's token: "" after the last.

    What is created between two pages would stand on the first one, and moves nothing on those that follow.

    Args:
        times: When each item was created, RFC 3339 in UTC and of one precision. Those of one time are ordered by name.

    Raises InvalidArgument for a negative page_size or a token that no listing gave.
    """
    size, before = _size(page_size), _decode(page_token)
    items = {f"{time} {item}": item for item, time in times.items()}
    rest = sorted((place for place in items if not before or place < before), reverse=True)
    return [items[place] for place in rest[:size]], _encode(rest[size - 1]) if len(rest) > size else ""


def _size(page_size: int) -> int:
    if page_size < 0:
        remedy = f"use 0 for the default, or 1 to {LARGEST_PAGE_SIZE}"
        raise invalid_field("page_size", page_size, "is negative", remedy, reason="OUT_OF_RANGE")
    return min(page_size or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


def _encode(after: str) -> str:
    return base64.urlsafe_b64encode(f"v1:{after}".encode()).decode()


def _decode(token: str) -> str:
    if not token:
        return ""
    try:
        version, _, after = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except ValueError:  # of base64 and of UTF-8
        version = after = ""
    if version != "v1" or not after:
        problem = "is not a token of this listing"
        raise invalid_field("page_token", token, problem, "start again without one", reason="INVALID_PAGE_TOKEN")
    return after
