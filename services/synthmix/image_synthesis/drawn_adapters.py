"""Which adapters an image is made with: its class's, or of those of its class's images one, or two that are fused.

Of images each is used as often as any other, but for one time: an order that the seed gives is gone through again and
again. So a class's n-th image is made with the same whatever the number of images, of shards and of workers.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from synthmix.image_data.generators import AdapterPart
from synthmix.service_kit.seeds import derived_seed

Item = TypeVar("Item")


@lru_cache(maxsize=64)  # every shard of a set asks for that of its classes
def in_drawing_order(parts: tuple[AdapterPart, ...], label: str, seed: int) -> tuple[AdapterPart, ...]:
    """The adapters that a class's images are made with, in the order in which they come."""
    own = [part for part in parts if part.label in ("", label)]
    return tuple(sorted(own, key=lambda part: (derived_seed(seed, "image adapter", part.image), part.folder)))


def drawn(ordered: Sequence[Item], number: int, fused: int) -> tuple[Item, ...]:
    """What a class's image is made with: adapters, or train images that it begins from.

    Of two, the second is that which stands some places behind the first: one place in the first round, and one more
    in each round after it. So each adapter is the first of as many pairs as any other, but for one, and the second
    likewise; and no pair comes again, in the same order, before all have come.

    Args:
        ordered: As `in_drawing_order` returns them; as many as are fused, or more.
        number: Which of the class's images it is, counted from 0.
        fused: How many make an image: 1 or 2.
    """
    turn, place = divmod(number, len(ordered))
    if fused == 1:
        return (ordered[place],)
    behind = 1 + turn % (len(ordered) - 1)
    return ordered[place], ordered[(place + behind) % len(ordered)]


def own_captions(parts: Sequence[AdapterPart], captions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The caption of each image that has an adapter of its own, by the image's sha256; none if there are no such ones.

    Args:
        parts: An artifact's adapters; those of a class in the order of its images in the train part.
        captions: Of each class's images, in the same order; none if it was trained without.
    """
    left = {label: iter(of_class) for label, of_class in captions.items()}
    return {part.image: next(left[part.label]) for part in parts if part.image and left}
