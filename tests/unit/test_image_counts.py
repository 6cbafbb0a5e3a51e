"""How many images a study makes: enough for its largest mixture, whatever the mode."""

from typing import Any

import pytest

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.image_counts import asked_images, check_counts, images_to_balance
from synthmix.image_data.mixture_kinds import KINDS, MODES, taken_by
from synthmix.service_kit.errors import Problems
from synthmix.study_control.specification import default_images, needed_images


def study(mode: str, *ratios: float, synthetic_only: bool = False) -> studies_pb2.StudySpec:
    mixtures = studies_pb2.StudySpec().mixtures
    mixtures.mode, mixtures.synthetic_only = mode, synthetic_only
    mixtures.ratios.extend(ratios)
    return studies_pb2.StudySpec(mixtures=mixtures)


@pytest.mark.parametrize(
    ("mode", "ratios", "needed", "made"),
    [
        ("append", [0, 0.5], (50, 30), (100, 60)),
        ("append", [0, 1.0], (100, 60), (100, 60)),
        ("append", [0, 1.5], (150, 90), (200, 120)),
        ("share", [0, 0.5], (100, 60), (100, 60)),  # as many as real ones
        ("share", [0, 0.75], (300, 180), (400, 240)),  # three for each real one
        ("replace", [0, 0.5, 1.0], (100, 60), (100, 60)),
        ("sample_local", [0, 0.1], (100, 60), (100, 60)),  # a child of each
        ("sample_global", [0, 0.1], (10, 6), (100, 60)),
        ("balance", [0, 0.25], (16, 16), (16, 40)),  # what the smaller class lacks, whatever the ratio
    ],
)
def test_the_largest_mixture_decides(
    mode: str, ratios: list[float], needed: tuple[int, int], made: tuple[int, int]
) -> None:
    counts = {"round": 100, "flat": 60}
    assert tuple(needed_images(study(mode, *ratios), counts).values()) == needed
    assert tuple(default_images(study(mode, *ratios), counts).values()) == made


def test_synthetic_only_takes_as_many_as_there_are_real_ones() -> None:
    counts = {"round": 100, "flat": 60}
    assert needed_images(study("append", 0.1, synthetic_only=True), counts) == counts
    assert needed_images(study("append"), counts) == {"round": 0, "flat": 0}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("counts", [(1,), (1, 1, 1), (97, 13, 1), (1000, 999, 7, 3, 2)])
def test_what_is_made_is_enough_for_every_ratio_below(mode: str, counts: tuple[int, ...]) -> None:
    """No class needs an image more for the rounding of a mixture's size."""
    real = {str(index): count for index, count in enumerate(counts)}
    for step in range(101):
        ratio = step / 100 * KINDS[mode].largest_ratio
        taken = taken_by(KINDS[mode], ratio, counts).synthetic
        made = tuple(default_images(study(mode, ratio), real).values())
        assert all(one <= enough for one, enough in zip(taken, made, strict=True))
        if KINDS[mode].fills_up:
            assert made == tuple(max(max(counts) - count, min(16, count)) for count in counts)
        else:
            assert made == tuple(count * (made[0] // counts[0]) for count in counts)


def test_mixtures_that_leave_real_images_out_take_children_of_the_others() -> None:
    """Of 25 images that are kept, 75 come from three children of each, and so of every image."""
    counts = {"round": 100, "flat": 60}
    spec = study("replace", 0.25, 0.75)
    assert needed_images(spec, counts, of_kept_only=True) == {"round": 300, "flat": 180}
    assert default_images(spec, counts, of_kept_only=True) == {"round": 400, "flat": 240}
    assert needed_images(study("replace", 0.5), counts, of_kept_only=True) == counts
    for mode in ("append", "share"):
        assert needed_images(study(mode, 0.5), counts, of_kept_only=True) == needed_images(study(mode, 0.5), counts)
    assert needed_images(study("replace", 1.0), counts, of_kept_only=True) == counts, (
        "without any real image all may be"
    )


@pytest.mark.parametrize("counts", [(97, 13, 5), (1000, 999, 7, 3, 4)])
def test_children_of_what_is_kept_are_enough_for_every_ratio(counts: tuple[int, ...]) -> None:
    real = {str(index): count for index, count in enumerate(counts)}
    for step in range(1, 100):
        taken = taken_by(KINDS["replace"], step / 100, counts)
        if not all(taken.real):
            continue  # which a study refuses
        made = default_images(study("replace", step / 100), real, of_kept_only=True)
        for kept, needed, count, images in zip(taken.real, taken.synthetic, counts, made.values(), strict=True):
            assert kept * (images // count) >= needed


COUNTS = {"round": 100, "flat": 60, "long": 7}


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({}, {"round": 1, "flat": 2, "long": 3}),
        ({"per_class": 9}, {"round": 9, "flat": 9, "long": 9}),
        ({"class_images": {"long": 50}}, {"round": 1, "flat": 2, "long": 50}),
        ({"class_images": {"long": 50}, "per_class": 9}, {"round": 9, "flat": 9, "long": 50}),
        ({"balance": True}, {"round": 16, "flat": 40, "long": 93}),
        ({"balance": False, "per_class": 9}, {"round": 9, "flat": 9, "long": 9}),
        ({"images_per_source": 2, "strength": 0.5}, {"round": 200, "flat": 120, "long": 14}),
    ],
)
def test_images_of_each_class_as_they_are_asked_for(fields: dict[str, Any], images: dict[str, int]) -> None:
    assert asked_images(SynthesisSettings(**fields), COUNTS, {"round": 1, "flat": 2, "long": 3}) == images


def test_a_class_without_train_images_is_not_filled_up() -> None:
    assert images_to_balance({"round": 50, "flat": 0, "long": 3}) == {"round": 16, "long": 47}
    assert images_to_balance({}) == {}


@pytest.mark.parametrize(
    ("fields", "counted", "said"),
    [
        ({"balance": True, "per_class": 9}, False, "x.balance: True says how many images there are, and so does per_c"),
        ({"balance": True, "class_images": {"flat": 3}}, False, "and so does class_images; leave one of the two out"),
        ({"balance": True}, True, "x.balance: True says how many images there are, and so does class_images of the"),
        ({"class_images": {"flat": 3}}, True, "x.class_images: {'flat': 3} says how many images there are, and so"),
        ({"images_per_source": 2, "strength": 0.5, "balance": True}, False, "x.images_per_source: 2 says how many"),
    ],
)
def test_numbers_of_images_that_are_said_twice(fields: dict[str, Any], counted: bool, said: str) -> None:
    problems = Problems()
    check_counts(SynthesisSettings(**fields), problems, field="x", counted=counted)
    [error] = problems.found
    assert said in error.message


def test_numbers_of_single_classes_go_with_one_of_the_others() -> None:
    problems = Problems()
    check_counts(SynthesisSettings(per_class=9, class_images={"flat": 3}), problems, field="x", counted=False)
    assert problems.found == []
