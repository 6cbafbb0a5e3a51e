"""The parts of a split: three types, so that nothing made for one can be given another.

A part is rows of one dataset's index. DatasetRows is the only thing that a part can be built from, and it can
be built from a dataset's manifest alone, so that a synthetic image can be in none of them (leakage rule 4). A
generator asks for a train part by open_train_part, which refuses everything else by name (leakage rule 3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_data.pixel_rules import PixelRule, decoding_choice
from synthmix.service_kit.artifacts import Manifest, fetch_payload, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import DATASETS, SPLITS, ArtifactName, PartName

PART_SCHEMA = pa.schema([("row", pa.int32()), ("sha256", pa.string()), ("label", pa.string()), ("group", pa.string())])
"""A part's payload, {train|validation|test}.parquet: rows of the dataset's index, in order."""


@dataclass(frozen=True)
class DatasetRows:
    """Some rows of a dataset's index: real images, with label and group.

    Attributes:
        dataset: The dataset's manifest.
        rows: Positions in the dataset's index, ascending.
        sha256s: Of each image's bytes, in hexadecimal.
        labels: Class names.
        groups: Chips, wells, plates, dates or patients.
    """

    dataset: Manifest
    rows: tuple[int, ...]
    sha256s: tuple[str, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.dataset.name.collection != DATASETS:
            raise TypeError(f"{self.dataset.name} isn't a dataset: only real images can be rows of a split")
        if list(self.rows) != sorted(set(self.rows)):
            raise ValueError("rows must ascend")

    @property
    def white_level(self) -> int:
        """Of the only channel, or of the first."""
        return int(self.dataset.summary["white_level"])

    @property
    def pixel_rule(self) -> PixelRule:
        """The channels and the plane that are taken of each image."""
        return PixelRule.from_json(self.dataset.summary.get("pixels", {}))

    @property
    def white_levels(self) -> tuple[int, ...]:
        """Of each channel that is taken."""
        return tuple(self.dataset.summary.get("white_levels", [self.white_level]))

    @cached_property
    def digest(self) -> str:
        """Of the content: images, labels and groups in order, and how brightness and channels are decoded."""
        images = list(zip(self.sha256s, self.labels, self.groups, strict=True))
        return digest_of(
            {"white_level": self.white_level, "images": images} | decoding_choice(self.pixel_rule, self.white_levels)
        )


@dataclass(frozen=True)
class _Part:
    """What the three parts have in common. Nothing takes one of these: functions name the part they need."""

    part: ClassVar[str]

    name: PartName
    rows: DatasetRows
    store: ObjectStore = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.rows, DatasetRows):
            raise TypeError(f"{type(self).__name__} holds rows of a dataset, not {type(self.rows).__name__}")
        if self.name.part != self.part:
            raise TypeError(f"{self.name} isn't a {self.part} part")

    def __len__(self) -> int:
        return len(self.rows.rows)

    @property
    def digest(self) -> str:
        """What adapters, image sets and trials are addressed by."""
        return self.rows.digest

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of the dataset, sorted."""
        return tuple(sorted(self.rows.dataset.summary["class_counts"]))

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Position in classes, of each image."""
        positions = {label: position for position, label in enumerate(self.classes)}
        return tuple(positions[label] for label in self.rows.labels)

    @property
    def groups(self) -> tuple[str, ...]:
        return self.rows.groups

    @property
    def sha256s(self) -> tuple[str, ...]:
        return self.rows.sha256s

    @property
    def white_level(self) -> int:
        return self.rows.white_level

    @property
    def white_levels(self) -> tuple[int, ...]:
        return self.rows.white_levels

    @property
    def pixel_rule(self) -> PixelRule:
        return self.rows.pixel_rule

    @property
    def manifest(self) -> Manifest:
        """Of the artifact that holds the images."""
        return self.rows.dataset

    @property
    def index_rows(self) -> tuple[int, ...]:
        """Positions of the images in that artifact's index."""
        return self.rows.rows

    def images(self) -> Iterator[bytes]:
        """Yields the bytes of each image, in order."""
        for _, data in read_images(self.store, self.manifest, self.index_rows):
            yield data


class TrainPart(_Part):
    """The only part that a generator may see."""

    part = "train"


class ValidationPart(_Part):
    """Real images that choose epochs, thresholds and ratios."""

    part = "validation"


class TestPart(_Part):
    """Real images that are read once a trial."""

    part = "test"
    __test__ = False  # pytest: a class of ours, not a test case


AnyPart = TypeVar("AnyPart", TrainPart, ValidationPart, TestPart)


def dataset_rows(store: ObjectStore, dataset: Manifest, rows: Sequence[int]) -> DatasetRows:
    """Rows of a dataset's index. Raises TypeError if the manifest is of anything else."""
    if dataset.name.collection != DATASETS:
        raise TypeError(f"{dataset.name} isn't a dataset: only real images can be rows of a split")
    index = read_index(store, dataset, ["sha256", "label", "group"]).take(list(rows))
    return DatasetRows(dataset, tuple(rows), *(tuple(index[name].to_pylist()) for name in ("sha256", "label", "group")))


def open_train_part(store: ObjectStore, name: str, *, field: str) -> TrainPart:
    """The train part that a request names.

    Args:
        store: Object storage.
        name: splits/{id}/parts/train.
        field: The request's field, for errors.

    Raises:
        InvalidArgument: It names a dataset, a whole split, another part, or nothing at all.
        NotFound: There is no such split.
    """
    return _open(TrainPart, store, PartName.parse_train(name, field=field))


def open_split(store: ObjectStore, split_name: str, *, field: str) -> tuple[TrainPart, ValidationPart, TestPart]:
    """The three parts of a split. Raises InvalidArgument naming the field, NotFound, DataLoss."""
    split = ArtifactName.parse(split_name, field=field, collection=SPLITS)
    return (
        _open(TrainPart, store, PartName(split, "train")),
        _open(ValidationPart, store, PartName(split, "validation")),
        _open(TestPart, store, PartName(split, "test")),
    )


def part_summary(split: Manifest, part: str) -> dict[str, Any]:
    """What a split's manifest says of a part: digest, image_count, group_count, class_counts."""
    summary: dict[str, Any] = split.summary["parts"][part]
    return summary


def part_payload(part: str) -> str:
    return f"{part}.parquet"


def _open(kind: type[AnyPart], store: ObjectStore, name: PartName) -> AnyPart:
    split = read_manifest(store, name.split)
    rows = pq.ParquetFile(fetch_payload(store, split, part_payload(name.part))).read(columns=["row"])["row"].to_pylist()
    dataset = read_manifest(store, ArtifactName(DATASETS, split.inputs["dataset"]))
    part = kind(name, dataset_rows(store, dataset, rows), store)
    if part.digest != part_summary(split, name.part)["digest"]:
        raise DataLoss(
            f"{name} isn't what was split: {dataset.name} has changed; import the dataset and split it again",
            reason="SPLIT_CORRUPT",
            metadata={"artifact": str(name.split)},
        )
    return part
