"""Image files of every kind, made for the tests: those that Pillow and tifffile write, and those by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from image_archives import encoded

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """What tifffile writes."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def pages(*arrays: np.ndarray, **options: Any) -> bytes:
    """A TIFF whose pages nothing describes; options may be lists, of one value a page."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, array in enumerate(arrays):
            of_page = {name: value[number] if isinstance(value, list) else value for name, value in options.items()}
            writer.write(array, metadata=None, **of_page)
    return file.getvalue()


def raw_tiff(width: int, height: int, pixels: bytes, **tags: int | tuple[int, ...] | None) -> bytes:
    """A little-endian TIFF of one strip by hand. Tags, given as t262=1, replace 8-bit grey's; None leaves one out."""
    values: dict[int, Any] = {
        256: width,
        257: height,
        258: 8,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: len(pixels),
    }
    values |= {int(name[1:]): value for name, value in tags.items()}
    entries, extra = [], b""
    start = 8 + len(pixels)
    kept = sorted((tag, value) for tag, value in values.items() if value is not None)
    behind = start + 2 + 12 * len(kept) + 4
    for tag, value in kept:
        items = value if isinstance(value, tuple) else (value,)
        kind, size = ("I", 4) if tag in (256, 257, 273, 278, 279, 330, 254) else ("H", 3)
        packed = struct.pack(f"<{len(items)}{kind}", *items)
        if len(packed) > 4:
            field = struct.pack("<I", behind + len(extra))
            extra += packed
        else:
            field = packed.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag, size, len(items)) + field)
    ifd = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", start) + pixels + ifd + extra


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, bits: int, colour_type: int, rows: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG by hand, with chunks before and after its image data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + before + data + after + png_chunk(b"IEND", b"")


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return data[:33] + png_chunk(kind, content) + data[33:]


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment at its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def mpo(pixels: np.ndarray, *further: int) -> bytes:
    """A JPEG with others behind it, of the types of a multi-picture index."""
    image = Image.fromarray(pixels)
    data = encoded(image, "MPO", save_all=True, append_images=[image.rotate(90)] * len(further), quality=95)
    for number, kind in enumerate(further):
        entry = data.index(b"MPF\0") + 4 + 8 + 2 + 3 * 12 + 4 + 16 * (number + 1)
        attributes = int.from_bytes(data[entry : entry + 4], "little")
        data = data[:entry] + struct.pack("<I", attributes & ~0xFFFFFF | kind) + data[entry + 4 :]
    return data


def bmp(width: int, height: int, bits: int, pixels: bytes, *, compression: int = 0, masks: bytes = b"") -> bytes:
    """A bottom-up BMP by hand."""
    offset = 54 + len(masks)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + masks + pixels
