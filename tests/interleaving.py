"""Writers of one object store whose calls follow each other in an order that a seed chooses, one of which may fail.

A call runs while every other writer stands still, so that a schedule is the order of calls; each is atomic in itself,
as the contract suite shows of the servers. A failure comes before the call has reached the store, or after: the answer
was lost.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.object_store import ObjectStore

CALLS = (
    "put_bytes",
    "put_file",
    "put_if",
    "get_bytes",
    "get_with_version",
    "get_file",
    "stat",
    "list",
    "copy",
    "delete",
    "delete_prefix",
)


class Failure(Unavailable):
    """The failure that a schedule holds."""

    def __init__(self) -> None:
        super().__init__("object storage is down; try again", reason="OBJECT_STORAGE_UNAVAILABLE")


class _Turns:
    """Lets one writer at a time make one call."""

    def __init__(self, seed: int, writers: int, fail_at: int | None):
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._live = writers
        self._turn: int | None = None
        self._fail_at = fail_at
        self.calls = 0

    def take(self, writer: int) -> str:
        """Waits for this writer's turn. Returns how its call fails: "", "before" or "after"."""
        with self._changed:
            self._waiting.add(writer)
            self._choose()
            self._changed.wait_for(lambda: self._turn == writer)
            self._waiting.remove(writer)
            self.calls += 1
            return self._random.choice(("before", "after")) if self.calls == self._fail_at else ""

    def give(self) -> None:
        with self._changed:
            self._turn = None
            self._choose()

    def leave(self) -> None:
        with self._changed:
            self._live -= 1
            self._choose()

    def _choose(self) -> None:
        if self._turn is None and self._waiting and len(self._waiting) == self._live:
            self._turn = self._random.choice(sorted(self._waiting))
            self._changed.notify_all()


class _Interleaved:
    """An object store as one writer sees it."""

    def __init__(self, store: ObjectStore, turns: _Turns, writer: int):
        self._store, self._turns, self._writer = store, turns, writer

    def __getattr__(self, name: str) -> Any:
        found = getattr(type(self._store), name)
        if name not in CALLS:  # what is made of other calls makes them through this object
            return found.__get__(self)

        def call(*arguments: Any, **keywords: Any) -> Any:
            failure = self._turns.take(self._writer)
            try:
                if failure == "before":
                    raise Failure
                value = found(self._store, *arguments, **keywords)
                if failure == "after":
                    raise Failure
                return value
            finally:
                self._turns.give()

        return call


def run_interleaved(
    store: ObjectStore, writers: Sequence[Callable[[ObjectStore], Any]], *, seed: int, fail_at: int | None = None
) -> tuple[list[Any], int]:
    """Runs each writer in a thread of its own, in the seed's order of calls.

    Args:
        fail_at: Which call of all fails, from 1; None for none.

    Returns:
        What each writer returned, or the Failure that it met, and the number of calls. Any other exception is raised.
    """
    turns = _Turns(seed, len(writers), fail_at)
    results: list[Any] = [None] * len(writers)

    def run(number: int) -> None:
        try:
            results[number] = writers[number](_Interleaved(store, turns, number))  # type: ignore[arg-type]
        except BaseException as error:
            results[number] = error
        finally:
            turns.leave()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a writer hangs"
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Failure):
            raise result
    return results, turns.calls
