"""What a user chooses of files that hold more than one picture: channels and a plane, for a whole dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthmix.image_data.formats.pixel_kinds import refused
from synthmix.service_kit.quantities import plural

MOST_CHANNELS = 64
"""Most channels that a file may have, and so the largest number that one can have."""


@dataclass(frozen=True)
class PixelRule:
    """Which channels and which plane of a file become its pixels. Both are counted from 1, as Fiji counts them.

    Attributes:
        channels: One becomes grey; two or three become red, green and blue, in this order. Without any, a file has
            to be grey or colour by itself.
        plane: Of a stack, counted through its slices and then its time points; 0 if none was chosen, and a file has
            to have one plane.
    """

    channels: tuple[int, ...] = ()
    plane: int = 0

    def to_json(self) -> dict[str, Any]:
        """Without what was not chosen: part of digests, so that old ones stay."""
        return ({"channels": list(self.channels)} if self.channels else {}) | (
            {"plane": self.plane} if self.plane else {}
        )

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "PixelRule":
        return PixelRule(tuple(value.get("channels", ())), value.get("plane", 0))


ANY_PIXELS = PixelRule()
"""Nothing was chosen: each image has to be grey or colour by itself."""


def composed(channels: list[np.ndarray]) -> np.ndarray:
    """One channel as (height, width); two or three as (height, width, 3), red, green and blue."""
    if len(channels) == 1:
        return channels[0]
    missing = [np.zeros_like(channels[0])] * (3 - len(channels))
    return np.stack([*channels, *missing], axis=-1)


def chosen_of_colour(pixels: np.ndarray, rule: PixelRule) -> np.ndarray:
    """What a rule takes of a whole image: (height, width), or (height, width, 3). Raises InvalidArgument."""
    check_plane(rule, 1)
    if not rule.channels:
        return pixels
    planes = [pixels] if pixels.ndim == 2 else [pixels[:, :, number] for number in range(3)]
    check_channels(rule, len(planes))
    return composed([planes[number - 1] for number in rule.channels])


def check_channels(rule: PixelRule, count: int) -> None:
    """Raises InvalidArgument if the rule names a channel that an image of so many does not have."""
    absent = [number for number in rule.channels if number > count]
    if absent:
        raise refused(
            f"has {plural(count, 'channel')}, and no channel {absent[0]}",
            "choose others by --channel, or leave the image out",
            "CHANNEL_MISSING",
        )


def check_plane(rule: PixelRule, count: int) -> None:
    """Raises InvalidArgument if the rule names a plane that an image of so many does not have."""
    if rule.plane > count:
        raise refused(
            f"has {plural(count, 'plane')}, and no plane {rule.plane}",
            "choose another by --plane, or leave the image out",
            "PLANE_MISSING",
        )
