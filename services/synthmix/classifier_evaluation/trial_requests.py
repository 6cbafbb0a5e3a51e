"""What a trial is addressed by, so that a grid that grew, or another that overlaps it, finds what is done; its length.

Imported by front ends: no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings
from synthmix.classifier_evaluation.held_out_images import check_held_out
from synthmix.classifier_evaluation.mixtures import TrialSpec
from synthmix.image_data.generators import is_imported
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import unmet_precondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, PARTS, TRIALS, ArtifactName
from synthmix.service_kit.settings_messages import canonical

# Raised whenever the recipe's bytes change, or a declared default of the classifier: a trial of another version is
# another trial.
RECIPE_VERSION = 1


def trial_request(part_digests: Mapping[str, str], settings: ClassifierSettings, trial: TrialSpec) -> dict[str, Any]:
    """The canonical request of a trial.

    Args:
        part_digests: Of train, validation and test.
        settings: The classifier's, with their defaults.
        trial: Mixture and seed.
    """
    return {
        "parts": {part: part_digests[part] for part in PARTS},
        "classifier": canonical(settings),
        # An option that came later, and that has no value, leaves addresses as they are.
        "mixture": {
            name: value for name, value in asdict(trial.mixture).items() if (name, value) != ("soft_label_gamma", None)
        },
        "seed": trial.seed,
        "recipe_version": RECIPE_VERSION,
    }


def trial_name(request: Mapping[str, Any]) -> ArtifactName:
    return ArtifactName(TRIALS, digest_of(request))


def steps_per_epoch(settings: ClassifierSettings, real_images: int, mixture_images: int) -> int:
    """Optimizer steps from one validation to the next; times epochs, of the whole training."""
    images = real_images if settings.match == "steps" else mixture_images
    return -(-images // settings.batch_size)


def check_generator(store: ObjectStore, image_set: Manifest, split: str, train_digest: str, *, field: str) -> None:
    """Raises FailedPrecondition if an image set's adapter was trained on anything but this train part.

    Another split of the same dataset has some of this one's test images in its train part: what a generator
    made of them would carry the test into training. So may an imported adapter. Of imported images it is stated which
    real ones their generator saw, and none of the split's validation and test images may be among them.

    Args:
        split: splits/{id}.
        train_digest: Of its train part.
    """
    if is_imported(image_set):
        check_held_out(store, image_set, split, field=field)
        return
    adapter = read_manifest(store, ArtifactName(ADAPTERS, image_set.inputs["adapter"]))
    if is_imported(adapter):
        raise unmet_precondition(
            field,
            f"{image_set.name} was made by {adapter.name}, which was imported: it is not known on which images it was "
            "trained, and this split's test images may be among them; train an adapter on this split's train part and "
            "make an image set of it",
            reason="TRAINING_DATA_UNKNOWN",
            metadata={"artifact": str(image_set.name)},
        )
    if adapter.inputs["train_split"] == train_digest:
        return
    raise unmet_precondition(
        field,
        f"{image_set.name} was made by {adapter.name}, which was trained on another train split and may have "
        "seen this one's test images; train an adapter on this split's train part and make an image set of it",
        reason="TRAIN_SPLITS_DIFFER",
        metadata={"artifact": str(image_set.name)},
    )
