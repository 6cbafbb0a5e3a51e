"""What a CreateEvaluation request means: its defaults, checks, canonical form, trials and predicted time."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.classifier_evaluation.architectures import check_architecture
from synthmix.classifier_evaluation.feature_networks import (
    DEFAULT,
    FEATURE_NETWORK,
    FeatureNetwork,
    find_network,
    weight_warnings,
)
from synthmix.classifier_evaluation.held_out_images import near_duplicate_warnings
from synthmix.classifier_evaluation.metrics import metrics_version
from synthmix.classifier_evaluation.mixtures import (
    MixtureSpec,
    TrialSpec,
    check_enough,
    check_ratios,
    compose,
    expand_grid,
)
from synthmix.classifier_evaluation.pretrained_weights import check_weights
from synthmix.classifier_evaluation.trial_requests import (
    RECIPE_VERSION,
    check_generator,
    steps_per_epoch,
    trial_name,
    trial_request,
)
from synthmix.image_data.generators import is_imported
from synthmix.image_data.image_table import SOURCES
from synthmix.image_data.mixture_kinds import KINDS, MODES, fill_left_out
from synthmix.image_data.selection_rules import SELECTED, images_made
from synthmix.image_data.split_parts import open_train_part, part_summary
from synthmix.image_data.synthetic_images import open_image_set
from synthmix.presets.preset_files import refuse as refuse_preset
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import MANIFEST, Manifest, find_manifest, read_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import Problems, check_choice, missing_field, unmet_precondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import EVALUATIONS, IMAGE_SETS, PARTS, SPLITS, ArtifactName
from synthmix.service_kit.settings_messages import canonical, check, from_canonical, with_defaults

# Raised whenever the comparison or the images' fidelity changes, or a declared default of mixtures or claim: an
# evaluation of another version is another evaluation of the same trials.
COMPARISON_VERSION = 5

# Measured with tf_efficientnet_lite0 on one core of a server CPU: seconds for a training image of 64 x 64 pixels.
SECONDS_PER_IMAGE = 0.006
START_SECONDS = 8.0
# Grids have thousands of trials, and each that is there or not is a question of milliseconds.
STORE_CALLS_AT_ONCE = 16


def plan(
    store: ObjectStore,
    evaluation: evaluations_pb2.Evaluation,
    *,
    validate_only: bool,
    await_image_sets: bool = False,
) -> Planned:
    """Checks a request against what exists, without starting anything.

    A request that is only validated, or that waits for image sets, may name some that do not exist yet.
    """
    if not evaluation.split:
        raise missing_field("evaluation.split", "use splits/{id}")
    split = read_manifest(store, ArtifactName.parse(evaluation.split, field="evaluation.split", collection=SPLITS))
    parts: dict[str, str] = {part: part_summary(split, part)["digest"] for part in PARTS}
    image_sets = [
        ArtifactName.parse(name, field=f"evaluation.image_sets[{index}]", collection=IMAGE_SETS)
        for index, name in enumerate(evaluation.image_sets)
    ]
    full = filled(evaluation)
    problems = Problems()
    check(full, "evaluation", problems)
    refuse_preset(evaluation.mixtures, problems, field="evaluation.mixtures")
    with problems:
        check_architecture(full.classifier.architecture, pretrained=full.classifier.pretrained)
    with problems:
        check_choice("evaluation.mixtures.mode", full.mixtures.mode, MODES)
        # The request's own lists, so that an error names the position that the user wrote.
        expand_grid(full.mixtures, [name.id for name in image_sets], full.seeds)
    network = DEFAULT
    with problems:
        network = find_network(full.measures)
    problems.raise_if_any()
    train_counts = train_class_counts(split)
    warnings = check_ratios(
        full.mixtures.mode, list(full.mixtures.ratios), train_counts, field="evaluation.mixtures.ratios"
    )
    request = canonical_request(full, parts=parts, image_sets=[name.id for name in image_sets], network=network)
    trials = grid(request)
    for name in image_sets:
        optional = validate_only or await_image_sets
        manifest = find_manifest(store, name) if optional else read_manifest(store, name)
        if manifest is not None:
            check_image_set(store, str(split.name), request, trials, manifest, train_counts)
            if is_imported(manifest):
                warnings += near_duplicate_warnings(store, manifest, str(split.name))
    missing = missing_trials(store, request, trials)
    if missing and full.classifier.pretrained:
        warnings += check_weights(full.classifier.architecture)
    target = ArtifactName(EVALUATIONS, digest_of(request))
    if FEATURE_NETWORK in request and find_manifest(store, target) is None:
        warnings += weight_warnings(network)
    seconds = sum(predicted_seconds(full.classifier, trial.mixture, list(train_counts.values())) for trial in missing)
    return Planned(
        request,
        {"split": str(split.name), "await_image_sets": await_image_sets, FEATURE_NETWORK: asdict(network)},
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


def check_image_set(
    store: ObjectStore,
    split: str,
    request: Mapping[str, Any],
    trials: Sequence[TrialSpec],
    image_set: Manifest,
    train_counts: Mapping[str, int],
) -> None:
    """Checks an image set that a canonical request names.

    Args:
        split: splits/{id}.
        trials: The request's.
        train_counts: Real train images of each class.

    Raises:
        FailedPrecondition: It has too few images, or its generator was trained on another split or saw validation or
            test images; or a mixture is of what its base model's autoencoder restores, and it has none.
    """
    field = f"evaluation.image_sets[{request['image_sets'].index(image_set.name.id)}]"
    check_generator(store, image_set, split, request["parts"]["train"], field=field)
    mixtures = [trial.mixture for trial in trials if trial.mixture.image_set == image_set.name.id]
    if is_imported(image_set):
        _check_without_autoencoder(image_set, mixtures, field=field)
    needed = needed_images(train_counts, mixtures)
    remedy = "make a larger image set"
    if SELECTED in image_set.summary:
        remedy = "let its selection keep more, by more candidates (oversample) or a weaker rule"
    check_enough(image_set.name, images_made(image_set), needed, field=field, remedy=remedy)
    if not (image_set.summary.get(SOURCES) or any(KINDS[mixture.kind].drawn_from for mixture in mixtures)):
        return
    # Whether there are children of the real images that a mixture keeps, only the mixture itself can tell.
    train = open_train_part(store, f"{split}/parts/train", field="evaluation.split")
    synthetic = open_image_set(store, str(image_set.name), classes=train.classes, field=field)
    for trial in trials:
        if trial.mixture.image_set == image_set.name.id and KINDS[trial.mixture.kind].holds_synthetic:
            compose(trial.mixture, train, synthetic, trial.seed)


def _check_without_autoencoder(image_set: Manifest, mixtures: Sequence[MixtureSpec], *, field: str) -> None:
    """Raises FailedPrecondition for a mixture that only a base model's autoencoder can make."""
    controls = [mixture.label for mixture in mixtures if KINDS[mixture.kind].reconstructed]
    if controls:
        raise unmet_precondition(
            field,
            f"{image_set.name} was imported, so that no base model is known of it whose autoencoder could restore real "
            f"images ({controls[0]}); leave that control out, or name an image set first that was made here",
            reason="NO_BASE_MODEL",
            metadata={"artifact": str(image_set.name)},
        )


def filled(evaluation: evaluations_pb2.Evaluation) -> evaluations_pb2.Evaluation:
    """A copy in which every field that a user may leave out has its value, and real only stands among the ratios."""
    full = type(evaluation)()
    full.CopyFrom(evaluation)
    fill_left_out(full.mixtures)
    return with_defaults(full)


def canonical_request(
    evaluation: evaluations_pb2.Evaluation,
    *,
    parts: Mapping[str, str],
    image_sets: Sequence[str],
    network: FeatureNetwork = DEFAULT,
) -> dict[str, Any]:
    """What an evaluation's digest is of. `evaluation` is filled.

    Args:
        parts: Digests of train, validation and test.
        image_sets: Their ids.
        network: What their measures go by.
    """
    settings = type(evaluation)(
        mixtures=evaluation.mixtures,
        classifier=evaluation.classifier,
        seeds=evaluation.seeds,
        claim=evaluation.claim,
    )
    settings.mixtures.ratios[:] = sorted({0.0, *evaluation.mixtures.ratios})
    settings.mixtures.controls.sort()
    request = {
        "settings": canonical(settings),
        "parts": dict(parts),
        "image_sets": list(image_sets),
        "recipe_version": f"{RECIPE_VERSION}.{COMPARISON_VERSION}.{metrics_version()}",
    }
    if image_sets and network != DEFAULT:  # there are measures of image sets alone
        request[FEATURE_NETWORK] = network.identity
    return request


def settings_of(request: Mapping[str, Any]) -> evaluations_pb2.Evaluation:
    """The mixtures, classifier, seeds and claim of a canonical request, with their defaults."""
    return from_canonical(request["settings"], evaluations_pb2.Evaluation)


def grid(request: Mapping[str, Any]) -> list[TrialSpec]:
    """The trials of a canonical request."""
    settings = settings_of(request)
    return expand_grid(settings.mixtures, request["image_sets"], settings.seeds)


def request_of_trial(request: Mapping[str, Any], trial: TrialSpec) -> dict[str, Any]:
    """The canonical request of one trial of a canonical evaluation."""
    return trial_request(request["parts"], settings_of(request).classifier, trial)


def missing_trials(store: ObjectStore, request: Mapping[str, Any], trials: Sequence[TrialSpec]) -> list[TrialSpec]:
    """Those of a canonical request's trials that object storage does not hold, in order."""
    classifier = settings_of(request).classifier

    def exists(trial: TrialSpec) -> bool:
        name = trial_name(trial_request(request["parts"], classifier, trial))
        return store.stat(f"{name}/{MANIFEST}") is not None

    with ThreadPoolExecutor(STORE_CALLS_AT_ONCE) as threads:
        found = threads.map(exists, trials)
        return [trial for trial, there in zip(trials, found, strict=True) if not there]


def train_class_counts(split: Manifest) -> dict[str, int]:
    return {label: count["images"] for label, count in sorted(part_summary(split, "train")["class_counts"].items())}


def needed_images(train_counts: Mapping[str, int], mixtures: Sequence[MixtureSpec]) -> dict[str, int]:
    """Synthetic images of each class, enough for every one of the mixtures."""
    needed = [mixture.needed(list(train_counts.values())) for mixture in mixtures]
    return {
        label: max((of_classes[index] for of_classes in needed), default=0) for index, label in enumerate(train_counts)
    }


def predicted_seconds(
    settings: evaluations_pb2.ClassifierSettings, mixture: MixtureSpec, class_counts: Sequence[int]
) -> float:
    """Predicted seconds of one trial on one CPU core, from the real train images of each class."""
    images = mixture.taken(class_counts).images
    steps = settings.epochs * steps_per_epoch(settings, sum(class_counts), images)
    scale = (settings.image_size / 64) ** 2
    return START_SECONDS + steps * settings.batch_size * SECONDS_PER_IMAGE * scale
