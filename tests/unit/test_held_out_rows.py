"""Which train images an adapter is not trained on: whole groups, and never all of a class."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from synthmix.adapter_training.held_out_rows import held_out_rows
from synthmix.service_kit.errors import InvalidArgument


class Part(SimpleNamespace):
    """What is read of a train part."""

    def __len__(self) -> int:
        return len(self.groups)


def part(groups: str, labels: str) -> Any:
    return Part(groups=tuple(groups), class_names=tuple(labels))


TEN_GROUPS = part("aabbccddeeffgghhiijj", "xy" * 10)


def test_none_is_held_out_by_default() -> None:
    assert held_out_rows(part("a", "x"), 0.0, 0) == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("share", "count"), [(0.1, 2), (0.25, 4), (0.3, 6), (0.5, 10)])
def test_whole_groups_are_held_out_up_to_the_share(share: float, count: int, seed: int) -> None:
    rows = held_out_rows(TEN_GROUPS, share, seed)
    assert len(rows) == count
    assert rows == sorted(set(rows))
    taken = {TEN_GROUPS.groups[row] for row in rows}
    assert [row for row, group in enumerate(TEN_GROUPS.groups) if group in taken] == rows


def test_the_seed_decides_which() -> None:
    chosen = Counter(
        group
        for seed in range(200)
        for group in {TEN_GROUPS.groups[row] for row in held_out_rows(TEN_GROUPS, 0.1, seed)}
    )
    assert len(chosen) == 10
    assert held_out_rows(TEN_GROUPS, 0.3, 5) == held_out_rows(TEN_GROUPS, 0.3, 5)


def test_a_share_that_is_less_than_a_group_holds_out_one() -> None:
    assert len(held_out_rows(TEN_GROUPS, 0.001, 0)) == 2


@pytest.mark.parametrize("seed", range(20))
def test_every_class_keeps_images_to_train_on(seed: int) -> None:
    """z is in one group alone, and y in two: one of these may go, not both."""
    some = part("aabbccdd", "xzxyxyxx")
    left = Counter(some.class_names[row] for row in set(range(8)) - set(held_out_rows(some, 0.5, seed)))
    assert set(left) == {"x", "y", "z"}


@pytest.mark.parametrize(("groups", "labels", "count"), [("aaaa", "xyxy", 1), ("aabb", "xxyy", 2)])
def test_what_cannot_be_held_out_is_said(groups: str, labels: str, count: int) -> None:
    with pytest.raises(
        InvalidArgument, match=rf"held_out: 0\.2 cannot be held out: .* {count} groups .*; leave it out"
    ) as raised:
        held_out_rows(part(groups, labels), 0.2, 0)
    assert raised.value.reason == "NOTHING_TO_HOLD_OUT"
