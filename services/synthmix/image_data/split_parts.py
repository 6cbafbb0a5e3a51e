"""The parts of a split: three types, so that nothing made for one can be given another.

A part is rows of one dataset's index, made from a dataset's manifest alone, so that no synthetic image can be in one
(leakage rule 4). A generator asks for a train part by open_train_part, which refuses everything else by name (rule 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.image_data.image_payloads import part_payload
from synthmix.image_data.image_table import StoredImages, read_index
from synthmix.service_kit.artifacts import Manifest, open_payload, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import DATASETS, SPLITS, ArtifactName, PartName

PART_SCHEMA = pa.schema([("row", pa.int32()), ("sha256", pa.string()), ("label", pa.string()), ("group", pa.string())])
"""A part's payload, {train|validation|test}.parquet: rows of the dataset's index, in order."""


@dataclass(frozen=True)
class DatasetRows(StoredImages):
    """Some rows of a dataset's index: real images, with label and group.

    Attributes:
        class_names: Of each image.
        groups: Chips, wells, plates, dates or patients.
    """

    collection = DATASETS

    class_names: tuple[str, ...] = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """Of the content: images, labels and groups in order, and how brightness and channels are decoded.

        Adapters, image sets and trials are addressed by it.
        """
        images = list(zip(self.sha256s, self.class_names, self.groups, strict=True))
        return digest_of({"images": images} | self.decoding)

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of the dataset, sorted."""
        return tuple(sorted(self.manifest.summary["class_counts"]))

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Position in classes, of each image."""
        positions = {label: position for position, label in enumerate(self.classes)}
        return tuple(positions[label] for label in self.class_names)


@dataclass(frozen=True)
class _Part(DatasetRows):
    """What the three parts have in common. Nothing takes one of these: functions name the part they need."""

    part: ClassVar[str]

    name: PartName

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name.part != self.part:
            raise TypeError(f"{self.name} is not a {self.part} part")


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
    """Rows of a dataset's index, ascending."""
    index = read_index(store, dataset, ["sha256", "label", "group"]).take(list(rows))
    sha256s, class_names, groups = (tuple(index[name].to_pylist()) for name in ("sha256", "label", "group"))
    return DatasetRows(dataset, store, tuple(rows), sha256s, class_names, groups)


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
    part = PartName.parse_train(name, field=field)
    split = read_manifest(store, part.split)
    return _open(TrainPart, store, split, _dataset(store, split), part)


def open_split(store: ObjectStore, split_name: str, *, field: str) -> tuple[TrainPart, ValidationPart, TestPart]:
    """The three parts of a split. Raises InvalidArgument naming the field, NotFound, DataLoss."""
    split, dataset = _split_and_dataset(store, split_name, field)
    return (
        _open(TrainPart, store, split, dataset, PartName(split.name, "train")),
        _open(ValidationPart, store, split, dataset, PartName(split.name, "validation")),
        _open(TestPart, store, split, dataset, PartName(split.name, "test")),
    )


def open_without_test(store: ObjectStore, split_name: str, *, field: str) -> tuple[TrainPart, ValidationPart]:
    """The parts of a split by which something may be chosen (leakage rule 6). Raises as open_split does."""
    split, dataset = _split_and_dataset(store, split_name, field)
    return (
        _open(TrainPart, store, split, dataset, PartName(split.name, "train")),
        _open(ValidationPart, store, split, dataset, PartName(split.name, "validation")),
    )


def part_summary(split: Manifest, part: str) -> dict[str, Any]:
    """What a split's manifest says of a part: digest, image_count, group_count, class_counts."""
    summary: dict[str, Any] = split.summary["parts"][part]
    return summary


def _dataset(store: ObjectStore, split: Manifest) -> Manifest:
    return read_manifest(store, ArtifactName(DATASETS, split.inputs["dataset"]))


def _split_and_dataset(store: ObjectStore, split_name: str, field: str) -> tuple[Manifest, Manifest]:
    split = read_manifest(store, ArtifactName.parse(split_name, field=field, collection=SPLITS))
    return split, _dataset(store, split)


def _open(kind: type[AnyPart], store: ObjectStore, split: Manifest, dataset: Manifest, name: PartName) -> AnyPart:
    with open_payload(store, split, part_payload(name.part)) as file:
        rows = pq.ParquetFile(file).read(columns=["row"])["row"].to_pylist()
    found = dataset_rows(store, dataset, rows)
    part = kind(dataset, store, found.index_rows, found.sha256s, found.class_names, found.groups, name)
    if part.digest != part_summary(split, name.part)["digest"]:
        raise DataLoss(
            f"{name} is not what was split: {dataset.name} has changed; import the dataset and split it again",
            reason="SPLIT_CORRUPT",
            metadata={"artifact": str(name.split)},
        )
    return part
