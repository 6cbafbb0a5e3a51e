"""Which two train images an image begins from as noise, where on the circle between them, and what that takes.

Without torch. Of a class's train images each is begun from as often as any other, but for one time, as adapters are
drawn that are fused.
"""

import math
from collections.abc import Mapping

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.image_to_image import has_strength, is_inverted
from synthmix.image_synthesis.guidance_options import UNGUIDED_COST
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.seeds import derived_seed

_DRAWS = 1_000_000


def drawn_angle(settings: SynthesisSettings, label: str, number: int) -> float:
    """Where on the circle a class's n-th image begins, in radians: each place with the same probability."""
    return math.tau * (derived_seed(settings.seed, "angle", label, number) % _DRAWS) / _DRAWS


def sources_inverted(settings: SynthesisSettings, images: Mapping[str, int], train_counts: Mapping[str, int]) -> int:
    """Train images that are inverted, each once.

    Args:
        images: Of each class that is made.
        train_counts: Train images of each class.
    """
    if not is_inverted(settings):
        return 0
    return sum(min(train_counts.get(label, 0), count + 1) for label, count in images.items() if count)


def inversion_cost(settings: SynthesisSettings, sources: int) -> float:
    """What the inversions take, in steps with guidance, of which they have none. `settings` are filled."""
    return sources * settings.inversion_steps * UNGUIDED_COST if is_inverted(settings) else 0.0


def switches_prompts(settings: SynthesisSettings) -> bool:
    """Whether an image is first led to one of more_prompts, and to prompt afterwards."""
    return settings.HasField("prompt_switch")


def check_inversion(settings: SynthesisSettings, problems: Problems, *, field: str) -> None:
    """Collects two ways to begin, and a switch of prompts without others. `settings` are filled.

    Args:
        field: Their path.
    """
    if is_inverted(settings) and has_strength(settings):
        name = "strength" if settings.HasField("strength") else "strengths_by_images"
        problems.found.append(
            invalid_field(
                f"{field}.inversion_steps",
                settings.inversion_steps,
                f"says how images begin from train images, and so does {name}",
                "leave one of the two out",
            )
        )
    if switches_prompts(settings) and not settings.more_prompts:
        problems.found.append(
            invalid_field(
                f"{field}.prompt_switch",
                settings.prompt_switch,
                "is how long one of more_prompts is used before prompt, and there are none",
                "set more_prompts, or leave it out",
            )
        )
