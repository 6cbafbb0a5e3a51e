"""The images of an image set in forms that other programs read: ImageFolder, ZIP and WebDataset, with what is known of
each.

pyarrow is imported when it is needed, since the extra `parquet` brings it.
"""

import io
import itertools
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix.client.outputs import check_free
from synthmix.image_data.image_payloads import INDEX, shard_name
from synthmix.service_kit.errors import check_choice, invalid_field
from synthmix.service_kit.extras import extra
from synthmix.service_kit.storage_space import writing_to

METADATA = "metadata.jsonl"
CLASSES = "classes.json"
# Where an image is in object storage says nothing outside of it.
_PLACES = ("shard", "row", "index")
_ROWS_AT_ONCE = 256
# Of a WebDataset's tar file: some hundred megabytes of the largest images, and few files of small ones.
IMAGES_OF_A_SHARD = 2000
_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class Image:
    """One image that is exported.

    Attributes:
        number: From 0, in the order of the image set.
        label: Its class.
        known: What the index says of it, such as its prompt, seed and sources.
    """

    number: int
    label: str
    known: dict[str, Any]
    png: bytes


Add = Callable[[str, bytes], None]
"""Adds a file of this name."""


@dataclass(frozen=True)
class Format:
    """A form of image sets.

    Attributes:
        suffix: What the name of its file ends in; "" for a folder.
        write: Writes images at a path, with a folder's name for each class.
    """

    suffix: str
    write: Callable[[Iterable[Image], dict[str, str], Path], None]


def check_export(format_name: str, out: Path) -> None:
    """Raises InvalidArgument, AlreadyExists and FailedPrecondition before anything is fetched.

    They are for what is no format or is not named as it is, for a path at which something is, and without pyarrow.
    """
    check_choice("format", format_name, FORMATS)
    suffix = FORMATS[format_name].suffix
    if suffix and out.suffix != suffix:
        raise invalid_field("out", str(out), f"is the name of a file that does not end in {suffix}", f"add {suffix}")
    check_free(out)
    with extra("parquet", "exporting images"):
        import pyarrow  # noqa: F401


def write_images(format_name: str, stored: Path, out: Path) -> int:
    """Writes the images whose payloads are in a folder, in a form that `check_export` takes. Returns how many they are.

    Raises:
        ResourceExhausted: The disk has no room for them.
    """
    import pyarrow.parquet as pq

    index = pq.read_table(stored / INDEX).to_pylist()
    with writing_to(out.parent):
        FORMATS[format_name].write(_images(stored, index), folder_names({row["label"] for row in index}), out)
    return len(index)


def _images(stored: Path, index: list[dict[str, Any]]) -> Iterator[Image]:
    """In the order of the index, which is that of the shards and of their rows."""
    import pyarrow.parquet as pq

    number = 0
    for shard in sorted({row["shard"] for row in index}):
        file = pq.ParquetFile(stored / shard_name(shard))
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["data"]):
            for data in batch["data"]:
                row = index[number]
                known = {name: value for name, value in row.items() if name not in (*_PLACES, "label")}
                yield Image(number, row["label"], known, data.as_py())
                number += 1


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder's name for each class: its label where that can be one, and no two the same on any file system."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in sorted(labels):
        name = wanted = _UNSAFE.sub("_", label).strip(".")[:100] or "_"
        again = 1
        while name.casefold() in taken:
            again += 1
            name = f"{wanted}-{again}"
        taken.add(name.casefold())
        names[label] = name
    return names


def _write_files(images: Iterable[Image], folders: dict[str, str], add: Add) -> None:
    """ImageFolder: a folder for each class, and a line for each image."""
    lines = []
    for image in images:
        name = f"{folders[image.label]}/{image.number:06d}.png"
        add(name, image.png)
        lines.append(_json({"file_name": name, "label": image.label, **image.known}) + b"\n")
    add(METADATA, b"".join(lines))


def _image_folder(images: Iterable[Image], folders: dict[str, str], out: Path) -> None:
    out.mkdir()
    for folder in folders.values():
        (out / folder).mkdir()

    def add(name: str, data: bytes) -> None:
        (out / name).write_bytes(data)

    _write_files(images, folders, add)


def _zip(images: Iterable[Image], folders: dict[str, str], out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already

        def add(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name)  # of no time, so that a file has the same bytes whenever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)

        _write_files(images, folders, add)


def _web_dataset(images: Iterable[Image], folders: dict[str, str], out: Path) -> None:
    """Shards of samples of three files each: the image, its class counted from 0, and what is known of it."""
    out.mkdir()
    classes = sorted(folders)
    (out / CLASSES).write_text(json.dumps(classes, ensure_ascii=False), "utf-8")
    for shard, of_shard in itertools.groupby(images, lambda image: image.number // IMAGES_OF_A_SHARD):
        with tarfile.open(out / f"images-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for image in of_shard:
                key = f"{image.number:06d}"
                _add_to_tar(archive, f"{key}.png", image.png)
                _add_to_tar(archive, f"{key}.cls", str(classes.index(image.label)).encode())
                _add_to_tar(archive, f"{key}.json", _json({"label": image.label, **image.known}))


def _add_to_tar(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Without a time, so that a file has the same bytes whenever it is written."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


FORMATS = {
    "imagefolder": Format("", _image_folder),
    "zip": Format(".zip", _zip),
    "webdataset": Format("", _web_dataset),
}
