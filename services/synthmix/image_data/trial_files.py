"""A trial's files in object storage: what its classifier said of the images of validation and test, and its training.

trials/{id}/predictions.parquet             of the test images, in the part's order
trials/{id}/validation_predictions.parquet  of the validation images, by the kept epoch
trials/{id}/training.json                   the course of the training (evaluations.v1.Training)
"""

import io
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.image_data.split_parts import TestPart, ValidationPart
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, read_payload
from synthmix.service_kit.object_store import ObjectStore

PREDICTIONS = "predictions.parquet"
VALIDATION_PREDICTIONS = "validation_predictions.parquet"
TRAINING = "training.json"
# Of an evaluation: the results of all its trials (evaluations.v1.TrialResults).
TRIAL_RESULTS = "trials.json"

PREDICTION_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("group", pa.string()),
        ("label", pa.int32()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)
"""A row an image: sha256 of its bytes, its group, its class as a position in the training's classes, and the
probability of each of these."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one classifier said of one part's images, in the part's order.

    Attributes:
        sha256s: Of each image's bytes.
        groups: Of each image, (images,) text.
        labels: Class indices, (images,) int32.
        probabilities: (images, classes) float32.
    """

    sha256s: tuple[str, ...] = field(repr=False)
    groups: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    probabilities: np.ndarray = field(repr=False)

    @property
    def predicted(self) -> np.ndarray:
        """Class indices, (images,)."""
        predicted: np.ndarray = self.probabilities.argmax(1)
        return predicted


@dataclass(frozen=True, eq=False)
class StoredTrial:
    """A trial as object storage has it."""

    manifest: Manifest
    training: evaluations_pb2.Training
    validation: Predictions
    test: Predictions


def predictions_table(part: ValidationPart | TestPart, probabilities: np.ndarray) -> bytes:
    """A Parquet file of PREDICTION_SCHEMA; equal predictions give equal bytes."""
    columns = [
        pa.array(part.sha256s, pa.string()),
        pa.array(part.groups, pa.string()),
        pa.array(part.labels, pa.int32()),
        pa.array(list(probabilities), pa.list_(pa.float32())),
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=PREDICTION_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def read_predictions(data: bytes) -> Predictions:
    """What predictions_table wrote."""
    table = pq.read_table(io.BytesIO(data))
    return Predictions(
        tuple(table["sha256"].to_pylist()),
        np.array(table["group"].to_pylist()),
        table["label"].to_numpy(),
        np.array(table["probabilities"].to_pylist(), np.float32),
    )


def read_trial(store: ObjectStore, manifest: Manifest) -> StoredTrial:
    """Raises DataLoss if a payload is not what was written."""
    return StoredTrial(
        manifest,
        message_json.from_bytes(read_payload(store, manifest, TRAINING), evaluations_pb2.Training),
        read_predictions(read_payload(store, manifest, VALIDATION_PREDICTIONS)),
        read_predictions(read_payload(store, manifest, PREDICTIONS)),
    )
