"""Which of the images that a judge has seen are kept."""

from typing import Any

import numpy as np
import pytest

from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings
from synthmix.image_data.selection_rules import oversampled
from synthmix.image_synthesis.selection import JudgedImages, choose


def judged(
    own: list[float],
    labels: list[int] | None = None,
    *,
    classes: int = 3,
    train: list[float] | None = None,
    places: list[float] | None = None,
) -> JudgedImages:
    """Images of class 0, if not said otherwise, whose class has these probabilities; the next class has the rest.

    Args:
        train: Distances to the train images.
        places: Features, of one number each.
    """
    asked = np.array(labels or [0] * len(own))
    probabilities = np.zeros((len(own), classes))
    probabilities[np.arange(len(own)), asked] = own
    probabilities[np.arange(len(own)), (asked + 1) % classes] = 1 - np.array(own)
    return JudgedImages(
        labels=asked,
        probabilities=probabilities,
        centre_distances=1 - probabilities,
        train_distances=np.array(train or [5.0] * len(own)),
        features=np.array(places or np.arange(len(own)) * 10.0)[:, None],
    )


def rules(images: JudgedImages, wanted: int = 100, **settings: Any) -> list[str]:
    return choose(images, dict.fromkeys(range(3), wanted), SelectionSettings(**settings)).rules


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"class_consistency": 0.5}, ["", "", "class_consistency", "class_consistency"]),
        ({"above_chance": True}, ["", "", "", "above_chance"]),
        ({"above_chance": False, "class_consistency": 0.0}, ["", "", "", ""]),
        ({"top_k": 1}, ["", "", "top_k", "top_k"]),
        ({"top_k": 2}, ["", "", "", ""]),
        ({"centroid": True}, ["", "", "centroid", "centroid"]),
        ({"drop_lowest": 0.25}, ["", "", "", "drop_lowest"]),
        ({"drop_lowest": 0.49}, ["", "", "", "drop_lowest"]),
        # The first rule that an image does not meet is said of it.
        ({"top_k": 1, "class_consistency": 0.35}, ["", "", "top_k", "class_consistency"]),
    ],
)
def test_a_rule_leaves_out(settings: dict[str, Any], expected: list[str]) -> None:
    assert rules(judged([0.9, 0.5, 0.4, 0.1]), **settings) == expected


def test_copies_of_train_images_are_left_out() -> None:
    choice = choose(judged([0.9, 0.9], train=[0.5, 1.0]), {0: 2}, SelectionSettings(memorised=True))
    assert choice.rules == ["memorised", ""]
    assert choice.scores[0] == 0.5 and np.isnan(choice.scores[1])


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("best", ["near_duplicates", "", ""]),  # of two that are near, the more probable one is kept
        ("random", ["", "near_duplicates", ""]),
    ],
)
def test_near_duplicates_are_left_out_of_their_class(keep: str, expected: list[str]) -> None:
    images = judged([0.6, 0.9, 0.7], [0, 0, 1], places=[1.0, 1.9, 1.0])
    assert rules(images, near_duplicates=True, keep=keep) == expected


@pytest.mark.parametrize(("keep", "expected"), [("best", [1, 3]), ("random", [1, 2])])
def test_as_many_are_kept_as_are_wanted(keep: str, expected: list[int]) -> None:
    images = judged([0.1, 0.7, 0.6, 0.9])
    choice = choose(images, {0: 2}, SelectionSettings(class_consistency=0.5, keep=keep))
    assert choice.kept.tolist() == expected
    assert sorted(choice.rules) == ["", "", "class_consistency", "keep"]


def test_what_is_left_out_of_one_class_does_not_change_another() -> None:
    images = judged([0.1, 0.9, 0.2, 0.8], [0, 1, 0, 1])
    assert rules(images, 1, class_consistency=0.5) == ["class_consistency", "", "class_consistency", "keep"]
    assert rules(images, 1, class_consistency=0.05, keep="random") == ["", "", "keep", "keep"]


def test_images_are_oversampled_without_rounding_errors() -> None:
    assert oversampled({"a": 10, "b": 3, "c": 0}, 1.1) == {"a": 11, "b": 4, "c": 0}
