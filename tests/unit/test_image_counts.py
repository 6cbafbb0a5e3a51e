"""How many images a study makes: enough for its largest mixture, whatever the mode."""

import pytest

from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.mixture_kinds import KINDS, MODES, taken_by
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
