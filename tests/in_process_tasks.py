"""An operation's tasks, run in this process when they are asked for."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class InProcessTasks:
    """What OperationContext.tasks gives: runs tasks, those of the lowest rank first, when it is asked which have ended.

    Args:
        run: Runs a function, which is named as "module:name", with keyword arguments.
        makes: Gets what tasks are said to make.
    """

    def __init__(self, run: Callable[[str, Mapping[str, Any]], Any], makes: list[str]):
        self._run = run
        self._makes = makes
        self._waiting: list[tuple[int, int, str, Mapping[str, Any]]] = []
        self._numbers = itertools.count()

    @property
    def left(self) -> int:
        return len(self._waiting)

    def add(
        self,
        function: str,
        arguments: Sequence[Mapping[str, Any]],
        makes: Sequence[str] = (),
        ranks: Sequence[int] = (),
    ) -> list[int]:
        self._makes += makes
        numbers = [next(self._numbers) for _ in arguments]
        each = zip(ranks or [0] * len(numbers), numbers, arguments, strict=True)
        self._waiting += [(rank, number, function, keywords) for rank, number, keywords in each]
        return numbers

    def ended(self) -> Iterator[tuple[int, Any]]:
        self._waiting.sort(key=lambda task: task[:2])
        while self._waiting:
            _, number, function, keywords = self._waiting.pop(0)
            yield number, self._run(function, keywords)
