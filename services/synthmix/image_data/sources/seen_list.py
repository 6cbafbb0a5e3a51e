"""Which real images a generator saw, as a user says it: by what has them all, or by a list of their files' sha256s.

Only the standard library: the client imports it too.
"""

import re

from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_account import shown
from synthmix.service_kit.errors import invalid_field
from synthmix.service_kit.resource_names import DATASETS, SPLITS, ArtifactName, PartName, collection_of

MOST_LISTED = 1_000_000
LARGEST_BYTES = 256 * 1024 * 1024
# As sha256sum writes it: the digest, two blanks or a blank and an asterisk, and the name, which says nothing here. A
# backslash stands before a line whose name has one.
_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?:\s+\*?.*)?")
_REMEDY = "write the sha256 of an image's file in each line, as `sha256sum FILE ...` does"


def seen_name(text: str, *, field: str) -> PartName | ArtifactName:
    """What has images that a generator saw: any part of a split, or a data set. Raises InvalidArgument."""
    collection = collection_of(text)
    if collection == DATASETS:
        return ArtifactName.parse(text, field=field, collection=DATASETS)
    if collection != SPLITS or "/parts/" not in text:
        raise invalid_field(
            field,
            text,
            "has no images that a generator can be said to have seen",
            "use splits/{digest}/parts/train, or datasets/{digest} for all images of a data set",
            reason="INVALID_RESOURCE_NAME",
        )
    return PartName.parse(text, field=field)


def read_seen_list(data: bytes, name: str, *, field: str) -> list[str]:
    """The sha256s of a list, each once, in their order. Blank lines, and those that begin with #, are passed over.

    Args:
        data: The file.
        name: Its name, for errors.
        field: The request's field that it is.

    Raises:
        InvalidArgument: It is not such a list, names no image, or more than MOST_LISTED.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise invalid_field(
            field, name, f"is no text in UTF-8 (byte {error.start})", _REMEDY, reason="SEEN_LIST_INVALID"
        ) from error
    found: dict[str, None] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        match = _LINE.fullmatch(text)
        if match:
            found[match[1].lower()] = None
        elif text and not text.startswith("#"):
            problems.append(f"line {number}: {shown(text)}")
    if problems:
        raise refused_files(
            field, f"lines of {name} begin with no sha256", problems, _REMEDY, reason="SEEN_LIST_INVALID"
        )
    if not found:
        raise invalid_field(
            field, name, "lists no image", "use none (--saw-none) if the generator saw none", reason="SEEN_LIST_INVALID"
        )
    if len(found) > MOST_LISTED:
        raise invalid_field(
            field,
            f"{len(found):,} images",
            f"are more than {MOST_LISTED:,}",
            "name a whole data set or a part of a split by all_of (--saw)",
            reason="OUT_OF_RANGE",
        )
    return list(found)
