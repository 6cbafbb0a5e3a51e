"""Distances between samples, against their definitions and against what they must tell apart."""

import numpy as np
import pytest

from synthmix.classifier_evaluation.fidelity import kernel_inception_distance, near_copy_distance, nearest_distances


def features(seed: int, count: int = 200, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, (count, 8)).astype(np.float32)


def test_kernel_inception_distance_is_its_definition() -> None:
    first, second = features(0, 5), features(1, 4, mean=0.5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.astype(float) @ y.astype(float) / 8 + 1) ** 3)

    expected = (
        np.mean([kernel(x, y) for i, x in enumerate(first) for j, y in enumerate(first) if i != j])
        + np.mean([kernel(x, y) for i, x in enumerate(second) for j, y in enumerate(second) if i != j])
        - 2 * np.mean([kernel(x, y) for x in first for y in second])
    )
    assert kernel_inception_distance(first, second) == pytest.approx(expected)


def test_samples_of_one_distribution_are_near_and_others_far() -> None:
    same = [kernel_inception_distance(features(seed), features(100 + seed)) for seed in range(20)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(20)  # unbiased: its mean is 0
    assert min(kernel_inception_distance(features(seed), features(9, mean=0.5)) for seed in range(5)) > max(same)


@pytest.mark.parametrize("shape", [(1, 8), (5, 7), (40,)])
def test_samples_that_cannot_be_compared_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two samples"):
        kernel_inception_distance(np.zeros(shape), features(0))


def test_nearest_distances_are_those_of_brute_force() -> None:
    queries, references = features(0, 1500), features(1, 30)
    expected = np.linalg.norm(queries[:, None].astype(float) - references[None].astype(float), axis=2).min(axis=1)
    assert nearest_distances(queries, references) == pytest.approx(expected)


def test_copies_are_found_and_independent_images_are_not() -> None:
    train, test, fresh = features(0, 400), features(1, 400), features(2, 400)
    copies = train[:100] + 0.01 * features(3, 100)
    near = near_copy_distance(train, test, 1.0)
    mixed = np.concatenate([fresh[:300], copies])
    assert np.mean(nearest_distances(mixed, train) < near) == pytest.approx(0.25, abs=0.03)
    assert np.mean(nearest_distances(fresh, train) < near) < 0.03
    assert near_copy_distance(train, test, 50.0) == pytest.approx(np.median(nearest_distances(test, train)))
