"""PNG, JPEG, BMP and WebP to pixels: a header that says what the file is, and Pillow, which decodes it."""

import io

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from synthmix.image_data.formats.bmp_headers import read_bmp
from synthmix.image_data.formats.jpeg_headers import read_jpeg
from synthmix.image_data.formats.pixel_kinds import COLOUR, STRAIGHT, PixelKind, check_kind, damaged, refused
from synthmix.image_data.formats.png_headers import read_png
from synthmix.image_data.pixel_rules import PixelRule, chosen_of_colour

MAX_PIXELS = 64 * 1024 * 1024
_READERS = {"PNG": read_png, "JPEG": read_jpeg, "BMP": read_bmp}
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}


def read_raster(image_format: str, data: bytes, rule: PixelRule) -> tuple[str, np.ndarray]:
    """Pillow's name of the stored pixels, and the pixels that a rule takes of them.

    Args:
        image_format: PNG, JPEG, BMP or WebP.

    Returns:
        The mode, such as L, RGB or I;16; and (height, width) uint8 or uint16, or (height, width, 3) uint8.

    Raises:
        InvalidArgument: See decoding.decode_image.
    """
    if image_format in _READERS:
        kind, size, data = _READERS[image_format](data)
        check_kind(kind)
        check_size(*size)
    # Not Image.open, which finds out what it is, and makes an MPO's images frames of an animation.
    with _PLUGINS[image_format](io.BytesIO(data)) as image:
        check_size(*image.size)
        if image_format == "WebP":
            _check_webp(image)
        image.load()
        return image.mode, chosen_of_colour(shown(image), rule)


def check_size(width: int, height: int) -> None:
    """Raises InvalidArgument, before a pixel is decoded, if there are none or too many."""
    if width < 1 or height < 1:
        raise damaged(f"it is {width} x {height} pixels large")
    if width * height > MAX_PIXELS:
        raise refused(
            f"is larger than {MAX_PIXELS // 2**20} megapixels ({width} x {height} pixels)",
            "cut it into smaller fields",
            "IMAGE_TOO_LARGE",
        )


def shown(image: Image.Image) -> np.ndarray:
    """A loaded image as (height, width) uint8 or uint16, or (height, width, 3) uint8; what is transparent is black."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)  # from the file's byte order to the machine's
    if image.mode == "L" and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode == "1":
        return np.array(image.convert("L"))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
    return np.array(image.convert("RGB"))


def _check_webp(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise refused(f"is an animated WebP of {frames:,} frames", "save each frame as a file of its own")
    alpha = {"RGBA": STRAIGHT}.get(image.mode, "")
    check_kind(PixelKind("WebP", COLOUR, len(image.getbands()), 8, alpha))
