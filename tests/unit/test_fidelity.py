"""Distances between samples, against their definitions and against what they must tell apart."""

import numpy as np
import pytest

from synthmix.image_features.distances import (
    kernel_inception_distance,
    near_copy_distance,
    nearest_distances,
    own_distances,
    paired_distance,
)


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


def pairs(seed: int, count: int = 32, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Images, and what became of them: a little noise, and a shift that all have in common."""
    first = features(seed, count)
    return first, first + moved + 0.3 * features(1000 + seed, count)


def test_a_paired_distance_is_its_definition() -> None:
    """Gretton et al. 2012, lemma 6; over pairs, whose own terms are left out."""
    first, second = pairs(0, 5, moved=0.5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.astype(float) @ y.astype(float) / 8 + 1) ** 3)

    expected = np.mean(
        [
            kernel(first[i], first[j])
            + kernel(second[i], second[j])
            - kernel(first[i], second[j])
            - kernel(second[i], first[j])
            for i in range(5)
            for j in range(5)
            if i != j
        ]
    )
    assert paired_distance(first, second).value == pytest.approx(expected)


def test_equal_pairs_are_at_no_distance_and_chance_is_told_from_a_difference() -> None:
    first = features(0, 32)
    same = paired_distance(first, first)
    assert (same.value, same.low, same.high, same.by_chance) == (0.0, 0.0, 0.0, 0.0)
    above = [found.value > found.by_chance for found in (paired_distance(*exchanged(seed)) for seed in range(200))]
    assert 1 <= sum(above) <= 22, "of pairs that chance alone tells apart, one in twenty is above"
    for seed in range(5):
        moved = paired_distance(*pairs(seed, moved=0.3))
        assert moved.low > moved.by_chance > 0


def exchanged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose two are of one distribution, and near to one another."""
    common = features(seed, 32)
    return common + 0.3 * features(2000 + seed, 32), common + 0.3 * features(3000 + seed, 32)


def test_a_paired_distance_is_unbiased_and_its_interval_covers_it() -> None:
    """At 32 pairs, where the estimator of independent samples is far below the distance that there is."""
    far = np.mean([paired_distance(*pairs(5000 + seed, 256, moved=0.3)).value for seed in range(40)])
    found = [paired_distance(*pairs(seed, moved=0.3)) for seed in range(100)]
    values = [item.value for item in found]
    assert abs(np.mean(values) - far) < 4 * np.std(values) / 10
    assert sum(item.low <= far <= item.high for item in found) >= 85
    independent = [kernel_inception_distance(*pairs(seed, moved=0.3)) for seed in range(100)]
    assert np.mean(independent) < far - 4 * np.std(independent) / 10
    spread = np.std([kernel_inception_distance(features(seed, 32), features(500 + seed, 32)) for seed in range(100)])
    assert np.std([paired_distance(*exchanged(seed)).value for seed in range(100)]) < spread / 3


@pytest.mark.parametrize("shapes", [((2, 8), (2, 8)), ((5, 8), (4, 8)), ((5, 8), (5, 7)), ((40,), (40,))])
def test_pairs_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="at least three pairs"):
        paired_distance(*map(np.zeros, shapes))


def test_nearest_distances_are_those_of_brute_force() -> None:
    queries, references = features(0, 1500), features(1, 30)
    expected = np.linalg.norm(queries[:, None].astype(float) - references[None].astype(float), axis=2).min(axis=1)
    assert nearest_distances(queries, references) == pytest.approx(expected)


def test_copies_are_found_and_independent_images_are_not() -> None:
    train, test, fresh = features(0, 400), features(1, 400), features(2, 400)
    copies = train[:100] + 0.01 * features(3, 100)
    unseen = nearest_distances(test, train)
    near = near_copy_distance(unseen, 1.0)
    mixed = np.concatenate([fresh[:300], copies])
    assert np.mean(nearest_distances(mixed, train) < near) == pytest.approx(0.25, abs=0.03)
    assert np.mean(nearest_distances(fresh, train) < near) < 0.03
    assert near_copy_distance(unseen, 50.0) == pytest.approx(np.median(unseen))


def test_what_an_image_is_a_child_of_is_no_other_image() -> None:
    queries, references = features(0, 1100), features(1, 30)
    own = [[number % 30, (number * 7 + 3) % 30] for number in range(len(queries))]
    distances = np.linalg.norm(queries[:, None].astype(float) - references[None].astype(float), axis=2)
    nearest_own = [row[rows].min() for row, rows in zip(distances, own, strict=True)]
    assert own_distances(queries, references, own) == pytest.approx(np.array(nearest_own))
    for row, rows in zip(distances, own, strict=True):
        row[rows] = np.inf
    assert nearest_distances(queries, references, without=own) == pytest.approx(distances.min(axis=1))
    assert np.isinf(nearest_distances(queries[:1], references[:2], without=[[0, 1]])).all()
