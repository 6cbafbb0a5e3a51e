"""Whether a split's validation and test images were seen by the generator of an imported image set, or are in it.

Of an adapter that was trained here the train part is known, so that digests are compared. What another program learnt
from is the importer's statement, image by image (image_data.seen_images). What of a split's dataset was seen and is not
held out is in the train part, of whose groups none is held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from synthmix.image_data.fingerprints import near_duplicates
from synthmix.image_data.image_table import read_index
from synthmix.image_data.seen_images import own_files, read_seen
from synthmix.image_data.split_parts import open_split
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import unmet_precondition
from synthmix.service_kit.object_store import ObjectStore

MOST_EXAMPLES = 3
# Of the comparison by fingerprints, which a front end makes: some 3 nanoseconds each.
MOST_PAIRS = 1_000_000_000


@dataclass(frozen=True)
class _HeldOut:
    """The validation and test images of a split.

    Attributes:
        parts: Of each image.
        sha256s: Of each image's file.
        index: Path, perceptual_hash and thumbnail of each.
        train_sha256s: The split's train images, for comparison.
    """

    parts: tuple[str, ...]
    sha256s: tuple[str, ...]
    index: pa.Table
    train_sha256s: frozenset[str]

    def shown(self, row: int) -> str:
        return f"{self.index['path'][row].as_py()} ({self.parts[row]})"


def check_held_out(store: ObjectStore, image_set: Manifest, split: str, *, field: str) -> None:
    """Raises FailedPrecondition if an imported image set carries validation or test images of a split into training.

    The sha256s of held-out images are read for it, and nothing that shows.

    Args:
        split: splits/{id}.
    """
    held_out = _held_out(store, split)
    for sha256s, found, remedy in (
        (
            read_seen(store, image_set)["sha256"].to_pylist(),
            f"the generator of {image_set.name}, which was imported, saw",
            "use a split whose train part holds what it saw, or an image set whose generator did not see them",
        ),
        (
            own_files(store, image_set),
            f"{image_set.name}, which was imported, holds",
            "import the images that were made, without these",
        ),
    ):
        known = set(sha256s)
        rows = [row for row, sha256 in enumerate(held_out.sha256s) if sha256 in known]
        if rows:
            raise unmet_precondition(
                field,
                f"{found} {len(rows):,} of the {len(held_out.sha256s):,} validation and test images of {split}, such "
                f"as {held_out.shown(rows[0])}, so that they would be trained on and tested with; {remedy}",
                reason="HELD_OUT_IMAGES_SEEN",
                metadata={"artifact": str(image_set.name), "images": str(len(rows))},
            )


def near_duplicate_warnings(store: ObjectStore, image_set: Manifest, split: str) -> list[str]:
    """Validation and test images that look the same as images that the generator saw, or as those of the image set.

    As between the parts of a split, these are told and not refused: two images may look the same by chance. What was
    seen and is in the split's own train part is not compared again, since the split's warnings say it.
    """
    held_out = _held_out(store, split)
    seen = read_seen(store, image_set)
    rows = [
        row
        for row, (sha256, bits) in enumerate(
            zip(seen["sha256"].to_pylist(), seen["perceptual_hash"].to_pylist(), strict=True)
        )
        if bits is not None and sha256 not in held_out.train_sha256s
    ]
    made = read_index(store, image_set, ["perceptual_hash", "thumbnail"])
    return [
        *_warnings(held_out, seen.take(np.array(rows, np.int64)), f"images that the generator of {image_set.name} saw"),
        *_warnings(held_out, made, f"images of {image_set.name}"),
    ]


def _warnings(held_out: _HeldOut, others: pa.Table, what: str) -> list[str]:
    pairs = len(held_out.sha256s) * len(others)
    if pairs > MOST_PAIRS:
        return [
            f"validation and test images were not compared with {what} by their looks: {pairs:,} pairs are too many"
        ]
    found = near_duplicates(*_prints(held_out.index), *_prints(others), most_examples=MOST_EXAMPLES)
    if not found.count:
        return []
    shown = ", ".join(dict.fromkeys(held_out.shown(pair.left) for pair in found.examples))
    return [
        f"{found.count:,} pairs of validation or test images and {what} are near duplicates, which make results too "
        f"optimistic: {shown}{' and others' if found.count > MOST_EXAMPLES else ''}"
    ]


def _prints(index: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, and thumbnails (images, 256)."""
    thumbnails: Sequence[bytes] = index["thumbnail"].to_pylist()
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(len(thumbnails), -1 if thumbnails else 256)
    return np.asarray(index["perceptual_hash"].to_pylist(), np.uint64), pixels


def _held_out(store: ObjectStore, split: str) -> _HeldOut:
    train, *parts = open_split(store, split, field="split")
    index = read_index(store, train.manifest, ["path", "perceptual_hash", "thumbnail"])
    return _HeldOut(
        tuple(part.part for part in parts for _ in part.sha256s),
        tuple(sha256 for part in parts for sha256 in part.sha256s),
        index.take([row for part in parts for row in part.index_rows]),
        frozenset(train.sha256s),
    )
