"""What a CreateImageSet request means that chooses among the images of another image set."""

from collections import Counter

from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.image_data.generators import is_imported
from synthmix.image_data.image_table import SOURCES
from synthmix.image_data.selection_rules import check_selection, oversampled
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_synthesis.planning import check_classes
from synthmix.presets.preset_files import refuse as refuse_preset
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import (
    NotFound,
    Problems,
    invalid_field,
    missing_field,
    unmet_precondition,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings_messages import canonical, check, with_defaults

# Raised whenever what is kept would be other images.
RECIPE_VERSION = 1

# Measured on one core of a server CPU: features of an image of 64 x 64 pixels, and the judges of 700 train images.
SECONDS_PER_IMAGE = 0.01
START_SECONDS = 20.0


def plan_selection(store: ObjectStore, image_set: image_sets_pb2.ImageSet, *, validate_only: bool) -> Planned:
    """Checks a request against what exists, without starting anything.

    A request that is only validated may name candidates that aren't made yet.
    """
    problems = Problems()
    with problems:
        if not image_set.candidates:
            raise missing_field("image_set.candidates", "name the image set to choose among, as image-sets/{id}")
    with problems:
        if not image_set.train_split:
            raise missing_field(
                "image_set.train_split", "a selection judges by the train images: use splits/{id}/parts/train"
            )
    _check_left_out(image_set, problems)
    check(image_set.selection, "image_set.selection", problems)
    refuse_preset(image_set.selection, problems, field="image_set.selection")
    check_selection(image_set.selection, problems, field="image_set.selection")
    problems.raise_if_any()
    name = ArtifactName.parse(image_set.candidates, field="image_set.candidates", collection=IMAGE_SETS)
    train = open_train_part(store, image_set.train_split, field="image_set.train_split")
    candidates = find_manifest(store, name)
    if candidates is None and not validate_only:
        raise NotFound(
            f"image_set.candidates: {name} does not exist; make it first",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(name)},
        )
    if candidates is not None:
        _check_candidates(store, candidates, train, problems)
    wanted = _wanted(image_set, candidates, train, problems)
    problems.raise_if_any()
    selection = with_defaults(image_set.selection)
    request = {
        "selection": canonical(selection),
        "candidates": name.id,
        "class_images": dict(sorted(wanted.items())),
        "train_split": train.digest,
        "recipe_version": RECIPE_VERSION,
    }
    target = ArtifactName(IMAGE_SETS, digest_of(request))
    done = int(find_manifest(store, target) is not None)
    factor = selection.oversample if selection.HasField("oversample") else 1.0
    judged = sum(oversampled(wanted, factor).values())
    return Planned(
        request,
        {"train_split": str(train.name)},
        operations_pb2.Plan(
            target=str(target),
            total=1,
            done=done,
            unit="image sets",
            predicted_seconds=0.0 if done else START_SECONDS + judged * SECONDS_PER_IMAGE,
            tasks=1 - done,
        ),
    )


def _check_left_out(image_set: image_sets_pb2.ImageSet, problems: Problems) -> None:
    """Collects what the candidates say already."""
    for field in ("adapter", "base_model"):
        if value := getattr(image_set, field):
            problems.found.append(
                invalid_field(f"image_set.{field}", value, "is that of the candidates in a selection", "leave it out")
            )
    if image_set.settings.ListFields():
        given = [field.name for field, _ in image_set.settings.ListFields()]
        problems.found.append(
            invalid_field("image_set.settings", given, "are those of the candidates in a selection", "leave them out")
        )


def _check_candidates(store: ObjectStore, candidates: Manifest, train: TrainPart, problems: Problems) -> None:
    field = "image_set.candidates"
    with problems:
        if "selection" in candidates.request:
            raise invalid_field(
                field, str(candidates.name), "is a selection itself", "choose among the images that it was chosen from"
            )
    if is_imported(candidates):
        # A selection says nothing of what another program's generator saw, and evaluations have to know.
        problems.found.append(
            invalid_field(
                field,
                str(candidates.name),
                "was imported, and a selection is of images that were made here",
                "choose among them before they are imported",
                reason="IMPORTED_CANDIDATES",
            )
        )
        return
    adapter = find_manifest(store, ArtifactName(ADAPTERS, candidates.inputs["adapter"]))
    if adapter is not None and adapter.inputs.get("train_split") != train.digest:
        raise unmet_precondition(
            "image_set.train_split",
            f"{train.name} is not what {adapter.name} was trained on, and its images may be test images of that split; "
            "use the train part of the adapter that the candidates were made with",
            reason="TRAIN_SPLITS_DIFFER",
            metadata={"artifact": str(adapter.name)},
        )
    if candidates.summary.get(SOURCES):
        alone = [label for label, images in Counter(train.class_names).items() if images == 1]
        with problems:
            if alone:
                raise invalid_field(
                    field,
                    str(candidates.name),
                    f"are children of train images, and the class {alone[0]!r} has one alone: without it, no "
                    "classifier can judge them",
                    "use a split that gives each class two train images",
                )


def _wanted(
    image_set: image_sets_pb2.ImageSet, candidates: Manifest | None, train: TrainPart, problems: Problems
) -> dict[str, int]:
    """Images of each class that are wanted: as many as oversample leaves of the candidates, if none are said."""
    made = None if candidates is None else candidates.request["class_images"]
    check_classes(image_set.class_images, train.classes if made is None else list(made), problems)
    if image_set.class_images:
        return {item.label: item.images for item in image_set.class_images}
    if made is None or not image_set.selection.HasField("oversample"):
        with problems:
            raise missing_field(
                "image_set.class_images", "say how many images of each class are wanted, or give an oversample"
            )
        return {}
    return {label: max(1, int(images / image_set.selection.oversample)) for label, images in made.items()}
