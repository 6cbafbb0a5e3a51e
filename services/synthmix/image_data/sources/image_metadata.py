"""What metadata.jsonl says of images that were made: class, prompt, seed, and the real images that they come from.

`synthmix images export` writes it beside the class folders, and an import of such images reads it. Only the standard
library: the client imports it too.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from synthmix.image_data.sources.json_lines import read_json_objects
from synthmix.image_data.sources.manifest_paths import find_files
from synthmix.image_data.sources.manifests import Row
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_account import shown
from synthmix.image_data.sources.user_text import normalised
from synthmix.service_kit.errors import invalid_field

FILE_NAME = "file_name"
LABEL = "label"
PROMPT, SEED, SOURCES, STRENGTH, SOURCE_LABEL = "prompt", "seed", "sources", "strength", "source_label"
LONGEST_PROMPT = 10_000
MOST_SOURCES = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_PROMPT:
        raise ValueError(f"is not a text of at most {LONGEST_PROMPT:,} characters")
    return value


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError("is not a whole number of 64 bits")
    return value


def _sources(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_SOURCES or not all(map(_is_sha256, value)):
        raise ValueError(f"is not a list of 1 to {MOST_SOURCES} sha256s, of 64 hexadecimal digits each")
    return tuple(value)


def _strength(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and 0 < value <= 1):
        raise ValueError("is not a number above 0 and up to 1")
    return float(value)


def _source_label(value: Any) -> str:
    if not isinstance(value, str) or not normalised(value):
        raise ValueError("is not a class")
    return normalised(value)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


KNOWN: dict[str, Callable[[Any], Any]] = {
    PROMPT: _prompt,
    SEED: _seed,
    SOURCES: _sources,
    STRENGTH: _strength,
    SOURCE_LABEL: _source_label,
}
"""What is kept of metadata beside the class, under the names that an image set's index has. All else is left out."""
# What a source's class says of a soft label needs how far the image went from there.
_NEEDS = {STRENGTH: SOURCES, SOURCE_LABEL: STRENGTH}


@dataclass(frozen=True)
class ImageMetadata:
    """What metadata says of an image.

    Attributes:
        label: Its class, normalised; "" where the folder says it.
        known: Values of KNOWN; the same ones of each image.
    """

    label: str
    known: dict[str, Any]


def read_metadata(
    data: bytes, name: str, *, top: str, images: Collection[str], files: Collection[str], field: str
) -> dict[str, ImageMetadata]:
    """What is said of each image, by its path in the source.

    Args:
        data: The file.
        name: Its name, for errors.
        top: The folder that it lies in, with a slash, or "": what its paths are relative to.
        images: The paths of the images in class folders. Each has one line.
        files: The paths of all files.
        field: The request's field that the source is.

    Raises:
        InvalidArgument: It cannot be read; a line names no image, or another line's; an image has no line; a value is
            not what its name means; or something is said of some images and not of others.
    """
    objects = dict(read_json_objects(data, name, field=field))
    rows, problems = [], []
    for number, value in objects.items():
        path = value.get(FILE_NAME)
        if isinstance(path, str) and path.strip():
            rows.append(Row(number, path, "", None))
        else:
            problems.append(f"row {number} has no {FILE_NAME}")
    found, not_found = find_files(rows, top, files)
    problems += not_found
    metadata: dict[str, ImageMetadata] = {}
    for row, path in found:
        if top + path not in images:
            problems.append(f"row {row.number}: {shown(path)} is not an image in a class folder")
            continue
        try:
            metadata[top + path] = _of_image(objects[row.number])
        except ValueError as error:
            problems.append(f"row {row.number}: {shown(path)}: {error}")
    if not problems:
        without = sorted(set(images) - metadata.keys())
        problems += [f"{shown(path)} has no row" for path in without]
    if problems:
        raise refused_files(
            field,
            f"rows of {name} are unusable",
            problems,
            f"fix {name}: paths are relative to its folder, each image has one row, and sources are the sha256s of "
            "real images' files",
            reason="METADATA_INVALID",
        )
    _check_of_all(list(metadata.values()), name, field)
    return metadata


def _of_image(value: dict[str, Any]) -> ImageMetadata:
    """Raises ValueError."""
    label = value.get(LABEL)
    if label is not None and (not isinstance(label, str) or not normalised(label)):
        raise ValueError(f"{LABEL} is not a text")
    known = {}
    for key, read in KNOWN.items():
        if value.get(key) is not None:
            try:
                known[key] = read(value[key])
            except ValueError as error:
                raise ValueError(f"{key} {error}") from None
    for key, needed in _NEEDS.items():
        if key in known and needed not in known:
            raise ValueError(f"{key} is there without {needed}")
    return ImageMetadata(normalised(label or ""), known)


def _check_of_all(metadata: Sequence[ImageMetadata], name: str, field: str) -> None:
    """Raises InvalidArgument for what is said of some images and not of others: a column has one value for each."""
    for key in KNOWN:
        said = sum(key in item.known for item in metadata)
        if 0 < said < len(metadata):
            raise invalid_field(
                field,
                key,
                f"is said in {name} of {said:,} of {len(metadata):,} images",
                "say it of each image, or of none",
                reason="METADATA_INCOMPLETE",
            )
