"""What a worker does for one trial: the split's pixels and the image set's in, predictions out.

Metrics are computed from these by the evaluation.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings, Training
from synthmix.classifier_evaluation import recipe
from synthmix.classifier_evaluation.mixtures import MixtureSpec, TrialSpec, compose
from synthmix.classifier_evaluation.reconstructions import open_reconstruction
from synthmix.classifier_evaluation.trial_requests import (
    RECIPE_VERSION,
    check_generator,
    trial_name,
    trial_request,
)
from synthmix.image_data.mixture_kinds import KINDS
from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.split_parts import TrainPart, open_split
from synthmix.image_data.synthetic_images import ReconstructedImages, SyntheticImages, open_image_set
from synthmix.image_data.trial_files import PREDICTIONS, TRAINING, VALIDATION_PREDICTIONS, predictions_table
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest, write_payload
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.settings_messages import from_canonical


def run_trial(
    split: str,
    trial: TrialSpec,
    settings: dict[str, Any],
    report: Callable[[int], None],
    threads: int,
    gpus: float = 0.0,
) -> str:
    """The task of a worker: evaluate_trial, with the settings in their canonical form, which Ray can send.

    Its operation counts trials, so a trial's own steps are counted by the metrics only.
    """
    store = open_object_store()
    counted = 0

    def report_steps(steps: int) -> None:
        nonlocal counted
        count_on_worker("synthmix_classifier_steps", steps - counted, CLASSIFIER_EVALUATION)
        counted = steps

    classifier = from_canonical(settings, ClassifierSettings)
    name = evaluate_trial(store, split, trial, classifier, report=report_steps, threads=threads, gpus=gpus)
    if counted:  # and not found made
        count_on_worker("synthmix_trials", 1, CLASSIFIER_EVALUATION)
    return str(name)


def evaluate_trial(
    store: ObjectStore,
    split: str,
    trial: TrialSpec,
    settings: ClassifierSettings,
    *,
    report: Callable[[int], None],
    threads: int,
    gpus: float = 0.0,
) -> ArtifactName:
    """Trains and evaluates one classifier and writes its artifact, unless that is there already.

    Args:
        store: Object storage.
        split: splits/{id}.
        trial: Mixture and seed.
        settings: The classifier's.
        report: Called with the optimizer steps done.
        threads: CPU threads to use.
        gpus: Of the worker, for the account.

    Returns:
        The trial's name.

    Raises:
        FailedPrecondition: The image set has too few images, or its generator was trained on another split or saw its
            validation or test images; or the training cannot be done.
        NotFound: There is no such split or image set.
    """
    start_s = time.perf_counter()
    train, validation, test = open_split(store, split, field="evaluation.split")
    request = trial_request(
        {"train": train.digest, "validation": validation.digest, "test": test.digest}, settings, trial
    )
    name = trial_name(request)
    if find_manifest(store, name) is not None:
        return name

    real, synthetic = _open_images(store, trial.mixture, split, train)
    mixture = compose(trial.mixture, train, synthetic, trial.seed)
    size_px = settings.image_size
    test_reads = 0

    def open_test() -> np.ndarray:
        nonlocal test_reads
        test_reads += 1
        return pixels(store, test, size_px)

    with memory_told_at(
        "evaluation.classifier.batch_size",
        f"batches of {settings.batch_size} images of {size_px} pixels through {settings.architecture}",
        "lower classifier.batch_size or classifier.image_size, or choose a smaller architecture",
    ):
        result = recipe.train_and_evaluate(
            settings,
            len(train.classes),
            recipe.TrainingImages(
                mixture, pixels(store, real, size_px), pixels(store, synthetic, size_px) if synthetic else None
            ),
            pixels(store, validation, size_px),
            np.asarray(validation.labels, np.int64),
            open_test=open_test,
            seed=trial.seed,
            threads=threads,
            report=report,
        )

    training = Training(
        mixture=trial.mixture.key,
        seed=trial.seed,
        classes=train.classes,
        real_images=len(mixture.real_rows),
        synthetic_images=len(mixture.synthetic_rows),
        optimizer_steps=result.steps,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        test_reads=test_reads,
    )
    files = {
        PREDICTIONS: predictions_table(test, result.test_probabilities),
        VALIDATION_PREDICTIONS: predictions_table(validation, result.validation_probabilities),
        TRAINING: message_json.to_bytes(training),
    }
    payloads = tuple(write_payload(store, name, file, data) for file, data in files.items())
    seconds = time.perf_counter() - start_s
    inputs = {f"{part}_split": digest for part, digest in request["parts"].items()}
    if trial.mixture.image_set is not None:
        inputs["image_set"] = trial.mixture.image_set
    write_manifest(
        store,
        Manifest(
            name=name,
            inputs=inputs,
            request={key: value for key, value in request.items() if key != "recipe_version"},
            recipe_version=RECIPE_VERSION,
            payloads=payloads,
            seconds=seconds,
            gpu_seconds=seconds * gpus,
        ),
    )
    return name


def _open_images(
    store: ObjectStore, mixture: MixtureSpec, split: str, train: TrainPart
) -> tuple[TrainPart | ReconstructedImages, SyntheticImages | None]:
    """A mixture's real images, as they are or as the base model's autoencoder restores them; its synthetic ones."""
    if mixture.image_set is None:
        return train, None
    name, field = ArtifactName(IMAGE_SETS, mixture.image_set), "evaluation.image_sets"
    manifest = read_manifest(store, name)
    check_generator(store, manifest, split, train.digest, field=field)
    if KINDS[mixture.kind].reconstructed:
        return open_reconstruction(store, manifest, train), None
    return train, open_image_set(store, str(name), classes=train.classes, field=field)
