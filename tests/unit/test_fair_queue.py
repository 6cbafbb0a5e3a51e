"""Round robin over owners, then studies: nobody waits for the end of another's work."""

from collections import Counter

from synthmix.service_kit.fair_queue import FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    """The items in the order in which they get places, each of which comes free at once."""
    found = []
    while (item := queue.take()) is not None:
        found.append(item)
        queue.leave(item)
    return found


def test_owners_take_turns_and_so_do_their_studies() -> None:
    queue: FairQueue[str] = FairQueue(lambda: 100)
    for number in range(3):
        queue.add(f"a1-{number}", ("a", "1"))
    queue.add("a2-0", ("a", "2"))
    for number in range(2):
        queue.add(f"b1-{number}", ("b", "1"))
    assert queue.order() == ["a1-0", "b1-0", "a2-0", "b1-1", "a1-1", "a1-2"]
    assert drained(queue) == ["a1-0", "b1-0", "a2-0", "b1-1", "a1-1", "a1-2"]


def test_who_comes_late_is_not_behind_all_that_came_before() -> None:
    queue: FairQueue[str] = FairQueue(lambda: 4)
    for number in range(1000):
        queue.add(f"a{number}", ("a", "grid"))
    running = [queue.take() for _ in range(4)]
    assert queue.take() is None, "there are four places"
    queue.add("b0", ("b", "small"))
    queue.leave(running[0])  # type: ignore[arg-type]
    assert queue.take() == "b0"


def test_places_even_out_between_owners() -> None:
    queue: FairQueue[str] = FairQueue(lambda: 8)
    for number in range(100):
        queue.add(f"a{number}", ("a", ""))
    held = [item for item in (queue.take() for _ in range(8)) if item is not None]
    for number in range(100):
        queue.add(f"b{number}", ("b", ""))
    for _ in range(4):
        queue.leave(held.pop(0))
        taken = queue.take()
        assert taken is not None and taken.startswith("b")
        held.append(taken)
    assert Counter(item[0] for item in held) == {"a": 4, "b": 4}


def test_no_owner_holds_more_than_its_share() -> None:
    queue: FairQueue[str] = FairQueue(lambda: 10, lambda: 2)
    for number in range(5):
        queue.add(f"a{number}", ("a", f"study-{number}"))
    assert [queue.take() for _ in range(3)] == ["a0", "a1", None]
    queue.add("b0", ("b", ""))
    assert queue.take() == "b0"


def test_what_leaves_is_forgotten() -> None:
    queue: FairQueue[str] = FairQueue(lambda: 1)
    for item in ("x", "y", "z"):
        queue.add(item, ("a", "1"))
        queue.add(item, ("a", "1"))  # known already
    assert queue.take() == "x"
    queue.leave("y")
    queue.leave("never-there")
    assert (queue.order(), queue.waiting) == (["z"], 1)
    queue.leave("x")
    assert drained(queue) == ["z"]
    assert not queue._root.branches


def test_within_one_path_the_lowest_rank_goes_first() -> None:
    queue: FairQueue[str] = FairQueue(lambda: 100)
    for item, rank in (("c", 1), ("a", 0), ("d", 1), ("b", 0), ("e", 7)):
        queue.add(item, ("ada", "grid"), rank)
    queue.add("other", ("bob", ""), 9)
    queue.leave("d")
    expected = ["a", "other", "b", "c", "e"]
    assert queue.order() == expected and drained(queue) == expected, "whose turn it is does not depend on ranks"
    assert queue.waiting == 0
