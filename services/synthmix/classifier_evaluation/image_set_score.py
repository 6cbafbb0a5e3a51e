"""Whether an image set shows its classes, and how near it comes to validation images: a task on a worker.

What chooses adapters goes by it, so that the test part is not even opened (leakage rule 6).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation.score_planning import FIELD
from synthmix.image_data.pixel_cache import image_side_px, pixels
from synthmix.image_data.split_parts import TrainPart, ValidationPart, open_without_test
from synthmix.image_data.synthetic_images import open_image_set
from synthmix.image_features.distances import balanced_rows, kernel_inception_distance
from synthmix.image_features.features import NETWORK, compute_features, stored_features
from synthmix.image_features.judges import class_consistency, train_judge
from synthmix.service_kit import message_json
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName
from synthmix.service_kit.s3_object_store import open_object_store


def measure(split: str, image_set: str, report: Callable[[int], None], threads: int) -> dict[str, Any]:
    """The task that a score's operation runs on a worker.

    Args:
        split: splits/{id}.
        image_set: Its id.

    Returns:
        An evaluations.v1.ImageSetScore without names, as plain values.
    """
    torch.set_num_threads(threads)
    return message_json.to_value(score_images(open_object_store(), split, image_set))


def score_images(store: ObjectStore, split: str, image_set: str) -> evaluations_pb2.ImageSetScore:
    """Judges an image set by a classifier of real train images, and compares it with the validation part.

    Features of the image set are not kept, since its score is.

    Raises:
        FailedPrecondition: It holds a class that the dataset does not have.
        NotFound: There is no such split or image set.
    """
    train, validation = open_without_test(store, split, field="image_set_score.split")
    images = open_image_set(store, str(ArtifactName(IMAGE_SETS, image_set)), classes=train.classes, field=FIELD)
    size_px = image_side_px(store, images.manifest)

    def features(part: TrainPart | ValidationPart) -> np.ndarray:
        content = {"digest": part.digest, "rows": None}
        return stored_features(store, content, size_px, lambda: pixels(store, part, size_px), source=part.digest)

    judge = train_judge(features(train), np.asarray(train.labels))
    of_validation, real_labels = features(validation), np.asarray(validation.labels)
    of_images, labels = compute_features(pixels(store, images, size_px)), np.asarray(images.labels)
    of_same_classes = np.isin(real_labels, labels)
    shared = np.intersect1d(real_labels, labels)
    return evaluations_pb2.ImageSetScore(
        class_consistency=class_consistency(judge, of_images, labels),
        chance_level=1 / len(judge.classes_),
        real_class_consistency=class_consistency(judge, of_validation[of_same_classes], real_labels[of_same_classes]),
        kernel_inception_distance=kernel_inception_distance(
            of_images[balanced_rows(images.labels, shared)],
            of_validation[balanced_rows(validation.labels, shared)],
        ),
        images=len(images),
        feature_network=NETWORK,
        image_size=size_px,
    )
