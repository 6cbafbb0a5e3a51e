"""From an uploaded ZIP to a dataset: every image decoded, duplicates found, all written in order of paths."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.captions import COLUMNS, digest_of_captions, without_caption
from synthmix.image_data.decoder import Decoder, DecoderHere, ListingOptions
from synthmix.image_data.decoding import DECODER_VERSION, ImageFacts
from synthmix.image_data.image_table import CAPTIONS, ImageTableWriter
from synthmix.image_data.pixel_rules import ANY_PIXELS, PixelRule
from synthmix.image_data.sources.archive import FIELD, LIMITS, Archive, ArchiveLimits, open_archive
from synthmix.image_data.sources.manifests import LABEL_COLUMN, PATH_COLUMN
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_account import account_of, merged, to_json
from synthmix.image_data.sources.source_listing import ListedImage
from synthmix.image_data.sources.user_text import compared
from synthmix.service_kit.artifacts import Manifest, find_manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import DataLoss, InvalidArgument, check_choice, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import DATASETS, ArtifactName
from synthmix.study_control.image_import.groups import NO_GROUPS_WARNING, check_rule, groups_of
from synthmix.study_control.image_import.white_levels import WhiteLevels, choose_white_levels

RECIPE_VERSION = 1
"""Raise it when the same archive becomes other payloads: it is part of a dataset's digest."""

PARTS_NEEDED = 3


@dataclass(frozen=True)
class _Image:
    """An image that was decoded, and all that is known of it."""

    listed: ListedImage
    group: str
    sha256: str
    facts: ImageFacts


@dataclass(frozen=True)
class Imported:
    """What an import found, new or not.

    Attributes:
        name: The dataset.
        warnings: About the images, the groups and the names in the archive.
        left_out: The account of what the archive holds beside the dataset's images.
        layout_doubt: What speaks against its folders being classes; "" for nothing.
        has_manifest: Whether a manifest said the classes.
    """

    name: ArtifactName
    warnings: tuple[str, ...]
    left_out: tuple[datasets_pb2.LeftOut, ...]
    layout_doubt: str
    has_manifest: bool

    def account(self) -> dict[str, Any]:
        """All but the name, as JSON."""
        found = {key: value for key, value in vars(self).items() if key != "name"}
        return found | {"left_out": to_json(self.left_out)}


def import_archive(
    store: ObjectStore,
    archive: Path,
    *,
    group_rule: datasets_pb2.GroupRule,
    classes: Sequence[str],
    simulated: bool,
    progress: Callable[[int, int], None],
    pixel_rule: PixelRule = ANY_PIXELS,
    white_level: int = 0,
    accept_layout: bool = False,
    label_column: str = LABEL_COLUMN,
    path_column: str = PATH_COLUMN,
    caption_columns: Sequence[str] = (),
    limits: ArchiveLimits = LIMITS,
    decoder: Callable[[Path, Archive], AbstractContextManager[Decoder]] = lambda path, archive: nullcontext(
        DecoderHere(archive)
    ),
) -> Imported:
    """Imports a ZIP of class folders, or one with a manifest, as a dataset.

    Each image is read twice, one at a time: to check it, and, once the digest of everything is known, to
    store it. A dataset that exists already is not written again.

    Args:
        store: Object storage.
        archive: The ZIP, a local file.
        group_rule: How an image's group is known.
        classes: Classes to keep; empty keeps all.
        simulated: Whether the user states that the images are simulated.
        progress: Called with (steps done, steps in all): one step for checking an image, one for storing it.
        pixel_rule: The channels and the plane that are taken of each image.
        white_level: The value of 16-bit images that becomes white; 0 leaves it to white_levels.automatic_level.
        accept_layout: The top folders are the classes, whatever they look like.
        label_column: The manifest's column of labels.
        path_column: The manifest's column of paths.
        caption_columns: The columns that are kept as captions, of the manifest or of metadata beside class folders.
        limits: What the archive may declare.
        decoder: What decodes the archive's images and manifest; in this process if it is not given.

    Returns:
        datasets/{digest of the images' paths, labels, groups and bytes, the group rule, whether they are simulated,
        what is taken of their pixels if that is not everything, and their captions if there are any}, and what there is
        to say of this archive.

    Raises:
        InvalidArgument: The archive, an image in it, the group rule or the classes cannot be used; the message
            says why and what to do, and lists up to 20 files.
    """
    started = time.monotonic()
    rule = check_rule(group_rule)
    with open_archive(archive, limits) as opened, decoder(archive, opened) as decoding:
        listing = decoding.listing(
            ListingOptions(
                path_column=path_column,
                label_column=label_column,
                group_column=group_rule.column if rule == "column" else None,
                pattern=group_rule.pattern,
                accept_layout=accept_layout,
                caption_columns=caption_columns,
            )
        )
        kept, not_chosen = _of_classes(listing.images, classes)
        images = _inspect(decoding, kept, groups_of(kept, group_rule), pixel_rule, progress)
        images, duplicates = _without_duplicates(images, independent=group_rule.none)
        _check_classes(images)
        white = choose_white_levels(
            [(image.listed.label, image.facts.brightness) for image in images],
            decoding.histograms(),
            wanted=white_level,
            channel_names=_channel_names(pixel_rule),
        )
        request = {
            "images": digest_of(
                [[image.listed.path, image.listed.label, image.group, image.sha256] for image in images]
            ),
            "group_rule": json_format.MessageToDict(group_rule),
            "simulated": simulated,
            "recipe_version": RECIPE_VERSION,
            "decoder_version": DECODER_VERSION,
        } | _pixels_request(pixel_rule, white)
        if caption_columns:
            request["captions"] = digest_of_captions(caption_columns, [image.listed.captions for image in images])
        name = ArtifactName(DATASETS, digest_of(request))
        imported = Imported(
            name=name,
            warnings=(
                *([NO_GROUPS_WARNING] if group_rule.none else []),
                *opened.warnings,
                *white.warnings,
                *_mixed_warning(images),
                *without_caption(caption_columns, [image.listed.captions for image in images]),
            ),
            left_out=merged([*listing.left_out, *not_chosen, *duplicates]),
            layout_doubt=listing.layout_doubt,
            has_manifest=listing.manifest is not None,
        )
        if find_manifest(store, name) is not None:
            return imported
        table = ImageTableWriter(store, name)
        for done, image in enumerate(images, start=1):
            _store(table, opened, image)
            progress(2 * len(kept) - len(images) + done, 2 * len(kept))
        payloads = table.close()
        write_manifest(
            store,
            Manifest(
                name=name,
                inputs={},
                request=request,
                recipe_version=RECIPE_VERSION,
                payloads=tuple(payloads),
                summary=_summary(images, group_rule, pixel_rule, white, simulated)
                | ({COLUMNS: list(caption_columns)} if caption_columns else {})
                | imported.account(),
                seconds=time.monotonic() - started,
            ),
        )
    return imported


def class_counts(labels: Sequence[str], groups: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images and groups of each class, by class."""
    images: dict[str, int] = defaultdict(int)
    seen: dict[str, set[str]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        images[label] += 1
        seen[label].add(group)
    return {label: {"images": images[label], "groups": len(seen[label])} for label in sorted(images)}


def _of_classes(
    images: Sequence[ListedImage], classes: Sequence[str]
) -> tuple[list[ListedImage], tuple[datasets_pb2.LeftOut, ...]]:
    """The images of the classes, which are compared without case, and the account of the others."""
    known = {compared(image.label): image.label for image in images}
    for position, label in enumerate(classes):
        if compared(label) not in known:
            check_choice(f"dataset.classes[{position}]", label, sorted(known.values()))
    kept = {known[compared(label)] for label in classes} or set(known.values())
    if len(kept) < 2:
        raise invalid_field(
            "dataset.classes",
            sorted(kept),
            "is a single class",
            "a classifier needs at least two; pack one folder for each class",
            reason="SINGLE_CLASS",
        )
    others = account_of((image.label, "CLASS_NOT_CHOSEN", image.path) for image in images if image.label not in kept)
    return [image for image in images if image.label in kept], others


def _inspect(
    decoding: Decoder,
    listed: Sequence[ListedImage],
    groups: Sequence[str],
    pixel_rule: PixelRule,
    progress: Callable[[int, int], None],
) -> list[_Image]:
    images, problems = [], []
    found = decoding.inspect([image.entry for image in listed], pixel_rule)
    # A decoder that gives an archive up answers for the first of its files alone, and has said why.
    for done, (image, group, inspected) in enumerate(zip(listed, groups, found, strict=False), start=1):
        if isinstance(inspected, InvalidArgument):
            problems.append(f"{image.entry} {inspected.message}")
        else:
            images.append(_Image(image, group, inspected.sha256, inspected.facts))
        progress(done, 2 * len(listed))
    if problems:
        raise refused_files(
            FIELD, "images cannot be used", problems, "fix them or leave them out", reason="IMAGE_UNREADABLE"
        )
    return images


def _without_duplicates(
    images: Sequence[_Image], *, independent: bool
) -> tuple[list[_Image], tuple[datasets_pb2.LeftOut, ...]]:
    """Keeps one of the copies in a class and group; refuses those that could be split apart (leakage rule 2).

    If the user stated that images are independent, each one's group is of our making: dropping the copy is
    enough.
    """
    first: dict[str, _Image] = {}
    kept, dropped, differing, crossing = [], [], [], []
    for image in images:
        original = first.setdefault(image.sha256, image)
        if original is image:
            kept.append(image)
        elif original.listed.label != image.listed.label:
            differing.append(
                f"{original.listed.path} ({original.listed.label}) and {image.listed.path} ({image.listed.label})"
            )
        elif original.group != image.group and not independent:
            crossing.append(
                f"{original.listed.path} (group {original.group}) and {image.listed.path} (group {image.group})"
            )
        else:
            dropped.append((image.listed.label, "DUPLICATE", image.listed.path))
    if differing:
        raise refused_files(
            FIELD,
            "pairs of identical images are in two classes",
            differing,
            "keep each image in one class",
            reason="DUPLICATE_LABELS",
        )
    if crossing:
        raise refused_files(
            FIELD,
            "pairs of identical images are in two groups, so that one could be trained on and the other tested",
            crossing,
            "keep one of each, or fix the group rule",
            reason="DUPLICATE_ACROSS_GROUPS",
        )
    return kept, account_of(dropped)


def _check_classes(images: Sequence[_Image]) -> None:
    counts = class_counts([image.listed.label for image in images], [image.group for image in images])
    problems = [
        f"{label} has {count['images']} images in {count['groups']} groups"
        for label, count in counts.items()
        if count["groups"] < PARTS_NEEDED
    ]
    if problems:
        raise refused_files(
            FIELD,
            "classes are too small to split",
            problems,
            f"train, validation and test need at least "
            f"{PARTS_NEEDED} groups of each class: add images, leave the class out by `classes`, or fix the "
            "group rule",
            reason="CLASS_TOO_SMALL",
        )


def _channel_names(rule: PixelRule) -> list[str]:
    """What warnings call the channels that are stored."""
    return [f"channel {number}" for number in rule.channels] if len(rule.channels) > 1 else [""]


def _pixels_request(rule: PixelRule, white: WhiteLevels) -> dict[str, Any]:
    """What of the pixels is a part of the dataset's identity: nothing where nothing was chosen, as for most."""
    return ({"pixels": rule.to_json()} if rule.to_json() else {}) | (
        {} if white.by_full_scale else {"white_levels": list(white.levels)}
    )


def _mixed_warning(images: Sequence[_Image]) -> list[str]:
    if len({image.facts.bits for image in images}) == 1:
        return []
    return ["8-bit and 16-bit images are mixed: a classifier may tell them apart by brightness alone"]


def _store(table: ImageTableWriter, archive: Archive, image: _Image) -> None:
    data = archive.read(image.listed.entry)
    sha256 = table.add(
        data,
        path=image.listed.path,
        label=image.listed.label,
        group=image.group,
        mode=image.facts.mode,
        width_px=image.facts.width_px,
        height_px=image.facts.height_px,
        perceptual_hash=image.facts.perceptual_hash,
        thumbnail=image.facts.thumbnail,
        **({CAPTIONS: list(image.listed.captions)} if image.listed.captions else {}),
    )
    if sha256 != image.sha256:
        raise DataLoss(
            f"{image.listed.entry} changed while it was imported; import the archive again",
            reason="ARCHIVE_CHANGED",
        )


def _summary(
    images: Sequence[_Image],
    group_rule: datasets_pb2.GroupRule,
    pixel_rule: PixelRule,
    white: WhiteLevels,
    simulated: bool,
) -> dict[str, Any]:
    wide = any(image.facts.bits > 8 for image in images)
    return {
        "image_count": len(images),
        "group_count": len({image.group for image in images}),
        "class_counts": class_counts([image.listed.label for image in images], [image.group for image in images]),
        "white_level": white.levels[0],
        "simulated": simulated,
        "group_rule": json_format.MessageToDict(group_rule),
        **({"white_levels": list(white.levels)} if wide else {}),
        **({"pixels": pixel_rule.to_json()} if pixel_rule.to_json() else {}),
    }
