"""What a PNG holds, by its chunks, and the chunks that its pixels depend on."""

import struct
from collections.abc import Iterator

from image_data.pixel_kinds import COLOUR, GREY, KEY, PALETTE, STRAIGHT, PixelKind, damaged, refused

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {0: (GREY, 1, ""), 2: (COLOUR, 3, ""), 3: (PALETTE, 1, ""), 4: (GREY, 2, STRAIGHT), 6: (COLOUR, 4, STRAIGHT)}
_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def read_png(data: bytes) -> tuple[PixelKind, tuple[int, int], bytes]:
    """What a PNG is, its (width, height), and a PNG of the same pixels without anything else.

    Text, colour profiles and EXIF are never decompressed: neither a megabyte of a microscope's settings nor a bomb
    in their place matters.

    Raises:
        InvalidArgument: It is animated, of Apple's variant, or has no header.
    """
    kept, dropped, transparent, image_began, animation = [SIGNATURE], False, False, False, 0
    header = b""
    for name, start, end in _chunks(data):
        if name == b"CgBI":
            raise refused("is a PNG of Apple's own variant (CgBI)", "save it as an ordinary PNG")
        if not header:
            if name != b"IHDR" or end - start != 25:
                raise damaged("the PNG doesn't begin with its header")
            header = data[start + 8 : end - 4]
        transparent |= name == b"tRNS"
        image_began |= name == b"IDAT"
        if name == b"acTL":
            animation = max(animation, _frames(data[start + 8 : end - 4], 1))
        elif name == b"fdAT":
            animation = max(animation, 2)
        if name in _OF_PIXELS or name == b"":
            kept.append(data[start:end])
        else:
            dropped = True
        if name == b"IEND":
            break
    if not image_began:
        raise damaged("the PNG holds no image data")
    if animation > 1:
        raise refused(f"is an animated PNG of {animation:,} frames", "save each frame as a file of its own")
    width, height, bits, colour_type = struct.unpack(">IIBB", header[:10])
    if colour_type not in _KINDS:
        raise damaged(f"the PNG's colour type is {colour_type}")
    photometric, samples, alpha = _KINDS[colour_type]
    kind = PixelKind("PNG", photometric, samples, bits, alpha or (KEY if transparent else ""))
    return kind, (width, height), b"".join(kept) if dropped else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, start, end) of each chunk; what is left of a broken one has no name, and is for the decoder."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            break
        yield data[position + 4 : position + 8], position, end
        position = end
    if position < len(data):
        yield (
            (data[position + 4 : position + 8] if data[position + 4 : position + 8] == b"IDAT" else b""),
            position,
            len(data),
        )


def _frames(body: bytes, least: int) -> int:
    return max(least, int.from_bytes(body[:4], "big"))
