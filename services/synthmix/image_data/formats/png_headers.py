"""What a PNG holds, by its chunks, and the chunks that its pixels depend on."""

import struct
from collections.abc import Iterator

from synthmix.image_data.formats.pixel_kinds import COLOUR, GREY, KEY, PALETTE, STRAIGHT, PixelKind, damaged, refused

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {0: (GREY, 1, ""), 2: (COLOUR, 3, ""), 3: (PALETTE, 1, ""), 4: (GREY, 2, STRAIGHT), 6: (COLOUR, 4, STRAIGHT)}
_MOST_CHUNKS = 2**18
_CHUNK = struct.Struct(">I4s")
_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def read_png(data: bytes) -> tuple[PixelKind, tuple[int, int], bytes]:
    """What a PNG is, its (width, height), and a PNG of the same pixels without anything else.

    Text, colour profiles and EXIF are never decompressed: neither a megabyte of a microscope's settings nor a bomb
    in their place matters.

    Raises:
        InvalidArgument: It is animated, of Apple's variant, or has no header.
    """
    kept, dropped, transparent, frames = [SIGNATURE], False, False, 1
    header = b""
    for name, start, end in _chunks(data):
        if name == b"IHDR" and end - start == 25:
            header = header or data[start + 8 : end - 4]
        elif name == b"CgBI":
            raise refused("is a PNG of Apple's own variant (CgBI)", "save it as an ordinary PNG")
        elif name == b"tRNS":
            transparent = True
        elif name == b"acTL":
            frames = max(frames, int.from_bytes(data[start + 8 : start + 12], "big"))
        elif name == b"fdAT":
            frames = max(frames, 2)
        if not header:
            raise damaged("the PNG does not begin with its header")
        if name in _OF_PIXELS:
            kept.append(data[start:end])
        else:
            dropped = True
        if name == b"IEND":
            break
    if not header:
        raise damaged("the PNG ends before its header")
    if frames > 1:
        raise refused(f"is an animated PNG of {frames:,} frames", "save each frame as a file of its own")
    width, height, bits, colour_type = struct.unpack(">IIBB", header[:10])
    if colour_type not in _KINDS:
        raise damaged(f"the PNG's colour type is {colour_type}")
    photometric, samples, alpha = _KINDS[colour_type]
    kind = PixelKind("PNG", photometric, samples, bits, alpha or (KEY if transparent else ""))
    return kind, (width, height), b"".join(kept) if dropped else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, start, end) of each chunk. One that breaks off ends with the data."""
    position = len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if position >= len(data):
            return
        length, name = _CHUNK.unpack_from(data, position) if position + 8 <= len(data) else (0, b"")
        end = min(len(data), position + 12 + length)
        yield name, position, end
        position = end
    raise damaged(f"the PNG has more than {_MOST_CHUNKS:,} chunks")
