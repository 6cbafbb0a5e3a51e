"""Bytes of an image file to pixels. The bytes are untrusted: they come from users."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from image_data.fingerprints import fingerprint
from service_kit.errors import InvalidArgument

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 64 * 1024 * 1024
DECODER_VERSION = 1  # raise it when the same bytes decode to other pixels: cached pixels and recipes depend on it

_GREY_16_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *_GREY_16_BIT_MODES)
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"RIFF")


@dataclass(frozen=True)
class ImageFacts:
    """What an image is, found by decoding it.

    Attributes:
        width_px: Width in pixels.
        height_px: Height in pixels.
        mode: Pillow's name for the stored pixels, such as L, RGB or I;16.
        bits: 8 or 16 a channel.
        max_value: The largest value in it, of any channel.
        perceptual_hash: 64 bits, see fingerprints.
        thumbnail: 256 bytes, see fingerprints.
    """

    width_px: int
    height_px: int
    mode: str
    bits: int
    max_value: int
    perceptual_hash: int
    thumbnail: bytes


def inspect_image(data: bytes) -> ImageFacts:
    """Decodes an image and says what it is.

    Raises:
        InvalidArgument: As decode_image.
    """
    mode, pixels = _read(data)
    found = fingerprint(pixels)
    return ImageFacts(
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
        mode=mode,
        bits=8 * pixels.itemsize,
        max_value=int(pixels.max()),
        perceptual_hash=found.perceptual_hash,
        thumbnail=found.thumbnail,
    )


def decode_image(data: bytes, *, white_level: int) -> np.ndarray:
    """The image as 8-bit RGB, whatever it is stored as.

    Grey becomes three equal channels. Transparent pixels lie on black: what its author hid doesn't reach a
    model. Colour profiles are ignored. So is an EXIF orientation: the class of a cell doesn't depend on how
    the camera was held, and the pixels stay where coordinates measured in other programs say they are.

    Args:
        data: A whole PNG, JPEG, TIFF, BMP or WebP file.
        white_level: The value of a 16-bit image that becomes 255; one for a whole dataset, so that brightness
            stays comparable between images. 8-bit images don't use it.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InvalidArgument: It isn't such a file, is damaged or truncated, has more than MAX_PIXELS pixels, holds
            several frames, or stores what 8-bit RGB can't stand for. The message says which and what to do,
            but names no file.
    """
    if not 1 <= white_level <= 65535:
        raise ValueError(f"white_level is {white_level}; use 1 to 65535")
    _, pixels = _read(data)
    if pixels.dtype == np.uint16:
        scaled = (pixels.astype(np.uint32) * 255 + white_level // 2) // white_level
        pixels = np.minimum(scaled, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return pixels


def to_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """The centre square of an image, resized with antialiasing: its short side becomes size_px.

    Args:
        image: (height, width, 3) uint8.
        size_px: Width and height of the result.

    Returns:
        (size_px, size_px, 3) uint8.
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


def _read(data: bytes) -> tuple[str, np.ndarray]:
    """Mode, and (height, width) uint8 or uint16 or (height, width, 3) uint8."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            mode = image.mode
            _check_header(image, data)
            image.load()
            return mode, _pixels(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("") from error  # Pillow's own limit, above ours, refuses before the size can be read
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except InvalidArgument:
        raise
    except Exception as error:
        # Pillow's plugins raise nearly anything on damaged bytes: OSError, SyntaxError, ValueError,
        # struct.error, KeyError.
        raise _refused(f"is damaged or truncated ({error})", "export or copy it again", "IMAGE_UNREADABLE") from error


def _check_header(image: Image.Image, data: bytes) -> None:
    """Raises InvalidArgument before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(f" ({width} x {height} pixels)")
    if getattr(image, "is_animated", False):
        raise _refused("holds several frames or pages", "save each one as a file of its own", "IMAGE_UNSUPPORTED")
    if image.mode not in _MODES:
        raise _refused(
            f"has pixels of a kind that isn't supported (mode {image.mode})",
            "save it as 8-bit grey or colour, or as 16-bit unsigned grey",
            "IMAGE_UNSUPPORTED",
        )
    if image.mode not in _GREY_16_BIT_MODES and _stored_bits(image, data) > 8:
        # Pillow would keep the high byte alone: a 12-bit camera's image would come out black.
        raise _refused(
            "stores colour or transparency with more than 8 bits a channel",
            "save it with 8 bits a channel, or as 16-bit grey",
            "IMAGE_UNSUPPORTED",
        )


def _stored_bits(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]  # IHDR's bit depth: 8 bytes signature, 8 chunk header, 4 width, 4 height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))))
    return 8


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in _GREY_16_BIT_MODES:
        return np.asarray(image).astype(np.uint16)  # from the file's byte order to the machine's
    if image.mode == "L" and "transparency" not in image.info:
        return np.array(image)
    if image.mode == "1":
        return np.array(image.convert("L"))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
    return np.array(image.convert("RGB"))


def _unidentified(data: bytes) -> InvalidArgument:
    if data.startswith(_SIGNATURES):
        return _refused(
            "is damaged, truncated, or of a variant that isn't supported",
            "save it as 8-bit grey or colour, or as 16-bit grey, in PNG or TIFF",
            "IMAGE_UNREADABLE",
        )
    return _refused("is not a PNG, JPEG, TIFF, BMP or WebP image", "convert it to one of these", "IMAGE_UNREADABLE")


def _too_large(size: str) -> InvalidArgument:
    return _refused(
        f"is larger than {MAX_PIXELS // 2**20} megapixels{size}",
        "cut it into smaller fields",
        "IMAGE_TOO_LARGE",
    )


def _refused(problem: str, remedy: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"{problem}; {remedy}", reason=reason)
