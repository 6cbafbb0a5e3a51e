"""Metrics, against their definitions and against values worked out by hand."""

import dataclasses

import numpy as np
import pytest

from synthmix.classifier_evaluation import metrics

NAMES = tuple("abcdefg")


def predictions(images: int = 400, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 probabilities with ties, as a classifier gives them, and imbalanced labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, images, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(images, classes)).round(1) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_every_metric_has_the_value_of_its_definition(classes: int) -> None:
    """Written out over the confusion matrix and the probabilities, where the metrics themselves are scikit-learn's."""
    probabilities, labels = predictions(classes=classes, seed=classes)
    found = metrics.compute_metrics(probabilities, labels)
    confusion = np.array([row.predicted_as for row in metrics.class_results(probabilities, labels, NAMES[:classes])])
    support, predicted, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    images = len(labels)
    assert list(found) == [metric.name for metric in metrics.METRICS]
    assert found["accuracy"] == right.sum() / images
    assert found["balanced_accuracy"] == np.mean(right / support)
    assert found["macro_f1"] == pytest.approx(np.mean(2 * right / (support + predicted)), rel=1e-12)
    scale = np.sqrt(float(images**2 - predicted @ predicted) * float(images**2 - support @ support))
    assert found["matthews_correlation"] == pytest.approx((right.sum() * images - support @ predicted) / scale)
    wins = [
        np.mean([(a > b) + 0.5 * (a == b) for a in scores[labels == c] for b in scores[labels != c]])
        for c, scores in enumerate(probabilities.T)
    ]
    assert found["auroc"] == pytest.approx(np.mean(wins), rel=1e-9)
    true = probabilities[np.arange(images), labels].astype(float)
    assert found["negative_log_likelihood"] == pytest.approx(-np.mean(np.log(true)), rel=1e-6)
    errors = probabilities - np.eye(classes)[labels]
    assert found["brier_score"] == pytest.approx(np.mean(np.sum(errors**2, axis=1)), rel=1e-6)


def test_the_table_is_complete_and_its_version_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS)
    assert all(metric.label and metric.compute.__doc__ for metric in metrics.METRICS)
    versions = {metrics.metrics_version()}
    fixed = dataclasses.replace(metrics.METRICS[0], version=2)
    for table in ((fixed, *metrics.METRICS[1:]), metrics.METRICS[1:]):
        monkeypatch.setattr(metrics, "METRICS", table)
        versions.add(metrics.metrics_version())
    assert len(versions) == 3


def test_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]], np.float32)
    found = metrics.compute_metrics(probabilities, np.array([0, 1, 1, 1]))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["auroc"] == pytest.approx(1.0)
    assert found["brier_score"] == pytest.approx((0.02 + 0.72 + 0.32 + 0.08) / 4)
    assert found["negative_log_likelihood"] == pytest.approx(-np.log([0.9, 0.4, 0.6, 0.8]).mean())
    # Confidence 0.6 twice, in one bin, once right; 0.8 and 0.9 alone in theirs, both right.
    assert found["expected_calibration_error"] == pytest.approx((abs(1 - 2 * 0.6) + 0.2 + 0.1) / 4)
    rows = metrics.class_results(probabilities, np.array([0, 1, 1, 1]), ("a", "b"))
    assert [list(row.predicted_as) for row in rows] == [[1, 0], [1, 2]]
    assert [(row.images, row.precision, row.recall) for row in rows] == [(1, 1 / 2, 1.0), (3, 1.0, 2 / 3)]


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
    found = metrics.compute_metrics(probabilities[kept], labels[kept])
    rows = metrics.class_results(probabilities[kept], labels[kept], NAMES[:3])
    assert "auroc" not in found
    assert not rows[2].HasField("recall")
    assert found["balanced_accuracy"] == pytest.approx(np.mean([row.recall for row in rows[:2]]))


def test_one_class_predicted() -> None:
    probabilities = np.tile(np.array([0.7, 0.2, 0.1], np.float32), (6, 1))
    found = metrics.compute_metrics(probabilities, np.array([0, 0, 1, 1, 2, 2]))
    assert found["matthews_correlation"] == 0
    assert found["auroc"] == 0.5
    rows = metrics.class_results(probabilities, np.array([0, 0, 1, 1, 2, 2]), NAMES[:3])
    assert [row.precision for row in rows] == [pytest.approx(1 / 3), 0, 0]
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)


def test_a_probability_of_zero_stays_finite() -> None:
    found = metrics.negative_log_likelihood(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert found == pytest.approx(-np.log(np.finfo(np.float32).eps))
