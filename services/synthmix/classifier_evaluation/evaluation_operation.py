"""One evaluation's operation: a task for each cell that isn't in object storage yet, then the statistics over all."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.classifier_evaluation import planning, statistics
from synthmix.classifier_evaluation.cell_requests import METRICS, PREDICTIONS, cell_name
from synthmix.classifier_evaluation.mixtures import APPEND, REAL, SYNTHETIC_ONLY, CellSpec, MixtureSpec
from synthmix.image_data.generators import image_set_names
from synthmix.service_kit.artifacts import (
    Manifest,
    find_manifest,
    read_manifest,
    read_payload,
    write_manifest,
    write_payload,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import EVALUATIONS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings import worker_settings
from synthmix.service_kit.settings_messages import canonical

STATISTICS = "statistics.json"
CELLS = "cells.json"


def run(context: OperationContext) -> ArtifactName:
    """Returns the evaluation's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=EVALUATIONS)
    cells = planning.grid(request)
    if find_manifest(context.store, target) is None:
        missing = [cell for cell in cells if not planning.cell_exists(context.store, request, cell)]
        done = len(cells) - len(missing)
        context.note_reused(done)
        context.update(total=len(cells), done=done, unit="cells", message="training classifiers")

        def count(index: int, value: Any) -> None:
            nonlocal done
            done += 1
            context.update(done=done)

        settings = canonical(planning.settings_of(request).classifier)
        context.run_tasks(
            "synthmix.classifier_evaluation.cells:run_cell",
            [
                {
                    "split": names["split"],
                    "cell": cell,
                    "settings": settings,
                    "gpus": worker_settings(context.service).gpus,
                }
                for cell in missing
            ],
            count,
        )
        context.update(message="comparing")
        _write_evaluation(context, target, request, names["split"], cells)
    context.update(total=len(cells), done=len(cells), unit="cells")
    return target


def _write_evaluation(
    context: OperationContext,
    target: ArtifactName,
    request: dict[str, Any],
    split: str,
    cells: list[CellSpec],
) -> None:
    store = context.store
    manifests = {cell: read_manifest(store, cell_name(planning.request_of_cell(request, cell))) for cell in cells}
    metrics = {cell: json.loads(read_payload(store, manifest, METRICS)) for cell, manifest in manifests.items()}
    labels = mixture_labels(store, mixtures_of(cells))
    comparison = compare_cells(store, request, manifests, labels)
    statistics_value = {
        **asdict(comparison),
        "identities": [identity(mixture, labels) for mixture in mixtures_of(cells)],
    }
    payloads = (
        write_payload(store, target, STATISTICS, _json(statistics_value)),
        write_payload(store, target, CELLS, _json([cell_row(cell, metrics[cell]) for cell in cells])),
    )
    results = {result.key: result for result in comparison.mixtures}
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
                "cell_count": len(cells),
                "cells": [str(manifest.name) for manifest in manifests.values()],
                "verdict": comparison.verdict.sentence if comparison.verdict else "",
                "results": [
                    result_row(mixture, results[mixture.key], planning.settings_of(request).seeds)
                    for mixture in mixtures_of(cells)
                ],
            },
            seconds=context.worker_seconds,
            gpu_seconds=context.gpu_seconds,
        ),
    )


def mixtures_of(cells: list[CellSpec]) -> list[MixtureSpec]:
    """The grid's mixtures, in its order."""
    return list(dict.fromkeys(cell.mixture for cell in cells))


def mixture_labels(store: ObjectStore, mixtures: Sequence[MixtureSpec]) -> dict[MixtureSpec, str]:
    """What people call each mixture; where there are several image sets, with what tells theirs apart."""
    image_sets = list(dict.fromkeys(mixture.image_set for mixture in mixtures if mixture.image_set))
    manifests = [read_manifest(store, ArtifactName(IMAGE_SETS, image_set)) for image_set in image_sets]
    names = dict(zip(image_sets, image_set_names(store, manifests), strict=True))
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


def compare_cells(
    store: ObjectStore, request: dict[str, Any], manifests: dict[CellSpec, Manifest], labels: Mapping[MixtureSpec, str]
) -> statistics.Comparison:
    """Statistics over a whole grid."""
    tables: dict[CellSpec, pa.Table] = {
        cell: pq.read_table(io.BytesIO(read_payload(store, manifest, PREDICTIONS)))
        for cell, manifest in manifests.items()
    }
    first = next(iter(tables.values()))
    claim = planning.settings_of(request).claim
    [reference] = [mixture.key for mixture in mixtures_of(list(manifests)) if mixture.kind == REAL]
    compared = []
    for mixture in mixtures_of(list(manifests)):
        cells = [cell for cell in manifests if cell.mixture == mixture]
        if any(tables[cell]["sha256"] != first["sha256"] for cell in cells):
            raise AssertionError(f"cells of {mixture.key} were evaluated on other test images")
        compared.append(
            statistics.MixturePredictions(
                key=mixture.key,
                label=labels[mixture],
                predicted=np.stack([tables[cell]["predicted"].to_numpy() for cell in cells]),
                validation_balanced_accuracy=np.array(
                    [manifests[cell].summary["validation_balanced_accuracy"] for cell in cells]
                ),
            )
        )
    return statistics.compare(
        first["label"].to_numpy(),
        np.array(first["group"].to_pylist()),
        compared,
        reference=reference,
        candidates=[mixture.key for mixture in verdict_candidates(mixtures_of(list(manifests)))],
        class_names=next(iter(manifests.values())).summary["classes"],
        confidence=claim.confidence,
        margin=claim.margin,
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


def cell_row(cell: CellSpec, metrics: dict[str, Any]) -> dict[str, Any]:
    """One cell as cells.json has it."""
    return {
        "mixture": cell.mixture.key,
        "seed": cell.seed,
        "n_real": metrics["real_images"],
        "n_synthetic": metrics["synthetic_images"],
        "optimizer_steps": metrics["steps"],
        "best_epoch": metrics["best_epoch"],
        "metrics": metrics["test"],
    }


def result_row(mixture: MixtureSpec, result: statistics.MixtureResult, seeds: int) -> dict[str, Any]:
    """One mixture as the evaluation's resource has it."""
    score, difference = result.balanced_accuracy, result.difference
    return {
        "mixture": mixture.label,
        "image_set": image_set_name(mixture),
        "ratio": mixture.ratio,
        "cells": seeds,
        "balanced_accuracy": score.mean,
        "balanced_accuracy_interval": [score.low, score.high],
        "difference": difference.mean if difference else 0.0,
        "difference_interval": [difference.low, difference.high] if difference else None,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()
