"""Images that begin from two train images of a class: what may begin so. Front ends check it with this, without torch.

The latents of the two are mixed (as Zhang et al. 2018, arXiv:1710.09412, mix images), or both are taken back to the
noise that they would be made of (Diff-II: Wang and Chen 2024, arXiv:2408.16266).
"""

from collections.abc import Mapping

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.generators import IMAGE
from synthmix.image_data.image_to_image import is_inverted, is_of_pairs
from synthmix.service_kit.errors import Problems, invalid_field

# Train images that each begins from.
SOURCES_OF_EACH = 2
REASON = "PAIRS_CANNOT"


def pairing_field(settings: SynthesisSettings) -> str:
    """Which of the settings says that images begin from two."""
    return "inversion_steps" if is_inverted(settings) else "source"


def check_pairs(
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
    if not is_of_pairs(settings):
        return
    name = pairing_field(settings)

    def refuse(problem: str, remedy: str) -> None:
        path, value = f"{field}.{name}", getattr(settings, name)
        problems.found.append(invalid_field(path, value, problem, remedy, reason=REASON))

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
