"""Measures of samples against their definitions, their authors' code, and what intervals must hold."""

from collections.abc import Callable

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.linalg import sqrtm

from synthmix.classifier_evaluation.fidelity_measures import (
    LEAST_IMAGES,
    MEASURES,
    Reference,
    Sample,
    measured_images,
)
from synthmix.image_features import neighbourhoods
from synthmix.image_features.distances import kernel_inception_distance, nearest
from synthmix.image_features.estimates import Measured, group_jackknife, jackknife_variance, share
from synthmix.image_features.neighbourhoods import neighbourhood_measures
from synthmix.image_features.sample_distances import (
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    products_of,
    self_products,
)


def features(seed: int, count: int = 100, mean: float = 0.0, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, (count, width)).astype(np.float32)


@pytest.mark.parametrize(("first", "second", "width"), [(100, 80, 8), (12, 30, 64)])
def test_the_frechet_distance_is_its_definition(first: int, second: int, width: int) -> None:
    """Also of fewer images than features, whose covariances have no root that Newton's method would find."""
    one, other = features(0, first, width=width), features(1, second, 0.5, width)
    covariances = [np.cov(sample.astype(float), rowvar=False) for sample in (one, other)]
    shift = one.mean(axis=0, dtype=float) - other.mean(axis=0, dtype=float)
    # The root of the product, by one of the roots, which is real: tr (S1 S2)^(1/2) = tr (R S2 R)^(1/2), R = S1^(1/2).
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    expected = shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * common
    found = frechet_distance(products_of(one, other))
    assert found.value == pytest.approx(expected, rel=1e-6) and found.low < found.value < found.high
    if first > width:
        direct = np.trace(sqrtm(covariances[0] @ covariances[1])).real
        assert common == pytest.approx(direct)


def test_a_frechet_distance_worked_out_by_hand() -> None:
    """Of two lines: the means are 3 apart, the variances 1 and 4, so that it is 3^2 + (2 - 1)^2."""
    line = np.array([[-1.0], [0.0], [1.0]])
    assert frechet_distance(products_of(line, 3 + 2 * line)).value == pytest.approx(10.0)
    assert frechet_distance(products_of(line, line)).value == pytest.approx(0.0, abs=1e-12)


def test_precision_recall_density_and_coverage_are_those_of_their_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose code takes one number of neighbours for all four."""
    monkeypatch.setattr(neighbourhoods, "PRECISION_NEIGHBOURS", neighbourhoods.DENSITY_NEIGHBOURS)
    one, other = features(0, 60, 0.4), features(1, 50)
    expected = compute_prdc(real_features=other, fake_features=one, nearest_k=neighbourhoods.DENSITY_NEIGHBOURS)
    found = {name: value.value for name, value in neighbourhood_measures(products_of(one, other)).items()}
    assert found == pytest.approx(expected)
    assert len(set(found.values())) == 4


def test_neighbourhoods_worked_out_by_hand() -> None:
    """Real images at 0, 1, ..., 7 on a line; images of a generator at 0.5 seven times over, and one far away."""
    real = np.arange(8.0)[:, None]
    made = np.array([0.5] * 7 + [100.0])[:, None]
    found = {name: value.value for name, value in neighbourhood_measures(products_of(made, real)).items()}
    # To the third neighbour it is 3, 2, 2, 2, 2, 2, 2, 3 from the real images, to the fifth 5, 4, 3, 3, 3, 3, 4, 5.
    assert found["precision"] == pytest.approx(7 / 8)
    # Within 0 of 0.5 there is none, and within 99.5 of 100 are those from 0.5 on.
    assert found["recall"] == pytest.approx(7 / 8)
    assert found["density"] == pytest.approx(7 / 8 * 4 / 5)  # in the balls of 0, 1, 2 and 3
    assert found["coverage"] == pytest.approx(4 / 8)


def test_the_kernel_distance_is_the_same_and_its_draws_have_it_as_their_mean() -> None:
    one, other = features(0, 40, 0.3), features(1, 30)
    found = kernel_distance(products_of(one, other))
    assert found.value == pytest.approx(kernel_inception_distance(one, other))
    assert found.low < found.value < found.high
    same = [kernel_distance(products_of(features(seed, 40), features(200 + seed, 40))) for seed in range(20)]
    assert sum(item.low <= 0 <= item.high for item in same) >= 18, "images drawn twice would look like a distance"


def test_the_mean_distance_within_a_class_is_its_definition() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [50.0, 0.0], [50.0, 2.0], [50.0, 4.0]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    expected = np.mean([np.mean([5.0, 1.0, np.hypot(3, 3)]), np.mean([2.0, 2.0, 4.0])])
    assert mean_pairwise_distance(self_products(points), labels).value == pytest.approx(expected)
    same = mean_pairwise_distance(self_products(np.ones((4, 2))), np.zeros(4))
    assert same == Measured(0.0, 0.0, 0.0)


def test_leaving_out_each_of_a_mean_gives_its_variance() -> None:
    values = features(0, 20)[:, 0].astype(float)
    without = (values.sum() - values) / 19
    assert jackknife_variance(without) == pytest.approx(values.var(ddof=1) / 20)
    [found] = group_jackknife(lambda one, other: np.array([values[one].mean()]), 20, 20)
    assert found.high - found.value == pytest.approx(2.093 * np.sqrt(values.var(ddof=1) / 20), rel=1e-3)


def test_a_share_of_none_may_be_more() -> None:
    none = share(np.zeros(100, dtype=bool))
    assert (none.value, none.low) == (0.0, 0.0) and none.high == pytest.approx(0.0370, abs=1e-4)
    half = share(np.array([True, False] * 50))
    assert (half.low, half.high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    everything = share(np.ones(100, dtype=bool))
    assert (everything.value, everything.high) == (1.0, 1.0) and everything.low == pytest.approx(1 - none.high)


@pytest.mark.parametrize(
    ("measure", "covered"),
    [
        (lambda products: kernel_distance(products), 0.9),
        (lambda products: frechet_distance(products), 0.9),
        (lambda products: mean_pairwise_distance(products.own, np.arange(60) % 3), 0.9),
        (lambda products: neighbourhood_measures(products)["precision"], 0.95),
        (lambda products: neighbourhood_measures(products)["recall"], 0.95),
        (lambda products: neighbourhood_measures(products)["coverage"], 0.95),
    ],
)
def test_intervals_hold_what_samples_of_as_many_give_on_average(
    measure: Callable[..., Measured], covered: float
) -> None:
    found = [measure(products_of(features(seed, 60, 0.3), features(1000 + seed, 50))) for seed in range(40)]
    mean = np.mean([item.value for item in found])
    assert np.mean([item.low <= mean <= item.high for item in found]) >= covered
    spread = np.std([item.value for item in found])
    assert np.mean([item.high - item.low for item in found]) < 2.2 * 3.92 * spread, "they say something"


def classes(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Features of two classes that are far apart, in turn, and their labels."""
    labels = np.arange(count) % 2
    return features(seed, count) + 5.0 * labels[:, None], labels


def sample(**changes: np.ndarray | None) -> Sample:
    """Of 40 images of two classes, of which as many as every source has are 24."""
    made, labels = classes(2, 40)
    values = {
        "features": made,
        "labels": labels,
        "as_many": np.arange(24),
        "judged": labels,
        "near": np.arange(40) < 4,
        "right": np.ones(40, dtype=bool),
    }
    return Sample(**(values | changes))  # type: ignore[arg-type]


def test_all_is_measured_of_all_images_and_of_each_class() -> None:
    reference = Reference(*classes(3))
    found = measured_images(sample(), reference, ("round", "flat", "absent"))
    assert [of.class_name for of in found] == ["", "round", "flat"]
    for of, images, as_many in zip(found, (40, 20, 20), (24, 12, 12), strict=True):
        assert [value.name for value in of.values] == [measure.name for measure in MEASURES]
        counts = {value.name: value.images for value in of.values}
        assert counts["kernel_inception_distance"] == counts["diversity"] == counts["near_copies"] == images
        assert counts["frechet_distance"] == counts["coverage"] == as_many
        assert all(value.low <= value.value <= value.high for value in of.values)
    values = {value.name: value for value in found[0].values}
    own, labels = classes(2, 40)
    assert values["kernel_inception_distance"].value == pytest.approx(
        kernel_inception_distance(own, reference.features)
    )
    assert values["near_copies"].value == 0.1 and values["class_consistency"].value == 1.0
    round_ = {value.name: value for value in found[1].values}
    assert round_["frechet_distance"].value == pytest.approx(
        frechet_distance(products_of(own[:24][labels[:24] == 0], reference.features[reference.labels == 0])).value
    )


def test_what_has_too_few_images_is_left_out() -> None:
    reference = Reference(*classes(3))
    few = measured_images(sample(as_many=np.arange(2 * LEAST_IMAGES - 2)), reference, ("round", "flat"))
    assert "recall" in {value.name for value in few[0].values}
    for of_class in few[1:]:
        names = {value.name for value in of_class.values}
        assert names == {"kernel_inception_distance", "diversity", "class_consistency", "near_copies"}
    of_few_tests = measured_images(sample(right=None), Reference(*classes(3, 18)), ("round", "flat"))
    assert [[value.name for value in of.values] for of in of_few_tests[1:]] == [["diversity", "near_copies"]] * 2


def test_the_nearest_is_that_of_brute_force() -> None:
    queries, references = features(0, 1100), features(1, 30)
    squares = ((queries[:, None].astype(float) - references[None].astype(float)) ** 2).sum(axis=2)
    _, rows = nearest(queries, references)
    assert (rows == squares.argmin(axis=1)).all()
    _, others = nearest(queries, references, without=[[row] for row in rows])
    assert (others == np.argsort(squares, axis=1)[:, 1]).all()
