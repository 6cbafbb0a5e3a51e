"""The images of an image set: a type of their own, which no part of a split can hold (leakage rule 4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_data.pixel_rules import ANY_PIXELS, PixelRule
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName


@dataclass(frozen=True)
class SyntheticImages:
    """Every image of an image set, in the order of its index.

    Attributes:
        manifest: The image set's.
        classes: The classes that labels count in: the train part's.
        labels: Position in classes, of each image.
        sha256s: Of each image's bytes, in hexadecimal.
        store: Object storage.
    """

    white_level: ClassVar[int] = 255  # generated images are 8-bit PNGs
    white_levels: ClassVar[tuple[int, ...]] = (255,)
    pixel_rule: ClassVar[PixelRule] = ANY_PIXELS

    manifest: Manifest
    classes: tuple[str, ...]
    labels: tuple[int, ...] = field(repr=False)
    sha256s: tuple[str, ...] = field(repr=False)
    store: ObjectStore = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.manifest.name.collection != IMAGE_SETS:
            raise TypeError(f"{self.manifest.name} isn't an image set")

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


def open_image_set(store: ObjectStore, name: str, *, classes: Sequence[str], field: str) -> SyntheticImages:
    """The images of an image set, labelled in the classes of a train part.

    Raises:
        FailedPrecondition: It holds a class that isn't among them.
        InvalidArgument: The name isn't an image set's.
        NotFound: There is no such image set.
    """
    manifest = read_manifest(store, ArtifactName.parse(name, field=field, collection=IMAGE_SETS))
    index = read_index(store, manifest, ["sha256", "label"])
    positions = {label: position for position, label in enumerate(classes)}
    labels = index["label"].to_pylist()
    unknown = sorted(set(labels) - set(positions))
    if unknown:
        raise FailedPrecondition(
            f"{field}: {name} holds class {unknown[0]!r}, which the train part hasn't (it has "
            f"{', '.join(classes)}); use an image set made from an adapter of the same dataset",
            reason="CLASSES_DIFFER",
            metadata={"artifact": name},
        )
    return SyntheticImages(
        manifest,
        tuple(classes),
        tuple(positions[label] for label in labels),
        tuple(index["sha256"].to_pylist()),
        store,
    )
