"""How many images of each class are asked for, in whichever way settings say it.

What a study and image synthesis agree on. Without numpy and torch.
"""

from collections.abc import Mapping, Sequence

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.image_to_image import begins_from_images, images_of_sources
from synthmix.service_kit.errors import Problems, check_choice, invalid_field
from synthmix.service_kit.settings_messages import path_of_key

# The fields of SynthesisSettings that say it: the request that is addressed has numbers of each class in their place.
COUNT_FIELDS = ("per_class", "images_per_source", "class_images", "balance")

# Of a class that mixtures take no images of; fewer if there are fewer train images.
COMPARED_IMAGES = 16


def lacking_images(class_counts: Sequence[int]) -> tuple[int, ...]:
    """What each class has fewer than the largest. One without train images has none to be like, and lacks none."""
    largest = max(class_counts, default=0)
    return tuple(largest - count if count else 0 for count in class_counts)


def images_to_compare(class_counts: Sequence[int]) -> tuple[int, ...]:
    """Images of each class with which an image set can be compared with real ones, which goes class by class."""
    return tuple(min(COMPARED_IMAGES, count) for count in class_counts)


def images_to_balance(train_counts: Mapping[str, int]) -> dict[str, int]:
    """Synthetic images of each class with which it has as many as the largest, and of each enough to compare them."""
    counts = list(train_counts.values())
    images = map(max, lacking_images(counts), images_to_compare(counts))
    return {label: count for label, count in zip(train_counts, images, strict=True) if count}


def asked_images(
    settings: SynthesisSettings, train_counts: Mapping[str, int], otherwise: Mapping[str, int]
) -> dict[str, int]:
    """Images of each class.

    Args:
        settings: As the user gave them, without what `check_counts` collects.
        train_counts: Train images of each class.
        otherwise: Images of each class whose number the settings do not say.
    """
    if settings.balance:
        return images_to_balance(train_counts)
    if begins_from_images(settings) and settings.HasField("images_per_source"):
        return images_of_sources(settings, train_counts)
    classes = {**train_counts, **otherwise}
    images = dict.fromkeys(classes, settings.per_class) if settings.HasField("per_class") else dict(otherwise)
    return images | {label: settings.class_images[label] for label in classes if label in settings.class_images}


def check_counts(settings: SynthesisSettings, problems: Problems, *, field: str, counted: bool) -> None:
    """Collects numbers of images that are said twice.

    Args:
        settings: As the user gave them.
        field: Their path.
        counted: Whether there is a number of each class besides.
    """
    said = {name: getattr(settings, name) for name in COUNT_FIELDS if _is_said(settings, name)}
    for name in ("images_per_source", "balance", "class_images"):
        # Numbers of single classes go with one of the others.
        others = [other for other in said if other != name and {name, other} != {"per_class", "class_images"}]
        if name not in said or not (others or counted):
            continue
        value = dict(sorted(said[name].items())) if name == "class_images" else said[name]
        other = others[0] if others else "class_images of the image set"
        problems.found.append(
            invalid_field(
                f"{field}.{name}",
                value,
                f"says how many images there are, and so does {other}",
                "leave one of the two out",
            )
        )
        return


def _is_said(settings: SynthesisSettings, name: str) -> bool:
    if name == "images_per_source":  # without a strength it says nothing, and is refused for that
        return begins_from_images(settings) and settings.HasField(name)
    return bool(getattr(settings, name)) if name in ("class_images", "balance") else settings.HasField(name)


def check_labels(settings: SynthesisSettings, known: Sequence[str], problems: Problems, *, field: str) -> None:
    """Collects numbers of images of classes that there are not."""
    for label in sorted(settings.class_images):
        with problems:
            check_choice(path_of_key(f"{field}.class_images", label), label, known)


def check_balance(
    settings: SynthesisSettings, train_counts: Mapping[str, int], problems: Problems, *, field: str
) -> None:
    """Collects a balance of classes that have one."""
    if settings.balance and train_counts and not any(lacking_images(list(train_counts.values()))):
        problems.found.append(
            invalid_field(
                f"{field}.balance",
                settings.balance,
                f"has nothing to fill up: every class has {max(train_counts.values()):,} train images",
                "leave it out",
                reason="CLASSES_BALANCED",
            )
        )
