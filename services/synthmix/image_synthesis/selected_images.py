"""The images that a selection keeps: judged, chosen and stored by a task on a worker.

Beside the shards and the index of every image set, a selection has candidates.parquet: one row for each image that was
chosen among, with the rule by which it was left out and what that went by.
"""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings
from synthmix.image_data.image_table import ImageTableWriter, read_images, read_index
from synthmix.image_data.pixel_cache import image_side_px, pixels
from synthmix.image_data.selection_rules import CANDIDATES, oversampled
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_data.synthetic_images import SyntheticImages, open_image_set
from synthmix.image_features.distances import (
    NEAR_COPY_PERCENTILE,
    near_copy_distance,
    nearest_distances,
    own_distances,
)
from synthmix.image_features.features import NETWORK, stored_features
from synthmix.image_features.judges import FoldJudges
from synthmix.image_synthesis.selection import Choice, JudgedImages, choose
from synthmix.service_kit.artifacts import Payload, write_payload
from synthmix.service_kit.errors import unmet_precondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.settings_messages import from_canonical

_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("sha256", pa.string()),
        ("label", pa.string()),
        ("rule", pa.string()),
        ("score", pa.float64()),
        ("class_probability", pa.float64()),
        ("train_distance", pa.float64()),
        ("source_distance", pa.float64()),
    ]
)
"""Of candidates.parquet: the image's position in the image set that was chosen among; the rule by which it was left
out, "" if it is kept; what that went by; the probability of its class; and how far it is from the nearest train image
that it is no child of, and from the nearest that it is a child of, in near-copy distances."""


def select(
    target: str, request: dict[str, Any], train_split: str, report: Callable[[int], None], threads: int
) -> dict[str, Any]:
    """The task that a selection's operation runs on a worker.

    Args:
        target: image-sets/{id} that is made.
        request: Its canonical form.
        train_split: splits/{id}/parts/train.
        report: Called with the number of images that were judged.

    Returns:
        "payloads", each as plain values, and "selected", what its manifest's summary says of the choice.
    """
    torch.set_num_threads(threads)
    name = ArtifactName.parse(target, field="target", collection=IMAGE_SETS)
    payloads, selected = select_images(open_object_store(), name, request, train_split, report)
    return {"payloads": [asdict(payload) for payload in payloads], "selected": selected}


def select_images(
    store: ObjectStore,
    target: ArtifactName,
    request: Mapping[str, Any],
    train_split: str,
    report: Callable[[int], None] = lambda judged: None,
) -> tuple[list[Payload], dict[str, Any]]:
    """Chooses among the candidates of a canonical request, and writes those that are kept.

    Raises:
        FailedPrecondition: No image passes.
        NotFound: There are no such images, or there is no such split.
    """
    settings = from_canonical(request["selection"], SelectionSettings)
    train = open_train_part(store, train_split, field="image_set.train_split")
    candidates = open_image_set(
        store,
        str(ArtifactName(IMAGE_SETS, request["candidates"])),
        classes=train.classes,
        field="image_set.candidates",
    )
    wanted = dict(request["class_images"])
    rows = _chosen_among(candidates, wanted, settings)
    parents = _parents(train, candidates, rows)
    judged, source_distances = _judge(store, train, candidates, rows, parents)
    report(len(rows))
    choice = choose(judged, {train.classes.index(label): images for label, images in wanted.items()}, settings)
    if not len(choice.kept):
        raise unmet_precondition(
            "image_set.selection",
            f"none of {len(rows):,} images of {candidates.manifest.name} passes; the first was left out by "
            f"{choice.rules[0]}, with {choice.scores[0]:.3g}: use a weaker rule",
            reason="NOTHING_SELECTED",
            metadata={"artifact": str(candidates.manifest.name)},
        )
    payloads = [
        *_write_kept(store, target, candidates, [rows[row] for row in choice.kept]),
        _write_candidates(store, target, candidates, rows, judged, source_distances, choice),
    ]
    return payloads, _summary(candidates, rows, choice, wanted)


def _chosen_among(images: SyntheticImages, wanted: Mapping[str, int], settings: SelectionSettings) -> list[int]:
    """Rows of the first images of each class, as many as the selection's oversample says, or all."""
    left = (
        oversampled(wanted, settings.oversample)
        if settings.HasField("oversample")
        else Counter({label: len(images) for label in wanted})
    )
    rows = []
    for row, label in enumerate(images.labels):
        name = images.classes[label]
        if left.get(name, 0):
            left[name] -= 1
            rows.append(row)
    return rows


def _parents(train: TrainPart, images: SyntheticImages, rows: Sequence[int]) -> list[list[int]] | None:
    """The rows of the train images that each image is a child of; None if the image set has no children."""
    if images.sources is None:
        return None
    row_of = {sha256: row for row, sha256 in enumerate(train.sha256s)}
    return [[row_of[sha256] for sha256 in images.sources[row]] for row in rows]


def _judge(
    store: ObjectStore,
    train: TrainPart,
    images: SyntheticImages,
    rows: Sequence[int],
    parents: Sequence[Sequence[int]] | None,
) -> tuple[JudgedImages, np.ndarray]:
    """What is known of the images at these rows, and how far each is from its nearest parent, NaN without one."""
    size_px = image_side_px(store, images.manifest)

    def features(source: TrainPart | SyntheticImages, of: str) -> np.ndarray:
        content = {"digest": source.digest, "rows": None}
        return stored_features(store, content, size_px, lambda: pixels(store, source, size_px), source=of)

    of_train, labels = features(train, train.digest), np.asarray(train.labels)
    found = features(images, images.manifest.name.id)[list(rows)]
    near = max(_near_distance(of_train, train.groups), np.finfo(np.float64).tiny)
    judged = JudgedImages(
        labels=np.asarray(images.labels)[list(rows)],
        probabilities=FoldJudges(of_train, labels, train.groups, len(train.classes)).probabilities(found, parents),
        centre_distances=_centre_distances(found, of_train, labels, parents, len(train.classes)),
        train_distances=nearest_distances(found, of_train, without=parents) / near,
        features=found / near,
    )
    if parents is None:
        return judged, np.full(len(rows), np.nan)
    return judged, own_distances(found, of_train, parents) / near


def _near_distance(features: np.ndarray, groups: Sequence[str]) -> float:
    """The distance to the nearest image of another group that NEAR_COPY_PERCENTILE of the train images are within.

    Of one group, the nearest other image.
    """
    _, own = np.unique(np.asarray(groups), return_inverse=True)
    if own.max() == 0:
        own = np.arange(len(groups))
    members: list[list[int]] = [np.flatnonzero(own == group).tolist() for group in range(own.max() + 1)]
    nearest = nearest_distances(features, features, without=[members[group] for group in own])
    return near_copy_distance(nearest, NEAR_COPY_PERCENTILE)


def _centre_distances(
    queries: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    parents: Sequence[Sequence[int]] | None,
    classes: int,
) -> np.ndarray:
    """Of each query to the centre of each class's train images, as (M, classes); infinity for a class without any.

    Features are taken at length 1. A parent does not count in its class's centre.
    """
    of_train, of_queries = _normalised(features), _normalised(queries)
    sums = np.stack([of_train[labels == label].sum(axis=0) for label in range(classes)])
    counts = np.bincount(labels, minlength=classes)
    distances = np.empty((len(queries), classes))
    for row, query in enumerate(of_queries):
        own_sums, own_counts = sums, counts
        if parents is not None:
            own_sums, own_counts = sums.copy(), counts.copy()
            for parent in parents[row]:
                own_sums[labels[parent]] -= of_train[parent]
                own_counts[labels[parent]] -= 1
        there = own_counts > 0
        centres = own_sums[there] / own_counts[there, None]
        distances[row] = np.inf
        distances[row, there] = np.linalg.norm(centres - query, axis=1)
    return distances


def _normalised(features: np.ndarray) -> np.ndarray:
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    result: np.ndarray = values / np.maximum(lengths, np.finfo(np.float64).tiny)
    return result


def _write_kept(
    store: ObjectStore, target: ArtifactName, images: SyntheticImages, rows: Sequence[int]
) -> list[Payload]:
    """Copies images with all that their index says of them: what is kept can be read by itself."""
    index = read_index(store, images.manifest).take(list(rows)).to_pylist()
    writer = ImageTableWriter(store, target)
    for (_, data), said in zip(read_images(store, images.manifest, rows), index, strict=True):
        writer.add(data, **{name: value for name, value in said.items() if name not in ("sha256", "shard", "row")})
    return writer.close()


def _write_candidates(
    store: ObjectStore,
    target: ArtifactName,
    images: SyntheticImages,
    rows: Sequence[int],
    judged: JudgedImages,
    source_distances: np.ndarray,
    choice: Choice,
) -> Payload:
    columns = {
        "index": list(rows),
        "sha256": [images.sha256s[row] for row in rows],
        "label": [images.classes[images.labels[row]] for row in rows],
        "rule": choice.rules,
        "score": _or_null(choice.scores),
        "class_probability": _or_null(judged.own_probabilities),
        "train_distance": _or_null(judged.train_distances),
        "source_distance": _or_null(source_distances),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer, compression="zstd")
    return write_payload(store, target, CANDIDATES, buffer.getvalue())


def _or_null(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _summary(images: SyntheticImages, rows: Sequence[int], choice: Choice, wanted: Mapping[str, int]) -> dict[str, Any]:
    names = [images.classes[images.labels[row]] for row in rows]
    there, kept = Counter(names), Counter(name for name, rule in zip(names, choice.rules, strict=True) if not rule)
    left_out = Counter((name, rule) for name, rule in zip(names, choice.rules, strict=True) if rule)
    return {
        "candidates": len(rows),
        "kept": {label: kept[label] for label in wanted},
        # Of a class of which all candidates are wanted, those that pass are all that can be had.
        "missing": {
            label: count - kept[label] for label, count in wanted.items() if kept[label] < count < there[label]
        },
        "rejections": [
            {"label": label, "rule": rule, "images": count} for (label, rule), count in sorted(left_out.items())
        ],
        "feature_network": NETWORK,
    }
