"""Captions: texts that a dataset has for its images beside their classes, and those of them that a generator may read.

The index of such a dataset has a column `captions`, each image's texts in the order of its caption columns, which the
manifest's summary names. An image without a text in a column has "" there.
"""

import json
from collections.abc import Sequence

from synthmix.image_data.image_table import CAPTIONS, read_index
from synthmix.image_data.sources.user_text import compared
from synthmix.image_data.split_parts import TrainPart
from synthmix.service_kit.adapter_payloads import CAPTIONS_FILE
from synthmix.service_kit.artifacts import Manifest, read_payload
from synthmix.service_kit.digests import canonical_json, digest_of
from synthmix.service_kit.errors import check_choice, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import listed
from synthmix.service_kit.seeds import derived_seed

# In a summary.
COLUMNS = "caption_columns"
# The prompt of an adapter with captions whose user has not said another.
CAPTION_ALONE = "{caption}"
MOST_NAMED = 3


def caption_columns(dataset: Manifest) -> list[str]:
    """The names of a dataset's caption columns, in the order of its index's texts."""
    return list(dataset.summary.get(COLUMNS, ()))


def digest_of_captions(columns: Sequence[str], captions: Sequence[Sequence[str]]) -> str:
    """What a dataset's own digest has of its captions.

    Args:
        captions: Of each image, the text of each column.
    """
    return digest_of([list(columns), [list(texts) for texts in captions]])


def without_caption(columns: Sequence[str], captions: Sequence[Sequence[str]]) -> list[str]:
    """A warning for each column in which images have no text."""
    missing = [sum(not texts[number] for texts in captions) for number in range(len(columns))]
    return [
        f"{count:,} of {len(captions):,} images have no text in the caption column {column!r}; no adapter can be "
        "trained with it while any train image has none"
        for column, count in zip(columns, missing, strict=True)
        if count
    ]


def train_captions(store: ObjectStore, part: TrainPart, column: str, *, field: str) -> tuple[str, ...]:
    """The caption of each image of a train part. Of no other part's images is any read (leakage rule 3).

    Args:
        column: Compared without case and surrounding blanks.
        field: The request's field that names it, for errors.

    Raises:
        InvalidArgument: The dataset has no such column, or a train image has no text in it.
    """
    columns = caption_columns(part.manifest)
    if not columns:
        raise invalid_field(
            field,
            column,
            f"is a caption column, and {part.manifest.name} has none",
            "import the dataset again with --caption-column, or leave it out",
            reason="NO_CAPTIONS",
        )
    known = [compared(name) for name in columns]
    if compared(column) not in known:
        check_choice(field, column, columns)
    position = known.index(compared(column))
    index = read_index(store, part.manifest, ["path", CAPTIONS]).take(list(part.index_rows))
    captions = [texts[position] for texts in index[CAPTIONS].to_pylist()]
    missing = [path for path, text in zip(index["path"].to_pylist(), captions, strict=True) if not text]
    if missing:
        raise invalid_field(
            field,
            column,
            f"has no text for {len(missing):,} of {len(captions):,} train images ({listed(missing, MOST_NAMED)})",
            "write their captions and import the dataset again, or leave these images out of it",
            reason="CAPTION_MISSING",
        )
    return tuple(captions)


def captions_of_classes(labels: Sequence[str], captions: Sequence[str]) -> dict[str, list[str]]:
    """The captions of each class's images.

    Args:
        labels, captions: Of each image.
    """
    of_classes: dict[str, list[str]] = {}
    for label, caption in zip(labels, captions, strict=True):
        of_classes.setdefault(label, []).append(caption)
    return of_classes


def captions_file(part: TrainPart, captions: Sequence[str]) -> bytes:
    """What an adapter is stored with, so that images can be asked for with its train images' captions."""
    return canonical_json(captions_of_classes(part.class_names, captions))


def adapter_captions(store: ObjectStore, adapter: Manifest) -> dict[str, list[str]]:
    """The captions of the train images of each class that an adapter was trained with; none of one without captions."""
    if CAPTIONS_FILE not in {payload.name for payload in adapter.payloads}:
        return {}
    captions: dict[str, list[str]] = json.loads(read_payload(store, adapter, CAPTIONS_FILE))
    return captions


def drawn_caption(captions: Sequence[str], prompt: str, label: str, seed: int, number: int) -> str:
    """The caption of a class's n-th image that is to be made, drawn from those of its train images.

    "" for a prompt that asks for none. It depends on nothing but the class's captions, the seed and the number.
    """
    if "{caption}" not in prompt:
        return ""
    return captions[derived_seed(seed, "caption", label, number) % len(captions)]
