"""Names that tell several artifacts of one kind apart, by what their requests differ in."""

from collections.abc import Mapping, Sequence
from typing import Any


def distinguishing_names(requests: Sequence[Mapping[str, Any]], always: Sequence[str]) -> list[str]:
    """A short name for each request, such as "lora rank 16, attention".

    Args:
        requests: Of one kind, so with the same keys.
        always: Keys that every name says, first.
    """
    differing = [
        key for key in (requests[0] if requests else ()) if any(item[key] != requests[0][key] for item in requests)
    ]
    keys = [*always, *(key for key in differing if key not in always)]
    return [" ".join(_shown(key, item[key]) for key in keys) for item in requests]


def _shown(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return (
        f"{key.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{key.replace('_', ' ')} {value}"
    )
