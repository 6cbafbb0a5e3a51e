"""Who gets the next place: round robin over owners, then over what each of them asked for."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


@dataclass
class _Branch(Generic[Item]):
    """What has one beginning of a path.

    Attributes:
        held: Places that its items hold.
        waiting: Items of it that wait.
        served: Number of the last turn that it got.
        ranks: The items that wait at its very end, by rank.
    """

    held: int = 0
    waiting: int = 0
    served: int = 0
    branches: dict[str, "_Branch[Item]"] = field(default_factory=dict)
    ranks: "dict[int, OrderedDict[Item, None]]" = field(default_factory=dict)

    def copy(self) -> "_Branch[Item]":
        branches = {name: branch.copy() for name, branch in self.branches.items()}
        ranks = {rank: OrderedDict(items) for rank, items in self.ranks.items()}
        return _Branch(self.held, self.waiting, self.served, branches, ranks)

    def add(self, item: Item, rank: int) -> None:
        self.ranks.setdefault(rank, OrderedDict())[item] = None

    def remove(self, item: Item, rank: int) -> None:
        del self.ranks[rank][item]
        if not self.ranks[rank]:
            del self.ranks[rank]

    def take(self) -> Item:
        rank = min(self.ranks)
        item = next(iter(self.ranks[rank]))
        self.remove(item, rank)
        return item


@dataclass(frozen=True)
class _Waiting:
    """Where an item waits."""

    path: tuple[str, ...]
    rank: int


class FairQueue(Generic[Item]):
    """Items that wait for a place, and those that hold one. Not safe to share between threads.

    Each item has a path, such as (owner, study). At every level, whoever holds the fewest places goes first; of those
    that hold as many, the one whose last turn is longest ago. Items of one path go by rank, the lowest first, and those
    of one rank in the order in which they came.

    Args:
        places: How many items may hold a place at once, asked anew each time.
        places_each: How many items with one beginning of the path (one owner) may.
    """

    def __init__(self, places: Callable[[], int], places_each: Callable[[], int] | None = None):
        self._places = places
        self._places_each = places_each or places
        self._root: _Branch[Item] = _Branch()
        self._waiting: dict[Item, _Waiting] = {}
        self._holding: dict[Item, tuple[str, ...]] = {}
        self._turn = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, item: Item, path: Sequence[str], rank: int = 0) -> None:
        """An item that is known already keeps what it has."""
        if item in self._waiting or item in self._holding:
            return
        self._waiting[item] = _Waiting(tuple(path), rank)
        for branch in self._along(path):
            branch.waiting += 1
        branch.add(item, rank)

    def take(self) -> Item | None:
        """The item that gets the next place, which it holds until `leave`; None if none may have one."""
        if self._root.held >= self._places():
            return None
        most_each = self._places_each()
        owners = {name: branch for name, branch in self._root.branches.items() if branch.held < most_each}
        self._turn += 1
        item = _take(self._root, owners, self._turn)
        if item is not None:
            self._holding[item] = self._waiting.pop(item).path
        return item

    def leave(self, item: Item) -> None:
        """Takes an item out, whether it waits or holds a place. One that is not known is left alone."""
        if item in self._holding:
            path = self._holding.pop(item)
            for branch in self._along(path):
                branch.held -= 1
        elif item in self._waiting:
            waited = self._waiting.pop(item)
            path = waited.path
            for branch in self._along(path):
                branch.waiting -= 1
            branch.remove(item, waited.rank)
        else:
            return
        self._prune(path)

    def order(self) -> list[Item]:
        """Those that wait, in the order in which they would go if places came free and nobody else came."""
        root, turn = self._root.copy(), self._turn
        found: list[Item] = []
        while True:
            turn += 1
            item = _take(root, root.branches, turn)
            if item is None:
                return found
            found.append(item)

    def _along(self, path: Sequence[str]) -> list[_Branch[Item]]:
        branch, branches = self._root, [self._root]
        for name in path:
            branch = branch.branches.setdefault(name, _Branch())
            branches.append(branch)
        return branches

    def _prune(self, path: tuple[str, ...]) -> None:
        """Forgets branches without items: a service that runs for months meets many studies."""
        branches = self._along(path)
        for parent, name, branch in reversed(list(zip(branches, path, branches[1:], strict=False))):
            if not branch.held and not branch.waiting:
                del parent.branches[name]


def _take(root: _Branch[Item], first: dict[str, _Branch[Item]], turn: int) -> Item | None:
    branch, choices, way = root, first, [root]
    while True:
        if branch.ranks:
            break
        waiting = [choice for choice in choices.values() if choice.waiting]
        if not waiting:
            return None
        branch = min(waiting, key=lambda choice: (choice.held, choice.served))
        way.append(branch)
        choices = branch.branches
    for passed in way:
        passed.held += 1
        passed.waiting -= 1
        passed.served = turn
    return branch.take()
