"""How many images a study makes: enough for its largest mixture, whatever the mode."""

import pytest

from synthmix.api.studies.v1 import studies_pb2
from synthmix.study_control.specification import default_images, largest_need


@pytest.mark.parametrize(
    ("mode", "ratios", "need", "round_images", "flat_images"),
    [
        ("append", [0, 0.5], 51, 101, 61),
        ("append", [0, 1.5], 151, 201, 121),
        ("share", [0, 0.5], 101, 101, 61),  # as many as real ones
        ("share", [0, 0.75], 301, 401, 241),  # three for each real one
        ("replace", [0, 0.5, 1.0], 101, 101, 61),
    ],
)
def test_the_largest_mixture_decides(
    mode: str, ratios: list[float], need: int, round_images: int, flat_images: int
) -> None:
    spec = studies_pb2.StudySpec()
    spec.mixtures.mode = mode
    spec.mixtures.ratios.extend(ratios)
    counts = {"round": 100, "flat": 60}
    assert largest_need(spec, counts) == need
    assert default_images(spec, counts) == {"round": round_images, "flat": flat_images}
