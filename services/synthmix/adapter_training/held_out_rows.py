"""Which train images an adapter is not trained on: whole groups, so that no relative of one is trained on either."""

from collections import Counter

from synthmix.image_data.split_parts import TrainPart
from synthmix.service_kit.errors import invalid_field
from synthmix.service_kit.seeds import derived_seed

FIELD = "adapter.settings.held_out"


def held_out_rows(part: TrainPart, share: float, seed: int) -> list[int]:
    """Positions in a train part, in order: about the share of its images, in an order of groups that the seed gives.

    Every class keeps images to train on. Returns none for a share of 0.

    Raises:
        InvalidArgument: No group can be held out.
    """
    if not share:
        return []
    sizes, left = Counter(part.groups), Counter(part.class_names)
    classes_of = {group: Counter[str]() for group in sizes}
    for group, label in zip(part.groups, part.class_names, strict=True):
        classes_of[group][label] += 1
    wanted, taken = round(share * len(part)), set[str]()
    count = 0
    for group in sorted(sizes, key=lambda name: (derived_seed(seed, f"held out {name}"), name)):
        keeps_all = all(left[label] > number for label, number in classes_of[group].items())
        if keeps_all and (count + sizes[group] <= wanted or not taken):
            taken.add(group)
            count += sizes[group]
            left -= classes_of[group]
    if not taken:
        raise invalid_field(
            FIELD,
            share,
            f"cannot be held out: without any one of the {len(sizes)} groups of train images a class has no image left",
            "leave it out, or split the dataset so that the train part has more groups",
            reason="NOTHING_TO_HOLD_OUT",
        )
    return [row for row, group in enumerate(part.groups) if group in taken]
