"""Images that begin from two train images of a class, which are taken back to the noise that they would be made of.

What may begin so: front ends check it with this, without torch. Diff-II: Wang and Chen 2024, arXiv:2408.16266.
"""

from collections.abc import Mapping

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.generators import IMAGE
from synthmix.service_kit.errors import Problems, invalid_field

# Train images that each begins from.
SOURCES_OF_EACH = 2
REASON = "INVERSION_CANNOT"


def is_inverted(settings: SynthesisSettings) -> bool:
    """Whether images begin from two train images each, as noise that is made of them."""
    return settings.HasField("inversion_steps")


def check_inverted(
    settings: SynthesisSettings,
    per: str,
    images: Mapping[str, int],
    problems: Problems,
    *,
    field: str,
    what: str = "this adapter",
) -> None:
    """Collects what images cannot begin so with, of an adapter and a train part. `settings` are filled.

    Args:
        per: What has an adapter of its own, as an adapter's settings say it.
        images: Of each class that is made, how many train images it has.
        field: The path of `settings`.
        what: What the adapter is called.
    """
    if not is_inverted(settings):
        return

    def refuse(problem: str, remedy: str) -> None:
        path = f"{field}.inversion_steps"
        problems.found.append(invalid_field(path, settings.inversion_steps, problem, remedy, reason=REASON))

    if per == IMAGE:
        refuse(
            f"begins from two images of a class, and {what} is one for each image, which knows no other",
            "leave it out, or use an adapter with per: class or per: dataset",
        )
    alone = [label for label, count in images.items() if count < SOURCES_OF_EACH]
    if alone:
        refuse(
            f"begins from two images of a class, and the class {alone[0]!r} has {images[alone[0]]}",
            "leave it out, or use a split that gives each class two train images",
        )
