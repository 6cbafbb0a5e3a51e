"""Options of guidance that contradict each other, and what guidance costs. Without torch."""

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.latent_diffusion.prompts import LONGEST_PROMPT_CHARACTERS
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.settings_messages import default_of

_FIELDS = SynthesisSettings.DESCRIPTOR.fields_by_name
_OF_GUIDANCE = ("guidance_least_noise", "guidance_most_noise", "guidance_rescale")
# Of what a step with guidance takes: without, the UNet answers to one prompt and not to two.
UNGUIDED_COST = 0.5


def guided_cost(settings: SynthesisSettings, most_noise: float = 1.0) -> float:
    """What a step takes in the mean, of what one with guidance takes. `settings` are filled.

    Args:
        most_noise: The noise level at which images begin, more than 0: their strength, if they begin from others.
    """
    reached = min(settings.guidance_most_noise, most_noise) - settings.guidance_least_noise
    guided = max(reached, 0.0) / most_noise if settings.guidance_scale > 1 else 0.0
    return UNGUIDED_COST + (1 - UNGUIDED_COST) * guided


def check_guidance(settings: SynthesisSettings, problems: Problems, *, field: str) -> None:
    """Collects options of guidance that contradict each other, or that change nothing as there is none.

    Args:
        settings: Filled.
        field: Their path.
    """
    changed = [name for name in _OF_GUIDANCE if getattr(settings, name) != default_of(_FIELDS[name])]
    if settings.negative_prompt:
        changed.append("negative_prompt")
    if settings.guidance_scale <= 1:
        for name in changed:
            problems.found.append(
                invalid_field(
                    f"{field}.{name}",
                    getattr(settings, name),
                    f"is of guidance, and with a guidance_scale of {settings.guidance_scale:g} there is none",
                    "set a guidance_scale above 1, such as 2, or leave it out",
                )
            )
    if settings.guidance_least_noise >= settings.guidance_most_noise:
        problems.found.append(
            invalid_field(
                f"{field}.guidance_least_noise",
                settings.guidance_least_noise,
                f"is not below guidance_most_noise, which is {settings.guidance_most_noise:g}: no step is guided",
                "set the smaller of two as guidance_least_noise, or guidance_scale: 1 for no guidance",
            )
        )
    if "{caption}" in settings.negative_prompt:
        problems.found.append(
            invalid_field(
                f"{field}.negative_prompt",
                settings.negative_prompt,
                "has {caption}, and an image is not led away from its own caption",
                "write what no image shall show, with {label} or without",
            )
        )
    if len(settings.negative_prompt) > LONGEST_PROMPT_CHARACTERS:
        problems.found.append(
            invalid_field(
                f"{field}.negative_prompt",
                settings.negative_prompt,
                f"has {len(settings.negative_prompt)} characters",
                f"use at most {LONGEST_PROMPT_CHARACTERS}",
                reason="OUT_OF_RANGE",
            )
        )
