"""Two adapters of one image each as one: what may be fused. Front ends check it with this, without torch."""

from collections.abc import Mapping

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.generators import IMAGE
from synthmix.service_kit.errors import Problems, invalid_field

# The methods whose updates are products of two factors, so that factors beside one another are the sum of updates; and
# learned tokens without an adapter.
ADDED_UP = ("lora", "rslora", "pissa", "olora", "none")
REASON = "FUSION_CANNOT"


def is_fused(settings: SynthesisSettings) -> bool:
    """Whether each image is made with two adapters. `settings` are filled."""
    return settings.fused_adapters > 1


def check_fusion(
    settings: SynthesisSettings,
    adapter: AdapterSettings,
    images: Mapping[str, int],
    problems: Problems,
    *,
    field: str,
    what: str = "this adapter",
) -> None:
    """Collects an InvalidArgument if these adapters cannot be fused. `settings` and `adapter` are filled.

    Args:
        images: Of each class that is made, how many have an adapter.
        field: The path of `settings`.
        what: What the adapter is called.
    """
    if not is_fused(settings):
        return

    def refuse(problem: str, remedy: str) -> None:
        path = f"{field}.fused_adapters"
        problems.found.append(invalid_field(path, settings.fused_adapters, problem, remedy, reason=REASON))

    if adapter.per != IMAGE:
        refuse(
            f"fuses adapters of two images, and {what} is not one for each image",
            "use one of per: image, or leave it out",
        )
        return
    if adapter.method not in ADDED_UP:
        refuse(
            f"adds up the updates of two images' adapters, and those of the method {adapter.method} do not add up",
            f"leave it out, or use a method of {', '.join(ADDED_UP)}",
        )
    alone = [label for label, count in images.items() if count < settings.fused_adapters]
    if alone:
        refuse(
            f"fuses adapters of two images of a class, and the class {alone[0]!r} has {images[alone[0]]}",
            "leave it out, or use a split that gives each class two train images",
        )
