"""How a TIFF's page is stored: in ways that decode to what it says, in no more time and memory than that takes."""

import math

import tifffile

from synthmix.image_data.formats import jpeg_headers
from synthmix.image_data.formats.pixel_kinds import damaged, refused
from synthmix.image_data.formats.raster_files import MAX_PIXELS
from synthmix.image_data.pixel_rules import MOST_CHANNELS
from synthmix.service_kit.quantities import byte_size, plural

MOST_SEGMENTS = 2**18
MOST_BYTES = 512 * 1024 * 1024

JPEG = 7
_JPEG_2000 = (33003, 33004, 33005, 34712)
_COMPRESSIONS = (
    1,  # none
    *(2, 3, 4),  # CCITT, of 1 bit
    5,  # LZW
    JPEG,
    *(8, 32946),  # deflate
    32773,  # PackBits
    *_JPEG_2000,
    34925,  # LZMA
    *(34926, 50000),  # Zstandard
)
"""All are bounded: by what tifffile lets them write, or, if they carry a size of their own, by _check_stream."""
_PREDICTED = (5, 8, 32946, 34925, 34926, 50000, JPEG, *_JPEG_2000)
"""Those that a predictor is defined for, or that all programs pass it over with."""


def check_storage(page: tifffile.TiffPage, data: bytes) -> None:
    """Raises InvalidArgument if decoding would take more than the picture needs, or less is there than it needs."""
    compression = int(page.compression)
    if compression not in _COMPRESSIONS or (compression == JPEG and page.bitspersample != 8):
        name = getattr(page.compression, "name", str(compression))
        raise refused(
            f"is compressed in a way that is not decoded ({name}, {page.bitspersample} bits)",
            "save it with LZW or deflate compression, or with none",
        )
    if int(page.predictor) != 1 and (int(page.predictor) != 2 or compression not in _PREDICTED):
        raise refused(
            f"uses predictor {int(page.predictor)} with {getattr(page.compression, 'name', compression)} compression, "
            "which programs read in different ways",
            "save it with LZW or deflate compression",
        )
    if page.imagedepth > 1 or page.tiledepth > 1:
        raise refused(f"holds a volume of {plural(page.imagedepth, 'slice')} in one page", "save one slice of it")
    samples = int(page.samplesperpixel)
    if samples > MOST_CHANNELS or page.nbytes > MOST_BYTES:
        raise refused(
            f"has {plural(samples, 'channel')} in {byte_size(page.nbytes)}",
            f"save at most {MOST_CHANNELS} channels and {byte_size(MOST_BYTES)}",
            "IMAGE_TOO_LARGE",
        )
    width, height = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    if width < 1 or height < 1 or width * height > 4 * MAX_PIXELS:
        raise damaged(f"its tiles or strips are {width} x {height} pixels large")
    count = math.ceil(page.imagewidth / width) * math.ceil(page.imagelength / height)
    count *= samples if page.planarconfig == 2 else 1
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if count > MOST_SEGMENTS or len(segments) != count:
        raise damaged(f"it has {len(segments):,} tiles or strips, and needs {count:,}")
    ends = [offset + size for offset, size in segments]
    if min(size for _, size in segments) < 1 or min(page.dataoffsets) < 1 or max(ends) > len(data):
        raise damaged("tiles or strips are missing at its end")
    if sum(page.databytecounts) > 4 * len(data):
        raise damaged("its tiles or strips overlap")
    per_segment = samples if page.planarconfig == 1 else 1
    if compression == JPEG or compression in _JPEG_2000:
        for offset, size in segments:
            _check_stream(data[offset : offset + size], compression, (width, height, per_segment))


def _check_stream(stream: bytes, compression: int, most: tuple[int, int, int]) -> None:
    """Raises InvalidArgument if a compressed tile or strip would become larger than it may be."""
    if compression == JPEG:
        frame = jpeg_headers.find_frame(stream)
        found = (frame.width, frame.height, frame.components)
        if frame.process:
            raise refused(f"is compressed as {frame.process} JPEG", "save it with LZW or deflate compression")
    else:
        start = stream.find(b"\xff\x4f\xff\x51")  # SIZ follows the start of a codestream at once
        size = stream[start + 8 : start + 24]
        if start < 0 or len(size) < 16:
            raise damaged("a JPEG 2000 stream has no header")
        right, bottom, left, top = (int.from_bytes(size[at : at + 4], "big") for at in (0, 4, 8, 12))
        found = (right - left, bottom - top, int.from_bytes(stream[start + 40 : start + 42], "big"))
    if any(size > limit for size, limit in zip(found, most, strict=True)):
        raise damaged(f"a tile or strip of {most[0]} x {most[1]} pixels holds {found[0]} x {found[1]}")
