"""Images that a generator made, or its autoencoder: types of their own, which no part of a split can hold (leakage
rule 4).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeVar

from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_data.pixel_rules import ANY_PIXELS, PixelRule
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, RECONSTRUCTIONS, ArtifactName


@dataclass(frozen=True)
class _StoredImages:
    """Every image of an artifact, in the order of its index. Nothing takes one of these: functions name the type.

    Attributes:
        manifest: The artifact's.
        classes: The classes that labels count in: the train part's.
        labels: Position in classes, of each image.
        sha256s: Of each image's bytes, in hexadecimal.
        store: Object storage.
    """

    collection: ClassVar[str]
    white_level: ClassVar[int] = 255  # generated images are 8-bit PNGs
    white_levels: ClassVar[tuple[int, ...]] = (255,)
    pixel_rule: ClassVar[PixelRule] = ANY_PIXELS

    manifest: Manifest
    classes: tuple[str, ...]
    labels: tuple[int, ...] = field(repr=False)
    sha256s: tuple[str, ...] = field(repr=False)
    store: ObjectStore = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.manifest.name.collection != self.collection:
            raise TypeError(f"{self.manifest.name} is not one of {self.collection}")

    def __len__(self) -> int:
        return len(self.sha256s)

    @cached_property
    def digest(self) -> str:
        """Of the content: images and class names in order."""
        return digest_of(
            [[sha256, self.classes[label]] for sha256, label in zip(self.sha256s, self.labels, strict=True)]
        )

    @property
    def index_rows(self) -> range:
        """Positions of the images in the artifact's index: all of them."""
        return range(len(self))

    def images(self) -> Iterator[bytes]:
        """Yields the bytes of each image, in order."""
        for _, data in read_images(self.store, self.manifest, self.index_rows):
            yield data


class SyntheticImages(_StoredImages):
    """The images of an image set."""

    collection = IMAGE_SETS


class ReconstructedImages(_StoredImages):
    """A train part's images, in its order, after a base model's autoencoder."""

    collection = RECONSTRUCTIONS


AnyImages = TypeVar("AnyImages", SyntheticImages, ReconstructedImages)


def open_image_set(store: ObjectStore, name: str, *, classes: Sequence[str], field: str) -> SyntheticImages:
    """The images of an image set, labelled in the classes of a train part.

    Raises:
        FailedPrecondition: It holds a class that isn't among them.
        InvalidArgument: The name isn't an image set's.
        NotFound: There is no such image set.
    """
    manifest = read_manifest(store, ArtifactName.parse(name, field=field, collection=IMAGE_SETS))
    labels = read_index(store, manifest, ["label"])["label"].to_pylist()
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise FailedPrecondition(
            f"{field}: {name} holds class {unknown[0]!r}, which the train part hasn't (it has "
            f"{', '.join(classes)}); use an image set made from an adapter of the same dataset",
            reason="CLASSES_DIFFER",
            metadata={"artifact": name},
        )
    return open_images(SyntheticImages, store, manifest, classes)


def open_images(kind: type[AnyImages], store: ObjectStore, manifest: Manifest, classes: Sequence[str]) -> AnyImages:
    """The images of a manifest, of these classes."""
    index = read_index(store, manifest, ["sha256", "label"])
    positions = {label: position for position, label in enumerate(classes)}
    return kind(
        manifest,
        tuple(classes),
        tuple(positions[label] for label in index["label"].to_pylist()),
        tuple(index["sha256"].to_pylist()),
        store,
    )
