"""Which group (chip, well, plate, date, patient) an image is of (leakage rule 1)."""

from collections.abc import Sequence

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.sources.group_patterns import PATTERN_FIELD, check_pattern, find_groups
from synthmix.image_data.sources.manifests import GROUP_FIELD
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_listing import ListedImage
from synthmix.image_data.sources.user_text import MISSING_SPELLINGS, is_missing, normalised, spelt_twice
from synthmix.service_kit.errors import missing_field

LONGEST_GROUP = 200
NO_GROUPS_WARNING = (
    "group: none was stated, so that each image counts as independent of all others; if some share a chip, "
    "well, plate or patient, every result is too optimistic"
)


def check_rule(rule: datasets_pb2.GroupRule) -> str:
    """Which kind of rule it is. Raises InvalidArgument if it cannot be one, before any image is looked at."""
    kind = rule.WhichOneof("rule")
    if kind is None or (kind == "none" and not rule.none):
        raise missing_field(
            "dataset.group_rule",
            "images of one chip, well, plate or patient must not be split: give a pattern with a named group, such as "
            "(?P<group>[^/]+)_, or a column, or none: true if each image is independent",
        )
    if kind == "pattern":
        check_pattern(rule.pattern)
    if kind == "column" and not rule.column:
        raise missing_field(GROUP_FIELD, "name the manifest's column")
    return str(kind)


def groups_of(images: Sequence[ListedImage], rule: datasets_pb2.GroupRule) -> list[str]:
    """The group of each image. With none, its path.

    Raises:
        InvalidArgument: The pattern does not match some images, or finds what says that the group
            is not known; or groups are unprintable, too long, or differ in case alone.
    """
    kind = rule.WhichOneof("rule")
    if kind == "none":
        return [image.path for image in images]
    field = PATTERN_FIELD if kind == "pattern" else GROUP_FIELD
    groups = _matches(images, rule.pattern) if kind == "pattern" else [image.group or "" for image in images]
    problems = [
        f"{image.path} gives {group!r}"
        for image, group in zip(images, groups, strict=True)
        if not group.isprintable() or len(group) > LONGEST_GROUP
    ]
    if problems:
        raise refused_files(
            field,
            "images have unusable groups",
            problems,
            f"groups have 1 to {LONGEST_GROUP} printable characters",
            reason="INVALID_GROUP",
        )
    twice = spelt_twice(groups)
    if twice:  # of plate1 and Plate1, one could be trained on and the other tested
        raise refused_files(
            field,
            "names of groups differ in capital letters or the form of letters alone",
            twice,
            "spell each group in one way; if they are truly different, give them names that differ in more",
            reason="GROUPS_DIFFER_IN_CASE",
        )
    return groups


def _matches(images: Sequence[ListedImage], pattern: str) -> list[str]:
    groups = [normalised(group) for group in find_groups(pattern, [image.path for image in images])]
    unmatched = [image.path for image, group in zip(images, groups, strict=True) if not group]
    if unmatched:
        raise refused_files(
            PATTERN_FIELD,
            f"of {len(images):,} images get no group from {pattern!r}",
            unmatched,
            "change the pattern so that it matches the path of every image",
            reason="PATTERN_UNMATCHED",
        )
    # A program wrote these names, and wrote so that it did not know: images of many plates would be one group.
    unknown = [
        f"{image.path} gives {group!r}" for image, group in zip(images, groups, strict=True) if is_missing(group)
    ]
    if unknown:
        raise refused_files(
            PATTERN_FIELD,
            "images are of a group that is not known",
            unknown,
            f"name their groups, or leave them out ({MISSING_SPELLINGS})",
            reason="GROUP_MISSING",
        )
    return groups
