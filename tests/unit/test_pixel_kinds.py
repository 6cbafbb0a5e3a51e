"""Every kind of file: those in the closed list give exactly their pixels, all others are refused by what they are."""

import hashlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from image_archives import encoded, noise
from image_files import bmp, mpo, pages, png, png_chunk, raw_tiff, tiff, with_chunk, with_segment
from real_images import real_images
from synthmix.image_data.decoding import DECODER_VERSION, decode_image, inspect_image
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.service_kit.errors import InvalidArgument

GREY, OTHER, THIRD = noise(1, 24, 32), noise(5, 24, 32), noise(6, 24, 32)
COLOUR = noise(2, 24, 32, 3)
RGBA = np.dstack([COLOUR, np.where(GREY > 128, 255, 0).astype(np.uint8)])
ON_BLACK = COLOUR * (GREY > 128)[:, :, None]
DEEP = noise(3, 24, 32).astype(np.uint16) * 257
SMOOTH = np.add.outer(np.arange(24) * 4, np.arange(32) * 4).astype(np.uint8)
SMOOTH_COLOUR = np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], axis=-1)
STACK = np.stack([noise(20 + number, 24, 32) for number in range(6)])
DEEP_STACK = STACK.astype(np.uint16) * 257
LARGE_TEXT = noise(9, 3_000_000).tobytes()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def pillow(data: bytes) -> np.ndarray:
    """What Pillow makes of a JPEG's or WebP's own bytes: these are lossy, so that no array is what they must give."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def shown(data: bytes, rule: PixelRule | None = None) -> np.ndarray:
    return decode_image(data, white_level=65535, rule=rule or PixelRule())


def refusal(data: bytes, rule: PixelRule | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        shown(data, rule)
    with pytest.raises(InvalidArgument):
        inspect_image(data, rule=rule or PixelRule())
    assert caught.value.reason in (
        "IMAGE_UNSUPPORTED",
        "IMAGE_UNREADABLE",
        "IMAGE_TOO_LARGE",
        "CHANNEL_MISSING",
        "PLANE_MISSING",
    )
    assert "; " in caught.value.message, "a remedy follows"
    assert len(caught.value.message) < 400
    return caught.value.message


def packed(values: np.ndarray, bits: int) -> bytes:
    """Values of fewer than 8 bits, each row padded to whole bytes."""
    rows = [np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel() for row in values.astype(np.uint8)]
    return b"".join(np.packbits(row).tobytes() for row in rows)


def png_rows(rows: bytes, height: int) -> bytes:
    size = len(rows) // height
    return b"".join(b"\0" + rows[row * size : (row + 1) * size] for row in range(height))


def png_with_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("settings", "x" * 3_000_000, zip=True)
    info.add_text("remark", "y" * 2_000_000, zip=True)
    info.add_text("plain", "z" * 2_000_000)
    return encoded(Image.fromarray(COLOUR), "PNG", pnginfo=info)


def bgrx(unused: int) -> bytes:
    """Rows of a 32-bit BMP, from the bottom."""
    return np.dstack([COLOUR[::-1, :, ::-1], np.full((24, 32), unused, np.uint8)]).tobytes()


def pyramid(level: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY, subifds=1, metadata=None)
        writer.write(GREY[::2, ::2] if level is None else level, subfiletype=1 if level is None else 0, metadata=None)
    return file.getvalue()


def interlaced() -> bytes:
    """A PNG of 2 x 2 pixels in Adam7's passes: the first pixel, the one beside it, the row below."""
    rows = bytes([0, GREY[0, 0], 0, GREY[0, 1], 0, GREY[1, 0], GREY[1, 1]])
    data = png(2, 2, 8, 0, rows)
    header = data[16:28] + b"\x01"
    return data[:8] + png_chunk(b"IHDR", header) + data[33:]


GREY_DEEP = (DEEP // 257).astype(np.uint8)
JPEG = encoded(SMOOTH_COLOUR, "JPEG", quality=90)
PROGRESSIVE = encoded(SMOOTH, "JPEG", quality=90, progressive=True)
WEBP = encoded(SMOOTH_COLOUR, "WEBP", quality=90)
YCBCR_TILES = tiff(SMOOTH_COLOUR, photometric="rgb", compression="jpeg", tile=(16, 16))
PALETTE = noise(8, 256, 3)
QUANTISED = Image.fromarray(GREY >> 4)
QUANTISED.putpalette(PALETTE[:16].tobytes())
YCBCR = tiff(SMOOTH_COLOUR, photometric="rgb", compression="jpeg", subsampling=(2, 2), compressionargs={"level": 95})
ADOBE_CMYK = encoded(Image.fromarray(SMOOTH_COLOUR).convert("CMYK"), "JPEG", quality=95)
PREMULTIPLIED = np.dstack([ON_BLACK, RGBA[:, :, 3]])

ACCEPTED: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    # TIFF, grey
    "8-bit grey": (lambda: tiff(GREY), grey(GREY)),
    "big-endian 8-bit grey": (lambda: tiff(GREY, byteorder=">"), grey(GREY)),
    "BigTIFF": (lambda: tiff(GREY, bigtiff=True), grey(GREY)),
    "big-endian BigTIFF": (lambda: tiff(DEEP, bigtiff=True, byteorder=">"), grey((DEEP // 257).astype(np.uint8))),
    "16-bit grey": (lambda: tiff(DEEP), grey((DEEP // 257).astype(np.uint8))),
    "tiles": (lambda: tiff(GREY, tile=(16, 16)), grey(GREY)),
    "LZW": (lambda: tiff(DEEP, compression="lzw", predictor=True), grey(GREY_DEEP)),
    "deflate": (lambda: tiff(DEEP, compression="deflate", predictor=True), grey(GREY_DEEP)),
    "Zstandard": (lambda: tiff(DEEP, compression="zstd"), grey(GREY_DEEP)),
    "LZMA": (lambda: tiff(DEEP, compression="lzma"), grey(GREY_DEEP)),
    "PackBits": (lambda: tiff(GREY, compression="packbits"), grey(GREY)),
    "JPEG 2000": (lambda: tiff(DEEP, compression="jpeg2000"), grey(GREY_DEEP)),
    "strips": (lambda: tiff(COLOUR, photometric="rgb", rowsperstrip=7, compression="lzw"), COLOUR),
    "fax": (
        lambda: encoded(Image.fromarray(GREY > 128), "TIFF", compression="group4"),
        grey(np.where(GREY > 128, 255, 0)),
    ),
    "1-bit TIFF": (lambda: encoded(Image.fromarray(GREY > 128), "TIFF"), grey(np.where(GREY > 128, 255, 0))),
    "2-bit TIFF": (lambda: raw_tiff(32, 24, packed(GREY >> 6, 2), t258=2), grey((GREY >> 6) * 85)),
    "4-bit TIFF": (lambda: raw_tiff(32, 24, packed(GREY >> 4, 4), t258=4), grey((GREY >> 4) * 17)),
    "4-bit, 0 is white": (lambda: raw_tiff(32, 24, packed(GREY >> 4, 4), t258=4, t262=0), grey(255 - (GREY >> 4) * 17)),
    "0 is white": (lambda: tiff(GREY, photometric="miniswhite"), grey(255 - GREY)),
    "1-bit, 0 is white": (
        lambda: raw_tiff(32, 24, packed(GREY >> 7, 1), t258=1, t262=0),
        grey(255 - (GREY >> 7) * 255),
    ),
    "least significant bit first": (
        lambda: raw_tiff(
            32, 24, np.packbits(np.unpackbits(GREY[:, :, None], axis=2)[:, :, ::-1], axis=2).tobytes(), t266=2
        ),
        grey(GREY),
    ),
    # TIFF, colour and transparency
    "RGB": (lambda: tiff(COLOUR, photometric="rgb"), COLOUR),
    "RGB, plane by plane": (
        lambda: tiff(np.moveaxis(COLOUR, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
        COLOUR,
    ),
    "RGB, plane by plane, LZW": (
        lambda: tiff(np.moveaxis(COLOUR, -1, 0).copy(), photometric="rgb", planarconfig="separate", compression="lzw"),
        COLOUR,
    ),
    "declared alpha": (lambda: tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]), ON_BLACK),
    "premultiplied alpha": (lambda: tiff(PREMULTIPLIED, photometric="rgb", extrasamples=["assocalpha"]), ON_BLACK),
    "grey with alpha": (
        lambda: tiff(np.dstack([GREY, RGBA[:, :, 3]]), photometric="minisblack", extrasamples=["unassalpha"]),
        grey(GREY * (GREY > 128)),
    ),
    "grey with premultiplied alpha": (
        lambda: tiff(np.dstack([GREY, RGBA[:, :, 3]]), photometric="minisblack", extrasamples=["assocalpha"]),
        grey(GREY),
    ),
    "palette": (lambda: tiff(GREY, photometric="palette", colormap=PALETTE.T.astype(np.uint16) * 257), PALETTE[GREY]),
    "CMYK white": (lambda: encoded(Image.new("CMYK", (8, 8)), "TIFF"), np.full((8, 8, 3), 255, np.uint8)),
    "JPEG in TIFF": (lambda: YCBCR, pillow(YCBCR)),
    "JPEG in tiles": (lambda: YCBCR_TILES, pillow(YCBCR_TILES)),
    # TIFF, pages that are not pictures of their own
    "smaller copy as a page": (lambda: pages(GREY, GREY[::2, ::2], subfiletype=[0, 1]), grey(GREY)),
    "smaller copy first": (lambda: pages(GREY[::2, ::2], GREY, subfiletype=[1, 0]), grey(GREY)),
    "pyramid in SubIFDs": (lambda: pyramid(), grey(GREY)),
    "OME-TIFF of one plane": (lambda: tiff(GREY, ome=True), grey(GREY)),
    "OME-TIFF of RGB": (lambda: tiff(COLOUR, ome=True, photometric="rgb", metadata={"axes": "YXS"}), COLOUR),
    "ImageJ, one image": (lambda: tiff(DEEP, imagej=True), grey(GREY_DEEP)),
    "ImageJ, RGB": (lambda: tiff(COLOUR, imagej=True, photometric="rgb"), COLOUR),
    # PNG
    "PNG": (lambda: encoded(COLOUR), COLOUR),
    "1-bit PNG": (lambda: encoded(Image.fromarray(GREY > 128)), grey(np.where(GREY > 128, 255, 0))),
    "2-bit PNG": (lambda: png(32, 24, 2, 0, png_rows(packed(GREY >> 6, 2), 24)), grey((GREY >> 6) * 85)),
    "4-bit PNG": (lambda: png(32, 24, 4, 0, png_rows(packed(GREY >> 4, 4), 24)), grey((GREY >> 4) * 17)),
    "16-bit PNG": (lambda: encoded(DEEP), grey(GREY_DEEP)),
    "RGBA PNG": (lambda: encoded(RGBA), ON_BLACK),
    "palette PNG": (lambda: encoded(QUANTISED), np.asarray(QUANTISED.convert("RGB"))),
    "transparent colour": (
        lambda: encoded(Image.fromarray(GREY), transparency=int(GREY[0, 0])),
        grey(np.where(GREY[0, 0] == GREY, 0, GREY)),
    ),
    "interlaced PNG": (interlaced, grey(GREY[:2, :2])),
    "more than 1 MB of text": (png_with_text, COLOUR),
    "a text that isn't UTF-8": (lambda: with_chunk(encoded(GREY), b"iTXt", b"\xff" * 2000), grey(GREY)),
    "a colour profile of 3 MB": (
        lambda: with_chunk(encoded(GREY), b"iCCP", b"p\0\0" + zlib.compress(LARGE_TEXT)),
        grey(GREY),
    ),
    "EXIF of 2 MB": (lambda: with_chunk(encoded(GREY), b"eXIf", LARGE_TEXT[:2_000_000]), grey(GREY)),
    "text behind the image": (
        lambda: png(32, 24, 8, 0, png_rows(GREY.tobytes(), 24), after=png_chunk(b"tEXt", b"k\0" + b"v" * 3_000_000)),
        grey(GREY),
    ),
    "an animation of one frame": (lambda: with_chunk(encoded(GREY), b"acTL", struct.pack(">II", 1, 0)), grey(GREY)),
    # JPEG
    "JPEG": (lambda: JPEG, pillow(JPEG)),
    "progressive JPEG": (lambda: PROGRESSIVE, pillow(PROGRESSIVE)),
    "CMYK JPEG": (lambda: ADOBE_CMYK, pillow(ADOBE_CMYK)),
    "JPEG with EXIF, XMP and a comment": (
        lambda: with_segment(
            with_segment(with_segment(JPEG, 0xE1, b"Exif\0\0" + b"x" * 60000), 0xFE, b"hi"), 0xED, b"y" * 65000
        ),
        pillow(JPEG),
    ),
    "a broken EXIF": (lambda: with_segment(JPEG, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), pillow(JPEG)),
    "a broken multi-picture index": (lambda: with_segment(JPEG, 0xE2, b"MPF\0II*\0\xff\xff"), pillow(JPEG)),
    "a phone's MPO": (lambda: mpo(SMOOTH_COLOUR, 0), pillow(mpo(SMOOTH_COLOUR, 0))),
    "an MPO with previews": (lambda: mpo(SMOOTH_COLOUR, 0x010001, 0x010002), pillow(mpo(SMOOTH_COLOUR, 0, 0))),
    "bytes behind the image": (lambda: JPEG + b"\0" * 5000, pillow(JPEG)),
    # BMP and WebP
    "BMP": (lambda: encoded(COLOUR, "BMP"), COLOUR),
    "grey BMP": (lambda: encoded(GREY, "BMP"), grey(GREY)),
    "1-bit BMP": (lambda: encoded(Image.fromarray(GREY > 128), "BMP"), grey(np.where(GREY > 128, 255, 0))),
    "palette BMP": (lambda: encoded(QUANTISED, "BMP"), np.asarray(QUANTISED.convert("RGB"))),
    "32-bit BMP": (lambda: bmp(32, 24, 32, bgrx(0)), COLOUR),
    "32-bit BMP of 255": (lambda: bmp(32, 24, 32, bgrx(255)), COLOUR),
    "WebP": (lambda: encoded(COLOUR, "WEBP", lossless=True), COLOUR),
    "WebP with alpha": (lambda: encoded(RGBA, "WEBP", lossless=True, exact=True), ON_BLACK),
    "lossy WebP": (lambda: WEBP, pillow(WEBP)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_in_the_list_gives_exactly_its_pixels(name: str) -> None:
    make, expected = ACCEPTED[name]
    data = make()
    np.testing.assert_array_equal(shown(data), expected)
    facts = inspect_image(data)
    assert (facts.height_px, facts.width_px) == expected.shape[:2]


def ome(pixels: str, *arrays: np.ndarray, prefix: str = "") -> bytes:
    """Pages, and OME metadata by hand."""
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>{prefix}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:1">{pixels}</OME>'
    )
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, array in enumerate(arrays):
            writer.write(array, description=text if number == 0 else None, metadata=None)
    return file.getvalue()


def ome_pixels(*, c: int = 1, z: int = 1, t: int = 1, order: str = "XYZCT", inside: str = "<TiffData/>") -> str:
    return (
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint8" SizeX="32" SizeY="24" '
        f'SizeC="{c}" SizeZ="{z}" SizeT="{t}">{inside}</Pixels></Image>'
    )


def spread_over_files() -> bytes:
    inside = "".join(
        f'<TiffData FirstC="{number}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number + 1}</UUID>'
        "</TiffData>"
        for number, name in enumerate(("here.ome.tif", "/etc/passwd"))
    )
    return ome(ome_pixels(c=2, inside=inside), GREY)


def shaped(pixels: np.ndarray, text: str) -> bytes:
    return tiff(pixels, description=text, metadata=None)


def imagej_in_one_page(pixels: np.ndarray, **sizes: int) -> bytes:
    """As ImageJ writes large stacks: one page, whose picture the others follow."""
    text = "\n".join(["ImageJ=1.54f", *(f"{name}={size}" for name, size in sizes.items()), ""])
    description = text.encode() + b"\0"
    first = pixels.reshape(-1, *pixels.shape[-2:])
    data = raw_tiff(32, 24, first.tobytes(), t258=8 * pixels.itemsize, t279=first[0].nbytes, t270=tuple(description))
    # The hand-made tag holds its text as 16-bit numbers: make bytes of them.
    wide = struct.pack(f"<{len(description)}H", *description)
    at = data.index(wide)
    entry = data.index(struct.pack("<HHI", 270, 3, len(description)))
    data = data[:entry] + struct.pack("<HHI", 270, 2, len(description)) + data[entry + 8 :]
    return data[:at] + description.ljust(len(wide), b"\0") + data[at + len(wide) :]


def jpeg_frame(marker: int, bits: int = 8, components: int = 3) -> bytes:
    """A JPEG that is nothing but its headers."""
    frame = struct.pack(">BHHB", bits, 24, 32, components) + bytes([1, 0x11, 0] * components)
    data = with_segment(b"\xff\xd8", marker, frame)
    return data + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\0" * 50 + b"\xff\xd9"


TWO = np.dstack([GREY, OTHER])
FOUR = np.dstack([COLOUR, GREY])
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    # Channels that nothing says the colour of
    "two channels": (
        lambda: tiff(TWO, photometric="minisblack", planarconfig="contig"),
        "is a two-channel image of 8 bits; choose one by --channel",
    ),
    "two channels of 16 bits": (
        lambda: tiff(TWO.astype(np.uint16), photometric="minisblack", planarconfig="contig"),
        "is a two-channel image of 16 bits",
    ),
    "two channels, plane by plane": (
        lambda: tiff(np.stack([GREY, OTHER]), photometric="minisblack", planarconfig="separate"),
        "is a two-channel image of 8 bits",
    ),
    "two channels, by hand": (
        lambda: raw_tiff(32, 24, TWO.tobytes(), t277=2, t258=(8, 8), t338=0),
        "is a two-channel image",
    ),
    "five channels": (
        lambda: tiff(np.moveaxis(STACK[:5], 0, -1).copy(), photometric="minisblack", planarconfig="contig"),
        "is a five-channel image of 8 bits",
    ),
    "a fourth that is not declared": (
        lambda: tiff(FOUR, photometric="rgb", extrasamples=["unspecified"]),
        "is RGB of 8 bits with one extra channel not declared as transparency",
    ),
    "a fourth without any declaration": (
        lambda: raw_tiff(32, 24, FOUR.tobytes(), t262=2, t277=4, t258=(8, 8, 8, 8)),
        "one extra channel not declared",
    ),
    "RGB and three more": (
        lambda: tiff(np.dstack([COLOUR, COLOUR]), photometric="rgb", extrasamples=["unspecified"] * 3),
        "three extra channels not declared",
    ),
    "alpha and one more": (
        lambda: tiff(np.dstack([FOUR, OTHER]), photometric="rgb", extrasamples=["unassalpha", "unspecified"]),
        "is RGB with transparency and one extra channel",
    ),
    "CMYK and one more": (
        lambda: raw_tiff(32, 24, np.dstack([FOUR, OTHER]).tobytes(), t262=5, t277=5, t258=(8,) * 5, t338=0),
        "is CMYK with one extra channel",
    ),
    "a palette and one more": (
        lambda: raw_tiff(32, 24, TWO.tobytes(), t262=3, t277=2, t258=(8, 8), t338=0, t320=tuple(range(768))),
        "is a palette image with one extra channel",
    ),
    # Values that 8 bits cannot stand for
    "floating point": (lambda: tiff(GREY.astype(np.float32)), "holds floating-point pixels of 32 bits"),
    "half precision": (lambda: tiff(GREY.astype(np.float16)), "holds floating-point pixels of 16 bits"),
    "complex": (lambda: tiff(GREY.astype(np.complex64)), "holds complex pixels of 64 bits"),
    "signed 8 bits": (lambda: tiff(GREY.astype(np.int8)), "holds signed pixels of 8 bits"),
    "signed 16 bits": (lambda: tiff(DEEP.astype(np.int16)), "holds signed pixels of 16 bits"),
    "32 bits": (lambda: tiff(GREY.astype(np.uint32)), "is grey of 32 bits"),
    "signed 32 bits": (lambda: tiff(GREY.astype(np.int32)), "holds signed pixels of 32 bits"),
    "64 bits": (lambda: tiff(GREY.astype(np.uint64)), "is grey of 64 bits"),
    "undefined values": (lambda: raw_tiff(32, 24, GREY.tobytes(), t339=4), "holds undefined pixels of 8 bits"),
    "48-bit colour": (
        lambda: tiff(COLOUR.astype(np.uint16), photometric="rgb"),
        "is RGB of 16 bits a channel; save it with 8 bits a channel, or compose it by --channel 1,2,3",
    ),
    "64-bit colour with alpha": (
        lambda: tiff(RGBA.astype(np.uint16), photometric="rgb", extrasamples=["unassalpha"]),
        "is RGB with transparency, of 16 bits a channel",
    ),
    "depths that differ": (
        lambda: raw_tiff(32, 24, bytes(32 * 24 * 2), t262=2, t277=3, t258=(5, 6, 5)),
        "has channels of different depths (5, 6, 5 bits)",
    ),
    "16 bits, 0 is white": (lambda: tiff(DEEP, photometric="miniswhite"), "is grey of 16 bits in which 0 is white"),
    "signed in ImageJ's way": (
        lambda: tiff(DEEP, description="ImageJ=1.54f\nimages=1\ncf=0\nc0=-32768.0\nc1=1.0\n", metadata=None),
        "holds signed pixels of 16 bits",
    ),
    # Colours that are not RGB
    "CIELab": (lambda: encoded(Image.fromarray(COLOUR).convert("LAB"), "TIFF"), "holds CIELab colour"),
    "YCbCr without JPEG": (lambda: encoded(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), "holds YCbCr colour"),
    "raw mosaic": (lambda: raw_tiff(32, 24, GREY.tobytes(), t262=32803), "holds a camera's raw mosaic (CFA)"),
    "linear raw": (lambda: raw_tiff(32, 24, DEEP.tobytes(), t262=34892, t258=16), "holds a camera's raw colour"),
    "LogLuv": (lambda: raw_tiff(32, 24, DEEP.tobytes(), t262=32845, t258=16), "holds logarithmic colour (LogLuv)"),
    "a mask": (lambda: raw_tiff(32, 24, GREY.tobytes(), t262=4), "holds a transparency mask"),
    "six inks": (
        lambda: raw_tiff(32, 24, np.moveaxis(STACK, 0, -1).tobytes(), t262=5, t277=6, t258=(8,) * 6, t332=2),
        "holds inks other than CMYK",
    ),
    "no photometric interpretation": (
        lambda: raw_tiff(32, 24, GREY.tobytes(), t262=None),
        "does not say what its values mean",
    ),
    "an unknown one": (lambda: raw_tiff(32, 24, GREY.tobytes(), t262=777), "holds pixels of an unknown kind (777)"),
    "a palette of 8 bits": (
        lambda: tiff(GREY, photometric="palette", colormap=PALETTE.T.astype(np.uint16)),
        "has a palette of 8-bit colours",
    ),
    "a DNG": (
        lambda: tiff(GREY, extratags=[(50706, "B", 4, b"\1\4\0\0", True)], metadata=None),
        "is a camera's raw file (DNG or TIFF/EP)",
    ),
    "a GEL file": (
        lambda: tiff(DEEP, extratags=[(33445, "I", 1, 2, True)], metadata=None),
        "is a Molecular Dynamics GEL file",
    ),
    "an LSM file whose information is broken": (
        lambda: tiff(GREY, extratags=[(34412, "B", 4, b"\0" * 4, True)], metadata=None),
        "its tag 34412 cannot be read",
    ),
    "a tag that decides, and cannot be read": (
        lambda: raw_tiff(32, 24, GREY.tobytes(), t339=1).replace(
            struct.pack("<HHI", 339, 3, 1), struct.pack("<HHI", 339, 99, 1)
        ),
        "its tag 339 cannot be read",
    ),
    # Stacks
    "two pages": (lambda: pages(GREY, OTHER), "is a TIFF of 2 pages; choose one by --plane, or compose up to three"),
    "five pages": (lambda: tiff(STACK[:5]), "is a TIFF of 5 pages"),
    "pages of different sizes": (lambda: pages(GREY, OTHER[:10]), "is a TIFF of 2 pages"),
    "a reduced page that is as large": (lambda: pages(GREY, OTHER, subfiletype=[0, 1]), "is a TIFF of 2 pages"),
    "a mask as a page": (
        lambda: mask_as_page(),
        "has a transparency mask as a page of its own",
    ),
    "an image in a SubIFD": (lambda: pyramid(OTHER), "holds images in SubIFDs that are not smaller copies"),
    "ImageJ, five in one page": (
        lambda: imagej_in_one_page(STACK[:5], images=5, slices=5),
        "is an ImageJ stack of 5 slices",
    ),
    "ImageJ, five of nothing said": (lambda: imagej_in_one_page(STACK[:5], images=5), "is an ImageJ stack of 5 images"),
    "ImageJ, channels": (
        lambda: imagej_in_one_page(STACK[:2], images=2, channels=2),
        "is an ImageJ stack of 2 channels; choose one by --channel",
    ),
    "ImageJ, time": (lambda: tiff(STACK, imagej=True, metadata={"axes": "TYX"}), "is an ImageJ stack of 6 time points"),
    "ImageJ, hyperstack": (
        lambda: tiff(STACK.reshape(3, 2, 24, 32), imagej=True, metadata={"axes": "ZCYX"}),
        "is an ImageJ stack of 2 channels and 3 slices",
    ),
    "tifffile, five in one page": (
        lambda: raw_with_shape(STACK[:5], "[5, 24, 32]"),
        "is a TIFF of 5 images",
    ),
    "OME, channels": (
        lambda: tiff(STACK[:2], ome=True, metadata={"axes": "CYX"}),
        "is an OME-TIFF of 2 channels; choose one by --channel",
    ),
    "OME, slices and times": (
        lambda: tiff(STACK.reshape(2, 3, 24, 32), ome=True, metadata={"axes": "TZYX"}),
        "is an OME-TIFF of 2 time points and 3 slices",
    ),
    "OME, pyramid of a stack": (lambda: ome(ome_pixels(z=3), *STACK[:3]), "is an OME-TIFF of 3 slices"),
    "OME, two images": (
        lambda: ome(ome_pixels() + ome_pixels().replace("Image:0", "Image:1"), GREY, OTHER),
        "is an OME-TIFF of 2 images",
    ),
    "OME, spread over files": (spread_over_files, "is one of several files of an OME-TIFF data set"),
    "OME, in another file": (lambda: ome("<BinaryOnly MetadataFile='a'/>", GREY), "is one of several files"),
    "OME, planes that are not there": (
        lambda: ome(ome_pixels(c=3), GREY),
        "it says that it is an OME-TIFF of 3 channels",
    ),
    "OME, a billion planes": (
        lambda: ome(ome_pixels(z=10**9, inside='<TiffData IFD="0" PlaneCount="1000000000"/>'), GREY),
        "it says that it is an OME-TIFF of 1,000,000,000 slices, and has 1 page",
    ),
    "OME, pages that it does not mention": (
        lambda: ome(ome_pixels(), GREY, OTHER),
        "1 page that its metadata does not mention",
    ),
    "OME, entities": (
        lambda: ome(ome_pixels(), GREY, prefix='<!DOCTYPE a [<!ENTITY b "bbbb">]>'),
        "its OME metadata declares entities",
    ),
    "a volume in one page": (lambda: tiff(STACK, volumetric=True), "holds a volume of 6 slices in one page"),
    # How it is stored
    "an unknown compression": (
        lambda: raw_tiff(32, 24, GREY.tobytes(), t259=32809),
        "is compressed in a way that is not decoded",
    ),
    "old JPEG": (lambda: raw_tiff(32, 24, GREY.tobytes(), t259=6), "is not decoded (OJPEG, 8 bits)"),
    "LERC": (lambda: tiff(GREY, compression="lerc"), "is compressed in a way that is not decoded (LERC, 8 bits)"),
    "a predictor that has no meaning": (
        lambda: raw_tiff(32, 24, GREY.tobytes(), t317=2),
        "uses predictor 2 with NONE compression",
    ),
    "a huge tile": (
        lambda: raw_tiff(32, 24, GREY.tobytes(), t322=65520, t323=65520, t324=8, t325=768, t273=None, t279=None),
        "its tiles or strips are 65520 x 65520 pixels large",
    ),
    "a JPEG larger than its strip": (
        lambda: raw_tiff(
            32, 24, jpeg_frame(0xC0).replace(b"\0\x18\0\x20", b"\xff\0\xff\0"), t259=7, t262=6, t277=3, t258=(8, 8, 8)
        ),
        "a tile or strip of 32 x 24 pixels holds 65280 x 65280",
    ),
    "a missing strip": (lambda: tiff(GREY, rowsperstrip=4)[:-100], "is damaged or truncated"),
    "strips beyond the end": (
        lambda: raw_tiff(32, 24, GREY.tobytes(), t279=10**6),
        "tiles or strips are missing at its end",
    ),
    "pages beyond the end": (lambda: pages_cut(), "its further pages are missing"),
    "pages in a circle": (lambda: pages_in_a_circle(), "its pages form a circle"),
    "pages that share a long text": (
        lambda: pages_that_share_a_text(3_000_000, 40),
        "describes its pages in more than 64 MiB of tags",
    ),
    "too many pages": (lambda: pages_that_share_a_text(10, 4097), "is a TIFF of more than 4,096 pages"),
    "too many pixels": (
        lambda: raw_tiff(10**5, 10**5, GREY.tobytes()),
        "is larger than 64 megapixels (100000 x 100000 pixels)",
    ),
    "no pixels": (lambda: raw_tiff(0, 24, GREY.tobytes()), "is damaged or truncated"),
    # PNG
    "48-bit PNG": (lambda: png(2, 2, 16, 2, (b"\0" + bytes(12)) * 2), "is RGB of 16 bits a channel"),
    "grey and alpha of 16 bits": (
        lambda: png(2, 2, 16, 4, (b"\0" + bytes(8)) * 2),
        "is grey with transparency, of 16 bits a channel",
    ),
    "64-bit PNG": (lambda: png(2, 2, 16, 6, (b"\0" + bytes(16)) * 2), "is RGB with transparency, of 16 bits a channel"),
    "16-bit grey with a transparent value": (
        lambda: with_chunk(encoded(DEEP), b"tRNS", b"\0\1"),
        "is grey of 16 bits with a transparent colour",
    ),
    "2-bit grey with a transparent value": (
        lambda: with_chunk(png(32, 24, 2, 0, png_rows(packed(GREY >> 6, 2), 24)), b"tRNS", b"\0\1"),
        "is grey of 2 bits with a transparent colour",
    ),
    "an animated PNG": (
        lambda: encoded(Image.fromarray(GREY), "PNG", save_all=True, append_images=[Image.fromarray(OTHER)]),
        "is an animated PNG of 2 frames",
    ),
    "Apple's PNG": (
        lambda: encoded(GREY)[:8] + png_chunk(b"CgBI", b"\x50\0\x20\2") + encoded(GREY)[8:],
        "is a PNG of Apple's own variant (CgBI)",
    ),
    "a colour type that there is not": (lambda: png(2, 2, 8, 5, bytes(6)), "the PNG's colour type is 5"),
    "a PNG of a header alone": (lambda: encoded(GREY)[:33], "is damaged or truncated"),
    "a PNG without an image": (lambda: encoded(GREY)[:33] + png_chunk(b"IEND", b""), "is damaged or truncated"),
    "a huge PNG of a header alone": (
        lambda: png(10**5, 10**5, 8, 0, b"")[:33],
        "is larger than 64 megapixels (100000 x 100000 pixels)",
    ),
    "too many chunks": (
        lambda: encoded(GREY)[:33] + png_chunk(b"teXt", b"") * 2**18 + encoded(GREY)[33:],
        "the PNG has more than 262,144 chunks",
    ),
    # JPEG
    "a JPEG of filling": (lambda: b"\xff\xd8" + b"\xff" * 5_000_000, "is damaged or truncated"),
    "a JPEG of empty markers": (lambda: b"\xff\xd8" + b"\xff\xd0" * 1_000_000, "is damaged or truncated"),
    "12-bit JPEG": (lambda: jpeg_frame(0xC1, bits=12), "is RGB of 12 bits a channel"),
    "12-bit grey JPEG": (lambda: jpeg_frame(0xC1, bits=12, components=1), "is grey of 12 bits"),
    "lossless JPEG": (lambda: jpeg_frame(0xC3), "is a lossless JPEG"),
    "hierarchical JPEG": (lambda: jpeg_frame(0xC5), "is a hierarchical JPEG"),
    "two-channel JPEG": (lambda: jpeg_frame(0xC0, components=2), "is a two-channel image of 8 bits"),
    "four channels of nothing said": (
        lambda: jpeg_frame(0xC0, components=4),
        "is a four-channel JPEG that does not say",
    ),
    "a stereo pair": (lambda: mpo(SMOOTH_COLOUR, 0x020002), "is a stereo picture of 2 images (MPO)"),
    "a panorama": (lambda: mpo(SMOOTH_COLOUR, 0x020001, 0x020001), "is a panorama of 3 images (MPO)"),
    "several angles": (lambda: mpo(SMOOTH_COLOUR, 0x020003), "is a picture from several angles of 2 images (MPO)"),
    # BMP and WebP
    "a fourth byte that means something": (
        lambda: bmp(32, 24, 32, np.dstack([COLOUR, GREY]).tobytes()),
        "is a 32-bit BMP with a fourth channel that it does not declare",
    ),
    "a JPEG in a BMP": (lambda: bmp(32, 24, 24, JPEG, compression=4), "is a JPEG inside a BMP"),
    "64-bit BMP": (lambda: bmp(32, 24, 64, bytes(32 * 24 * 8)), "is a BMP of 64 bits a pixel"),
    "an animated WebP": (
        lambda: encoded(Image.fromarray(GREY), "WEBP", save_all=True, append_images=[Image.fromarray(OTHER)]),
        "is an animated WebP of 2 frames",
    ),
    # Other files
    "GIF": (lambda: encoded(GREY, "GIF"), "is not a PNG, JPEG, TIFF, BMP or WebP image"),
    "JPEG 2000 alone": (lambda: encoded(GREY, "JPEG2000"), "is not a PNG, JPEG, TIFF, BMP or WebP image"),
    "a Panasonic raw": (lambda: b"IIU\0" + bytes(100), "is not a PNG, JPEG, TIFF, BMP or WebP image"),
}


def raw_with_shape(pixels: np.ndarray, shape: str) -> bytes:
    """As tifffile writes an array into one page: further pictures follow the first."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, shaped=True) as writer:
        writer.write(pixels, truncate=True)
    data = file.getvalue()
    assert shape.encode() in data and len(tifffile.TiffFile(io.BytesIO(data)).pages) == 1
    return data


def pages_that_share_a_text(characters: int, count: int) -> bytes:
    data = b"II*\0" + struct.pack("<I", 8 + characters) + b"x" * characters
    for number in range(count):
        following = 0 if number == count - 1 else len(data) + 2 + 3 * 12 + 4
        entries = [(256, 4, 1, 1), (257, 4, 1, 1), (270, 2, characters, 8)]
        data += struct.pack("<H", 3) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<I", following)
    return data


def mask_as_page() -> bytes:
    data = pages(GREY, OTHER, subfiletype=[0, 2])
    entry = struct.pack("<HHI", 254, 4, 1)
    at = data.rindex(entry) + 8
    assert data.count(entry) == 2
    return data[:at] + struct.pack("<I", 4) + data[at + 4 :]


def pages_cut() -> bytes:
    """Two pages, of which the second was cut off."""
    data = pages(GREY, OTHER)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return data[: file.pages[1].offset]


def pages_in_a_circle() -> bytes:
    data = pages(GREY, OTHER)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first, second = file.pages[0].offset, file.pages[1].offset
        tags = struct.unpack_from("<H", data, second)[0]
    at = second + 2 + 12 * tags
    return data[:at] + struct.pack("<I", first) + data[at + 4 :]


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_what_it_is(name: str) -> None:
    make, words = REFUSED[name]
    assert words in refusal(make())


# What is chosen


FIVE = np.moveaxis(STACK[:5], 0, -1).copy()
HYPERSTACK = noise(30, 2, 3, 2, 24, 32)  # time points, slices, channels
NONE = np.zeros((24, 32), np.uint8)
CHOSEN: dict[str, tuple[Callable[[], bytes], PixelRule, np.ndarray]] = {
    "a channel of two": (
        lambda: tiff(TWO, photometric="minisblack", planarconfig="contig"),
        PixelRule((2,)),
        grey(OTHER),
    ),
    "the other": (lambda: tiff(TWO, photometric="minisblack", planarconfig="contig"), PixelRule((1,)), grey(GREY)),
    "two of 16 bits": (
        lambda: tiff(np.dstack([DEEP, DEEP[::-1]]), photometric="minisblack", planarconfig="contig"),
        PixelRule((2,)),
        grey(GREY_DEEP[::-1]),
    ),
    "two as colours": (
        lambda: tiff(TWO, photometric="minisblack", planarconfig="contig"),
        PixelRule((2, 1)),
        np.dstack([OTHER, GREY, NONE]),
    ),
    "plane by plane": (
        lambda: tiff(np.stack([GREY, OTHER]), photometric="minisblack", planarconfig="separate"),
        PixelRule((2,)),
        grey(OTHER),
    ),
    "three of five": (
        lambda: tiff(FIVE, photometric="minisblack", planarconfig="contig"),
        PixelRule((5, 1, 3)),
        FIVE[:, :, [4, 0, 2]],
    ),
    "compressed in tiles": (
        lambda: tiff(FIVE, photometric="minisblack", planarconfig="contig", compression="lzw", tile=(16, 16)),
        PixelRule((4,)),
        grey(FIVE[:, :, 3]),
    ),
    "green of RGB": (lambda: encoded(COLOUR), PixelRule((2,)), grey(COLOUR[:, :, 1])),
    "green of a JPEG": (lambda: JPEG, PixelRule((2,)), grey(pillow(JPEG)[:, :, 1])),
    "RGB turned round": (lambda: tiff(COLOUR, photometric="rgb"), PixelRule((3, 2, 1)), COLOUR[:, :, ::-1]),
    "a fourth that is not declared": (
        lambda: tiff(FOUR, photometric="rgb", extrasamples=["unspecified"]),
        PixelRule((4,)),
        grey(GREY),
    ),
    "red below transparency": (lambda: encoded(RGBA), PixelRule((1,)), grey(ON_BLACK[:, :, 0])),
    "48-bit colour": (
        lambda: tiff(COLOUR.astype(np.uint16) * 257, photometric="rgb"),
        PixelRule((1, 2, 3)),
        COLOUR,
    ),
    "the only channel": (lambda: encoded(GREY), PixelRule((1,)), grey(GREY)),
    "the only plane": (lambda: encoded(GREY), PixelRule(plane=1), grey(GREY)),
    "a page": (lambda: pages(GREY, OTHER), PixelRule(plane=2), grey(OTHER)),
    "a page in colour": (lambda: pages(COLOUR, COLOUR[::-1], photometric="rgb"), PixelRule(plane=2), COLOUR[::-1]),
    "a page's channel": (
        lambda: pages(COLOUR, COLOUR[::-1], photometric="rgb"),
        PixelRule((3,), 2),
        grey(COLOUR[::-1, :, 2]),
    ),
    "pages as colours": (lambda: pages(GREY, OTHER, THIRD), PixelRule((3, 1, 2)), np.dstack([THIRD, GREY, OTHER])),
    "a page as a channel": (lambda: pages(GREY, OTHER, THIRD), PixelRule((3,)), grey(THIRD)),
    "tifffile's axes": (lambda: tiff(STACK[:2], metadata={"axes": "CYX"}), PixelRule((2,)), grey(STACK[1])),
    "tifffile in one page": (lambda: raw_with_shape(STACK[:5], "[5, 24, 32]"), PixelRule(plane=5), grey(STACK[4])),
    "a smaller copy among them": (
        lambda: pages(GREY, GREY[::2, ::2], OTHER, subfiletype=[0, 1, 0]),
        PixelRule(plane=2),
        grey(OTHER),
    ),
    "ImageJ's slice": (lambda: imagej_in_one_page(STACK[:5], images=5, slices=5), PixelRule(plane=4), grey(STACK[3])),
    "ImageJ's first": (lambda: imagej_in_one_page(STACK[:5], images=5, slices=5), PixelRule(plane=1), grey(STACK[0])),
    "ImageJ's channel of 16 bits": (
        lambda: imagej_in_one_page(DEEP_STACK[:2], images=2, channels=2),
        PixelRule((2,)),
        grey(STACK[1]),
    ),
    "ImageJ's hyperstack": (
        lambda: tiff(HYPERSTACK, imagej=True, metadata={"axes": "TZCYX"}),
        PixelRule((2,), 5),
        grey(HYPERSTACK[1, 1, 1]),
    ),
    "ImageJ's hyperstack as colours": (
        lambda: imagej_in_one_page(HYPERSTACK, images=12, channels=2, slices=3, frames=2),
        PixelRule((1, 2), 3),
        np.dstack([*HYPERSTACK[0, 2], NONE]),
    ),
    "big-endian ImageJ": (
        lambda: tiff(DEEP_STACK, imagej=True, byteorder=">", metadata={"axes": "ZYX"}),
        PixelRule(plane=6),
        grey(STACK[5]),
    ),
    "OME's channel": (lambda: tiff(STACK[:2], ome=True, metadata={"axes": "CYX"}), PixelRule((2,)), grey(STACK[1])),
    "OME's order": (
        lambda: tiff(HYPERSTACK, ome=True, metadata={"axes": "TZCYX"}),
        PixelRule((2,), 4),
        grey(HYPERSTACK[1, 0, 1]),
    ),
    "OME's other order": (
        lambda: tiff(HYPERSTACK, ome=True, metadata={"axes": "CZTYX"}),  # another axis runs fastest
        PixelRule((2,), 4),
        grey(HYPERSTACK[1, 0, 1]),
    ),
    "OME's TiffData": (
        lambda: ome(
            ome_pixels(c=2, inside='<TiffData FirstC="1" IFD="0" PlaneCount="1"/><TiffData FirstC="0" IFD="1"/>'),
            GREY,
            OTHER,
        ),
        PixelRule((1,)),
        grey(OTHER),
    ),
    "OME's channels as colours": (
        lambda: tiff(DEEP_STACK[:3], ome=True, metadata={"axes": "CYX"}, compression="deflate"),
        PixelRule((3, 2, 1)),
        np.dstack([STACK[2], STACK[1], STACK[0]]),
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_chosen_is_taken(name: str) -> None:
    make, rule, expected = CHOSEN[name]
    np.testing.assert_array_equal(shown(make(), rule), expected)


@pytest.mark.parametrize(
    ("data", "rule", "words"),
    [
        (encoded(GREY), PixelRule((2,)), "has 1 channel, and no channel 2; choose others by --channel"),
        (encoded(COLOUR), PixelRule((1, 4)), "has 3 channels, and no channel 4"),
        (encoded(GREY), PixelRule(plane=2), "has 1 plane, and no plane 2; choose another by --plane"),
        (JPEG, PixelRule((1,), 3), "has 1 plane, and no plane 3"),
        (
            tiff(TWO, photometric="minisblack", planarconfig="contig"),
            PixelRule((3,)),
            "has 2 channels, and no channel 3",
        ),
        (tiff(STACK), PixelRule(plane=7), "has 6 planes, and no plane 7"),
        (tiff(STACK), PixelRule((7,)), "has 6 channels, and no channel 7"),
        (tiff(STACK), PixelRule((2,), 2), "has 1 channel, and no channel 2"),
        (tiff(STACK[:2], ome=True, metadata={"axes": "CYX"}), PixelRule((3,)), "has 2 channels, and no channel 3"),
        (tiff(STACK[:2], ome=True, metadata={"axes": "CYX"}), PixelRule((1,), 2), "has 1 plane, and no plane 2"),
        (tiff(STACK, ome=True, metadata={"axes": "ZYX"}), PixelRule((1,)), "is an OME-TIFF of 6 slices"),
        (imagej_in_one_page(STACK[:5], images=5, slices=5), PixelRule(plane=6), "has 5 planes, and no plane 6"),
        (imagej_in_one_page(STACK[:5], images=50, slices=50), PixelRule(plane=6), "it says that it holds 50 images"),
        (pages(COLOUR, COLOUR, photometric="rgb"), PixelRule((1, 2)), "and each is a colour image"),
        (pages(GREY, OTHER[:10]), PixelRule((1, 2)), "has channels of different sizes or depths"),
        (tiff(STACK.astype(np.float32)), PixelRule(plane=2), "holds floating-point pixels"),
        (
            tiff(FIVE.astype(np.float32), photometric="minisblack", planarconfig="contig"),
            PixelRule((2,)),
            "floating-point",
        ),
    ],
)
def test_what_is_not_there_cannot_be_chosen(data: bytes, rule: PixelRule, words: str) -> None:
    assert words in refusal(data, rule)


def test_each_composed_channel_has_its_white_level() -> None:
    values = np.dstack([np.full((4, 4), level, np.uint16) for level in (100, 1000, 10000)])
    data = tiff(values, photometric="rgb")
    decoded = decode_image(data, white_level=(200, 1000, 20000), rule=PixelRule((1, 2, 3)))
    assert decoded[0, 0].tolist() == [128, 255, 128]
    two = decode_image(data, white_level=(1000, 100), rule=PixelRule((2, 1)))
    assert two[0, 0].tolist() == [255, 255, 0]


# Bytes that mean harm, and bytes that were damaged


def test_no_other_file_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    data = spread_over_files()

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError(f"opened {arguments}")

    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr("io.open", forbidden)
    assert "is one of several files" in refusal(data)


def test_nothing_is_logged_about_a_user_s_file(caplog: pytest.LogCaptureFixture) -> None:
    for data in (tiff(GREY)[:-300], pages_cut(), raw_tiff(32, 24, GREY.tobytes(), t273=None)):
        refusal(data)
    assert not caplog.records


def test_a_bomb_in_the_metadata_is_never_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(bytes(200_000_000))
    data = with_chunk(with_chunk(encoded(GREY), b"zTXt", b"k\0\0" + bomb), b"iCCP", b"p\0\0" + bomb)
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(shown(data), grey(GREY))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


SAMPLES: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(QUANTISED),
    "JPEG": lambda: with_segment(JPEG, 0xE1, b"Exif\0\0" + b"x" * 20),
    "MPO": lambda: mpo(SMOOTH_COLOUR, 0),
    "TIFF": lambda: tiff(COLOUR, photometric="rgb", compression="lzw", predictor=True, tile=(16, 16)),
    "ImageJ": lambda: imagej_in_one_page(DEEP_STACK[:2], images=2, channels=2),
    "OME": lambda: tiff(STACK[:2], ome=True, metadata={"axes": "CYX"}, bigtiff=True),
    "JPEG in TIFF": lambda: YCBCR_TILES,
    "JPEG 2000": lambda: tiff(GREY, compression="jpeg2000"),
    "BMP": lambda: encoded(QUANTISED, "BMP"),
    "WebP": lambda: encoded(RGBA, "WEBP", lossless=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_are_decoded_or_refused(name: str) -> None:
    random = np.random.default_rng(0)
    whole = SAMPLES[name]()
    headers = min(len(whole), 400)
    for number in range(80):
        data = bytearray(whole)
        for _ in range(int(random.integers(1, 6))):
            # Headers are short and mean most: half of the changes hit the first bytes or the last.
            at = int(
                random.choice(
                    [random.integers(len(data)), random.integers(headers), len(data) - 1 - random.integers(headers)]
                )
            )
            data[at] = int(random.choice([0, 1, 255, random.integers(256)]))
        if number % 4 == 0:
            data = data[: int(random.integers(len(data)))]
        try:
            decoded = shown(bytes(data), PixelRule((1,), 1) if number % 2 else None)
        except InvalidArgument as error:
            assert len(error.message) < 500 and error.message.isprintable()
        else:
            assert decoded.dtype == np.uint8 and decoded.ndim == 3


# The same bytes, the same pixels


def test_the_pixels_of_every_kind_are_those_that_they_were() -> None:
    """If this fails, the same bytes give other pixels: raise DECODER_VERSION, and only then change the digest."""
    digest = hashlib.sha256()
    for name, (make, _) in ACCEPTED.items():
        if not any(word in name for word in ("JPEG", "MPO", "WebP")):  # lossy: their codec's to decide
            digest.update(name.encode() + shown(make()).tobytes())
    assert (DECODER_VERSION, digest.hexdigest()) == (
        1,
        "abd869649c0fb3f0d9281dcb28ab41e480219a7649de0c79769279062153c465",
    )


@pytest.mark.parametrize(
    ("folder", "digest"),
    [
        ("hek_ht1080", "a30a9fceb94e05c591af0e5990e196a7c1bf2403143fae4e8c60770a30108562"),
        ("mitocheck", "5dd8da33a6c700a334666a8f9a8545e6d0c64b9277aed229c87c29727cf3e8fe"),
    ],
)
def test_real_images_decode_as_before_there_was_a_list(folder: str, digest: str) -> None:
    source = real_images(folder)
    found = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.suffix in (".png", ".jpg")):
        pixels = shown(path.read_bytes())
        found.update(str((str(path.relative_to(source)), pixels.shape)).encode() + pixels.tobytes())
    assert found.hexdigest() == digest
