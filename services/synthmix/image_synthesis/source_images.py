"""Image to image: from which train image each synthetic one begins, and how far that is taken to noise. Without torch.

Of a class's train images each is begun from as often as any other, but for one time: an order that the seed gives is
gone through again and again. So a class's n-th image has the same source and strength whatever the number of images,
of shards and of workers. SDEdit: Meng et al. 2022 (arXiv:2108.01073).
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.image_to_image import (
    PAIRS,
    SAME_CLASS,
    begins_from_images,
    has_strength,
    is_inverted,
    is_of_any_class,
    of_class,
)
from synthmix.image_data.split_parts import TrainPart
from synthmix.image_synthesis.guidance_options import guided_cost
from synthmix.service_kit.errors import Problems, invalid_field, missing_field
from synthmix.service_kit.seeds import derived_seed

_DRAWS = 1_000_000
# Strengths that stand for a range of them where a mean is predicted.
_RANGE_PARTS = 1000


@dataclass(frozen=True)
class SourceImage:
    """A train image that synthetic ones begin from.

    Attributes:
        row: Its position in the train part.
        group: That of the split, which its children belong to as well.
        label: Its class.
    """

    sha256: str
    row: int
    group: str
    label: str


def source_images(part: TrainPart) -> dict[str, list[SourceImage]]:
    """Those of each class."""
    found: dict[str, list[SourceImage]] = {}
    for row, (label, sha256, group) in enumerate(zip(part.class_names, part.sha256s, part.groups, strict=True)):
        found.setdefault(label, []).append(SourceImage(sha256, row, group, label))
    return found


def sources_of(
    settings: SynthesisSettings, sources: Mapping[str, Sequence[SourceImage]], label: str
) -> tuple[SourceImage, ...]:
    """What images of a class begin from, in the order in which they come.

    Args:
        sources: The train images of each class.
    """
    if not is_of_any_class(settings):
        return _in_order(tuple(sources[label]), settings.seed, "")
    return _in_order(tuple(itertools.chain.from_iterable(sources.values())), settings.seed, label)


@lru_cache(maxsize=64)  # every shard of a set asks for that of its classes
def _in_order(sources: tuple[SourceImage, ...], seed: int, label: str) -> tuple[SourceImage, ...]:
    """As the seed gives it; of any class each class has another one."""
    of = (label,) if label else ()
    return tuple(
        sorted(sources, key=lambda source: (derived_seed(seed, "source image", *of, source.sha256), source.row))
    )


def drawn_strength(settings: SynthesisSettings, label: str, number: int) -> float:
    """That of a class's n-th image: of one number, of several, or from a range.

    Args:
        settings: The class's.
    """
    draw = derived_seed(settings.seed, "strength", label, number)
    if settings.HasField("largest_strength"):
        share = draw % _DRAWS / _DRAWS
        return settings.strength + share * (settings.largest_strength - settings.strength)
    strengths = (settings.strength, *settings.more_strengths)
    return strengths[draw % len(strengths)]


def drawn_share(settings: SynthesisSettings, label: str, number: int) -> float:
    """How much of a class's n-th image, of two that are mixed, is the first one's latents, 0 to 1."""
    return derived_seed(settings.seed, "share", label, number) % _DRAWS / _DRAWS


def executed_steps(steps: int, strength: float) -> int:
    """Of so many denoising steps those that an image of this strength goes through, as diffusers counts them."""
    return min(int(steps * strength), steps)


def usual_strengths(settings: SynthesisSettings) -> tuple[float, ...]:
    """Strengths as images have them, each as often as any other; 1, which is all steps, if they begin as noise.

    Args:
        settings: Their class's.
    """
    if not settings.HasField("strength"):
        return (1.0,)
    if settings.HasField("largest_strength"):
        width = settings.largest_strength - settings.strength
        return tuple(settings.strength + (part + 0.5) / _RANGE_PARTS * width for part in range(_RANGE_PARTS))
    return (settings.strength, *settings.more_strengths)


def mean_steps(settings: SynthesisSettings) -> float:
    """Steps that a class's image goes through in the mean. `settings` are the class's, filled."""
    return statistics.fmean(executed_steps(settings.steps, strength) for strength in usual_strengths(settings))


def relative_cost(settings: SynthesisSettings) -> float:
    """What a class's image takes in the mean, in steps with guidance. `settings` are the class's, filled."""
    return statistics.fmean(
        executed_steps(settings.steps, strength) * guided_cost(settings, strength)
        for strength in usual_strengths(settings)
    )


def mean_of_classes(
    of_settings: Callable[[SynthesisSettings], float],
    settings: SynthesisSettings,
    images: Mapping[str, int],
    train_counts: Mapping[str, int],
) -> float:
    """The mean over all images of what each class's have in the mean.

    Args:
        of_settings: What that is, such as `mean_steps`, by the class's settings.
        images: Of each class.
        train_counts: Train images of each class.
    """
    if not settings.strengths_by_images or not any(images.values()):
        return of_settings(of_class(settings, 0))
    means = [count * of_settings(of_class(settings, train_counts.get(label, 0))) for label, count in images.items()]
    return sum(means) / sum(images.values())


def check_strength(settings: SynthesisSettings, problems: Problems, *, field: str) -> None:
    """Collects strengths with which no step is taken, and options of image to image without a strength.

    Args:
        settings: Filled.
        field: Their path.
    """
    if not has_strength(settings):
        _check_without(settings, problems, field)
        return
    if settings.strengths_by_images:
        _check_strengths_by_images(settings, problems, field=field)
    named = [("strength", settings.strength)] if settings.HasField("strength") else []
    named += [
        (f"strengths_by_images[{number}]", settings.strengths_by_images[number])
        for number in sorted(settings.strengths_by_images)
    ]
    named += [(f"more_strengths[{index}]", strength) for index, strength in enumerate(settings.more_strengths)]
    for name, strength in named:
        if 0 < strength <= 1 and executed_steps(settings.steps, strength) < 1:
            least = math.ceil(1000 / settings.steps) / 1000
            problems.found.append(
                invalid_field(
                    f"{field}.{name}",
                    strength,
                    f"of {settings.steps} steps is less than one step",
                    f"use at least {least:g}, or more steps",
                    reason="NO_STEPS",
                )
            )
    if not settings.HasField("largest_strength"):
        return
    if settings.largest_strength <= settings.strength:
        problems.found.append(
            invalid_field(
                f"{field}.largest_strength",
                settings.largest_strength,
                f"is not above strength, which is {settings.strength:g}",
                "set the smallest one as strength, or leave it out",
            )
        )
    if settings.more_strengths:
        problems.found.append(
            invalid_field(
                f"{field}.more_strengths",
                list(settings.more_strengths),
                "are strengths to draw from, and largest_strength makes a range of them",
                "leave one of the two out",
            )
        )


def _check_without(settings: SynthesisSettings, problems: Problems, field: str) -> None:
    """Collects what is of images with a strength, where there is none."""
    problem = "is of images that begin from train images, and without a strength they begin as noise"
    of_strength = ["more_strengths", "largest_strength", "source"]
    if is_inverted(settings):
        problem = "is of images with a strength, and with inversion_steps there is none"
    else:
        of_strength.append("images_per_source")
    for name in of_strength:
        given = getattr(settings, name)
        usual = (SAME_CLASS, PAIRS) if is_inverted(settings) else (SAME_CLASS,)
        if given and given not in usual:
            shown = list(given) if name == "more_strengths" else given
            remedy = "set strength, such as 0.5, or leave it out"
            problems.found.append(invalid_field(f"{field}.{name}", shown, problem, remedy))


def _check_strengths_by_images(settings: SynthesisSettings, problems: Problems, *, field: str) -> None:
    """Collects numbers of train images that no class has, and strengths that are said in another way as well."""
    for number in sorted(settings.strengths_by_images):
        with problems:
            if number < 1:
                raise invalid_field(
                    f"{field}.strengths_by_images[{number}]",
                    number,
                    "is no number of train images that a class may have",
                    "use numbers of at least 1",
                    reason="OUT_OF_RANGE",
                )
    for name in ("strength", "more_strengths", "largest_strength"):
        given = getattr(settings, name)
        if given:
            problems.found.append(
                invalid_field(
                    f"{field}.{name}",
                    list(given) if name == "more_strengths" else given,
                    "says how far images are taken to noise, and so does strengths_by_images",
                    "leave one of the two out",
                )
            )


def check_train_split(settings: SynthesisSettings, train_split: str, problems: Problems, *, field: str) -> None:
    """Collects a train part that is missing, or that nothing begins from."""
    with problems:
        if begins_from_images(settings) and not train_split:
            what = "inversion_steps" if is_inverted(settings) else "a strength"
            raise missing_field(field, f"images with {what} begin from train images: use splits/{{id}}/parts/train")
        if settings.balance and not train_split:
            raise missing_field(field, "balance goes by the train images of each class: use splits/{id}/parts/train")
        if train_split and not begins_from_images(settings) and not settings.balance:
            raise invalid_field(
                field,
                train_split,
                "is what images begin from, and without a strength they begin as noise",
                "set settings.strength, such as 0.5, or leave it out",
            )
