"""Metrics, against scikit-learn's and against values worked out by hand."""

import numpy as np
import pytest
import sklearn.metrics as reference

from synthmix.classifier_evaluation import metrics


def predictions(images: int = 400, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 probabilities with ties, as a classifier gives them, and imbalanced labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, images, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(images, classes)).round(1) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_like_scikit_learn(classes: int) -> None:
    probabilities, labels = predictions(classes=classes, seed=classes)
    predicted = probabilities.argmax(1)
    found = metrics.all_metrics(probabilities, labels)
    exact = probabilities.astype(float) / probabilities.astype(float).sum(1, keepdims=True)
    area = (
        reference.roc_auc_score(labels, exact[:, 1])
        if classes == 2
        else reference.roc_auc_score(labels, exact, multi_class="ovr", average="macro")
    )
    precision, recall, _, support = reference.precision_recall_fscore_support(labels, predicted, zero_division=0)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted), rel=1e-12)
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"), rel=1e-12)
    assert found["matthews_correlation"] == pytest.approx(reference.matthews_corrcoef(labels, predicted), rel=1e-12)
    assert found["auroc"] == pytest.approx(area, abs=1e-5)
    assert found["negative_log_likelihood"] == pytest.approx(reference.log_loss(labels, exact), rel=1e-6)
    assert found["brier_score"] == pytest.approx(np.mean(np.sum((exact - np.eye(classes)[labels]) ** 2, 1)), rel=1e-6)
    assert found["per_class"]["precision"] == pytest.approx(precision.tolist())
    assert found["per_class"]["recall"] == pytest.approx(recall.tolist())
    assert found["per_class"]["support"] == support.tolist()
    assert found["confusion"] == reference.confusion_matrix(labels, predicted).tolist()
    assert found["images"] == len(labels)


def test_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]], np.float32)
    found = metrics.all_metrics(probabilities, np.array([0, 1, 1, 1]))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["auroc"] == pytest.approx(1.0)
    assert found["brier_score"] == pytest.approx((0.02 + 0.72 + 0.32 + 0.08) / 4)
    assert found["negative_log_likelihood"] == pytest.approx(-np.log([0.9, 0.4, 0.6, 0.8]).mean())
    # Confidence 0.6 twice, in one bin, once right; 0.8 and 0.9 alone in theirs, both right.
    assert found["expected_calibration_error"] == pytest.approx((abs(1 - 2 * 0.6) + 0.2 + 0.1) / 4)
    assert found["confusion"] == [[1, 0], [1, 2]]


def test_calibration_bins_hold_their_upper_edge() -> None:
    """Two confidences in one bin of (1/3, 6/15]: their errors cancel, and across an edge they don't."""
    three = np.array([[0.36, 0.32, 0.32], [0.38, 0.31, 0.31]])
    assert metrics.expected_calibration_error(three, np.array([0, 1])) == pytest.approx(abs(1 - 0.74) / 2)
    assert metrics.expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
    assert metrics.expected_calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1


def test_a_calibrated_classifier_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 200_000)
    labels = (probabilities.cumsum(1) < rng.random((200_000, 1))).sum(1)
    assert metrics.expected_calibration_error(probabilities, labels) < 0.01
    overconfident = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    assert metrics.expected_calibration_error(overconfident, labels) > 0.1


def test_a_class_without_images() -> None:
    probabilities, labels = predictions(classes=3)
    kept = labels != 2
    found = metrics.all_metrics(probabilities[kept], labels[kept])
    assert found["auroc"] is None
    assert found["per_class"]["recall"][2] is None
    assert found["balanced_accuracy"] == pytest.approx(np.mean(found["per_class"]["recall"][:2]))


def test_one_class_predicted() -> None:
    probabilities = np.tile(np.array([0.7, 0.2, 0.1], np.float32), (6, 1))
    found = metrics.all_metrics(probabilities, np.array([0, 0, 1, 1, 2, 2]))
    assert found["matthews_correlation"] == 0
    assert found["auroc"] == 0.5
    assert found["per_class"]["precision"] == [pytest.approx(1 / 3), 0, 0]
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)


def test_a_probability_of_zero_stays_finite() -> None:
    found = metrics.negative_log_likelihood(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert found == pytest.approx(-np.log(np.finfo(np.float32).eps))
