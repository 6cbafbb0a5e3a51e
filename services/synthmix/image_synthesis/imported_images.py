"""From an uploaded ZIP of images that another program made to the payloads of an image set."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synthmix.image_data.decoder import Decoder, ListingOptions, Squared
from synthmix.image_data.fingerprints import Fingerprint
from synthmix.image_data.image_table import FILE_SHA256, SOURCE_LABEL, SOURCES, ImageTableWriter
from synthmix.image_data.seen_images import SEEN_COUNT, write_seen
from synthmix.image_data.sources.archive import Archive, ArchiveLimits, open_archive
from synthmix.image_data.sources.manifests import LABEL_COLUMN, PATH_COLUMN
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_listing import ListedImage
from synthmix.image_synthesis.importing import FIELD, SEEN
from synthmix.service_kit.artifacts import Payload
from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName


@dataclass(frozen=True)
class ReadImages:
    """What was written of an upload.

    Attributes:
        payloads: Shards, index and what was seen.
        summary: For the manifest.
        class_images: Images of each class.
    """

    payloads: tuple[Payload, ...]
    summary: dict[str, Any]
    class_images: dict[str, int]


def read_images(
    store: ObjectStore,
    target: ArtifactName,
    archive: Path,
    *,
    seen: Mapping[str, Fingerprint | None],
    image_size: int,
    accept_layout: bool,
    limits: ArchiveLimits,
    decoder: Callable[[Path, Archive], AbstractContextManager[Decoder]],
    report: Callable[[int, int], None],
) -> ReadImages:
    """Decodes each image, and writes it as images that are made here are written.

    Nothing that came with the upload is stored as it came: a PNG is written of each image's pixels.

    Args:
        target: The image set.
        archive: The ZIP, a local file.
        seen: The real images that the generator is said to have seen, with their fingerprints if these are known; none
            if it is said to have seen none.
        image_size: The side to which the images' centre squares are resized; 0 leaves them as they are.
        accept_layout: The top folders are the classes, whatever they look like.
        limits: What the archive may declare.
        decoder: What decodes the archive's images and metadata.
        report: Called with (images done, images in all).

    Raises:
        InvalidArgument: The archive, its metadata or an image in it cannot be used; images are of different sides; or
            the metadata names sources though none is said to have been seen.
    """
    options = ListingOptions(PATH_COLUMN, LABEL_COLUMN, None, "", accept_layout, made=True, field=FIELD)
    with open_archive(archive, limits, field=FIELD) as opened, decoder(archive, opened) as decoding:
        listed = sorted(decoding.listing(options).images, key=lambda image: (image.label, image.path))
        sources = {sha256 for image in listed for sha256 in image.known.get(SOURCES, ())}
        if sources and not seen:
            _contradicted(listed)
        table = ImageTableWriter(store, target)
        side_px = _write(
            table, listed, _usable(listed, decoding.squares([item.entry for item in listed], image_size)), report
        )
    all_seen = dict.fromkeys(sources) | dict(seen)
    return ReadImages(
        payloads=(*table.close(), write_seen(store, target, all_seen)),
        summary={
            "image_count": len(listed),
            "image_size": side_px,
            SEEN_COUNT: len(all_seen),
            **{column: True for column in (SOURCES, SOURCE_LABEL) if column in listed[0].known},
        },
        class_images=dict(sorted(Counter(image.label for image in listed).items())),
    )


def _write(
    table: ImageTableWriter,
    listed: Sequence[ListedImage],
    squares: Iterator[tuple[ListedImage, Squared]],
    report: Callable[[int, int], None],
) -> int:
    """Writes the images, and returns their side. Raises InvalidArgument if some have another than the first."""
    side_px, others = 0, []
    for number, (image, squared) in enumerate(squares):
        pixels, fingerprint = squared.image.pixels, squared.image.fingerprint
        side_px = side_px or len(pixels)
        if len(pixels) != side_px:
            others.append(f"{image.entry} has a side of {len(pixels)} pixels")
            continue
        table.add(
            _png(pixels),
            label=image.label,
            index=number,
            perceptual_hash=fingerprint.perceptual_hash,
            thumbnail=fingerprint.thumbnail,
            **{FILE_SHA256: squared.sha256},
            **image.known,
        )
        report(number + 1, len(listed))
    if others:
        raise refused_files(
            FIELD,
            f"images are not of the side of the first, {listed[0].entry}, which is {side_px} pixels",
            others,
            "say a side with --image-size (image_size), to which each image's centre square is resized",
            reason="IMAGE_SIZES_DIFFER",
        )
    return side_px


def _usable(
    listed: Sequence[ListedImage], squares: Iterator[Squared | InvalidArgument]
) -> Iterator[tuple[ListedImage, Squared]]:
    """Yields each image that could be decoded. Raises InvalidArgument after the last one for those that could not."""
    problems = []
    # A decoder that gives an archive up answers for the first of its files alone, and has said why.
    for image, found in zip(listed, squares, strict=False):
        if isinstance(found, InvalidArgument):
            problems.append(f"{image.entry} {found.message}")
        else:
            yield image, found
    if problems:
        raise refused_files(
            FIELD, "images cannot be used", problems, "fix them or leave them out", reason="IMAGE_UNREADABLE"
        )


def _contradicted(listed: Sequence[ListedImage]) -> None:
    """Raises InvalidArgument for sources of images whose generator is said to have seen none."""
    with_sources = [image for image in listed if image.known.get(SOURCES)]
    raise invalid_field(
        f"{SEEN}.none",
        True,
        f"says that the generator saw no real image, and metadata names sources of {len(with_sources):,} images, such "
        f"as {with_sources[0].entry}",
        "say which it saw, by --saw or --saw-list",
        reason="SEEN_CONTRADICTED",
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
