"""What a worker does for one trial: the split's pixels and the image set's in, predictions and metrics out.

trials/{id}/predictions.parquet             the test images in order: what they are, what the classifier says
trials/{id}/validation_predictions.parquet  likewise of the kept epoch on validation
trials/{id}/metrics.json                    metrics of both parts, the course of the training, the mixture
"""

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.classifier_evaluation import recipe
from synthmix.classifier_evaluation.classifier_settings import ClassifierSettings
from synthmix.classifier_evaluation.metrics import all_metrics
from synthmix.classifier_evaluation.mixtures import Mixture, TrialSpec, compose
from synthmix.classifier_evaluation.trial_requests import (
    METRICS,
    PREDICTIONS,
    RECIPE_VERSION,
    VALIDATION_PREDICTIONS,
    check_generator,
    trial_name,
    trial_request,
)
from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.split_parts import TestPart, TrainPart, ValidationPart, open_split
from synthmix.image_data.synthetic_images import SyntheticImages, open_image_set
from synthmix.service_kit.artifacts import Manifest, find_manifest, write_manifest, write_payload
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings import CLASSIFIER_EVALUATION, object_store_settings

PREDICTION_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("group", pa.string()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)
"""A row an image: sha256 of its bytes, its group, its class and the predicted one as positions in the
manifest's classes, and the probability of each class."""


def run_trial(
    split: str,
    trial: TrialSpec,
    settings: ClassifierSettings,
    report: Callable[[int], None],
    threads: int,
    gpus: float = 0.0,
) -> dict[str, Any]:
    """The task that a coordinator runs on a worker: evaluate_trial, with the worker's settings and counters.

    Its operation counts trials, so a trial's own steps are counted by the metrics only.
    """
    store = ObjectStore(object_store_settings())
    counted = 0

    def report_steps(steps: int) -> None:
        nonlocal counted
        count_on_worker("synthmix_classifier_steps", steps - counted, CLASSIFIER_EVALUATION)
        counted = steps

    summary = evaluate_trial(store, split, trial, settings, report=report_steps, threads=threads, gpus=gpus)
    count_on_worker("synthmix_trials", 1, CLASSIFIER_EVALUATION)
    return summary


def evaluate_trial(
    store: ObjectStore,
    split: str,
    trial: TrialSpec,
    settings: ClassifierSettings,
    *,
    report: Callable[[int], None],
    threads: int,
    gpus: float = 0.0,
) -> dict[str, Any]:
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
        The summary in the trial's manifest, and the trial's name.

    Raises:
        FailedPrecondition: The image set has too few images, or its generator was trained on another split;
            or the training can't be done.
        NotFound: There is no such split or image set.
    """
    start_s = time.perf_counter()
    train, validation, test = open_split(store, split, field="evaluation.split")
    request = trial_request(
        {"train": train.digest, "validation": validation.digest, "test": test.digest}, settings, trial
    )
    name = trial_name(request)
    found = find_manifest(store, name)
    if found is not None:
        return {**found.summary, "name": str(name)}

    synthetic = _open_synthetic(store, trial, train)
    mixture = compose(trial.mixture, train, synthetic, trial.seed)
    size_px = settings.image_size_px
    with memory_told_at(
        "evaluation.classifier.batch_size",
        f"batches of {settings.batch_size} images of {size_px} pixels through {settings.architecture}",
        "lower classifier.batch_size or classifier.image_size, or choose a smaller architecture",
    ):
        result = recipe.train_and_evaluate(
            settings,
            len(train.classes),
            recipe.TrainingImages(
                mixture, pixels(store, train, size_px), pixels(store, synthetic, size_px) if synthetic else None
            ),
            pixels(store, validation, size_px),
            np.asarray(validation.labels, np.int64),
            open_test=lambda: pixels(store, test, size_px),
            seed=trial.seed,
            threads=threads,
            report=report,
        )

    metrics = _metrics(trial, settings, mixture, train.classes, validation, test, result)
    payloads = (
        write_payload(store, name, PREDICTIONS, predictions_table(test, result.test_probabilities)),
        write_payload(
            store,
            name,
            VALIDATION_PREDICTIONS,
            predictions_table(validation, result.validation_probabilities),
        ),
        write_payload(store, name, METRICS, json.dumps(metrics, sort_keys=True, indent=1).encode()),
    )
    seconds = time.perf_counter() - start_s
    inputs = {f"{part}_split": digest for part, digest in request["parts"].items()}
    if trial.mixture.image_set is not None:
        inputs["image_set"] = trial.mixture.image_set
    summary = _summary(metrics)
    write_manifest(
        store,
        Manifest(
            name=name,
            inputs=inputs,
            request={key: value for key, value in request.items() if key != "recipe_version"},
            recipe_version=RECIPE_VERSION,
            payloads=payloads,
            summary=summary,
            seconds=seconds,
            gpu_seconds=seconds * gpus,
        ),
    )
    return {**summary, "name": str(name)}


def predictions_table(part: ValidationPart | TestPart, probabilities: np.ndarray) -> bytes:
    """A Parquet file of PREDICTION_SCHEMA; equal predictions give equal bytes."""
    columns = [
        pa.array(part.sha256s, pa.string()),
        pa.array(part.groups, pa.string()),
        pa.array(part.labels, pa.int32()),
        pa.array(probabilities.argmax(1), pa.int32()),
        pa.array(list(probabilities), pa.list_(pa.float32())),
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=PREDICTION_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def _open_synthetic(store: ObjectStore, trial: TrialSpec, train: TrainPart) -> SyntheticImages | None:
    if trial.mixture.image_set is None:
        return None
    image_set = str(ArtifactName(IMAGE_SETS, trial.mixture.image_set))
    synthetic = open_image_set(store, image_set, classes=train.classes, field="evaluation.image_sets")
    check_generator(store, synthetic.manifest, train.digest, field="evaluation.image_sets")
    return synthetic


def _metrics(
    trial: TrialSpec,
    settings: ClassifierSettings,
    mixture: Mixture,
    classes: tuple[str, ...],
    validation: ValidationPart,
    test: TestPart,
    result: recipe.TrainingResult,
) -> dict[str, Any]:
    return {
        "mixture": asdict(trial.mixture) | {"key": trial.mixture.key, "label": trial.mixture.label},
        "seed": trial.seed,
        "classifier": asdict(settings),
        "classes": list(classes),
        "real_images": len(mixture.real_rows),
        "synthetic_images": len(mixture.synthetic_rows),
        "steps": result.steps,
        "epochs": [asdict(epoch) for epoch in result.epochs],
        "best_epoch": result.best_epoch,
        "validation": all_metrics(result.validation_probabilities, np.asarray(validation.labels)),
        "test": all_metrics(result.test_probabilities, np.asarray(test.labels)),
    }


def _summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a grid's table shows."""
    return {
        "mixture": metrics["mixture"],
        "seed": metrics["seed"],
        "classes": metrics["classes"],
        "real_images": metrics["real_images"],
        "synthetic_images": metrics["synthetic_images"],
        "steps": metrics["steps"],
        "best_epoch": metrics["best_epoch"],
        "validation_balanced_accuracy": metrics["validation"]["balanced_accuracy"],
        **{
            name: metrics["test"][name]
            for name in (
                "accuracy",
                "balanced_accuracy",
                "macro_f1",
                "matthews_correlation",
                "auroc",
                "expected_calibration_error",
                "brier_score",
                "negative_log_likelihood",
            )
        },
    }
