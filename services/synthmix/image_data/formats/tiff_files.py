"""TIFF to pixels, by tifffile: every tag that decides about pixels is checked before any is decoded."""

import io
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Literal

import imagecodecs  # tifffile's codecs: without it, compressed files would seem damaged
import numpy as np
import tifffile
from PIL import Image

from synthmix.image_data.formats.pixel_kinds import (
    CMYK,
    COLOUR,
    COLOURS,
    COMPLEX,
    FLOATING,
    GREY,
    INVERTED_GREY,
    PALETTE,
    PREMULTIPLIED,
    SIGNED,
    STRAIGHT,
    UNSIGNED,
    PixelKind,
    channel_can_be_read,
    check_kind,
    damaged,
    refused,
)
from synthmix.image_data.formats.raster_files import check_size, shown
from synthmix.image_data.formats.tiff_stacks import Stack, read_stack
from synthmix.image_data.formats.tiff_storage import JPEG, check_storage
from synthmix.image_data.pixel_rules import (
    PixelRule,
    check_channels,
    check_plane,
    chosen_of_colour,
    composed,
)
from synthmix.service_kit.errors import InvalidArgument
from synthmix.service_kit.quantities import byte_size

__all__ = ["imagecodecs", "read_tiff"]

MOST_PAGES = 4096
MOST_TAGS = 200_000
MOST_TAG_BYTES = 64 * 1024 * 1024

_PHOTOMETRICS = {
    0: INVERTED_GREY,
    1: GREY,
    2: COLOUR,
    3: PALETTE,
    4: "a transparency mask",
    5: CMYK,
    6: "YCbCr colour",
    8: "CIELab colour",
    9: "ICCLab colour",
    10: "ITULab colour",
    32803: "a camera's raw mosaic (CFA)",
    32844: "logarithmic brightness (LogL)",
    32845: "logarithmic colour (LogLuv)",
    34892: "a camera's raw colour (LinearRaw)",
    51177: "a depth map",
}
_SAMPLE_FORMATS = {1: UNSIGNED, 2: SIGNED, 3: FLOATING, 4: "undefined", 5: COMPLEX, 6: COMPLEX}
_REDUCED, _MASK = 1, 4
_DECISIVE_TAGS = {254, 255, *range(256, 260), 262, 266, 270, 273, *range(277, 280), 284, 317, *range(320, 326), 330} | {
    *(332, 334, 338, 339, 347, 513, 514, 530),
    *(32997, 32998, 33445, 33629, 34412, 37398, 50706),
}
"""Numbers of the tags that this module and tiff_stacks read, by themselves or through tifffile."""

# What it says of odd files is in the error that the user gets; files of a user must not fill a log.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def read_tiff(data: bytes, rule: PixelRule) -> tuple[str, np.ndarray]:
    """Pillow's name of the stored pixels, and the pixels that a rule takes of a TIFF.

    Nothing but the bytes is read: an OME-TIFF's other files are not looked for.

    Returns:
        The mode, such as L, RGB, I;16, or RGB;16 for composed channels of 16 bits; and (height, width) or (height,
        width, 3), uint8 or uint16.

    Raises:
        InvalidArgument: See decoding.decode_image.
    """
    with tifffile.TiffFile(io.BytesIO(data), _multifile=False, is_ndpi=False, is_lsm=False, is_scanimage=False) as file:
        pages = _all_pages(file)
        kept = _whole_pages(file, pages)
        if pages[kept[0]].is_dng or pages[kept[0]].is_tiffep:
            raise refused("is a camera's raw file (DNG or TIFF/EP)", "develop it, and save it as PNG or TIFF")
        stack = read_stack(pages, kept)
        return _chosen([pages[number] for number in kept], stack, rule, data)


def _chosen(pages: Sequence[tifffile.TiffPage], stack: Stack, rule: PixelRule, data: bytes) -> tuple[str, np.ndarray]:
    plane_count, channel_count = stack.pictures.shape
    one_of = "choose one by --plane, or save each one as a file of its own"
    if not stack.named and rule.channels and not rule.plane and len(rule.channels) <= plane_count > 1:
        # Nothing says what its pages are: they count as channels if channels are asked for.
        check_channels(rule, plane_count)
        pictures = [number - 1 for number in rule.channels]
    elif plane_count > 1 and not rule.plane:
        if not stack.named:
            one_of = "choose one by --plane, or compose up to three as colours by --channel"
        raise refused(f"is {stack.what}", one_of)
    else:
        check_plane(rule, plane_count)
        row = stack.pictures[max(rule.plane, 1) - 1]
        if channel_count == 1:
            return _samples(pages, stack, int(row[0]), rule, data)
        if not rule.channels:
            raise refused(f"is {stack.what}", "choose one by --channel, or up to three as red, green and blue")
        check_channels(rule, channel_count)
        pictures = [int(row[number - 1]) for number in rule.channels]
    taken = [_picture(pages, stack, number, data) for number in pictures]
    if any(pixels.ndim != 2 for _, pixels in taken):
        raise refused(f"is {stack.what}, and each is a colour image", "save the one that is meant as a file of its own")
    if len({(pixels.shape, pixels.dtype) for _, pixels in taken}) > 1:
        raise refused("has channels of different sizes or depths", "save the one that is meant as a file of its own")
    return _composed([pixels for _, pixels in taken], taken[0][0])


def _samples(
    pages: Sequence[tifffile.TiffPage], stack: Stack, number: int, rule: PixelRule, data: bytes
) -> tuple[str, np.ndarray]:
    """Of one picture, what the rule takes of its samples."""
    page = pages[0 if stack.in_one_page else number]
    kind = _kind(page, signed=stack.signed)
    try:
        mode, pixels = _picture(pages, stack, number, data)
    except InvalidArgument:
        if not rule.channels or not channel_can_be_read(kind):
            raise
    else:
        return mode, chosen_of_colour(pixels, PixelRule(rule.channels))
    check_channels(rule, kind.samples)
    array = _array(page, number if stack.in_one_page else 0, data)
    assert isinstance(kind.bits, int)
    return _composed([_grey(array[:, :, channel - 1], kind.bits) for channel in rule.channels], "L")


def _composed(channels: list[np.ndarray], mode: str) -> tuple[str, np.ndarray]:
    pixels = composed(channels)
    if pixels.ndim == 3:
        return ("RGB" if pixels.dtype == np.uint8 else "RGB;16"), pixels
    return (mode if pixels.dtype == np.uint8 else "I;16"), pixels


def _picture(pages: Sequence[tifffile.TiffPage], stack: Stack, number: int, data: bytes) -> tuple[str, np.ndarray]:
    """Mode and pixels of one picture, whose kind is in the closed list. Raises InvalidArgument."""
    page = pages[0 if stack.in_one_page else number]
    kind = _kind(page, signed=stack.signed)
    check_kind(kind)
    array = _array(page, number if stack.in_one_page else 0, data)
    size = (page.imagewidth, page.imagelength)
    assert isinstance(kind.bits, int)
    match kind.photometric, kind.alpha:
        case "grey", "":
            grey = _grey(array[:, :, 0], kind.bits)
            return {1: "1"}.get(kind.bits, "L" if kind.bits <= 8 else "I;16"), grey
        case "grey", "premultiplied":
            return "LA", array[:, :, 0]
        case "grey", _:
            return "LA", shown(Image.frombytes("LA", size, array.tobytes()))
        case "inverted grey", _:
            return ("1" if kind.bits == 1 else "L"), 255 - _grey(array[:, :, 0], kind.bits)
        case "palette", _:
            return "P", _palette(page, kind.bits)[array[:, :, 0].astype(np.uint8)]
        case "CMYK", _:
            return "CMYK", shown(Image.frombytes("CMYK", size, array.tobytes()))
        case _, "":
            return "RGB", array
        case _, alpha:
            raw = "RGBa" if alpha == PREMULTIPLIED else "RGBA"
            return "RGBA", shown(Image.frombytes("RGBA", size, array.tobytes(), "raw", raw))


def _grey(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of up to 8 bits stretched to 8, others as they are: the white level of their dataset scales them."""
    if bits > 8:
        return np.ascontiguousarray(values, dtype=np.uint16)
    return np.ascontiguousarray(values, dtype=np.uint8) * np.uint8(255 // (2**bits - 1))


def _palette(page: tifffile.TiffPage, bits: int) -> np.ndarray:
    """(2 ** bits, 3) uint8."""
    colours = page.colormap
    if colours is None or colours.shape != (3, 2**bits):
        raise damaged("its palette is missing or has another size than its pixels need")
    if 0 < colours.max() < 256:
        raise refused("has a palette of 8-bit colours, where TIFF's have 16 bits", "save it as RGB")
    palette: np.ndarray = (colours >> 8).astype(np.uint8).T
    return palette


def _all_pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Every page of the chain. Raises InvalidArgument if it breaks off, or is longer than any that is meant well."""
    pages: list[tifffile.TiffPage] = []
    offsets, tags, tag_bytes, follows = set(), 0, 0, False
    for index in itertools.count():
        try:
            page = file.pages[index].aspage()
        except IndexError:
            break
        tags += len(page.tags)
        tag_bytes += _tag_bytes(page)
        if index >= MOST_PAGES or tags > MOST_TAGS:
            raise refused(f"is a TIFF of more than {MOST_PAGES:,} pages", "save the images as files of their own")
        _check_tag_bytes(tag_bytes)
        if page.offset in offsets:
            raise damaged("its pages form a circle")
        follows = _check_tags(file, page)
        offsets.add(page.offset)
        pages.append(page)
    if not pages:
        raise damaged("it has no page")
    if follows:
        raise damaged("its further pages are missing")
    return pages


def _check_tags(file: tifffile.TiffFile, page: tifffile.TiffPage) -> bool:
    """Whether the page says that another follows.

    Raises:
        InvalidArgument: tifffile passed over a tag that decides about pixels, as it does if the tag is broken.
    """
    order: Literal["big", "little"] = "big" if file.byteorder == ">" else "little"
    file.filehandle.seek(page.offset)
    count = int.from_bytes(file.filehandle.read(file.tiff.tagnosize), order)
    entries = file.filehandle.read(count * file.tiff.tagsize)
    codes = {int.from_bytes(entries[at : at + 2], order) for at in range(0, len(entries), file.tiff.tagsize)}
    unread = sorted(code for code in codes & _DECISIVE_TAGS if code not in page.tags)
    if unread:
        raise damaged(f"its tag {unread[0]} cannot be read")
    return any(file.filehandle.read(file.tiff.offsetsize))


def _tag_bytes(page: tifffile.TiffPage) -> int:
    return sum(tag.valuebytecount for tag in page.tags)


def _check_tag_bytes(total: int) -> None:
    """Pages may share one long text, of which each keeps a copy: a small file could fill the memory."""
    if total > MOST_TAG_BYTES:
        raise refused(
            f"describes its pages in more than {byte_size(MOST_TAG_BYTES)} of tags",
            "save the image without its metadata",
        )


def _whole_pages(file: tifffile.TiffFile, pages: Sequence[tifffile.TiffPage]) -> list[int]:
    """Numbers of the pages that are not smaller copies of others. Raises InvalidArgument if one is a mask."""
    if len(pages) == 1 and not pages[0].subifds:
        return [0]
    kept = [number for number, page in enumerate(pages) if not page.subfiletype & _REDUCED] or [0]
    if any(pages[number].subfiletype & _MASK for number in kept) and len(pages) > 1:
        raise refused("has a transparency mask as a page of its own", "save it with the mask applied")
    main = pages[kept[0]]
    kept += [
        number
        for number, page in enumerate(pages)
        if page.subfiletype & _REDUCED and number not in kept and not _is_smaller(page, main)
    ]
    subordinate = [offset for page in pages for offset in (page.subifds or ())]
    if len(subordinate) > MOST_PAGES:
        raise refused(f"has more than {MOST_PAGES:,} SubIFDs", "save the image that is meant as a TIFF of its own")
    tag_bytes = 0
    for offset in subordinate:
        file.filehandle.seek(offset)
        page = tifffile.TiffPage(file, index=(0, 0))
        tag_bytes += _tag_bytes(page)
        _check_tag_bytes(tag_bytes)
        _check_tags(file, page)
        if not _is_smaller(page, main):
            raise refused(
                "holds images in SubIFDs that are not smaller copies of its own, as a camera's raw file does",
                "export the image that is meant as a TIFF of its own",
            )
    return sorted(kept)


def _is_smaller(page: tifffile.TiffPage, main: tifffile.TiffPage) -> bool:
    return bool(page.imagewidth < main.imagewidth and page.imagelength < main.imagelength)


def _kind(page: tifffile.TiffPage, *, signed: bool) -> PixelKind:
    """What a page's pixels are. Raises InvalidArgument if it does not say."""
    if 262 not in page.tags:
        raise refused("does not say what its values mean (it has no PhotometricInterpretation)", "save it again")
    photometric = _PHOTOMETRICS.get(int(page.photometric), f"pixels of an unknown kind ({int(page.photometric)})")
    if photometric == "YCbCr colour" and page.compression == JPEG:
        photometric = COLOUR  # libjpeg makes RGB of it
    if photometric == CMYK and page.tags.valueof(332, 1) != 1:
        photometric = "inks other than CMYK"
    samples, alpha = int(page.samplesperpixel), ""
    if samples > COLOURS.get(photometric, samples) and page.extrasamples:
        alpha = {1: PREMULTIPLIED, 2: STRAIGHT}.get(int(page.extrasamples[0]), "")
    sample_format = _SAMPLE_FORMATS.get(int(page.sampleformat), "undefined")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else tuple(page.bitspersample)
    return PixelKind("TIFF", photometric, samples, bits, alpha, SIGNED if signed else sample_format)


def _array(page: tifffile.TiffPage, number: int, data: bytes) -> np.ndarray:
    """(height, width, samples) of a page; `number` counts the pictures that follow each other behind it."""
    check_size(page.imagewidth, page.imagelength)
    check_storage(page, data)
    if number and page.dtype is not None:
        array: np.ndarray = np.frombuffer(
            data,
            page.dtype.newbyteorder(page.parent.byteorder),
            math.prod(page.shape),
            page.dataoffsets[0] + number * page.nbytes,
        )
    else:
        array = page.asarray(maxworkers=1)
    samples = int(page.samplesperpixel)
    if page.planarconfig == 2 and samples > 1:
        array = array.reshape(samples, page.imagelength, page.imagewidth).transpose(1, 2, 0)
    array = array.reshape(page.imagelength, page.imagewidth, samples)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
