"""Images that begin from train images: of which classes these are, how many there are, and what label they have.

What a study, image synthesis and the evaluation agree on. Without numpy and torch.
"""

from collections.abc import Mapping

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.inverted_images import is_inverted

# SynthesisSettings.source.
SAME_CLASS, ANY_CLASS = "same_class", "any_class"


def begins_from_images(settings: SynthesisSettings) -> bool:
    """Whether images begin from train images, and not as noise alone."""
    return settings.HasField("strength") or is_inverted(settings)


def is_of_any_class(settings: SynthesisSettings) -> bool:
    """Whether an image may begin from a train image of another class than its own."""
    return settings.HasField("strength") and settings.source == ANY_CLASS


def images_of_sources(settings: SynthesisSettings, train_counts: Mapping[str, int]) -> dict[str, int]:
    """Images of each class, where settings say how many begin from each train image.

    Of any class each has as many, but for one: which of them begin from which image is not said here.

    Args:
        train_counts: Train images of each class.
    """
    there = {label: count for label, count in train_counts.items() if count}
    if not is_of_any_class(settings):
        return {label: settings.images_per_source * count for label, count in there.items()}
    of_each, more = divmod(settings.images_per_source * sum(there.values()), len(there))
    return {label: of_each + (number < more) for number, label in enumerate(sorted(there))}


def own_share(strength: float, gamma: float) -> float:
    """How much of an image's label is its own class, and not that of the image that it begins from, 0 to 1.

    Wang et al. 2024 (Diff-Mix, arXiv:2403.19600), equation 4.
    """
    return float(strength**gamma)
