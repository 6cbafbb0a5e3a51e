"""What a CreateImageSetScore request means: its checks, its canonical form and its predicted time. Without torch."""

from collections.abc import Mapping
from typing import Any

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.classifier_evaluation.planning import START_SECONDS
from synthmix.classifier_evaluation.trial_requests import check_generator
from synthmix.image_data.generators import adapter_settings, is_imported
from synthmix.image_data.selection_rules import images_made
from synthmix.image_data.split_parts import part_summary
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import missing_field, unmet_precondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SET_SCORES, IMAGE_SETS, SPLITS, ArtifactName

# Raised whenever the same images would have another score, by the judge or by the features that it goes by.
RECIPE_VERSION = 1
# A third of what a step of a training takes, which has a backward pass as well (planning.SECONDS_PER_IMAGE).
SECONDS_PER_IMAGE = 0.002
# The parts that are compared with. The test part is none of them: what is chosen by a score is chosen without it.
PARTS = ("train", "validation")
# The distance is between the images of a sample, so that one of each is none.
LEAST_IMAGES = 2
FIELD = "image_set_score.image_set"


def plan(store: ObjectStore, score: evaluations_pb2.ImageSetScore, *, validate_only: bool) -> Planned:
    """Checks a request against what exists, without starting anything. Raises SynthMixError.

    A request that is only validated may name an image set that does not exist yet.
    """
    if not score.split:
        raise missing_field("image_set_score.split", "use splits/{id}")
    if not score.image_set:
        raise missing_field(FIELD, "use image-sets/{id}")
    split_name = ArtifactName.parse(score.split, field="image_set_score.split", collection=SPLITS)
    name = ArtifactName.parse(score.image_set, field=FIELD, collection=IMAGE_SETS)
    split = read_manifest(store, split_name)
    image_set = find_manifest(store, name) if validate_only else read_manifest(store, name)
    if image_set is not None:
        check_image_set(store, split, image_set)
    request = {
        "parts": {part: part_summary(split, part)["digest"] for part in PARTS},
        "image_set": name.id,
        "recipe_version": RECIPE_VERSION,
    }
    target = ArtifactName(IMAGE_SET_SCORES, digest_of(request))
    done = find_manifest(store, target) is not None
    return Planned(
        request,
        {"split": str(split.name)},
        operations_pb2.Plan(
            target=str(target),
            total=1,
            done=int(done),
            unit="image sets",
            predicted_seconds=0.0 if done else predicted_seconds(store, split, image_set),
            tasks=0 if done else 1,
        ),
    )


def check_image_set(store: ObjectStore, split: Manifest, image_set: Manifest) -> None:
    """Checks that an image set can be judged by a split's train and validation images.

    Raises:
        FailedPrecondition: Its generator was trained on another split, or saw validation or test images; it holds
            classes that the train part has no images of, or too few images that validation ones could be compared with.
    """
    check_generator(store, image_set, str(split.name), part_summary(split, "train")["digest"], field=FIELD)
    made = {label: images for label, images in images_made(image_set).items() if images}
    known = _with_images(split, "train")
    unknown = sorted(set(made) - set(known))
    if unknown:
        raise unmet_precondition(
            FIELD,
            f"{image_set.name} holds class {unknown[0]!r}, of which the train part has no images (it has some of "
            f"{', '.join(sorted(known))}); use an image set of classes that the split has train images of",
            reason="CLASSES_DIFFER",
            metadata={"artifact": str(image_set.name)},
        )
    if len(known) == 1:
        raise unmet_precondition(
            "image_set_score.split",
            f"all train images of {split.name} are of one class, so that no image can show another; use a split with "
            "train images of at least two classes",
            reason="ONE_CLASS",
            metadata={"artifact": str(split.name)},
        )
    validation = _with_images(split, "validation")
    shared = made.keys() & validation.keys()
    # Balanced samples have as many of each class as the rarest.
    compared = min(len(shared) * min((counts[label] for label in shared), default=0) for counts in (made, validation))
    if compared < LEAST_IMAGES:
        raise unmet_precondition(
            FIELD,
            f"{image_set.name} holds {sum(made.values())} images, and {compared} of them can be compared with "
            f"validation images of as many of each class, where {LEAST_IMAGES} are needed; make an image set with more "
            "images of classes that the validation part has images of",
            reason="TOO_FEW_IMAGES",
            metadata={"artifact": str(image_set.name)},
        )


def predicted_seconds(store: ObjectStore, split: Manifest, image_set: Manifest | None) -> float:
    """Of the features of all images, as if none were known, on one CPU core.

    Args:
        image_set: None if it is still to be made: its images then do not count.
    """
    images = sum(sum(_with_images(split, part).values()) for part in PARTS)
    side_px = 64
    if image_set is not None:
        images += sum(images_made(image_set).values())
        side_px = _side_px(store, image_set) or side_px
    return START_SECONDS + images * SECONDS_PER_IMAGE * (side_px / 64) ** 2


def _side_px(store: ObjectStore, image_set: Manifest) -> int:
    """The side of an image set's images; 0 if that is not known yet."""
    if is_imported(image_set):
        return int(image_set.summary["image_size"])
    return adapter_settings(read_manifest(store, ArtifactName(ADAPTERS, image_set.inputs["adapter"]))).image_size


def _with_images(split: Manifest, part: str) -> Mapping[str, int]:
    """The images of each class that a part has any of."""
    counts: dict[str, Any] = part_summary(split, part)["class_counts"]
    return {label: count["images"] for label, count in counts.items() if count["images"]}
