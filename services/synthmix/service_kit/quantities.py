"""Counts, durations, sizes and lists as readers want them: in messages, on the command line and in reports."""

from collections.abc import Sequence


def plural(count: float, noun: str) -> str:
    """A count with its noun, such as "1 seed", "1,440 images" and "2.5 points"."""
    text = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{text} {noun}" if count == 1 else f"{text} {noun}s"


def duration(seconds: float) -> str:
    """Such as 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if 0.0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    days, rest_h = divmod(hours, 24)
    if days:
        return f"{days} d {rest_h} h"
    if hours:
        return f"{hours} h {rest_min} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def byte_size(size_bytes: float) -> str:
    """Such as 512 B, 64 MiB, 3.4 GiB."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{f'{value:.1f}'.removesuffix('.0')} {unit}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are; "none" where there is none."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def shortened(text: str, longest: int) -> str:
    """The text, cut to as many characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
