"""What a BMP holds, by its header."""

import struct

import numpy as np

from synthmix.image_data.formats.pixel_kinds import COLOUR, PALETTE, STRAIGHT, PixelKind, damaged, refused

_OS2_HEADER_BYTES = 12
_UNCOMPRESSED, _RLE8, _RLE4, _BIT_FIELDS = range(4)
_COMPRESSIONS = {4: "a JPEG inside a BMP", 5: "a PNG inside a BMP", 6: "a BMP with bit fields of transparency"}


def read_bmp(data: bytes) -> tuple[PixelKind, tuple[int, int], bytes]:
    """What a BMP is, its (width, height), and its bytes. Raises InvalidArgument."""
    if len(data) < 26:
        raise damaged("the BMP ends in its header")
    offset, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == _OS2_HEADER_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = _UNCOMPRESSED
    elif header_bytes >= 16 and len(data) >= 14 + min(header_bytes, 40):
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
        compression = struct.unpack_from("<I", data, 30)[0] if header_bytes >= 20 else _UNCOMPRESSED
    else:
        raise damaged("the BMP's header is unknown")
    if compression in _COMPRESSIONS:
        raise refused(f"is {_COMPRESSIONS[compression]}", "save it as PNG")
    size = (width, abs(height))
    if bits <= 8:
        return PixelKind("BMP", PALETTE, 1, bits), size, data
    if compression == _BIT_FIELDS:
        if not any(data[54:66]):
            raise damaged("the BMP's bit fields are empty")
        alpha = header_bytes >= 56 and len(data) >= 70 and struct.unpack_from("<I", data, 66)[0] != 0
        if bits == 32 and alpha:
            return PixelKind("BMP", COLOUR, 4, 8, STRAIGHT), size, data
    elif bits == 32 and not _fourth_byte_is_unused(data, offset, size):
        raise refused(
            "is a 32-bit BMP with a fourth channel that it does not declare", "save it as PNG, with or without it"
        )
    if bits not in (16, 24, 32):
        raise refused(f"is a BMP of {bits} bits a pixel", "save it as PNG")
    return PixelKind("BMP", COLOUR, 3, 5 if bits == 16 else 8), size, data


def _fourth_byte_is_unused(data: bytes, offset: int, size: tuple[int, int]) -> bool:
    """Whether it is the same in all pixels: 0 or 255, as programs leave it."""
    fourth = np.frombuffer(data, np.uint8)[offset : offset + 4 * size[0] * size[1]][3::4]
    return not len(fourth) or (fourth[0] in (0, 255) and bool((fourth == fourth[0]).all()))
