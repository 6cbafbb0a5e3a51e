"""What a JPEG holds, by its markers, and the markers that its pixels depend on."""

import struct
from dataclasses import dataclass

from synthmix.image_data.formats.pixel_kinds import CMYK, COLOUR, GREY, PixelKind, damaged, refused

_PROCESSES = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2, 0xC9, 0xCA), ""),
    **dict.fromkeys((0xC3, 0xCB), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
}
"""Start-of-frame markers -> the process that libjpeg does not decode, if it is one. Arithmetic coding it does."""
_ADOBE, _MULTI_PICTURE, _COMMENT = 0xEE, 0xE2, 0xFE
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}
_VIEWS = {0x020001: "a panorama", 0x020002: "a stereo picture", 0x020003: "a picture from several angles"}
"""Types of an MPO's further images that are not previews, gain maps or depth maps of its first (CIPA DC-007)."""
_MOST_IMAGES = 1000
_MOST_SEGMENTS = 2**16
_MOST_FILLING = 2**16


@dataclass(frozen=True)
class Frame:
    """A JPEG's frame header."""

    process: str
    bits: int
    width: int
    height: int
    components: int


def read_jpeg(data: bytes) -> tuple[PixelKind, tuple[int, int], bytes]:
    """What a JPEG is, its (width, height), and a JPEG of the same pixels without its metadata.

    A phone's MPO is a JPEG with others behind it, which show the same smaller or say how bright it may be shown: its
    first image is what it is a picture of.

    Raises:
        InvalidArgument: It is of a process that is not decoded, of several views, or has no header.
    """
    kept, position, frame, adobe, dropped = [data[:2]], 2, None, False, False
    for _ in range(_MOST_SEGMENTS):
        marker, start, end = _segment(data, position)
        if marker == _START_OF_SCAN:
            break
        if marker in _PROCESSES and frame is None:
            frame = _frame(marker, data[start:end])
        elif marker == _MULTI_PICTURE and data[start : start + 4] == b"MPF\0":
            _check_views(data[start + 4 : end])
        elif marker == _ADOBE:
            adobe |= data[start : start + 5] == b"Adobe"
        # APP0 and APP14 say what the colours are; the others and comments are metadata.
        if (0xE0 < marker <= 0xEF and marker != _ADOBE) or marker == _COMMENT:
            dropped = True
        else:
            kept.append(data[position:end])
        position = end
    if frame is None:
        raise damaged("the JPEG has no frame header before its scan")
    if frame.process:
        raise refused(f"is a {frame.process} JPEG", "save it as an ordinary JPEG, or as PNG")
    if frame.components == 4 and not adobe:
        raise refused("is a four-channel JPEG that does not say what its channels are", "save it as RGB")
    kind = {1: GREY, 3: COLOUR, 4: CMYK}.get(frame.components, GREY)
    return (
        PixelKind("JPEG", kind, frame.components, frame.bits),
        (frame.width, frame.height),
        b"".join([*kept, data[position:]]) if dropped else data,
    )


def find_frame(data: bytes) -> Frame:
    """The frame header of a JPEG stream, such as a TIFF's tile. Raises InvalidArgument."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        marker, start, end = _segment(data, position)
        if marker in _PROCESSES:
            return _frame(marker, data[start:end])
        if marker == _START_OF_SCAN:
            break
        position = end
    raise damaged("a JPEG stream has no frame header before its scan")


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """The marker at a position, and where its content starts and ends."""
    size = len(data)
    last = min(size - 4, position + _MOST_FILLING)
    while position < last and data[position] == 0xFF and data[position + 1] == 0xFF:
        position += 1  # they may fill the space before a marker
    if position + 4 > size or data[position] != 0xFF:
        raise damaged("the JPEG ends in its header, or a marker is missing there")
    marker, start = data[position + 1], position + 4
    if marker in _ALONE:
        return marker, position + 2, position + 2
    end = position + 2 + (data[position + 2] << 8 | data[position + 3])
    if marker == _END or end > size or end < start:
        raise damaged("the JPEG ends in its header")
    return marker, start, end


def _frame(marker: int, content: bytes) -> Frame:
    if len(content) < 6:
        raise damaged("the JPEG's frame header is too short")
    bits, height, width, components = struct.unpack(">BHHB", content[:6])
    return Frame(_PROCESSES[marker], bits, width, height, components)


def _check_views(index: bytes) -> None:
    """Raises InvalidArgument if a multi-picture index lists another view. One that cannot be read lists none."""
    try:
        order = {b"II": "<", b"MM": ">"}[index[:2]]
        (offset,) = struct.unpack_from(f"{order}I", index, 4)
        (count,) = struct.unpack_from(f"{order}H", index, offset)
        entries = {
            tag: (size, value)
            for tag, _, size, value in struct.iter_unpack(f"{order}HHII", index[offset + 2 : offset + 2 + 12 * count])
        }
        size, start = entries[0xB002]
        listed = index[start : start + min(size, 16 * _MOST_IMAGES)]
        types = [attributes & 0xFFFFFF for attributes, *_ in struct.iter_unpack(f"{order}IIIHH", listed)]
    except (KeyError, struct.error):
        return
    for kind in types:
        if kind in _VIEWS:
            raise refused(
                f"is {_VIEWS[kind]} of {len(types)} images (MPO)", "save the view that is meant as an ordinary JPEG"
            )
