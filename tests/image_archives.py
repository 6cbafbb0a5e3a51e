"""Small images, archives and datasets for the tests of everything that reads images."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control.image_import.importer import import_archive

SIX = ["Interphase", "Apoptosis", "Binuclear", "Polylobed", "Prometaphase", "OutOfFocus"]
"""The six largest classes of mitocheck."""
BY_PLATE = datasets_pb2.GroupRule(pattern=r"(?P<group>plate-\d+)")


def encoded(pixels: np.ndarray | Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def noise(seed: int, *shape: int) -> np.ndarray:
    """uint8 of the shape, (16, 16) if none is given: another picture for each seed."""
    return np.random.default_rng(seed).integers(0, 256, shape or (16, 16), dtype=np.uint8)


def picture(seed: int) -> bytes:
    return encoded(noise(seed))


def plates(
    classes: tuple[str, ...] = ("alpha", "beta"), *, plate_count: int = 6, per_plate: int = 2
) -> dict[str, bytes]:
    """Files of an archive: each plate has as many images of each class."""
    names = [
        f"{label}/plate-{plate}_{number}.png"
        for label in classes
        for plate in range(plate_count)
        for number in range(per_plate)
    ]
    return {name: picture(seed) for seed, name in enumerate(names)}


def zipped(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def imported(store: MemoryObjectStore, archive: Path, **changes: Any) -> ArtifactName:
    """import_archive, with plates as groups unless told otherwise."""
    arguments: dict[str, Any] = {
        "group_rule": BY_PLATE,
        "classes": [],
        "simulated": False,
        "progress": lambda done, total: None,
    }
    return import_archive(store, archive, **(arguments | changes)).name


def dataset(store: MemoryObjectStore, folder: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """A dataset of small images in a store."""
    return read_manifest(store, imported(store, zipped(folder / "images.zip", files or plates()), **changes))
