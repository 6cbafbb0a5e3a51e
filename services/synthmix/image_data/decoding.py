"""Bytes of an image file to pixels. The bytes are untrusted: they come from users.

What a file's pixels may be is a closed list (pixel_kinds); which format it is, its first bytes say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from synthmix.image_data.fingerprints import Fingerprint, fingerprint
from synthmix.image_data.formats.pixel_kinds import damaged, refused
from synthmix.image_data.formats.raster_files import MAX_PIXELS as MAX_PIXELS
from synthmix.image_data.formats.raster_files import read_raster
from synthmix.image_data.pixel_rules import ANY_PIXELS, PixelRule
from synthmix.image_data.sources.file_kinds import DECODED, decoded_format
from synthmix.service_kit.errors import InvalidArgument

DECODER_VERSION = 1  # raise it when the same bytes decode to other pixels: cached pixels and recipes depend on it

# Sides of images that a generator makes: what adapters may have as image_size.
LEAST_SIDE_PX, MOST_SIDE_PX = 16, 2048

_SINGLE_PIXELS = 8


@dataclass(frozen=True)
class ImageFacts:
    """What an image is, found by decoding it.

    Attributes:
        width_px: Width in pixels.
        height_px: Height in pixels.
        mode: Pillow's name for the stored pixels, such as L, RGB or I;16; RGB;16 if it was composed of 16-bit
            channels.
        bits: 8 or 16 a channel.
        max_value: The largest value in it, of any channel.
        brightness: Of each channel, if it has 16 bits a channel; else nothing.
        perceptual_hash: 64 bits, see fingerprints.
        thumbnail: 256 bytes, see fingerprints.
    """

    width_px: int
    height_px: int
    mode: str
    bits: int
    max_value: int
    brightness: tuple["Brightness", ...]
    perceptual_hash: int
    thumbnail: bytes


@dataclass(frozen=True)
class Brightness:
    """How bright a channel of 16 bits is.

    Attributes:
        maximum: Its largest value, which a single hot pixel may have.
        peak: The largest value that an object reaches, which is larger than a pixel: a pixel and two of its neighbours
            have it, or more than 0.1 % of all pixels (more than 8 in a small image). Hot pixels do not.
        percentile_99: The value that 1 % of pixels exceed at most.
    """

    maximum: int
    peak: int
    percentile_99: int


def inspect_image(
    data: bytes, *, rule: PixelRule = ANY_PIXELS, histograms: list[np.ndarray] | None = None
) -> ImageFacts:
    """Decodes an image and says what it is.

    Args:
        data: A whole file.
        rule: The channels and the plane that are taken of it.
        histograms: How often each value occurs in 16-bit images, an array of 65,536 counts a channel: this image is
            added to them, and arrays that are missing are appended.

    Raises:
        InvalidArgument: As decode_image.
    """
    mode, pixels = _read(data, rule)
    wide = pixels.dtype == np.uint16
    channels = [pixels] if pixels.ndim == 2 else [pixels[:, :, number] for number in range(3)]
    if wide and histograms is not None:
        histograms += [np.zeros(65536, dtype=np.int64) for _ in range(len(channels) - len(histograms))]
        for histogram, channel in zip(histograms, channels, strict=False):
            histogram += np.bincount(channel.ravel(), minlength=65536)
    found = fingerprint(pixels.mean(axis=2) if wide and pixels.ndim == 3 else pixels)
    return ImageFacts(
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
        mode=mode,
        bits=8 * pixels.itemsize,
        max_value=int(pixels.max()),
        brightness=tuple(_brightness(channel) for channel in channels) if wide else (),
        perceptual_hash=found.perceptual_hash,
        thumbnail=found.thumbnail,
    )


def decode_image(data: bytes, *, white_level: int | Sequence[int], rule: PixelRule = ANY_PIXELS) -> np.ndarray:
    """The image as 8-bit RGB, whatever it is stored as.

    Grey becomes three equal channels. Transparent pixels lie on black: what its author hid does not reach a
    model. Colour profiles are ignored. So is an EXIF orientation: the class of a cell does not depend on how
    the camera was held, and the pixels stay where coordinates measured in other programs say they are.

    Args:
        data: A whole PNG, JPEG, TIFF, BMP or WebP file.
        white_level: The value of a 16-bit image that becomes 255; one for a whole dataset, so that brightness
            stays comparable between images. One for each channel if channels were composed as colour. 8-bit images
            do not use it.
        rule: The channels and the plane that are taken of it, if it is a stack or has several channels.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InvalidArgument: It is not such a file, is damaged or truncated, has more than MAX_PIXELS pixels, has pixels
            that are not in the closed list (pixel_kinds), or does not have what the rule takes. The message says what
            it is and what to do, but names no file.
    """
    levels = [white_level] if isinstance(white_level, int) else list(white_level)
    for level in levels:
        if not 1 <= level <= 65535:
            raise ValueError(f"white_level is {level}; use 1 to 65535")
    _, pixels = _read(data, rule)
    if pixels.dtype == np.uint16:
        pixels = _scaled(pixels, levels)
    if pixels.ndim == 3:
        return pixels
    colour = np.empty((*pixels.shape, 3), dtype=np.uint8)
    for channel in range(3):  # np.repeat takes half of the time that decoding takes
        colour[:, :, channel] = pixels
    return colour


@dataclass(frozen=True)
class SquareImage:
    """An image that was made elsewhere, as image sets have them.

    Attributes:
        pixels: (side, side) if it is grey, else (side, side, 3), uint8.
        fingerprint: Of these.
    """

    pixels: np.ndarray
    fingerprint: Fingerprint


def square_image(data: bytes, side_px: int) -> SquareImage:
    """Decodes an image that was made elsewhere.

    Args:
        data: A whole file.
        side_px: The side to which its centre square is resized, as `to_square` does; 0 to take it as it is.

    Raises:
        InvalidArgument: As decode_image; or it has 16 bits a channel; or it is to be taken as it is and is no square
            of a side that image sets may have.
    """
    _, pixels = _read(data, ANY_PIXELS)
    if pixels.dtype != np.uint8:
        raise refused(
            "has 16 bits a channel, of which none is said to be white, and image sets have 8",
            "save it with 8 bits a channel",
            "IMAGE_NOT_8_BIT",
        )
    height, width = pixels.shape[:2]
    if side_px:
        pixels = to_square(pixels, side_px)
    elif height != width or not LEAST_SIDE_PX <= width <= MOST_SIDE_PX:
        raise refused(
            f"has {width} x {height} pixels, and images of a set are squares of {LEAST_SIDE_PX} to {MOST_SIDE_PX}",
            "say a side with --image-size (image_size), to which each image's centre square is resized",
            "IMAGE_NOT_SQUARE",
        )
    return SquareImage(pixels, fingerprint(pixels))


def to_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """The centre square of an image, resized with antialiasing: its short side becomes size_px.

    Args:
        image: (height, width, 3) or (height, width), uint8.
        size_px: Width and height of the result.

    Returns:
        (size_px, size_px, 3) or (size_px, size_px), uint8.
    """
    height, width = image.shape[:2]
    if height == width == size_px:
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    # One step from the source's square to the result: no rounding to whole pixels between resizing and
    # cropping.
    square = Image.fromarray(image).resize(
        (size_px, size_px), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.asarray(square)


def _read(data: bytes, rule: PixelRule) -> tuple[str, np.ndarray]:
    """Mode, and (height, width) or (height, width, 3), uint8 or uint16."""
    image_format = decoded_format(data)
    if not image_format:
        raise refused(f"is not a {DECODED} image", "convert it to one of these", "IMAGE_UNREADABLE")
    try:
        if image_format == "TIFF":
            from synthmix.image_data.formats.tiff_files import read_tiff  # tifffile is there on workers alone

            return read_tiff(data, rule)
        return read_raster(image_format, data, rule)
    except InvalidArgument:
        raise
    except Image.DecompressionBombError as error:
        raise refused(
            f"is larger than {MAX_PIXELS // 2**20} megapixels", "cut it into smaller fields", "IMAGE_TOO_LARGE"
        ) from error
    except Exception as error:
        # The libraries raise nearly anything on damaged bytes: OSError, SyntaxError, ValueError, struct.error,
        # KeyError, and MemoryError where a length is absurd.
        raise damaged(error) from error


def _scaled(pixels: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    of_channels = levels[:1] if pixels.ndim == 2 or len(levels) == 1 else [*levels, *[65535] * (3 - len(levels))]
    white = np.array(of_channels, dtype=np.uint32)
    scaled = (pixels.astype(np.uint32) * 255 + white // 2) // white
    shown: np.ndarray = np.minimum(scaled, 255).astype(np.uint8)
    return shown


def _brightness(channel: np.ndarray) -> Brightness:
    values = channel.ravel()
    size = values.size
    singles = min(size - 1, max(_SINGLE_PIXELS, size // 1000))
    ranks = [size - 1 - singles, size - 1 - size // 100]
    order = np.argpartition(values, ranks)
    common, percentile_99 = values[order[ranks]]
    brightest = order[ranks[0] + 1 :]
    return Brightness(
        maximum=int(values.max()),
        peak=max(int(common), _supported(channel, brightest)),
        percentile_99=int(percentile_99),
    )


def _supported(channel: np.ndarray, positions: np.ndarray) -> int:
    """The largest value that one of the pixels and two of its eight neighbours reach; 0 if there is no pixel."""
    if not len(positions):
        return 0
    padded = np.pad(channel, 1)
    rows, columns = np.divmod(positions, channel.shape[1])
    around = np.stack([padded[rows + down, columns + right] for down in range(3) for right in range(3)])
    third = np.partition(around, -3, axis=0)[-3]
    return int(np.minimum(third, padded[rows + 1, columns + 1]).max())
