"""Which value of 16-bit images becomes white: one for a whole data set, so that brightness stays comparable."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synthmix.image_data.decoding import Brightness
from synthmix.service_kit.errors import invalid_field

FIELD = "dataset.pixels.white_level"
RULE_VERSION = 2
"""Raise it when the same images get another white level: an import that is asked for again is then done again."""
FULL_SCALE_8_BIT = 255

_OUTLIERS = 0.05
_TYPICAL_RANK = 0.75
_MOST_BRIGHTER = 2.0
_STANDS_OUT = 2.0
_HEADROOM = 1.25


@dataclass(frozen=True)
class WhiteLevels:
    """What 16-bit images are scaled by.

    Attributes:
        levels: One for each channel that is stored; (255,) if no image has 16 bits.
        by_full_scale: Whether each is the full scale of the fewest bits that hold all values, as 12 of 16.
        warnings: What becomes white although it is not the brightest.
    """

    levels: tuple[int, ...]
    by_full_scale: bool
    warnings: tuple[str, ...]


def choose_white_levels(
    images: Sequence[tuple[str, tuple[Brightness, ...]]],
    histograms: Sequence[np.ndarray],
    *,
    wanted: int,
    channel_names: Sequence[str],
) -> WhiteLevels:
    """The white level of each channel of a data set's 16-bit images.

    Args:
        images: (class, brightness of each channel) of the images; those of 8 bits have none and do not count.
        histograms: How often each value occurs in them, (65536,) for each channel.
        wanted: The level that the user wants; 0 leaves it to `automatic_level`.
        channel_names: What warnings call the channels, such as "channel 2"; "" where there is one.

    Raises:
        InvalidArgument: A level is wanted, and no image has more than 8 bits.
    """
    wide = [(label, brightness) for label, brightness in images if brightness]
    if not wide:
        if wanted:
            raise invalid_field(
                FIELD, wanted, "has no use, as no image has more than 8 bits a channel", "leave --white-level out"
            )
        return WhiteLevels((FULL_SCALE_8_BIT,), True, ())
    levels, full_scales, warnings = [], [], []
    for number, name in enumerate(channel_names):
        channel = [(label, brightness[number]) for label, brightness in wide]
        maximum = max(item.maximum for _, item in channel)
        peaks = defaultdict(list)
        for label, item in channel:
            peaks[label].append(item.peak)
        level = wanted or automatic_level(maximum, peaks)
        levels.append(level)
        full_scales.append(full_scale(maximum))
        warnings += _warnings(level, maximum, [item for _, item in channel], histograms[number], name)
    return WhiteLevels(tuple(levels), levels == full_scales, tuple(warnings))


def automatic_level(maximum: int, peaks: Mapping[str, Sequence[int]]) -> int:
    """The white level of a channel.

    It is the full scale of the fewest bits that hold the maximum (4095 for a 12-bit camera), unless that maximum
    stands out: if it is more than twice as bright as what images reach, a hot pixel, a saturated speck or one
    overexposed image would make all others dark. Then white lies a quarter above what images reach.

    What images reach is the brightest peak after 5 % of the images, those of the brightest peaks, are left out, but
    at most twice the typical peak. The typical peak is the third quartile of a class, of the class where that is
    largest. A percentile of all pixels would not do: nuclei may be a thousandth of the pixels, and are what it is all
    about. A peak has the size of an object (decoding.Brightness), so that hot pixels have none, even if they are at the
    same place in all images. The third quartile of a class holds where most of its images are empty, and where
    another class is dim; a speck in fewer than a quarter of a class's images does not move it.

    Args:
        maximum: The largest value of any image.
        peaks: Class -> the peak of each of its images.
    """
    ascending = sorted(peak for of_class in peaks.values() for peak in of_class)
    kept = ascending[: max(1, len(ascending) - math.ceil(_OUTLIERS * len(ascending)))]
    typical = max(sorted(of_class)[int(_TYPICAL_RANK * (len(of_class) - 1))] for of_class in peaks.values())
    reached = max(typical, min(kept[-1], _MOST_BRIGHTER * typical))
    if maximum <= _STANDS_OUT * reached:
        return full_scale(maximum)
    return min(full_scale(maximum), max(FULL_SCALE_8_BIT, math.ceil(_HEADROOM * reached)))


def full_scale(maximum: int) -> int:
    """The largest value of the fewest bits that hold the maximum; 255 at least, as 8-bit images have."""
    return int(max(FULL_SCALE_8_BIT, 2 ** maximum.bit_length() - 1))


def _warnings(
    level: int, maximum: int, images: Sequence[Brightness], histogram: np.ndarray, channel_name: str
) -> list[str]:
    white = f"{channel_name}: white is {level:,}" if channel_name else f"white is {level:,}"
    if level > 4 * maximum:
        return [f"{white}, and values reach {maximum:,}: all images will be dark; --white-level sets another"]
    clipped = int(histogram[level + 1 :].sum())
    if not clipped:
        return []
    losing = sum(item.percentile_99 > level for item in images)
    total = int(histogram.sum())
    return [
        f"{white}, and values reach {maximum:,}: of {total:,} pixels, {clipped:,} ({100 * clipped / total:.2g} %) are "
        f"brighter and become white, and {losing:,} of {len(images):,} images lose more than 1 % of their pixels by "
        "it; if they are more than hot pixels, specks and overexposed images, set --white-level"
    ]
