"""Metrics of a classifier, from the probabilities that it gave to images and the classes that these are of.

Probabilities are (images, classes) float32, each row summing to 1; labels are (images,) class indices. An evaluation
computes metrics from the predictions that its trials stored, so that a metric which is added, or fixed, trains nothing.

Front ends read the table's names: scikit-learn, which they do not have, is imported by the functions that use it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.service_kit.digests import digest_of

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Metric:
    """One number that is told of every classifier.

    Attributes:
        name: In JSON and CSV.
        label: In tables.
        larger_is_better: Which way is better.
        compute: From probabilities and labels; None if the metric is undefined for these images.
        version: Raised whenever `compute` gives other numbers, so that evaluations are made anew.
    """

    name: str
    label: str
    larger_is_better: bool
    compute: Callable[[np.ndarray, np.ndarray], float | None]
    version: int = 1


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose most probable class is theirs."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, probabilities.argmax(1)))


def balanced_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall of the classes that have images."""
    from sklearn.metrics import recall_score

    return float(recall_score(labels, probabilities.argmax(1), labels=np.unique(labels), average="macro"))


def macro_f1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 of the classes that have images or were predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(1), average="macro", zero_division=0))


def matthews_correlation(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The multi-class Matthews correlation (Gorodkin, Comput. Biol. Chem. 28, 2004, equation 8), -1 to 1.

    It is 0 if only one class was predicted or is there.
    """
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, probabilities.argmax(1)))


def auroc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean over classes of the area under the ROC curve of that class against the rest.

    It is None if a class has no images, or all of them.
    """
    from sklearn.metrics import roc_auc_score

    classes = range(probabilities.shape[1])
    if len(np.unique(labels)) < len(classes) or len(classes) == 1:
        return None
    return float(np.mean([roc_auc_score(labels == index, probabilities[:, index]) for index in classes]))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, weighted by images.

    Guo et al., ICML 2017, arXiv:1706.04599, equation 3, with 15 bins. A bin holds its upper edge.
    """
    confidence = probabilities.max(1).astype(float)
    correct = probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance from the true class's unit vector, 0 to 2 (Brier, Mon. Weather Rev. 78, 1950)."""
    from sklearn.metrics import brier_score_loss

    classes = np.arange(probabilities.shape[1])
    return float(brier_score_loss(labels, _distributions(probabilities), labels=classes, scale_by_half=False))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log of the true class's probability, in nats.

    A probability below float32's epsilon counts as that, so that one image cannot make the mean infinite.
    """
    from sklearn.metrics import log_loss

    return float(log_loss(labels, _distributions(probabilities), labels=np.arange(probabilities.shape[1])))


METRICS = (
    Metric("accuracy", "Accuracy", True, accuracy),
    Metric("balanced_accuracy", "Balanced accuracy", True, balanced_accuracy),
    Metric("macro_f1", "Macro F1", True, macro_f1),
    Metric("matthews_correlation", "MCC", True, matthews_correlation),
    Metric("auroc", "AUROC", True, auroc),
    Metric("expected_calibration_error", "ECE", False, expected_calibration_error),
    Metric("brier_score", "Brier", False, brier_score),
    Metric("negative_log_likelihood", "NLL", False, negative_log_likelihood),
)


def metric_messages() -> list[evaluations_pb2.Metric]:
    """The table, for those who read results."""
    return [
        evaluations_pb2.Metric(name=metric.name, label=metric.label, larger_is_better=metric.larger_is_better)
        for metric in METRICS
    ]


def metrics_version() -> str:
    """Changes with every metric that is added, fixed or removed."""
    return digest_of({metric.name: metric.version for metric in METRICS})[:8]


def compute_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric that is defined for these images, by its name."""
    values = {metric.name: metric.compute(probabilities, labels) for metric in METRICS}
    return {name: value for name, value in values.items() if value is not None}


def class_results(
    probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> list[evaluations_pb2.ClassResult]:
    """What became of the images of each class, in the order of the probabilities' columns."""
    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, probabilities.argmax(1), labels=np.arange(len(class_names)))
    results = []
    for index, name in enumerate(class_names):
        images, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        right = int(confusion[index, index])
        results.append(
            evaluations_pb2.ClassResult(
                label=name,
                images=images,
                precision=right / max(predicted, 1),
                recall=right / images if images else None,
                predicted_as=confusion[index].tolist(),
            )
        )
    return results


def _distributions(probabilities: np.ndarray) -> np.ndarray:
    """In float64, without the rounding of float32, which scikit-learn would warn of. No row holds a 0."""
    exact = np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).eps)
    distributions: np.ndarray = exact / exact.sum(axis=1, keepdims=True)
    return distributions
