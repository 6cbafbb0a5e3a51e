"""A listing's pages (AIP-158). A token is opaque to clients: the position after the last item, tied to nothing else."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from service_kit.errors import invalid_field

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000

Item = TypeVar("Item")


def page(
    items: Sequence[Item], page_size: int, page_token: str, *, position: Callable[[Item], str] = str
) -> tuple[Sequence[Item], str]:
    """The items of one page, and the next page's token: "" after the last.

    Args:
        items: In the order of their positions.
        position: Where an item stands in the listing: no two at one place.

    Raises InvalidArgument for a negative page_size or a token that no listing gave.
    """
    if page_size < 0:
        raise invalid_field(
            "page_size",
            page_size,
            "is negative",
            "use 0 for the default, or 1 to 1000",
            reason="OUT_OF_RANGE",
        )
    size = min(page_size or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)
    after = _decode(page_token)
    rest = [item for item in items if position(item) > after]
    return rest[:size], _encode(position(rest[size - 1])) if len(rest) > size else ""


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
