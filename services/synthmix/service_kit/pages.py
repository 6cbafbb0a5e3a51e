"""A listing's pages (AIP-158). A token is opaque to clients: the position after the last item, tied to nothing else."""

import base64
import binascii
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
    places = sorted(
        ((f"{time} {item}", item) for item, time in times.items()), key=lambda place: place[0], reverse=True
    )
    rest = [place for place in places if not before or place[0] < before]
    return [item for _, item in rest[:size]], _encode(rest[size - 1][0]) if len(rest) > size else ""


def _size(page_size: int) -> int:
    if page_size < 0:
        raise invalid_field(
            "page_size",
            page_size,
            "is negative",
            "use 0 for the default, or 1 to 1000",
            reason="OUT_OF_RANGE",
        )
    return min(page_size or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


def _encode(after: str) -> str:
    return base64.urlsafe_b64encode(f"v1:{after}".encode()).decode()


def _decode(token: str) -> str:
    if not token:
        return ""
    try:
        version, _, after = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        version = after = ""
    if version != "v1" or not after:
        raise invalid_field(
            "page_token",
            token,
            "is not a token of this listing",
            "start again without one",
            reason="INVALID_PAGE_TOKEN",
        )
    return after
