"""An adapter for each train image: what it excludes, how many there may be, and what they cost. Without torch.

LoFT: Kim et al. 2025 (arXiv:2505.11703).
"""

from collections.abc import Sequence

from synthmix.adapter_training import methods
from synthmix.adapter_training.portions import Portion
from synthmix.adapter_training.prior_options import TRAIN
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.generators import IMAGE
from synthmix.service_kit.adapter_payloads import FULL
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.quantities import byte_size, plural
from synthmix.service_kit.settings_messages import default_of

PATH = "adapter.settings"
REASON = "PER_IMAGE_CANNOT"
INSTEAD = "use per: class"
# An artifact's manifest, and the resource that services answer with, name each: half a megabyte of 1,000.
MOST_ADAPTERS = 1000
MOST_STORED_BYTES = 16 << 30
# Of which an adapter has hardly learned its image: LoFT trains 600 steps an image, with rank 2.
FEW_STEPS = 100
LOFT_STEPS = 600
# To begin an adapter and to store it, besides its steps: measured for the built-in model on one core of a server CPU.
SECONDS_PER_ADAPTER = {True: 0.5, False: 3.0}
_EVALUATIONS = AdapterSettings.DESCRIPTOR.fields_by_name["evaluations"]


def check_options(settings: AdapterSettings, problems: Problems) -> None:
    """Collects what an adapter of one image cannot have. `settings` are filled; of another granularity nothing."""
    if settings.per != IMAGE:
        return
    for field, refused, problem, remedy in (
        (
            "held_out",
            settings.held_out != 0,
            "holds out some of an adapter's images, and with per: image each adapter has one",
            f"leave it out, or {INSTEAD}",
        ),
        (
            "patience",
            settings.patience != 0,
            "waits for the loss on held-out images, and an adapter of one image has none",
            f"leave it out, or {INSTEAD}",
        ),
        (
            "previews",
            settings.previews != 0,
            "is of pictures of each class at intervals, and with per: image each image's adapter would draw them",
            f"leave it out and make an image set, or {INSTEAD}",
        ),
        (
            "evaluations",
            settings.evaluations != default_of(_EVALUATIONS),
            "is of the loss on held-out images and of previews, and with per: image there are neither",
            f"leave it out, or {INSTEAD}",
        ),
        (
            "prior_preservation_source",
            settings.prior_preservation != 0 and settings.prior_preservation_source == TRAIN,
            "is the images that an adapter is trained on once more, and with per: image that is the same image",
            f"use base_model, or {INSTEAD}",
        ),
        (
            "method",
            settings.method == FULL,
            "would be a whole UNet for each image",
            f"use one of: {', '.join(methods.METHODS)}; or {INSTEAD}",
        ),
    ):
        if refused:
            problems.found.append(
                invalid_field(f"{PATH}.{field}", getattr(settings, field), problem, remedy, reason=REASON)
            )


def check_adapters(settings: AdapterSettings, adapters: int) -> None:
    """Raises InvalidArgument for more adapters of one image each than an artifact holds."""
    if settings.per == IMAGE and adapters > MOST_ADAPTERS:
        raise invalid_field(
            f"{PATH}.per",
            settings.per,
            f"would be an adapter for each of {plural(adapters, 'train image')}, more than {MOST_ADAPTERS:,}",
            f"{INSTEAD}, or a split whose train part has at most {MOST_ADAPTERS:,} images",
            reason="TOO_MANY_ADAPTERS",
        )


def stored_bytes(settings: AdapterSettings, parameters: float) -> float:
    """What the weights of adapters of so many parameters together are stored as, in float32. `settings` are filled."""
    method = methods.of_any(settings.method)
    # Of the difference to what it began with.
    ranks = 2 if isinstance(method, methods.Method) and method.begins_from_weights else 1
    return 4 * ranks * parameters


def check_bytes(settings: AdapterSettings, parameters: float, adapters: int) -> None:
    """Raises InvalidArgument if the adapters of images would take more room than an artifact may.

    Args:
        parameters: Of all adapters together.
    """
    size = stored_bytes(settings, parameters)
    if settings.per == IMAGE and size > MOST_STORED_BYTES:
        raise invalid_field(
            f"{PATH}.per",
            settings.per,
            f"would store {byte_size(size)}, which is {byte_size(size / adapters)} for each of "
            f"{plural(adapters, 'image')} and more than {byte_size(MOST_STORED_BYTES)}",
            f"use a lower rank (LoFT: 2) or fewer targets, or {INSTEAD}",
            reason="TOO_MANY_ADAPTERS",
        )


def said_of(settings: AdapterSettings, adapters: Sequence[Portion], parameters: float) -> list[str]:
    """What a plan says of adapters of images: how many, of what size, how long each learns. Nothing of others."""
    if settings.per != IMAGE:
        return []
    count, steps = len(adapters), steps_of_each(settings, adapters)
    size = byte_size(stored_bytes(settings, parameters))
    said = (
        f"one adapter for each of {plural(count, 'image')}, {size} together: each sees its image "
        f"{plural(adapters[0].images_seen, 'time')}, in {plural(steps, 'step')}"
    )
    if steps >= FEW_STEPS:
        return [said]
    more = count * FEW_STEPS * settings.batch_size
    return [f"{said}, which are few (LoFT: {LOFT_STEPS}); images_seen {more} would be {FEW_STEPS} steps for each"]


def steps_of_each(settings: AdapterSettings, adapters: Sequence[Portion]) -> int:
    """Optimizer steps of one adapter's training."""
    return -(-adapters[0].images_seen // settings.batch_size)


def work(settings: AdapterSettings, adapters: Sequence[Portion], *, builtin: bool) -> tuple[int, float]:
    """Images that are learned from, and the seconds that it takes besides.

    The last batch of each image's adapter is a whole one. Of other adapters it is as many images as are seen.
    """
    if settings.per != IMAGE:
        return settings.images_seen, 0.0
    images = len(adapters) * steps_of_each(settings, adapters) * settings.batch_size
    return images, len(adapters) * SECONDS_PER_ADAPTER[builtin]
