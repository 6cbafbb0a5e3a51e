"""Images that begin from train images: of which classes these are, how many there are, and what label they have.

What a study, image synthesis and the evaluation agree on. Without numpy and torch.
"""

from collections.abc import Mapping

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings

# SynthesisSettings.source.
SAME_CLASS, ANY_CLASS, PAIRS = "same_class", "any_class", "pairs"


def begins_from_images(settings: SynthesisSettings) -> bool:
    """Whether images begin from train images, and not as noise alone."""
    return has_strength(settings) or is_inverted(settings)


def has_strength(settings: SynthesisSettings) -> bool:
    """Whether they begin from train images that are taken so far to noise."""
    return settings.HasField("strength") or bool(settings.strengths_by_images)


def is_inverted(settings: SynthesisSettings) -> bool:
    """Whether images begin from two train images each, as noise that is made of them."""
    return settings.HasField("inversion_steps")


def is_mixed(settings: SynthesisSettings) -> bool:
    """Whether images begin from two train images each, whose latents are mixed."""
    return has_strength(settings) and settings.source == PAIRS


def is_of_pairs(settings: SynthesisSettings) -> bool:
    """Whether images begin from two train images each, of their own class."""
    return is_mixed(settings) or is_inverted(settings)


def is_of_any_class(settings: SynthesisSettings) -> bool:
    """Whether an image may begin from a train image of another class than its own."""
    return begins_from_images(settings) and settings.source == ANY_CLASS


def of_class(settings: SynthesisSettings, train_images: int) -> SynthesisSettings:
    """The settings of a class's images: with the strength of its number of train images, if they say one by that."""
    if not settings.strengths_by_images:
        return settings
    own = SynthesisSettings()
    own.CopyFrom(settings)
    own.strength = strength_by_images(settings.strengths_by_images, train_images)
    own.ClearField("strengths_by_images")
    return own


def strength_by_images(strengths: Mapping[int, float], train_images: int) -> float:
    """That of the largest number which is not above the train images; of fewer than any, that of the smallest."""
    reached = [number for number in strengths if number <= train_images]
    return strengths[max(reached) if reached else min(strengths)]


def images_of_sources(settings: SynthesisSettings, train_counts: Mapping[str, int]) -> dict[str, int]:
    """Images of each class, where settings say how many begin from each train image.

    Of any class each has as many, but for one: which of them begin from which image is not said here.

    Args:
        train_counts: Train images of each class.
    """
    there = {label: count for label, count in train_counts.items() if count}
    if not is_of_any_class(settings) or not there:
        return {label: settings.images_per_source * count for label, count in there.items()}
    of_each, more = divmod(settings.images_per_source * sum(there.values()), len(there))
    return {label: of_each + (number < more) for number, label in enumerate(sorted(there))}


def own_share(strength: float, gamma: float) -> float:
    """How much of an image's label is its own class, and not that of the image that it begins from, 0 to 1.

    Wang et al. 2024 (Diff-Mix, arXiv:2403.19600), equation 4.
    """
    return float(strength**gamma)
