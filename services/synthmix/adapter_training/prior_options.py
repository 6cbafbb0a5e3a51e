"""Options of prior preservation: what they exclude, which prompts they add, and what they cost. Without torch."""

from synthmix.adapter_training.sampling_defaults import ANSWERS_PER_IMAGE
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.prompts import LONGEST_PROMPT_CHARACTERS
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.settings_messages import default_of

PATH = "adapter.settings"
# What the prior's images may be: the base model's own, or the train images once more.
TRAIN = "train"


def check_options(settings: AdapterSettings, problems: Problems) -> None:
    """Collects an InvalidArgument for every option that has no effect, or cannot be. `settings` are filled."""
    if not settings.prior_preservation:
        for field in ("prior_preservation_source", "prior_images", "prior_prompt"):
            value = getattr(settings, field)
            declared = default_of(AdapterSettings.DESCRIPTOR.fields_by_name[field])
            if value != declared and settings.HasField(field):
                problems.found.append(
                    invalid_field(
                        f"{PATH}.{field}",
                        value,
                        "is of prior preservation, which is off",
                        f"set prior_preservation, such as 1, or leave {field} out",
                    )
                )
        return
    declared = default_of(AdapterSettings.DESCRIPTOR.fields_by_name["prior_images"])
    if settings.prior_preservation_source == TRAIN and settings.prior_images != declared:
        problems.found.append(
            invalid_field(
                f"{PATH}.prior_images",
                settings.prior_images,
                "counts what the base model makes, and the prior's images are the train images",
                "leave it out, or use the source base_model",
            )
        )
    if not 0 < len(settings.prior_prompt.strip()) <= LONGEST_PROMPT_CHARACTERS:
        problems.found.append(
            invalid_field(
                f"{PATH}.prior_prompt",
                settings.prior_prompt,
                f"has {len(settings.prior_prompt.strip())} characters",
                f"use 1 to {LONGEST_PROMPT_CHARACTERS}, such as 'a microscopy image of a cell'",
                reason="OUT_OF_RANGE",
            )
        )


def all_prompts(settings: AdapterSettings) -> tuple[str, ...]:
    """What a training has embeddings of: the prompt, further ones, and last the prior's, if there is one."""
    prior = [settings.prior_prompt] if settings.prior_preservation else []
    return (settings.prompt, *settings.more_prompts, *prior)


def work(settings: AdapterSettings, classes: int) -> tuple[int, int]:
    """What prior preservation adds: images that are learned from, and images that the UNet only answers to.

    Args:
        classes: Those that have train images.
    """
    if not settings.prior_preservation:
        return 0, 0
    made = 0 if settings.prior_preservation_source == TRAIN else settings.prior_images * classes
    return settings.images_seen, made * ANSWERS_PER_IMAGE
