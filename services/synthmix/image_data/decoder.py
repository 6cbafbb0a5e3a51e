"""What reads the untrusted parts of an archive: its list of files, its manifest, and its images.

An import asks it in a process of its own (decoder_process); tests ask it here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from synthmix.image_data.decoding import ImageFacts, SquareImage, inspect_image, square_image
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.image_data.sources.archive import FIELD, Archive
from synthmix.image_data.sources.group_patterns import pattern_span
from synthmix.image_data.sources.manifests import Columns
from synthmix.image_data.sources.source_listing import Listing, ListingRequest, list_images
from synthmix.service_kit.digests import sha256_of
from synthmix.service_kit.errors import InvalidArgument


@dataclass(frozen=True)
class ListingOptions:
    """How an archive's files are read. All of it is JSON.

    Attributes:
        path_column: The manifest's column of paths.
        label_column: The manifest's column of labels.
        group_column: The manifest's column of groups; None if groups do not come from one.
        pattern: The group pattern; "" if groups do not come from one.
        accept_layout: The top folders are the classes, whatever they look like.
        caption_columns: The columns of captions.
        made: The images were made, so that metadata.jsonl says what is known of each.
        field: The request's field that the archive is, for errors.
    """

    path_column: str
    label_column: str
    group_column: str | None
    pattern: str
    accept_layout: bool
    caption_columns: Sequence[str] = ()
    made: bool = False
    field: str = FIELD

    def request(self) -> ListingRequest:
        return ListingRequest(
            field=self.field,
            columns=Columns(self.path_column, self.label_column, self.group_column, tuple(self.caption_columns)),
            group_span=pattern_span(self.pattern) if self.pattern else None,
            accept_layout=self.accept_layout,
            made=self.made,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Inspected:
    """An image that was decoded: the sha256 of its file, and what it is."""

    sha256: str
    facts: ImageFacts


@dataclass(frozen=True)
class Squared:
    """An image that was decoded and cut to a square: the sha256 of its file, and its pixels."""

    sha256: str
    image: SquareImage


class Decoder(Protocol):
    def listing(self, options: ListingOptions) -> Listing:
        """The images of the archive. Raises InvalidArgument as list_images."""
        ...

    def inspect(self, entries: Sequence[str], rule: PixelRule) -> Iterator[Inspected | InvalidArgument]:
        """Decodes files, in their order. For one that cannot be used it gives the error, which does not name it."""
        ...

    def squares(self, entries: Sequence[str], side_px: int) -> Iterator[Squared | InvalidArgument]:
        """Decodes images that were made, in the order of their files, as decoding.square_image does.

        For one that cannot be used it gives the error, which does not name it.
        """
        ...

    def histograms(self) -> list[np.ndarray]:
        """How often each value occurs in the 16-bit images that were decoded, (65536,) for each channel."""
        ...


class DecoderHere:
    """Decodes in this process."""

    def __init__(self, archive: Archive):
        self._archive = archive
        self._histograms: list[np.ndarray] = []

    def listing(self, options: ListingOptions) -> Listing:
        return list_images(self._archive, options.request())

    def inspect(self, entries: Sequence[str], rule: PixelRule) -> Iterator[Inspected | InvalidArgument]:
        for entry in entries:
            try:
                data = self._archive.read(entry)
                yield Inspected(sha256_of([data]), inspect_image(data, rule=rule, histograms=self._histograms))
            except InvalidArgument as error:
                yield error

    def squares(self, entries: Sequence[str], side_px: int) -> Iterator[Squared | InvalidArgument]:
        for entry in entries:
            try:
                data = self._archive.read(entry)
                yield Squared(sha256_of([data]), square_image(data, side_px))
            except InvalidArgument as error:
                yield error

    def histograms(self) -> list[np.ndarray]:
        return self._histograms
