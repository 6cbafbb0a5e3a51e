"""Decoded and resized images, made once a node and mapped into memory by every worker process on it."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from synthmix.image_data.decoding import DECODER_VERSION, decode_image, to_square
from synthmix.image_data.image_table import read_images
from synthmix.image_data.split_parts import TestPart, TrainPart, ValidationPart
from synthmix.image_data.synthetic_images import ReconstructedImages, SyntheticImages
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.node_cache import open_cached
from synthmix.service_kit.object_store import ObjectStore

Source = TrainPart | ValidationPart | TestPart | SyntheticImages | ReconstructedImages


def pixels(store: ObjectStore, source: Source, size_px: int) -> np.ndarray:
    """The images of a part or of an artifact, in order, as square RGB of one size.

    The first process on a node decodes them into a file of the cache while the others wait; all then map the
    same file, so that its pages are in memory once.

    Returns:
        (images, size_px, size_px, 3) uint8, read-only, mapped from a file.

    Raises:
        DataLoss: Object storage or the cache does not hold what was written.
        InvalidArgument: An image cannot be decoded.
        ResourceExhausted: They do not fit into the cache.
    """
    shape = (len(source), size_px, size_px, 3)
    key = digest_of(
        {"sha256s": list(source.sha256s), "size_px": size_px, "decoder_version": DECODER_VERSION} | source.decoding
    )

    def decode(path: Path) -> None:
        _write(path, shape, _decoded(store, source, source.index_rows, size_px))

    size_bytes = len(_header(shape)) + math.prod(shape)
    with open_cached("pixels", f"{key}.npy", size_bytes, decode) as file:
        # The map holds the file, and so its place in the cache, for as long as the array lives.
        return np.memmap(file, dtype=np.uint8, mode="r", offset=len(_header(shape)), shape=shape)


def image_side_px(store: ObjectStore, image_set: Manifest) -> int:
    """The side of an image set's square images."""
    [(_, png)] = read_images(store, image_set, [0])
    side_px: int = Image.open(io.BytesIO(png), formats=["PNG"]).size[0]
    return side_px


def some_pixels(store: ObjectStore, source: Source, rows: Sequence[int], size_px: int) -> np.ndarray:
    """As `pixels`, of some images alone: they are decoded here, and not kept.

    Args:
        rows: Positions among the source's images, ascending.

    Returns:
        (rows, size_px, size_px, 3) uint8.
    """
    return np.stack(list(_decoded(store, source, [source.index_rows[row] for row in rows], size_px)))


def are_grey(images: np.ndarray) -> bool:
    """Whether images have no colour, as what is made like them is to have none then.

    Args:
        images: (images, height, width, 3).
    """
    return bool(np.all(images == images[..., :1]))


def _decoded(store: ObjectStore, source: Source, index_rows: Sequence[int], size_px: int) -> Iterator[np.ndarray]:
    for _, data in read_images(store, source.manifest, index_rows):
        yield to_square(decode_image(data, white_level=source.white_levels, rule=source.pixel_rule), size_px)


def _header(shape: tuple[int, ...]) -> bytes:
    """What an .npy file of the pixels begins with."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _write(path: Path, shape: tuple[int, ...], images: Iterator[np.ndarray]) -> None:
    # Not a memory map: writing to one on a full disk kills the process instead of raising.
    with path.open("wb") as file:
        file.write(_header(shape))
        for image in images:
            file.write(image.tobytes())
        file.flush()
        os.fsync(file.fileno())
