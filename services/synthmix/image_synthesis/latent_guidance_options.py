"""Latents that are moved by a classifier: what may be, and what it takes. Without torch."""

from collections.abc import Collection, Iterable

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.image_to_image import begins_from_images
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.settings_messages import default_of

_STEP = SynthesisSettings.DESCRIPTOR.fields_by_name["latent_guidance_step"]
# What it takes of an image, in steps with guidance, on one core of a server CPU with the built-in model.
GUIDANCE_COST = 1.3


def moves_latents(settings: SynthesisSettings) -> bool:
    """Whether latents are moved by a classifier before they are decoded."""
    return settings.HasField("latent_guidance_radius")


def latent_guidance_cost(settings: SynthesisSettings, images: int) -> float:
    """What moving the latents of so many images takes, in steps with guidance."""
    return images * GUIDANCE_COST if moves_latents(settings) else 0.0


def check_latent_guidance(settings: SynthesisSettings, problems: Problems, *, field: str) -> None:
    """Collects images that no classifier can move, and a step of none. `settings` are filled.

    Args:
        field: Their path.
    """
    if not moves_latents(settings):
        if settings.latent_guidance_step != default_of(_STEP):
            problems.found.append(
                invalid_field(
                    f"{field}.latent_guidance_step",
                    settings.latent_guidance_step,
                    "is of latents that are moved by a classifier, and without latent_guidance_radius none are",
                    "set latent_guidance_radius, such as 0.1, or leave it out",
                )
            )
        return
    if not begins_from_images(settings):
        problems.found.append(
            invalid_field(
                f"{field}.latent_guidance_radius",
                settings.latent_guidance_radius,
                "is of images that begin from train images, by a classifier of these, and these begin as noise",
                "set strength, such as 0.3, or inversion_steps, or leave it out",
            )
        )


def check_classes_to_tell(
    settings: SynthesisSettings, made: Iterable[str], there: Collection[str], problems: Problems, *, field: str
) -> None:
    """Collects classes that a classifier of the train images doesn't know, or from which it knows no other.

    Args:
        made: Those of which there are to be images.
        there: Those with train images.
        field: The path of `settings`.
    """
    if not moves_latents(settings):
        return
    unknown = [label for label in made if label not in there]
    problem, remedy = "", ""
    if unknown:
        problem, remedy = f"which know no {unknown[0]!r}", "leave the class out"
    elif len(there) < 2:
        problem, remedy = "which are of one class", "use a split with train images of two classes"
    if problem:
        problems.found.append(
            invalid_field(
                f"{field}.latent_guidance_radius",
                settings.latent_guidance_radius,
                f"is by a classifier of the train images, {problem}",
                f"leave it out, or {remedy}",
            )
        )
