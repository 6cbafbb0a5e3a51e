"""Numbers and times as readers want them."""

from __future__ import annotations

from datetime import UTC, datetime

from synthmix.api.evaluations.v1.evaluations_pb2 import Estimate
from synthmix.service_kit import quantities

ABSENT = "\u2013"
_MINUS = "\u2212"


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 1 as "81.3 %"; a dash for None."""
    return ABSENT if value is None else f"{100.0 * value:.{digits}f} %"


def interval_percent(estimate: Estimate) -> str:
    """The interval of a share as "78.0 to 84.1"."""
    return f"{100.0 * estimate.low:.1f} to {100.0 * estimate.high:.1f}"


def points(value: float) -> str:
    """A difference of shares in points with its sign, such as "+1.8", with a true minus; nothing is "0.0"."""
    text = f"{100.0 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", _MINUS)


def signed(value: float) -> str:
    """A round number with its sign, such as "+5"; zero has none."""
    return f"{value:+g}".replace("-", _MINUS) if value else "0"


def interval_points(estimate: Estimate) -> str:
    """The interval of a difference as "+0.3 to +3.9"."""
    return f"{points(estimate.low)} to {points(estimate.high)}"


def ratio(value: float) -> str:
    """A ratio in percent without its sign, such as "25" or "12.5"."""
    return f"{round(100.0 * value, 1):g}"


def decimal(value: float | None) -> str:
    """A score as "0.813"; a dash for None."""
    return ABSENT if value is None else f"{value:.3f}".replace("-", _MINUS)


def measured(value: float, *, is_share: bool) -> str:
    """A measure's value to three digits, such as "0.0321" or "57.9", at most four places; a share in percent."""
    if is_share:
        return percent(value)
    size = abs(value)
    text = f"{value:.4f}" if size < 0.01 else f"{value:#.3g}" if size < 100 else f"{value:,.0f}"
    return text.replace("-", _MINUS)


def count(value: int) -> str:
    """A whole number with separators, such as "12,400"."""
    return f"{value:,}"


def duration(seconds: float | None) -> str:
    """A time as "48 s", "3 min 20 s" or "2 h 5 min"; a dash for None."""
    return ABSENT if seconds is None else quantities.duration(seconds)


def moment(value: datetime) -> str:
    """A time in UTC as "2025-11-22 10:42 UTC"."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
