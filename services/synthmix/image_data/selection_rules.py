"""Which images of an image set are kept: the rules' names, and how many images there are to choose among.

What a study and image synthesis agree on. Without numpy and torch.
"""

import math
from collections.abc import Mapping
from typing import Any

from synthmix.api.image_sets.v1.image_sets_pb2 import ClassImages, Rejections, Selected, SelectionSettings
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import Problems, invalid_field, missing_field

# Rules that SelectionSettings may have, in the order in which an image is held to them.
RULES = ("class_consistency", "top_k", "above_chance", "centroid", "memorised", "drop_lowest", "near_duplicates")
# What is said of an image that passes them all and is not needed.
NOT_NEEDED = "keep"
# What the summary of a selection's manifest says of the choice.
SELECTED = "selected"
# The payload of a selection that names each candidate, with what became of it.
CANDIDATES = "candidates.parquet"
# Images that a study makes for each one that it keeps, if it does not say how many.
OVERSAMPLE = 2.0


def rules_given(settings: SelectionSettings) -> list[str]:
    """The rules by which images may be left out, in order."""
    return [rule for rule in RULES if settings.HasField(rule) and getattr(settings, rule) is not False]


def is_selection(settings: SelectionSettings) -> bool:
    """Whether it chooses among images, and does not keep them as they are."""
    return bool(rules_given(settings))


def check_selection(
    settings: SelectionSettings, problems: Problems, *, field: str, oversample: float | None = None
) -> None:
    """Collects a selection without a rule, and one whose rule leaves out more than is made besides.

    Args:
        settings: As the user gave them.
        field: Their path.
        oversample: Images that are made for each one that is wanted, as far as that is known.
    """
    with problems:
        if not rules_given(settings):
            raise missing_field(
                field,
                f"a selection goes by rules: give one or more of {', '.join(RULES)}, or leave it out (in a study: "
                "`none`)",
            )
    with problems:
        if oversample and 0 < settings.drop_lowest < 1 and oversample * (1 - settings.drop_lowest) < 1:
            least = math.ceil(100 / (1 - settings.drop_lowest)) / 100
            raise invalid_field(
                f"{field}.drop_lowest",
                settings.drop_lowest,
                f"leaves too few of {oversample:g} times as many images as are wanted",
                f"use a smaller share, or make at least {least:g} times as many",
                reason="OUT_OF_RANGE",
            )


def oversampled(images: Mapping[str, int], factor: float) -> dict[str, int]:
    """So many times as many images of each class, rounded up."""
    # Rounded first: 1.1 * 10 is more than 11.
    return {label: math.ceil(round(factor * count, 9)) for label, count in images.items()}


def images_made(image_set: Manifest) -> dict[str, int]:
    """How many images of each class an image set has: as many as were asked for, or as a selection kept."""
    selected = image_set.summary.get(SELECTED)
    made: dict[str, int] = image_set.request["class_images"] if selected is None else selected["kept"]
    return made


def selected_message(selected: Mapping[str, Any]) -> Selected:
    """What a manifest's summary says of a choice."""

    def of_classes(images: Mapping[str, int]) -> list[ClassImages]:
        return [ClassImages(label=label, images=count) for label, count in images.items()]

    return Selected(
        candidates=selected["candidates"],
        kept=of_classes(selected["kept"]),
        missing=of_classes(selected["missing"]),
        rejections=[Rejections(**item) for item in selected["rejections"]],
        feature_network=selected["feature_network"],
    )
