"""Which train images an adapter is not trained on: whole groups, and never all of a class."""

from collections import Counter

import pytest

from synthmix.adapter_training.held_out_rows import MOST_IMAGES, held_out_rows, measured_rows
from synthmix.service_kit.errors import InvalidArgument

TEN_GROUPS = "aabbccddeeffgghhiijj", "xy" * 10


def held_out(groups: str, labels: str, share: float, seed: int) -> list[int]:
    return held_out_rows(groups, labels, range(len(groups)), share, seed, what="the train images")


def test_none_is_held_out_by_default() -> None:
    assert held_out("a", "x", 0.0, 0) == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("share", "count"), [(0.1, 2), (0.25, 4), (0.3, 6), (0.5, 10)])
def test_whole_groups_are_held_out_up_to_the_share(share: float, count: int, seed: int) -> None:
    rows, groups = held_out(*TEN_GROUPS, share, seed), TEN_GROUPS[0]
    assert len(rows) == count
    assert rows == sorted(set(rows))
    taken = {groups[row] for row in rows}
    assert [row for row, group in enumerate(groups) if group in taken] == rows


def test_the_seed_decides_which() -> None:
    chosen = Counter(TEN_GROUPS[0][held_out(*TEN_GROUPS, 0.1, seed)[0]] for seed in range(200))
    assert len(chosen) == 10
    assert held_out(*TEN_GROUPS, 0.3, 5) == held_out(*TEN_GROUPS, 0.3, 5)


@pytest.mark.parametrize("seed", range(20))
def test_a_large_group_is_not_held_out_for_a_small_share(seed: int) -> None:
    """Of ten images, one group has eight: the others are held out, whatever comes first."""
    assert held_out("aaaaaaaabc", "xyxyxyxyxy", 0.1, seed) in ([8], [9])


def test_a_share_that_is_less_than_a_group_holds_out_the_smallest() -> None:
    assert held_out("aaabbcccc", "xyxyxyxyx", 0.001, 0) == [3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_every_class_keeps_images_to_train_on(seed: int) -> None:
    """z is in one group alone, and y in two: one of these may go, not both."""
    groups, labels = "aabbccdd", "xzxyxyxx"
    left = Counter(labels[row] for row in set(range(8)) - set(held_out(groups, labels, 0.5, seed)))
    assert set(left) == {"x", "y", "z"}


def test_it_is_chosen_among_the_rows_that_are_given() -> None:
    groups, labels = "aabbccdd", "xyxyxyxy"
    rows = held_out_rows(groups, labels, [0, 2, 4, 6], 0.25, 0, what="the class 'x'")
    assert len(rows) == 1
    assert set(rows) < {0, 2, 4, 6}


@pytest.mark.parametrize(
    ("groups", "labels", "count"), [("aaaa", "xyxy", 1), ("aabb", "xxyy", 2), ("aaaaab", "xyxyxz", 2)]
)
def test_what_cannot_be_held_out_is_said(groups: str, labels: str, count: int) -> None:
    said = rf"held_out: 0\.2 cannot be held out of the train images: of {count} groups .*; leave it out"
    with pytest.raises(InvalidArgument, match=said) as raised:
        held_out(groups, labels, 0.2, 0)
    assert raised.value.reason == "NOTHING_TO_HOLD_OUT"


def test_of_many_the_loss_is_measured_on_some() -> None:
    few, many = list(range(0, 400, 2)), list(range(1000))
    assert measured_rows(few, 3) == few
    some = measured_rows(many, 3)
    assert len(some) == MOST_IMAGES
    assert some == sorted(set(some))
    assert some == measured_rows(many, 3) != measured_rows(many, 4)
