"""One evaluation's operation: a task for each trial that isn't in object storage yet, then the statistics over all."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.classifier_evaluation import paired_comparison, requests
from synthmix.classifier_evaluation.classifier_settings import ClassifierSettings
from synthmix.classifier_evaluation.mixtures import APPEND, REAL, SYNTHETIC_ONLY, MixtureSpec, TrialSpec
from synthmix.classifier_evaluation.trial_requests import METRICS, PREDICTIONS, trial_name
from synthmix.service_kit.artifacts import (
    Manifest,
    find_manifest,
    read_manifest,
    read_payload,
    write_manifest,
    write_payload,
)
from synthmix.service_kit.coordinator import OperationContext
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, EVALUATIONS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings import worker_settings
from synthmix.service_kit.short_names import tell_apart

STATISTICS = "statistics.json"
TRIALS = "trials.json"


def coordinate(context: OperationContext) -> ArtifactName:
    """Returns the evaluation's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=EVALUATIONS)
    trials = requests.grid(request)
    if find_manifest(context.store, target) is None:
        missing = [trial for trial in trials if not requests.trial_exists(context.store, request, trial)]
        done = len(trials) - len(missing)
        context.found_done(done)
        context.update(total=len(trials), done=done, unit="trials", message="training classifiers")

        def count(index: int, value: Any) -> None:
            nonlocal done
            done += 1
            context.update(done=done)

        settings = ClassifierSettings(**request["classifier"])
        context.run_tasks(
            "synthmix.classifier_evaluation.trials:run_trial",
            [
                {
                    "split": names["split"],
                    "trial": trial,
                    "settings": settings,
                    "gpus": worker_settings(context.service).gpus,
                }
                for trial in missing
            ],
            count,
        )
        context.update(message="comparing")
        _write_evaluation(context, target, request, names["split"], trials)
    context.update(total=len(trials), done=len(trials), unit="trials")
    return target


def _write_evaluation(
    context: OperationContext,
    target: ArtifactName,
    request: dict[str, Any],
    split: str,
    trials: list[TrialSpec],
) -> None:
    store = context.store
    manifests = {trial: read_manifest(store, trial_name(requests.request_of_trial(request, trial))) for trial in trials}
    metrics = {trial: json.loads(read_payload(store, manifest, METRICS)) for trial, manifest in manifests.items()}
    labels = mixture_labels(store, mixtures_of(trials))
    compared = compare_trials(store, request, manifests, labels)
    statistics_value = {
        **asdict(compared),
        "identities": [identity(mixture, labels) for mixture in mixtures_of(trials)],
    }
    payloads = (
        write_payload(store, target, STATISTICS, _json(statistics_value)),
        write_payload(store, target, TRIALS, _json([trial_row(trial, metrics[trial]) for trial in trials])),
    )
    results = {result.key: result for result in compared.mixtures}
    write_manifest(
        store,
        Manifest(
            name=target,
            inputs={
                **{f"{part}_split": digest for part, digest in request["parts"].items()},
                **{f"image-set-{index}": image_set for index, image_set in enumerate(request["image_sets"])},
            },
            request={key: value for key, value in request.items() if key != "recipe_version"},
            recipe_version=request["recipe_version"],
            payloads=payloads,
            summary={
                "split": split,
                "trial_count": len(trials),
                "trials": [str(manifest.name) for manifest in manifests.values()],
                "verdict": compared.verdict.sentence if compared.verdict else "",
                "results": [
                    result_row(mixture, results[mixture.key], request["seeds"]) for mixture in mixtures_of(trials)
                ],
            },
            seconds=context.worker_seconds,
            gpu_seconds=context.gpu_seconds,
        ),
    )


def mixtures_of(trials: list[TrialSpec]) -> list[MixtureSpec]:
    """The grid's mixtures, in its order."""
    return list(dict.fromkeys(trial.mixture for trial in trials))


def mixture_labels(store: ObjectStore, mixtures: Sequence[MixtureSpec]) -> dict[MixtureSpec, str]:
    """What people call each mixture; where there are several image sets, with what tells theirs apart."""
    image_sets = list(dict.fromkeys(mixture.image_set for mixture in mixtures if mixture.image_set))
    requests_of_sets = []
    for image_set in image_sets:
        manifest = read_manifest(store, ArtifactName(IMAGE_SETS, image_set))
        adapter = read_manifest(store, ArtifactName(ADAPTERS, manifest.inputs["adapter"]))
        request = {**adapter.request, **manifest.request}
        requests_of_sets.append({key: value for key, value in request.items() if key != "adapter"})
    names = dict(zip(image_sets, tell_apart(requests_of_sets, ("method", "rank")), strict=True))
    several = len(image_sets) > 1
    return {
        mixture: f"{mixture.label} with {names[mixture.image_set]}" if mixture.image_set and several else mixture.label
        for mixture in mixtures
    }


def verdict_candidates(mixtures: Sequence[MixtureSpec]) -> list[MixtureSpec]:
    """The mixtures among which validation chooses the one that the verdict is about.

    Ratios, since the question is at which ratio synthetic images help; synthetic only, if there are no ratios.
    """
    return [mixture for mixture in mixtures if mixture.kind == APPEND] or [
        mixture for mixture in mixtures if mixture.kind == SYNTHETIC_ONLY
    ]


def compare_trials(
    store: ObjectStore, request: dict[str, Any], manifests: dict[TrialSpec, Manifest], labels: Mapping[MixtureSpec, str]
) -> paired_comparison.Comparison:
    """Statistics over a whole grid."""
    tables: dict[TrialSpec, pa.Table] = {
        trial: pq.read_table(io.BytesIO(read_payload(store, manifest, PREDICTIONS)))
        for trial, manifest in manifests.items()
    }
    first = next(iter(tables.values()))
    [reference] = [mixture.key for mixture in mixtures_of(list(manifests)) if mixture.kind == REAL]
    compared = []
    for mixture in mixtures_of(list(manifests)):
        trials = [trial for trial in manifests if trial.mixture == mixture]
        if any(tables[trial]["sha256"] != first["sha256"] for trial in trials):
            raise AssertionError(f"trials of {mixture.key} were evaluated on other test images")
        compared.append(
            paired_comparison.MixturePredictions(
                key=mixture.key,
                label=labels[mixture],
                predicted=np.stack([tables[trial]["predicted"].to_numpy() for trial in trials]),
                validation_balanced_accuracy=np.array(
                    [manifests[trial].summary["validation_balanced_accuracy"] for trial in trials]
                ),
            )
        )
    return paired_comparison.compare(
        first["label"].to_numpy(),
        np.array(first["group"].to_pylist()),
        compared,
        reference=reference,
        candidates=[mixture.key for mixture in verdict_candidates(mixtures_of(list(manifests)))],
        class_names=next(iter(manifests.values())).summary["classes"],
        confidence=request["claim"]["confidence"],
        margin=request["claim"]["margin"],
    )


def identity(mixture: MixtureSpec, labels: Mapping[MixtureSpec, str]) -> dict[str, Any]:
    """What a key of the statistics means."""
    return {
        "key": mixture.key,
        "label": labels[mixture],
        "kind": mixture.kind,
        "ratio": mixture.ratio,
        "image_set": image_set_name(mixture) or None,
    }


def image_set_name(mixture: MixtureSpec) -> str:
    return str(ArtifactName(IMAGE_SETS, mixture.image_set)) if mixture.image_set else ""


def trial_row(trial: TrialSpec, metrics: dict[str, Any]) -> dict[str, Any]:
    """One trial as trials.json has it."""
    return {
        "mixture": trial.mixture.key,
        "seed": trial.seed,
        "n_real": metrics["real_images"],
        "n_synthetic": metrics["synthetic_images"],
        "optimizer_steps": metrics["steps"],
        "best_epoch": metrics["best_epoch"],
        "metrics": metrics["test"],
    }


def result_row(mixture: MixtureSpec, result: paired_comparison.MixtureResult, seeds: int) -> dict[str, Any]:
    """One mixture as the evaluation's resource has it."""
    score, difference = result.balanced_accuracy, result.difference
    return {
        "mixture": mixture.label,
        "image_set": image_set_name(mixture),
        "ratio": mixture.ratio,
        "trials": seeds,
        "balanced_accuracy": score.mean,
        "balanced_accuracy_interval": [score.low, score.high],
        "difference": difference.mean if difference else 0.0,
        "difference_interval": [difference.low, difference.high] if difference else None,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()
