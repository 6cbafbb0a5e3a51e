"""Decoded and resized images, made once a node and mapped into memory by every worker process on it."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from synthmix.image_data.decoding import DECODER_VERSION, decode_image, to_square
from synthmix.image_data.image_table import read_images
from synthmix.image_data.split_parts import TestPart, TrainPart, ValidationPart
from synthmix.image_data.synthetic_images import ReconstructedImages, SyntheticImages
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import cache_folder
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.storage_space import writing_to


def pixels(
    store: ObjectStore,
    source: TrainPart | ValidationPart | TestPart | SyntheticImages | ReconstructedImages,
    size_px: int,
) -> np.ndarray:
    """The images of a part or of an artifact, in order, as square RGB of one size.

    The first process on a node decodes them into a file of the cache while the others wait; all then map the
    same file, so that its pages are in memory once.

    Returns:
        (images, size_px, size_px, 3) uint8, read-only, mapped from a file.

    Raises:
        DataLoss: Object storage or the cache does not hold what was written.
        InvalidArgument: An image cannot be decoded.
    """
    shape = (len(source), size_px, size_px, 3)
    key = digest_of(
        {"sha256s": list(source.sha256s), "size_px": size_px, "decoder_version": DECODER_VERSION} | source.decoding
    )
    path = cache_folder() / "pixels" / f"{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            return mapped
        except FileNotFoundError:
            pass  # not made yet; or made, and the cache emptied before it was opened
        with _locked(path.with_suffix(".lock")):
            if not path.exists():
                images = (
                    decode_image(data, white_level=source.white_levels, rule=source.pixel_rule)
                    for _, data in read_images(store, source.manifest, source.index_rows)
                )
                _write(path, shape, (to_square(image, size_px) for image in images))


def _write(path: Path, shape: tuple[int, ...], images: Iterator[np.ndarray]) -> None:
    """Writes an .npy file that appears only when it is whole. The caller holds the lock."""
    for abandoned in path.parent.glob(f"{path.stem}.*.partial"):
        abandoned.unlink(missing_ok=True)  # its writer was killed: it held this lock
    # Not a memory map: writing to one on a full disk kills the process instead of raising.
    with (
        writing_to(path.parent),
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.stem}.", suffix=".partial", delete=False) as file,
    ):
        try:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for image in images:
                file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes, which the kernel releases if this one is killed."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
