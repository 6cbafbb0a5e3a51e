"""What of a source (a folder, a ZIP, a manifest) becomes images, and an account of all the rest.

The client asks before it uploads, and the server asks again of what it got: one logic, so that both say the same.
Only the standard library.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as of
from pathlib import PurePosixPath
from typing import Any, Protocol

from synthmix.api.datasets.v1.datasets_pb2 import LeftOut
from synthmix.image_data.sources import manifests
from synthmix.image_data.sources.file_kinds import (
    DECODED,
    MANIFEST_NAMES,
    METADATA_NAMES,
    Kind,
    claims_to_be_image,
    is_system,
    kind_of,
    undecoded_format,
)
from synthmix.image_data.sources.folder_layout import doubtful_layout, layout_doubt
from synthmix.image_data.sources.image_metadata import SOURCE_LABEL, read_metadata
from synthmix.image_data.sources.manifest_paths import find_files
from synthmix.image_data.sources.manifests import Columns
from synthmix.image_data.sources.problems import refused_files
from synthmix.image_data.sources.source_account import REASONS, account_of, shown
from synthmix.image_data.sources.user_text import normalised, spelt_twice
from synthmix.service_kit.errors import InvalidArgument, invalid_field

LONGEST_LABEL = 100
# Of metadata beside class folders, as Hugging Face's datasets have it.
METADATA_PATH_COLUMN = "file_name"


class Source(Protocol):
    """Files by their paths: relative, with slashes, in Unicode's composed form."""

    @property
    def paths(self) -> Sequence[str]:
        """Every file that can be read."""

    @property
    def folders(self) -> Sequence[str]:
        """Every folder."""

    @property
    def unusable(self) -> Mapping[str, str]:
        """Files that cannot be read, with the account's reason for each."""

    def head(self, path: str) -> bytes:
        """A file's first HEAD_BYTES bytes. Raises InvalidArgument."""

    def read(self, path: str) -> bytes:
        """A whole file. Raises InvalidArgument."""


@dataclass(frozen=True)
class ListingRequest:
    """How a source is read.

    Attributes:
        field: The request's field that it is, for errors.
        columns: Of its manifest, if it has one; the captions' else of the metadata beside class folders.
        manifest: The manifest's path; None looks for a file of MANIFEST_NAMES at the top.
        group_span: Where the group pattern's group lies in a path; None if groups do not come from a pattern.
        accept_layout: The user says that the top folders are the classes, whatever they look like.
        made: The images were made, so that metadata.jsonl beside class folders says what is known of each.
    """

    field: str
    columns: Columns = of(default_factory=Columns)
    manifest: str | None = None
    group_span: Callable[[str], tuple[int, int] | None] | None = None
    accept_layout: bool = False
    made: bool = False


@dataclass(frozen=True)
class ListedImage:
    """An image of the source.

    Attributes:
        entry: Its path in the source.
        path: Its path below the folder that class folders or the manifest lie in: what patterns are searched
            in.
        label: Its class.
        group: The value of the group column, if groups come from one.
        captions: Of each caption column that was asked for; "" where there is none.
        known: Of one that was made: what metadata says of it (image_metadata.KNOWN).
    """

    entry: str
    path: str
    label: str
    group: str | None
    captions: tuple[str, ...] = ()
    known: Mapping[str, Any] = of(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The images in the order of their paths, and what else is in the source.

    Attributes:
        images: At least one.
        left_out: The account of all that is not among the images.
        manifest: The manifest's path in the source; None for class folders.
        layout_doubt: What speaks against class folders, though the user accepted them; "" for nothing.
        metadata: The path of what says captions beside class folders, or what is known of images that were made; None
            if that is not asked for, or not there.
    """

    images: tuple[ListedImage, ...]
    left_out: tuple[LeftOut, ...]
    manifest: str | None
    layout_doubt: str
    metadata: str | None = None


def list_images(source: Source, request: ListingRequest) -> Listing:
    """Finds the images of a source and their classes.

    Raises:
        InvalidArgument: There is no class folder and no manifest, or the manifest is unusable; an image lies
            in no class folder, cannot be read or is of a format that is not decoded; a label cannot be one; or the
            folders may not be classes and the user did not say that they are.
    """
    metadata: str | None = None
    below = ""
    top, manifest = ("", request.manifest) if request.manifest is not None else _at_top(source, MANIFEST_NAMES, request)
    if manifest is not None:
        images, left_out = _from_manifest(source, top, manifest, request)
        doubt = ""
    else:
        if request.columns.captions or request.made:
            below, metadata = _at_top(source, METADATA_NAMES, request)
        if metadata is None:
            manifests.check_no_columns(request.columns)
        else:
            manifests.check_no_columns(replace(request.columns, path=manifests.PATH_COLUMN, captions=()))
        kinds = {path: _kind(source, path) for path in source.paths if path != metadata}
        top = _common_top(kinds)
        images, left_out = _from_folders(source, kinds, top, request.field)
        if metadata is not None:
            with_metadata = _with_known if request.made else _with_captions
            images = with_metadata(source, images, below, metadata, request)
        doubt = layout_doubt([image.path for image in images], request.group_span)
        if doubt and not request.accept_layout:
            raise doubtful_layout(request.field, doubt)
    _check_labels(images, request.field)
    return Listing(tuple(sorted(images, key=lambda image: image.path)), left_out, manifest, doubt, metadata)


def _kind(source: Source, path: str) -> Kind:
    if is_system(path):
        return Kind.SYSTEM
    try:
        return kind_of(path, source.head(path))
    except InvalidArgument:
        return Kind.IMAGE  # what is damaged must not be missed: the import says so when it reads all of it


def _at_top(source: Source, names: Sequence[str], request: ListingRequest) -> tuple[str, str | None]:
    """The folder that one of these files lies in, at the top or in the only folder there, and the file's path."""
    paths = set(source.paths)
    shown_paths = [path for path in source.paths if not is_system(path)]
    tops = {PurePosixPath(path).parts[0] for path in shown_paths if "/" in path}
    for top in ["", *(f"{name}/" for name in tops if len(tops) == 1)]:
        found = [top + name for name in names if top + name in paths]
        if len(found) > 1:
            raise invalid_field(
                request.field, " and ".join(found), "are both there", "keep one of them", reason="MANIFEST_AMBIGUOUS"
            )
        if found:
            return top, found[0]
    return "", None


def _common_top(kinds: Mapping[str, Kind]) -> str:
    """`name/` if all images lie below one folder, and that folder cannot be a class; else nothing."""
    images = [PurePosixPath(path) for path, kind in kinds.items() if kind == Kind.IMAGE]
    tops = {path.parts[0] for path in images}
    return f"{tops.pop()}/" if len(tops) == 1 and all(len(path.parts) > 2 for path in images) else ""


def _from_folders(
    source: Source, kinds: Mapping[str, Kind], top: str, field: str
) -> tuple[list[ListedImage], tuple[LeftOut, ...]]:
    images, outside, undecoded, left_out = [], [], [], []
    for entry, kind in kinds.items():
        path = PurePosixPath(entry.removeprefix(top))
        folder = path.parts[0] if len(path.parts) > 1 else ""
        if kind == Kind.UNDECODED and folder:
            undecoded.append(f"{shown(entry)} is a {undecoded_format(entry, source.head(entry))} file")
        elif kind == Kind.IMAGE and not folder:
            outside.append(shown(entry))
        elif kind == Kind.IMAGE:
            images.append(ListedImage(entry, str(path), normalised(folder), None))
        else:
            reason = {Kind.SYSTEM: "SYSTEM_FILE", Kind.UNDECODED: "FORMAT_NOT_DECODED"}.get(kind, "NOT_AN_IMAGE")
            left_out.append((normalised(folder), reason, entry))
    _check_usable(source, field)
    if undecoded:
        raise refused_files(
            field,
            "files are of formats that are not decoded",
            undecoded,
            f"convert them to {DECODED}",
            reason="IMAGE_FORMAT_UNSUPPORTED",
        )
    if outside and not images:
        raise invalid_field(
            field,
            f"{len(outside):,} images",
            "lie in no class folder",
            "make a folder for each class and move its images there, or add a manifest.csv with the columns "
            "path and label",
            reason="NO_CLASS_FOLDERS",
        )
    if not images:
        raise invalid_field(
            field,
            f"{len(kinds):,} files",
            "hold no class folder with images",
            f"pack one folder for each class, with {DECODED} files in it, or add a manifest.csv",
            reason="NO_IMAGES",
        )
    if outside:
        raise refused_files(
            field,
            "images lie in no class folder",
            outside,
            "move them into the folder of their class, or leave them out",
            reason="CLASS_UNKNOWN",
        )
    seen = {str(PurePosixPath(path.removeprefix(top)).parts[0]) for path in kinds if "/" in path.removeprefix(top)}
    for folder in source.folders:
        below = folder.removeprefix(top)
        if below and "/" not in below and below not in seen and f"{folder}/" != top and not is_system(f"{folder}/file"):
            left_out.append((normalised(below), "EMPTY_FOLDER", folder))
    left_out += [
        (_folder(path.removeprefix(top)), "SYSTEM_FILE" if is_system(path) else reason, path)
        for path, reason in source.unusable.items()
    ]
    return images, account_of(left_out)


def _check_usable(source: Source, field: str) -> None:
    """Raises InvalidArgument for what is named like an image and cannot be read: an image must not be missed."""
    problems = [
        f"{shown(path)} is {REASONS[reason]}"
        for path, reason in source.unusable.items()
        if not is_system(path) and (claims_to_be_image(path) or reason in ("NAME_NOT_UTF8", "FOLDER_UNREADABLE"))
    ]
    if problems:
        raise refused_files(
            field, "files cannot be read", problems, "fix, rename or remove them", reason="SOURCE_UNREADABLE"
        )


def _from_manifest(
    source: Source, top: str, manifest: str, request: ListingRequest
) -> tuple[list[ListedImage], tuple[LeftOut, ...]]:
    name, field = manifest.removeprefix(top), request.field
    rows = manifests.read_rows(_manifest_bytes(source, manifest, field), name, request.columns, field=field)
    found, problems = find_files(rows, top, {*source.paths, *source.unusable})
    images = []
    for row, path in found:
        entry = top + path
        if entry in source.unusable:
            problems.append(f"row {row.number}: {shown(path)} is {REASONS[source.unusable[entry]]}")
        elif entry == manifest:
            problems.append(f"row {row.number}: {shown(path)} is the manifest")
        elif (kind := kind_of("file" + PurePosixPath(path).suffix, source.head(entry))) == Kind.UNDECODED:
            problems.append(
                f"row {row.number}: {shown(path)} is a {undecoded_format(path, source.head(entry))} file; "
                f"convert it to {DECODED}"
            )
        elif kind != Kind.IMAGE:
            problems.append(f"row {row.number}: {shown(path)} is not a {DECODED} image")
        else:
            images.append(ListedImage(entry, path, row.label, row.group, row.captions))
    if problems:
        raise refused_files(
            field,
            f"rows of {name} are unusable",
            problems,
            "fix the manifest: paths are relative to its folder, and each image has one row",
            reason="MANIFEST_INVALID",
        )
    if not images:
        raise invalid_field(field, name, "lists no image", "add a row for each image", reason="NO_IMAGES")
    used = {image.entry for image in images} | {manifest}
    left_out = [
        (_folder(path.removeprefix(top)), "SYSTEM_FILE" if is_system(path) else "NOT_IN_MANIFEST", path)
        for path in source.paths
        if path not in used
    ]
    left_out += [(_folder(path.removeprefix(top)), reason, path) for path, reason in source.unusable.items()]
    return images, account_of(left_out)


def _with_captions(
    source: Source, images: Sequence[ListedImage], top: str, metadata: str, request: ListingRequest
) -> list[ListedImage]:
    """The images of class folders, with their captions. One that metadata does not name has none.

    Args:
        top: The metadata's folder, with a slash, or "": what its paths are relative to.
        metadata: Its path.
    """
    name, field = metadata.removeprefix(top), request.field
    path_column = request.columns.path
    columns = Columns(
        METADATA_PATH_COLUMN if path_column == manifests.PATH_COLUMN else path_column,
        label=None,
        captions=request.columns.captions,
    )
    rows = manifests.read_rows(_manifest_bytes(source, metadata, field), name, columns, field=field)
    found, problems = find_files(rows, top, {*source.paths, *source.unusable})
    entries = {image.entry for image in images}
    captions = {}
    for row, path in found:
        captions[top + path] = row.captions
        if top + path not in entries:
            problems.append(f"row {row.number}: {shown(path)} is not an image in a class folder")
    if problems:
        raise refused_files(
            field,
            f"rows of {name} are unusable",
            problems,
            f"fix {name}: paths are relative to its folder, and each image has at most one row",
            reason="MANIFEST_INVALID",
        )
    none = ("",) * len(columns.captions)
    return [replace(image, captions=captions.get(image.entry, none)) for image in images]


def _with_known(
    source: Source, images: Sequence[ListedImage], top: str, metadata: str, request: ListingRequest
) -> list[ListedImage]:
    """The images of class folders with what is known of each, and of the class that it is said to be.

    Args:
        top: The metadata's folder, with a slash, or "".
        metadata: Its path.
    """
    name, field = metadata.removeprefix(top), request.field
    if not name.endswith(".jsonl"):
        raise invalid_field(
            field,
            name,
            "is not how metadata of images that were made is read",
            "write metadata.jsonl, a JSON object for each image, or remove it: then the folders alone say the classes",
            reason="METADATA_FORMAT",
        )
    found = read_metadata(
        _manifest_bytes(source, metadata, field),
        name,
        top=top,
        images={image.entry for image in images},
        files={*source.paths, *source.unusable},
        field=field,
    )
    listed = [
        replace(image, label=found[image.entry].label or image.label, known=found[image.entry].known)
        for image in images
    ]
    labels = {image.label for image in listed}
    others = sorted({image.known[SOURCE_LABEL] for image in listed if SOURCE_LABEL in image.known} - labels)
    if others:
        raise invalid_field(
            field,
            others[0],
            f"is a {SOURCE_LABEL} in {name}, and no image is of this class",
            f"use one of {', '.join(sorted(labels))}",
            reason="METADATA_INVALID",
        )
    return listed


def _folder(path: str) -> str:
    return normalised(path.split("/", 1)[0]) if "/" in path else ""


def _manifest_bytes(source: Source, path: str, field: str) -> bytes:
    try:
        return source.read(path)
    except InvalidArgument as error:
        raise invalid_field(field, path, error.message, "nothing was imported", reason=error.reason) from error


def _check_labels(images: Sequence[ListedImage], field: str) -> None:
    labels = sorted({image.label for image in images})
    problems = [f"{label!r}" for label in labels if not label.isprintable() or not 1 <= len(label) <= LONGEST_LABEL]
    if problems:
        raise refused_files(
            field,
            "classes have unusable names",
            problems,
            f"use 1 to {LONGEST_LABEL} printable characters",
            reason="INVALID_LABEL",
        )
    twice = spelt_twice(labels)
    if twice:
        raise refused_files(
            field,
            "names of classes differ in capital letters or the form of letters alone",
            twice,
            "spell each class in one way; if they are truly different, give them names that differ in more",
            reason="LABELS_DIFFER_IN_CASE",
        )
