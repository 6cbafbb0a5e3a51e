"""How near image sets come to real images, and whether they hold copies: a task on a worker.

Beside each image set stand what real images score against real ones, which is the best that any can, and what the
train images score after the base model's autoencoder, which is the best that its generator can.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation.feature_networks import DEFAULT, FeatureNetwork
from synthmix.classifier_evaluation.fidelity_measures import (
    LEAST_IMAGES,
    MEASURES,
    Images,
    Reference,
    Sample,
    measured_images,
)
from synthmix.classifier_evaluation.network_features import NetworkFeatures
from synthmix.classifier_evaluation.reconstructions import make_reconstruction
from synthmix.image_data.generators import is_imported
from synthmix.image_data.pixel_cache import Source, pixels
from synthmix.image_data.split_parts import TrainPart, open_split
from synthmix.image_data.synthetic_images import ReconstructedImages, SyntheticImages, open_image_set
from synthmix.image_features.distances import (
    NEAR_COPY_PERCENTILE,
    balanced_rows,
    kernel_inception_distance,
    near_copy_distance,
    nearest,
    nearest_distances,
    own_distances,
)
from synthmix.image_features.estimates import CONFIDENCE
from synthmix.image_features.features import stored_features
from synthmix.image_features.judges import FoldJudges
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.s3_object_store import open_object_store

# Of each image set so many images are named that come the nearest to a train image.
NEAREST_PAIRS = 8


def measure(
    split: str, image_sets: Sequence[str], network: FeatureNetwork, report: Callable[[int], None], threads: int
) -> dict[str, Any]:
    """The task that an evaluation runs on a worker.

    Args:
        split: splits/{id}.
        image_sets: Ids.
        network: What the measures go by.

    Returns:
        An evaluations.v1.Fidelity, as plain values.
    """
    torch.set_num_threads(threads)
    return message_json.to_value(measure_fidelity(open_object_store(), split, image_sets, network))


def measure_fidelity(
    store: ObjectStore, split: str, image_sets: Sequence[str], network: FeatureNetwork = DEFAULT
) -> evaluations_pb2.Fidelity:
    """Compares image sets, and real images, with the test part.

    Every sample holds as many images of each class, since proportions of classes would pass for a distance.

    Raises:
        FailedPrecondition: The base model or the feature network is not to be had any more.
        InvalidArgument: The feature network cannot be loaded, or cannot see images of this size.
        NotFound: There is no such split or image set.
    """
    train, validation, test = open_split(store, split, field="evaluation.split")
    opened = [
        open_image_set(
            store, str(ArtifactName(IMAGE_SETS, image_set)), classes=train.classes, field="evaluation.image_sets"
        )
        for image_set in image_sets
    ]
    reconstructed = _reconstructions(store, opened, train)
    # Imported images have no autoencoder, and are taken at the size of those that have, if there are any.
    size_px = int(reconstructed[0][1].manifest.request["size_px"]) if reconstructed else _side_px(opened)
    classes = np.unique(test.labels)
    by = NetworkFeatures(network)

    def features(source: Source, rows: np.ndarray) -> np.ndarray:
        images = {"digest": source.digest, "rows": None if len(rows) == len(source) else rows.tolist()}
        of = source.manifest.name.id if isinstance(source, SyntheticImages | ReconstructedImages) else source.digest
        return stored_features(
            store,
            images,
            size_px,
            lambda: pixels(store, source, size_px)[rows],
            source=of,
            network=by.identity,
            compute=by,
        )

    train_features, train_labels = features(train, np.arange(len(train))), np.asarray(train.labels)
    train_rows = balanced_rows(train.labels, classes)
    set_rows = [balanced_rows(images.labels, classes) for images in opened]
    each = min(
        np.unique(np.asarray(labels)[rows], return_counts=True)[1].min()
        for labels, rows in (
            (train.labels, train_rows),
            *zip((images.labels for images in opened), set_rows, strict=True),
        )
    )
    test_rows, validation_rows = (balanced_rows(part.labels, classes) for part in (test, validation))
    reference = Reference(features(test, test_rows), np.asarray(test.labels)[test_rows])
    unseen = nearest_distances(reference.features, train_features)
    near = near_copy_distance(unseen, NEAR_COPY_PERCENTILE)
    judges = FoldJudges(train_features, train_labels, train.groups, len(train.classes))
    can_judge = len(np.unique(train_labels)) > 1

    def classes_seen(queries: np.ndarray, made_from: Sequence[Sequence[int]] | None) -> np.ndarray:
        seen: np.ndarray = judges.probabilities(queries, made_from).argmax(axis=1)
        return seen

    def compared(
        sample: Images,
        rows: np.ndarray,
        of: Sequence[int],
        *,
        judged: Images | None = None,
        made_from: Sequence[Sequence[int]] | None = None,
        own: Sequence[Sequence[int]] | None = None,
        label: str = "",
        image_set: str = "",
    ) -> tuple[evaluations_pb2.SourceFidelity, np.ndarray, np.ndarray]:
        """A source's fidelity, and of each image that is judged the distance and row of the nearest train image.

        Args:
            sample, rows, of: The images that are compared, their rows among those of the source, and the labels of all
                these.
            judged: Those that are looked for near copies and wrong classes; the same unless given.
            made_from: The train images that each of them is made from, which its judges must not know.
            own: Those that it is meant to be near to, which do not count among the nearest.
        """
        judged = judged or sample
        distances, nearest_rows = nearest(judged.features, train_features, without=own)
        is_near = distances < near
        measured = Sample(
            sample.features,
            sample.labels,
            as_many=np.flatnonzero(np.isin(rows, balanced_rows(of, classes, most_each=each))),
            judged=judged.labels,
            near=is_near,
            right=classes_seen(judged.features, made_from) == judged.labels if can_judge else None,
        )
        found = evaluations_pb2.SourceFidelity(
            label=label,
            image_set=image_set,
            images=len(rows),
            kernel_inception_distance=kernel_inception_distance(sample.features, reference.features),
            near_copy_share=float(np.mean(is_near)),
            measured=measured_images(measured, reference, train.classes),
        )
        children = [row for row, of_row in enumerate(own or ()) if of_row]
        if own is not None and children:
            from_own = own_distances(judged.features[children], train_features, [own[row] for row in children])
            found.near_source_share = float(np.mean(from_own < near))
            found.source_distance = float(np.median(from_own) / np.median(unseen))
        return found, distances, nearest_rows

    of_train = Images(train_features[train_rows], train_labels[train_rows])
    # Validation's images are as new to the train part as test's are, and the threshold is not theirs.
    of_validation = Images(features(validation, validation_rows), np.asarray(validation.labels)[validation_rows])
    sources = [compared(of_train, train_rows, train.labels, judged=of_validation, label="real images")[0]]
    for label, restored in reconstructed:
        through = Images(features(restored, np.arange(len(train)))[train_rows], train_labels[train_rows])
        itself = [[row] for row in train_rows]
        sources.append(compared(through, train_rows, train.labels, made_from=itself, label=label)[0])
    train_rows_of = {sha256: row for row, sha256 in enumerate(train.sha256s)}
    for images, rows in zip(opened, set_rows, strict=True):
        own = None
        # What imported images name as their sources may be images of no data set here.
        if images.sources is not None:
            own = [[train_rows_of[sha256] for sha256 in images.sources[row] if sha256 in train_rows_of] for row in rows]
        sample = Images(features(images, rows), np.asarray(images.labels)[rows])
        found, distances, nearest_rows = compared(
            sample, rows, images.labels, made_from=own, own=own, image_set=str(images.manifest.name)
        )
        found.nearest_pairs.extend(
            evaluations_pb2.NearPair(
                image=images.sha256s[rows[place]],
                train_image=train.sha256s[nearest_rows[place]],
                class_name=train.classes[sample.labels[place]],
                distance=distances[place],
            )
            for place in np.argsort(distances, kind="stable")[:NEAREST_PAIRS]
            if np.isfinite(distances[place])  # an image may be a child of every train image
        )
        sources.append(found)
    return evaluations_pb2.Fidelity(
        feature_network=by.description,
        image_size=size_px,
        network_image_size=by.size_px or size_px,
        near_copy_percentile=NEAR_COPY_PERCENTILE,
        sources=sources,
        near_copy_distance=near,
        measures=MEASURES,
        confidence=CONFIDENCE,
        least_images=LEAST_IMAGES,
    )


def _side_px(image_sets: Sequence[SyntheticImages]) -> int:
    """Of the first image set, which was imported."""
    return int(image_sets[0].manifest.summary["image_size"])


def _reconstructions(
    store: ObjectStore, image_sets: Sequence[SyntheticImages], train: TrainPart
) -> list[tuple[str, ReconstructedImages]]:
    """The train part through each autoencoder that an image set comes from, at the size of its images, with a label.

    An image set that was imported comes from none that is known.
    """
    found: dict[ArtifactName, tuple[str, ReconstructedImages]] = {}
    for images in image_sets:
        if is_imported(images.manifest):
            continue
        adapter = read_manifest(store, ArtifactName(ADAPTERS, images.manifest.inputs["adapter"]))
        reconstructed = make_reconstruction(store, images.manifest, train)
        of = f" of {adapter.summary['base_model']}, {reconstructed.manifest.request['size_px']} pixels"
        found.setdefault(reconstructed.manifest.name, (of, reconstructed))
    label = "train images through the autoencoder"
    return [(f"{label}{of}" if len(found) > 1 else label, images) for of, images in found.values()]
