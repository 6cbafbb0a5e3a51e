"""What a CreateEvaluation request means: its defaults, checks, canonical form, trials and predicted time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.classifier_evaluation.classifier_settings import (
    ClassifierSettings,
    checked_settings,
    steps_per_epoch,
    with_defaults,
)
from synthmix.classifier_evaluation.metrics import metrics_version
from synthmix.classifier_evaluation.mixtures import (
    MixtureSpec,
    TrialSpec,
    check_ratios,
    expand_grid,
)
from synthmix.classifier_evaluation.pretrained_weights import check_weights
from synthmix.classifier_evaluation.trial_requests import RECIPE_VERSION, check_generator, trial_name, trial_request
from synthmix.image_data.mixture_kinds import MODES
from synthmix.image_data.split_parts import part_summary
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import MANIFEST, Manifest, find_manifest, read_manifest
from synthmix.service_kit.defaults import set_default
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import (
    FailedPrecondition,
    FieldViolation,
    Problems,
    Unimplemented,
    check_choice,
    check_range,
    missing_field,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import EVALUATIONS, IMAGE_SETS, PARTS, SPLITS, ArtifactName

# Raised whenever the comparison changes: an evaluation of another version is another evaluation of the same trials.
COMPARISON_VERSION = 3

LATER_MODES = ("sample", "pretrain")

# Measured with tf_efficientnet_lite0 on one core of a server CPU: seconds for a training image of 64 x 64 pixels.
SECONDS_PER_IMAGE = 0.006
START_SECONDS = 8.0


def plan(store: ObjectStore, evaluation: evaluations_pb2.Evaluation, *, validate_only: bool) -> Planned:
    """Checks a request against what exists, without starting anything.

    A request that is only validated may name image sets that don't exist yet.
    """
    if not evaluation.split:
        raise missing_field("evaluation.split", "use splits/{id}")
    split = read_manifest(store, ArtifactName.parse(evaluation.split, field="evaluation.split", collection=SPLITS))
    parts = {part: part_summary(split, part)["digest"] for part in PARTS}
    image_sets = [
        ArtifactName.parse(name, field=f"evaluation.image_sets[{index}]", collection=IMAGE_SETS)
        for index, name in enumerate(evaluation.image_sets)
    ]
    full = evaluations_pb2.Evaluation()
    full.CopyFrom(evaluation)
    set_default(full.mixtures, "mode", "append")
    set_default(full, "seeds", 5)
    set_default(full.claim, "margin", 0.02)
    set_default(full.claim, "confidence", 0.95)
    full.classifier.CopyFrom(with_defaults(evaluation.classifier))
    problems = Problems()
    with problems:
        check_range("evaluation.claim.margin", full.claim.margin, 0.0, 1.0, exclusive=True)
    with problems:
        check_range("evaluation.claim.confidence", full.claim.confidence, 0.5, 0.9999)
    with problems:
        check_mode(full.mixtures.mode)
        # The request's own lists, so that an error names the position that the user wrote.
        expand_grid(
            full.mixtures.mode,
            list(full.mixtures.ratios),
            full.mixtures.synthetic_only,
            list(full.mixtures.controls),
            [name.id for name in image_sets],
            full.seeds,
        )
    with problems:
        settings = checked_settings(full.classifier)
    problems.raise_if_any()
    train_counts = train_class_counts(split)
    warnings = check_ratios(
        full.mixtures.mode, list(full.mixtures.ratios), train_counts, field="evaluation.mixtures.ratios"
    )
    request: dict[str, Any] = {
        "parts": parts,
        "image_sets": [name.id for name in image_sets],
        "mixtures": {
            "mode": full.mixtures.mode,
            "ratios": sorted({0.0, *full.mixtures.ratios}),
            "synthetic_only": full.mixtures.synthetic_only,
            "controls": sorted(full.mixtures.controls),
        },
        "classifier": asdict(settings),
        "seeds": full.seeds,
        "claim": {"margin": full.claim.margin, "confidence": full.claim.confidence},
        "recipe_version": f"{RECIPE_VERSION}.{COMPARISON_VERSION}.{metrics_version()}",
    }
    trials = grid(request)
    for index, name in enumerate(image_sets):
        manifest = find_manifest(store, name) if validate_only else read_manifest(store, name)
        if manifest is not None:
            check_generator(store, manifest, parts["train"], field=f"evaluation.image_sets[{index}]")
            check_enough(manifest, train_counts, trials, field=f"evaluation.image_sets[{index}]")
    missing = [trial for trial in trials if not trial_exists(store, request, trial)]
    if missing and settings.pretrained:
        warnings += check_weights(settings.architecture)
    target = ArtifactName(EVALUATIONS, digest_of(request))
    seconds = sum(predicted_seconds(settings, trial.mixture, list(train_counts.values())) for trial in missing)
    return Planned(
        request,
        {"split": str(split.name)},
        operations_pb2.Plan(
            target=str(target),
            total=len(trials),
            done=len(trials) - len(missing),
            unit="trials",
            predicted_seconds=seconds,
            tasks=len(missing),
            warnings=warnings,
        ),
    )


def check_mode(mode: str) -> None:
    if mode in LATER_MODES:
        description = f"{mode!r} is not available in this version; use {', '.join(MODES)}"
        raise Unimplemented(
            f"evaluation.mixtures.mode: {description}",
            reason="MODE_UNAVAILABLE",
            violations=[FieldViolation("evaluation.mixtures.mode", description)],
        )
    check_choice("evaluation.mixtures.mode", mode, MODES)


def grid(request: Mapping[str, Any]) -> list[TrialSpec]:
    """The trials of a canonical request."""
    mixtures = request["mixtures"]
    return expand_grid(
        mixtures["mode"],
        mixtures["ratios"],
        mixtures["synthetic_only"],
        mixtures["controls"],
        request["image_sets"],
        request["seeds"],
    )


def request_of_trial(request: Mapping[str, Any], trial: TrialSpec) -> dict[str, Any]:
    """The canonical request of one trial of a canonical evaluation."""
    return trial_request(request["parts"], ClassifierSettings(**request["classifier"]), trial)


def trial_exists(store: ObjectStore, request: Mapping[str, Any], trial: TrialSpec) -> bool:
    return store.stat(f"{trial_name(request_of_trial(request, trial))}/{MANIFEST}") is not None


def train_class_counts(split: Manifest) -> dict[str, int]:
    return {label: count["images"] for label, count in sorted(part_summary(split, "train")["class_counts"].items())}


def check_enough(image_set: Manifest, train_counts: Mapping[str, int], trials: list[TrialSpec], *, field: str) -> None:
    """Raises FailedPrecondition if an image set is too small for the grid: before any classifier is trained."""
    mixtures = {trial.mixture for trial in trials if trial.mixture.image_set == image_set.name.id}
    needed = max((max(mixture.taken(list(train_counts.values())).synthetic) for mixture in mixtures), default=0)
    if needed > image_set.request["per_class"]:
        description = (
            f"{image_set.name} has {image_set.request['per_class']} images of each class and the grid needs {needed}; "
            "make a larger image set, or ask for smaller ratios"
        )
        raise FailedPrecondition(
            f"{field}: {description}",
            reason="TOO_FEW_SYNTHETIC_IMAGES",
            violations=[FieldViolation(field, description)],
        )


def predicted_seconds(settings: ClassifierSettings, mixture: MixtureSpec, class_counts: Sequence[int]) -> float:
    """Predicted seconds of one trial on one CPU core, from the real train images of each class."""
    images = mixture.taken(class_counts).images
    steps = settings.epochs * steps_per_epoch(settings, sum(class_counts), images)
    scale = (settings.image_size_px / 64) ** 2
    return START_SECONDS + steps * settings.batch_size * SECONDS_PER_IMAGE * scale
