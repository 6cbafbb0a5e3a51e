"""Images that a generator made, or its autoencoder: types of their own, which no part of a split can hold (leakage
rule 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from synthmix.image_data.image_table import SOURCE_LABEL, SOURCES, STRENGTH, StoredImages, read_index
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, RECONSTRUCTIONS, ArtifactName


@dataclass(frozen=True)
class _MadeImages(StoredImages):
    """Every image of an artifact. Nothing takes one of these: functions name the type.

    Attributes:
        classes: The classes that labels count in: the train part's.
        labels: Position in classes, of each image.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """Of the content: images and class names in order."""
        return digest_of(
            [[sha256, self.classes[label]] for sha256, label in zip(self.sha256s, self.labels, strict=True)]
        )


@dataclass(frozen=True)
class BegunFrom:
    """Of each image of an image set the class of the one that it begins from, and how far it went from there.

    Attributes:
        labels: Position in classes.
        strengths: 0 to 1.
    """

    labels: tuple[int, ...] = field(repr=False)
    strengths: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class SyntheticImages(_MadeImages):
    """The images of an image set.

    Attributes:
        sources: Of each image, the sha256s of the train images that it is a child of: its adapter, or each of those
            that were fused, was trained on one alone. None for children of no image in particular.
        begun: The classes of the images that they begin from, if these may be others than their own.
    """

    collection = IMAGE_SETS

    sources: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)
    begun: BegunFrom | None = field(default=None, repr=False)


class ReconstructedImages(_MadeImages):
    """A train part's images, in its order, after a base model's autoencoder."""

    collection = RECONSTRUCTIONS


AnyImages = TypeVar("AnyImages", SyntheticImages, ReconstructedImages)


def open_image_set(store: ObjectStore, name: str, *, classes: Sequence[str], field: str) -> SyntheticImages:
    """The images of an image set, labelled in the classes of a train part.

    Raises:
        FailedPrecondition: It holds a class that is not among them.
        InvalidArgument: The name is not an image set's.
        NotFound: There is no such image set.
    """
    manifest = read_manifest(store, ArtifactName.parse(name, field=field, collection=IMAGE_SETS))
    labels = read_index(store, manifest, ["label"])["label"].to_pylist()
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise FailedPrecondition(
            f"{field}: {name} holds class {unknown[0]!r}, which the train part does not have (its classes are "
            f"{', '.join(classes)}); use an image set made from an adapter of the same dataset",
            reason="CLASSES_DIFFER",
            metadata={"artifact": name},
        )
    images = open_images(SyntheticImages, store, manifest, classes)
    return replace(images, sources=_sources(store, manifest), begun=_begun_from(store, manifest, classes))


def _sources(store: ObjectStore, manifest: Manifest) -> tuple[tuple[str, ...], ...] | None:
    """Of each image, the train images that it is a child of; None if the index does not name any."""
    if not manifest.summary.get(SOURCES):
        return None
    index = read_index(store, manifest, [SOURCES])
    return tuple(tuple(sources) for sources in index[SOURCES].to_pylist())


def _begun_from(store: ObjectStore, manifest: Manifest, classes: Sequence[str]) -> BegunFrom | None:
    if not manifest.summary.get(SOURCE_LABEL):
        return None
    index = read_index(store, manifest, [SOURCE_LABEL, STRENGTH])
    positions = {label: position for position, label in enumerate(classes)}
    labels = tuple(positions[label] for label in index[SOURCE_LABEL].to_pylist())
    return BegunFrom(labels, tuple(index[STRENGTH].to_pylist()))


def open_images(kind: type[AnyImages], store: ObjectStore, manifest: Manifest, classes: Sequence[str]) -> AnyImages:
    """The images of a manifest, of these classes."""
    index = read_index(store, manifest, ["sha256", "label"])
    positions = {label: position for position, label in enumerate(classes)}
    labels = tuple(positions[label] for label in index["label"].to_pylist())
    return kind(manifest, store, tuple(range(len(labels))), tuple(index["sha256"].to_pylist()), tuple(classes), labels)
