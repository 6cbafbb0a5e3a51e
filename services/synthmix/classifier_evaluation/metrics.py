"""Metrics of a classifier, from the probabilities that it gives to images and the classes that they are of.

Probabilities are (images, classes), each row summing to 1; labels are (images,) class indices.
"""

from typing import Any

import numpy as np

CALIBRATION_BINS = 15


def all_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Every metric, ready for JSON. Classes are in the order of the probabilities' columns.

    Precision is 0 for a class that was never predicted. Recall is None, and left out of balanced accuracy,
    for a class without images.
    """
    confusion = confusion_matrix(probabilities.argmax(1), labels, probabilities.shape[1])
    correct, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return {
        "images": len(labels),
        "accuracy": float(correct.sum() / len(labels)),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "matthews_correlation": matthews_correlation(confusion),
        "auroc": auroc(probabilities, labels),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "brier_score": brier_score(probabilities, labels),
        "negative_log_likelihood": negative_log_likelihood(probabilities, labels),
        "per_class": {
            "precision": (correct / np.maximum(predicted, 1)).tolist(),
            "recall": [float(right / count) if count else None for right, count in zip(correct, support, strict=True)],
            "support": support.tolist(),
        },
        "confusion": confusion.tolist(),
    }


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Image counts, (classes, classes): rows are true classes, columns predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall of the classes that have images."""
    support = confusion.sum(1)
    return float(np.mean(np.diag(confusion)[support > 0] / support[support > 0]))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 of the classes that have images or were predicted."""
    total = confusion.sum(0) + confusion.sum(1)
    return float(np.mean(2 * np.diag(confusion)[total > 0] / total[total > 0]))


def matthews_correlation(confusion: np.ndarray) -> float:
    """The multi-class Matthews correlation (Gorodkin, Comput. Biol. Chem. 28, 2004, equation 8), -1 to 1.

    It is 0 if only one class was predicted or is there.
    """
    images, correct = float(confusion.sum()), float(np.trace(confusion))
    support, predicted = confusion.sum(1).astype(float), confusion.sum(0).astype(float)
    scale = (images**2 - predicted @ predicted) * (images**2 - support @ support)
    return float((correct * images - support @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


def auroc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean over classes of the area under the ROC curve of that class against the rest.

    The area is the share of (image of the class, other image) pairs that are ranked right, ties counting one
    half (Hanley and McNeil, Radiology 143, 1982). It is None if a class has no images, or all of them.
    """
    areas = []
    for index, scores in enumerate(probabilities.T):
        inside = labels == index
        count, others = int(inside.sum()), int((~inside).sum())
        if not count or not others:
            return None
        _, position, ties = np.unique(scores, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(ties) - (ties - 1) / 2)[position]
        areas.append((ranks[inside].sum() - count * (count + 1) / 2) / (count * others))
    return float(np.mean(areas))


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
    errors = probabilities.astype(float)
    errors[np.arange(len(labels)), labels] -= 1
    return float(np.mean(np.sum(errors**2, axis=1)))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log of the true class's probability, in nats.

    A probability below float32's epsilon counts as that, so that one image can't make the mean infinite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(float)
    return float(-np.mean(np.log(np.maximum(true, np.finfo(np.float32).eps))))
