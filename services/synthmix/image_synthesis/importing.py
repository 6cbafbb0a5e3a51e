"""What a CreateImageSet request means that names no adapter, but images that another program made."""

from collections.abc import Mapping
from typing import Any

from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.image_data.decoding import LEAST_SIDE_PX, MOST_SIDE_PX
from synthmix.image_data.import_bounds import import_bounds
from synthmix.image_data.sources import seen_list
from synthmix.image_data.sources.seen_list import seen_name
from synthmix.image_data.split_parts import part_summary
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import IMPORTED, Manifest, find_manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import NotFound, Problems, check_range, invalid_field, missing_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName, PartName, UploadName

# Raised whenever the same upload becomes other payloads.
RECIPE_VERSION = 1
FIELD = "image_set.imported.upload"
SEEN = "image_set.imported.seen"
LIST = f"{SEEN}.list_upload"
# Of an ImageSet: what says how images are made.
OF_MADE_HERE = ("adapter", "settings", "class_images", "train_split", "base_model", "selection", "candidates")
MOST_NAMED = 100
LONGEST_ORIGIN = 200
UNNAMED_ORIGIN = "imported images"
START_SECONDS = 5.0
# Measured on one core of a server CPU, for a PNG of 512 x 512 pixels in colour; smaller ones take less.
BYTES_PER_SECOND = 6_000_000
STATEMENT = (
    "say which real images the generator saw: name splits/{id}/parts/train or datasets/{id} in all_of (--saw), upload "
    "a list of the sha256s of their files (--saw-list), or state none (--saw-none) if it saw no image of your data sets"
)


def plan(store: ObjectStore, image_set: image_sets_pb2.ImageSet) -> Planned:
    """Checks a request against what exists, without reading the upload. Raises SynthMixError."""
    imported = image_set.imported
    problems = Problems()
    _check_alone(image_set, problems)
    with problems:
        upload = UploadName.parse(imported.upload, field=FIELD)
    with problems:
        _check_origin(imported.origin)
    with problems:
        if imported.HasField("image_size"):
            check_range("image_set.imported.image_size", imported.image_size, LEAST_SIDE_PX, MOST_SIDE_PX)
    _check_statement(imported.seen, problems)
    names: list[PartName | ArtifactName] = []
    for index, text in enumerate(imported.seen.all_of[:MOST_NAMED]):
        with problems:
            names.append(seen_name(text, field=f"{SEEN}.all_of[{index}]"))
    listed = None
    with problems:
        if imported.seen.list_upload:
            listed = UploadName.parse(imported.seen.list_upload, field=LIST)
    problems.raise_if_any()
    size_bytes = _size_bytes(store, upload, FIELD)
    import_bounds().check_import(FIELD, size_bytes)
    if listed is not None:
        _check_list(listed, _size_bytes(store, listed, LIST))
    request = {
        IMPORTED: {
            "upload": upload.sha256,
            "seen": _canonical_seen(store, names, listed),
            **({"image_size": imported.image_size} if imported.HasField("image_size") else {}),
        },
        "recipe_version": RECIPE_VERSION,
    }
    target = ArtifactName(IMAGE_SETS, digest_of(request))
    done = find_manifest(store, target) is not None
    return Planned(
        request,
        {
            "origin": imported.origin or UNNAMED_ORIGIN,
            "all_of": sorted(map(str, names)),
            "accept_layout": imported.accept_layout,
        },
        operations_pb2.Plan(
            target=str(target),
            total=1,
            done=int(done),
            unit="image set",
            predicted_seconds=0.0 if done else START_SECONDS + size_bytes / BYTES_PER_SECOND,
            tasks=0 if done else 1,
            warnings=[_warning(imported.seen)],
        ),
    )


def imported_message(image_set: Manifest) -> image_sets_pb2.ImportedImages:
    """What a manifest says of where its images are from, and of what their generator saw."""
    request: Mapping[str, Any] = image_set.request[IMPORTED]
    seen, summary = request["seen"], image_set.summary
    return image_sets_pb2.ImportedImages(
        upload=str(UploadName(request["upload"])),
        origin=summary["origin"],
        seen=image_sets_pb2.SeenImages(
            none=not seen,
            all_of=summary["all_of"],
            list_upload=str(UploadName(seen["list"])) if "list" in seen else "",
            image_count=summary["seen_images"],
        ),
        image_size=summary["image_size"],
    )


def _warning(seen: image_sets_pb2.SeenImages) -> str:
    said = "saw no image of any data set" if seen.none else "saw the images that are named, and no others"
    return f"that the generator {said} is the importer's statement, which nothing here can check"


def _canonical_seen(
    store: ObjectStore, names: list[PartName | ArtifactName], listed: UploadName | None
) -> dict[str, Any]:
    """By digests; nothing of a generator that saw none. Raises NotFound."""
    parts, datasets = set(), set()
    for name in names:
        if isinstance(name, PartName):
            parts.add(part_summary(read_manifest(store, name.split), name.part)["digest"])
        else:
            datasets.add(read_manifest(store, name).name.id)
    return (
        ({"parts": sorted(parts)} if parts else {})
        | ({"datasets": sorted(datasets)} if datasets else {})
        | ({"list": listed.sha256} if listed else {})
    )


def _check_alone(image_set: image_sets_pb2.ImageSet, problems: Problems) -> None:
    """Collects what is of images that are made here, and is given of imported ones."""
    for field, value in image_set.ListFields():
        if field.name not in OF_MADE_HERE:
            continue
        with problems:
            raise invalid_field(
                f"image_set.{field.name}",
                value if isinstance(value, str) else field.name,
                "is given beside imported, and is of images that are made here",
                "leave it out; or leave imported out, to make images",
                reason="IMPORTED_ALREADY",
            )


def _check_statement(seen: image_sets_pb2.SeenImages, problems: Problems) -> None:
    with problems:
        if not seen.none and not seen.all_of and not seen.list_upload:
            raise missing_field(SEEN, STATEMENT)
    with problems:
        if seen.none and (seen.all_of or seen.list_upload):
            raise invalid_field(
                f"{SEEN}.none",
                seen.none,
                "says that the generator saw no real image, and all_of or list_upload that it saw some",
                "leave one of them out",
                reason="SEEN_CONTRADICTED",
            )
    with problems:
        if len(seen.all_of) > MOST_NAMED:
            raise invalid_field(
                f"{SEEN}.all_of",
                len(seen.all_of),
                "are too many",
                f"name at most {MOST_NAMED}, and the others in a list (--saw-list)",
                reason="OUT_OF_RANGE",
            )


def _check_origin(origin: str) -> None:
    if origin != origin.strip() or not origin.isprintable() or len(origin) > LONGEST_ORIGIN:
        raise invalid_field(
            "image_set.imported.origin",
            origin,
            "cannot be shown",
            f"use at most {LONGEST_ORIGIN} characters that can be printed, without blanks around them",
        )


def _check_list(upload: UploadName, size_bytes: int) -> None:
    if size_bytes > seen_list.LARGEST_BYTES:
        raise invalid_field(
            LIST,
            str(upload),
            f"has {byte_size(size_bytes)}, and a list at most {byte_size(seen_list.LARGEST_BYTES)}",
            "write the sha256s alone, a line each",
            reason="OUT_OF_RANGE",
        )


def _size_bytes(store: ObjectStore, upload: UploadName, field: str) -> int:
    found = store.stat(str(upload))
    if found is None:
        raise NotFound(
            f"{field}: {upload} does not exist; send the file with UploadFile first", reason="UPLOAD_NOT_FOUND"
        )
    return found.size_bytes
