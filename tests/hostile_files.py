"""Files that try to stop whoever reads them: damaged, absurdly large, of odd kinds, and not what they are called."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from PIL import Image

_BMP = "<IHHIIiiHHIIiiII"
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")


def hostile_images(seed: int = 0) -> dict[str, bytes]:
    """160 files by name: the same ones of the same seed."""
    generator = random.Random(seed)
    found = {f"odd-{number}.{ending}": data for number, (ending, data) in enumerate(_odd())}
    whole = _whole()
    number = 0
    while len(found) < 160:
        ending, data = whole[number % len(whole)]
        damage = _DAMAGES[number // len(whole) % len(_DAMAGES)]
        found[f"damaged-{number}.{ending}"] = damage(generator, data)
        number += 1
    return found


def hostile_tables(seed: int = 0) -> dict[str, bytes]:
    """40 manifests by name: Parquet that is damaged or absurd."""
    generator = random.Random(seed)
    rows = {"path": [f"images/{number}.png" for number in range(500)], "label": ["alpha", "beta"] * 250}
    wholes = []
    for compression in ("none", "snappy", "zstd", "gzip"):
        buffer = io.BytesIO()
        pq.write_table(pa.table(rows), buffer, compression=compression)
        wholes.append(buffer.getvalue())
    buffer = io.BytesIO()  # a few kilobytes become half a gigabyte
    pq.write_table(pa.table({"path": ["a" * 2**20] * 512, "label": ["x"] * 512}), buffer, compression="zstd")
    found = {"bomb.parquet": buffer.getvalue()}
    nested = pa.array([1])
    for _ in range(60):
        nested = pa.StructArray.from_arrays([nested], ["a"])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": nested, "label": ["x"]}), buffer)
    found["nested.parquet"] = buffer.getvalue()
    number = 0
    while len(found) < 40:
        damage = _DAMAGES[number // len(wholes) % len(_DAMAGES)]
        found[f"damaged-{number}.parquet"] = damage(generator, wholes[number % len(wholes)])
        number += 1
    return found


def hostile_archives(whole: bytes, seed: int = 0) -> dict[str, bytes]:
    """40 ZIPs by name: a whole one that is damaged, and others with names that no folder of images has."""
    generator = random.Random(seed)
    names = {
        "deep": "/".join(["a"] * 200) + "/x.png",
        "long": "a" * 5_000 + "/x.png",
        "control": "al\x00\x1b[31mpha/\r\n.png",
        "right to left": "alpha/\u202egnp.exe",
        "device": "alpha/CON.png",
        "dots": "alpha/../../../../etc/passwd.png",
        "empty": "",
        "blank": "   /   .png",
        "slashes": "///" * 50 + "x.png",
    }
    found = {}
    for name, path in names.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number in range(8):
                archive.writestr(zipfile.ZipInfo(f"{number}{path}" if number else path), b"no image")
        found[name] = buffer.getvalue()
    while len(found) < 40:
        damage = _DAMAGES[len(found) % len(_DAMAGES)]
        found[f"damaged-{len(found)}"] = damage(generator, whole)
    return found


def _whole() -> list[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    found = []
    for ending, image_format, options in (
        ("png", "PNG", {}),
        ("jpg", "JPEG", {}),
        ("jpg", "JPEG", {"progressive": True}),
        ("bmp", "BMP", {}),
        ("webp", "WEBP", {}),
        ("tif", "TIFF", {"compression": "tiff_lzw"}),
        ("tif", "TIFF", {"compression": "jpeg"}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, image_format, **options)
        found.append((ending, buffer.getvalue()))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 3, 32, 32), np.uint16), imagej=True, metadata={"axes": "ZCYX"})
    found.append(("tif", buffer.getvalue()))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((2, 32, 32), np.uint16), ome=True)
    found.append(("ome.tif", buffer.getvalue()))
    return found


def _truncated(generator: random.Random, data: bytes) -> bytes:
    return data[: generator.randrange(1, len(data))]


def _flipped(generator: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(8):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def _headless(generator: random.Random, data: bytes) -> bytes:
    """Its header is kept, so that it is taken for what it says; what follows is noise."""
    return data[:32] + generator.randbytes(len(data) - 32)


def _repeated(generator: random.Random, data: bytes) -> bytes:
    start = generator.randrange(len(data))
    return data[:start] + data[start : start + 64] * 50 + data[start:]


def _zeroed(generator: random.Random, data: bytes) -> bytes:
    start = generator.randrange(8, len(data))
    return data[:start] + bytes(min(200, len(data) - start)) + data[start + 200 :]


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (_truncated, _flipped, _headless, _repeated, _zeroed)


def _odd() -> Iterator[tuple[str, bytes]]:
    for mode in _MODES:
        for ending, image_format in (("png", "PNG"), ("tif", "TIFF"), ("bmp", "BMP")):
            buffer = io.BytesIO()
            try:
                Image.new(mode, (9, 7)).save(buffer, image_format)
            except (OSError, ValueError):
                continue
            yield ending, buffer.getvalue()
    yield "png", b""
    yield "png", b"\x89PNG\r\n\x1a\n"
    yield "png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "jpg", _png(4, 4)  # a PNG that is called JPEG
    yield "tif", b"MZ" + bytes(1000)
    yield "png", _png(2**31 - 1, 2**31 - 1)
    yield "png", _png(60_000, 60_000)
    yield "png", _png(1, 2**31 - 1)
    yield "png", _png(0, 0)
    yield "png", _png(8_000, 8_000, rows=zlib.compress(bytes(8_000 * 8_001)))  # 64 MB from 64 kB: is within the limit
    yield "png", _png(8_000, 8_000, rows=zlib.compress(bytes(200)))
    yield "tif", _tiff(2**32 - 1, 2**32 - 1)
    yield "tif", _tiff(1, 2**32 - 1)
    yield "tif", _tiff(100, 100, next_offset=8)  # its list of pages never ends
    yield (
        "bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 1, 1, 0, 0),
    )
    yield "bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 4, -(2**31), 1, 8, 1, 0, 1, 1, 2**31, 0)
    yield "webp", b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8X" + bytes(40)
    yield "jpg", b"\xff\xd8\xff\xe0" + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(30)


def _png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _tiff(width: int, height: int, next_offset: int = 0) -> bytes:
    entries = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 200), (279, 4, 100))
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + struct.pack("<I", next_offset) + bytes(300)
