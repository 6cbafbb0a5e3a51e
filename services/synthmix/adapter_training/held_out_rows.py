"""Which train images an adapter is not trained on: whole groups, so that no relative of one is trained on either."""

from collections import Counter
from collections.abc import Sequence

from synthmix.service_kit.errors import invalid_field
from synthmix.service_kit.seeds import derived_seed

FIELD = "adapter.settings.held_out"
# Of the images. A group that is more is none that one holds out.
LARGEST_SHARE = 0.5
# Of more, the loss is measured on as many that the seed draws: an evaluation takes some steps, not an epoch.
MOST_IMAGES = 256
# At which the loss is measured, of each image.
NOISE_LEVELS = 4


def held_out_rows(
    groups: Sequence[str], labels: Sequence[str], rows: Sequence[int], share: float, seed: int, *, what: str
) -> list[int]:
    """Some of the rows, in order: about the share of them, by whole groups in an order that the seed gives.

    Every class keeps images to train on. If no group is as small as the share, the smallest is held out.

    Args:
        groups, labels: Of each image of the train part.
        rows: Positions in it, among which is chosen.
        what: What errors call them.

    Raises:
        InvalidArgument: No group can be held out.
    """
    if not share:
        return []
    left = Counter(labels[row] for row in rows)
    classes_of: dict[str, Counter[str]] = {}
    for row in rows:
        classes_of.setdefault(groups[row], Counter())[labels[row]] += 1

    def keeps_all(group: str) -> bool:
        return all(left[label] > count for label, count in classes_of[group].items())

    wanted, taken = round(share * len(rows)), set[str]()
    in_order = sorted(classes_of, key=lambda name: (derived_seed(seed, f"held out {name}"), name))
    for group in in_order:
        if keeps_all(group) and classes_of[group].total() <= wanted:
            taken.add(group)
            wanted -= classes_of[group].total()
            left -= classes_of[group]
    if not taken:
        possible = [group for group in in_order if keeps_all(group)]
        smallest = min(possible, key=lambda group: classes_of[group].total(), default=None)
        if smallest is None or classes_of[smallest].total() > LARGEST_SHARE * len(rows):
            raise invalid_field(
                FIELD,
                share,
                f"cannot be held out of {what}: of {len(classes_of)} groups there is none without which every class "
                "has images left, and half of all",
                "leave it out, or split the dataset so that the train part has more groups",
                reason="NOTHING_TO_HOLD_OUT",
            )
        taken.add(smallest)
    return [row for row in rows if groups[row] in taken]


def measured_rows(rows: Sequence[int], seed: int) -> list[int]:
    """Those of the held-out rows that the loss is measured on, in order."""
    drawn = sorted(rows, key=lambda row: derived_seed(seed, "measured", row))
    return sorted(drawn[:MOST_IMAGES])
