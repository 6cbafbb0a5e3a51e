"""How many images of each class a study makes: enough for its largest mixture, whatever the mode."""

import pytest

from synthmix.api.studies.v1 import studies_pb2
from synthmix.study_control.specification import default_images, largest_need


@pytest.mark.parametrize(
    ("mode", "ratios", "need", "made"),
    [
        ("append", [0, 0.5], 51, 1),
        ("append", [0, 1.5], 151, 2),
        ("share", [0, 0.5], 101, 1),  # as many as real ones
        ("share", [0, 0.75], 301, 4),  # three for each real one
        ("replace", [0, 0.5, 1.0], 101, 1),
    ],
)
def test_the_largest_mixture_decides(mode: str, ratios: list[float], need: int, made: int) -> None:
    spec = studies_pb2.StudySpec()
    spec.mixtures.mode = mode
    spec.mixtures.ratios.extend(ratios)
    counts = {"round": 100, "flat": 60}
    assert largest_need(spec, counts) == need
    assert default_images(spec, counts) == {label: made * count + 1 for label, count in counts.items()}
