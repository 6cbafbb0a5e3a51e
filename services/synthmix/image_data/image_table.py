"""The images of an artifact, as Parquet.

    index.parquet         one row an image: its sha256, where its bytes are, and columns such as label
    images-00000.parquet  a shard: the bytes of at most 2,048 images or about 32 MiB

Files of equal content have equal bytes: the schema is fixed, and nothing in it tells the time.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.image_data.image_payloads import INDEX, shard_name
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.service_kit.artifacts import Manifest, Payload, open_payload, write_payload
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName

# The column of an image set's index with the sha256s of the real images that each image is a child of.
SOURCES = "sources"
# How far the first of these was taken to noise, where images begin from others.
STRENGTH = "strength"
# Where on the circle through two of them it begins as noise, in radians from the first.
ANGLE = "angle"
SHARE = "source_share"
# The class of the image that each begins from, where that may be another than its own.
SOURCE_LABEL = "source_label"
# Of an image set that was imported: the sha256 of the file that each image was read from.
FILE_SHA256 = "file_sha256"
# That of a dataset's index with each image's text in each caption column.
CAPTIONS = "captions"
SHARD_ROWS = 2048
SHARD_BYTES = 32 * 1024 * 1024
ROW_GROUP_ROWS = 256

COLUMN_TYPES: dict[str, pa.DataType] = {
    "path": pa.string(),
    "label": pa.string(),
    "group": pa.string(),
    "mode": pa.string(),
    "prompt": pa.string(),
    "seed": pa.int64(),
    "index": pa.int64(),
    SOURCES: pa.list_(pa.string()),
    STRENGTH: pa.float64(),
    ANGLE: pa.float64(),
    SHARE: pa.float64(),
    SOURCE_LABEL: pa.string(),
    FILE_SHA256: pa.string(),
    "steps": pa.int32(),
    "width_px": pa.int32(),
    "height_px": pa.int32(),
    "perceptual_hash": pa.uint64(),
    "thumbnail": pa.binary(256),
    CAPTIONS: pa.list_(pa.string()),
}
"""Every column that an index may have beside sha256, shard and row: one name has one type in all tables."""

_SHARD_SCHEMA = pa.schema([("sha256", pa.string()), ("data", pa.binary())])
# Image files are compressed already; statistics of them would only copy the largest.
_SHARD_OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


@dataclass(frozen=True)
class StoredImages:
    """Some images of an artifact, in the order of its index. Functions take one of the types that this is the base of.

    Attributes:
        manifest: The artifact's.
        store: Object storage.
        index_rows: Positions in the artifact's index, ascending.
        sha256s: Of each image's bytes, in hexadecimal.
    """

    collection: ClassVar[str]

    manifest: Manifest
    store: ObjectStore = field(repr=False, compare=False)
    index_rows: tuple[int, ...] = field(repr=False)
    sha256s: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.manifest.name.collection != self.collection:
            raise TypeError(f"{self.manifest.name} is not one of {self.collection}")
        if list(self.index_rows) != sorted(set(self.index_rows)):
            raise ValueError("index_rows must ascend")

    def __len__(self) -> int:
        return len(self.index_rows)

    @property
    def white_levels(self) -> tuple[int, ...]:
        """Of each channel that is taken; images that were generated are of 8 bits."""
        summary = self.manifest.summary
        return tuple(summary.get("white_levels", [summary.get("white_level", 255)]))

    @property
    def pixel_rule(self) -> PixelRule:
        """The channels and the plane that are taken of each image."""
        return PixelRule.from_json(self.manifest.summary.get("pixels", {}))

    @property
    def decoding(self) -> dict[str, Any]:
        """What digests hold of brightness and channels: of what was not chosen nothing, so that old ones stay."""
        levels, rule = self.white_levels, self.pixel_rule.to_json()
        return (
            {"white_level": levels[0]}
            | ({"pixels": rule} if rule else {})
            | ({"white_levels": list(levels)} if len(levels) > 1 else {})
        )

    def images(self) -> Iterator[bytes]:
        """Yields the bytes of each image, in order."""
        for _, data in read_images(self.store, self.manifest, self.index_rows):
            yield data


@dataclass(frozen=True)
class Shard:
    """A shard in object storage, and the sha256 of each of its images in order."""

    payload: Payload
    sha256s: list[str]


class ImageTableWriter:
    """Writes the images of an artifact, one at a time: a shard is in memory until it is full."""

    def __init__(self, store: ObjectStore, artifact: ArtifactName):
        self._store = store
        self._artifact = artifact
        self._images: list[bytes] = []  # of the shard that is not written yet
        self._image_bytes = 0
        self._index: dict[str, list[Any]] = {"sha256": [], "shard": [], "row": []}
        self._payloads: list[Payload] = []

    def add(self, data: bytes, **columns: Any) -> str:
        """Adds an image and returns its sha256. Every call gives the same columns, of COLUMN_TYPES."""
        if self._index["sha256"] and set(columns) | {"sha256", "shard", "row"} != set(self._index):
            raise ValueError(f"columns {sorted(columns)} are not those of the first image")
        if len(self._images) == SHARD_ROWS or self._image_bytes + len(data) > SHARD_BYTES:
            self._write_shard()
        sha256 = hashlib.sha256(data).hexdigest()
        row = {"sha256": sha256, "shard": len(self._payloads), "row": len(self._images)} | columns
        for column, value in row.items():
            self._index.setdefault(column, []).append(value)
        self._images.append(data)
        self._image_bytes += len(data)
        return sha256

    def close(self) -> list[Payload]:
        """Writes what is left and the index; returns all payloads, for the manifest."""
        self._write_shard()
        self._payloads.append(write_index(self._store, self._artifact, self._index))
        return list(self._payloads)

    def _write_shard(self) -> None:
        if self._images:
            shard = write_shard(self._store, self._artifact, len(self._payloads), self._images)
            self._payloads.append(shard.payload)
            self._images, self._image_bytes = [], 0


def write_index(store: ObjectStore, artifact: ArtifactName, columns: Mapping[str, Sequence[Any]]) -> Payload:
    """Writes the index: sha256, shard and row of each image, and further columns of COLUMN_TYPES."""
    placed = {"sha256": pa.string(), "shard": pa.int32(), "row": pa.int32()}
    schema = pa.schema([*placed.items(), *((name, COLUMN_TYPES[name]) for name in sorted(set(columns) - set(placed)))])
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema), buffer, compression="zstd")
    return write_payload(store, artifact, INDEX, buffer.getvalue())


def write_shard(store: ObjectStore, artifact: ArtifactName, number: int, images: Sequence[bytes]) -> Shard:
    """Writes one shard. Many workers may write those of one artifact."""
    buffer = io.BytesIO()
    sha256s = [hashlib.sha256(data).hexdigest() for data in images]
    table = pa.table([sha256s, list(images)], schema=_SHARD_SCHEMA)
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, **_SHARD_OPTIONS)
    return Shard(write_payload(store, artifact, shard_name(number), buffer.getvalue()), sha256s)


def read_index(store: ObjectStore, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of an artifact's images, or some of its columns.

    Raises:
        DataLoss: It is not what was written.
        NotFound: The artifact has no images.
    """
    with open_payload(store, manifest, INDEX) as file:
        return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))


def read_images(store: ObjectStore, manifest: Manifest, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Yields (row of the index, bytes of the image) for the rows asked for, each once, in ascending order.

    A shard is downloaded once a node; at most one row group is in memory. Each image's sha256 is checked: the
    shard's was checked when it was downloaded, but the copy in the cache may have been damaged since, and
    hashing costs far less than decoding.

    Raises:
        DataLoss: An image is not what was written.
    """
    index = read_index(store, manifest, ["sha256", "shard", "row"])
    wanted = np.unique(np.asarray(rows, dtype=np.int64))
    shards = index["shard"].to_numpy()[wanted]
    for shard in np.unique(shards):
        yield from _read_shard(store, manifest, int(shard), wanted[shards == shard], index)


def _read_shard(
    store: ObjectStore, manifest: Manifest, shard: int, wanted: np.ndarray, index: pa.Table
) -> Iterator[tuple[int, bytes]]:
    places = index["row"].to_numpy()[wanted]
    with open_payload(store, manifest, shard_name(shard)) as opened, pq.ParquetFile(opened) as file:
        start = 0
        for number in range(file.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            inside = (places >= start) & (places < end)
            if inside.any():
                images = file.read_row_group(number, columns=["data"])["data"]
                for row, place in zip(wanted[inside].tolist(), (places[inside] - start).tolist(), strict=True):
                    data = images[place].as_py()
                    if hashlib.sha256(data).hexdigest() != index["sha256"][row].as_py():
                        raise DataLoss(
                            f"image {row} of {manifest.name} is not what was written (sha256 differs); "
                            f"delete {opened.name} and try again",
                            reason="IMAGE_CORRUPT",
                            metadata={"artifact": str(manifest.name)},
                        )
                    yield row, data
            start = end
