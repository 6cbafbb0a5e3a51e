"""Several adapters at once: what may be added up. Front ends check it with this, without torch."""

from collections.abc import Sequence

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.generators import DATASET
from synthmix.service_kit.errors import Problems, invalid_field, missing_field

FIELD = "adapter_weights"
REASON = "ADAPTERS_CANNOT_BE_ADDED"


def is_summed(settings: SynthesisSettings) -> bool:
    """Whether images are made with several adapters at once."""
    return bool(settings.adapter_weights)


def check_number(settings: SynthesisSettings, adapters: int, problems: Problems, *, field: str) -> None:
    """Collects weights that are not one for each adapter, or are of one adapter alone, or all 0.

    Args:
        adapters: How many there are.
        field: The path of `settings`.
    """
    weights, path = list(settings.adapter_weights), f"{field}.{FIELD}"
    with problems:
        if adapters > 1 and not weights:
            raise missing_field(path, f"say what the changes of each of the {adapters} adapters are multiplied with")
        if weights and adapters == 1:
            raise invalid_field(
                path, weights, "are of several adapters, and there is one", "leave it out, or use adapter_scale"
            )
        if weights and len(weights) != adapters:
            raise invalid_field(
                path, weights, f"are {len(weights)}, and there are {adapters} adapters", "give one for each of them"
            )
        if weights and not any(weights):
            raise invalid_field(
                path, weights, "leave nothing of any adapter", "use adapter_scale: 0 for the base model as it is"
            )


def check_summed(
    settings: SynthesisSettings,
    adapters: Sequence[AdapterSettings],
    problems: Problems,
    *,
    field: str,
    whats: Sequence[str],
) -> None:
    """Collects adapters that cannot be added up, and what images of several cannot have. `settings` are filled.

    Args:
        adapters: Filled.
        field: The path of `settings`.
        whats: What each adapter is called.
    """
    if not is_summed(settings):
        return

    def refuse(problem: str, remedy: str) -> None:
        path = f"{field}.{FIELD}"
        problems.found.append(invalid_field(path, list(settings.adapter_weights), problem, remedy, reason=REASON))

    for item, what in zip(adapters, whats, strict=True):
        if item.per != DATASET:
            refuse(
                f"adds up adapters for all classes, and {what} has one for each {item.per}",
                f"use adapters with per: {DATASET}",
            )
        if item.class_tokens:
            refuse(
                f"adds up what adapters change in weights, and {what} has learned class tokens",
                "use adapters without class_tokens",
            )
    first, *others = adapters
    for item, what in zip(others, whats[1:], strict=True):
        for name in ("base_model", "image_size", "caption_column"):
            own, other = getattr(first, name), getattr(item, name)
            if own != other:
                refuse(
                    f"adds up adapters of one {name.replace('_', ' ')}, and {whats[0]} has {own!r}, {what} {other!r}",
                    f"use adapters of the same {name}",
                )
