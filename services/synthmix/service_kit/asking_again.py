"""Asking again until an answer will do."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def ask_until(
    question: Callable[[], Answer],
    *,
    end_s: float,
    pause_s: float,
    will_do: Callable[[Answer], bool] = lambda answer: True,
    is_passing: Callable[[Exception], bool] = lambda error: False,
) -> Answer:
    """Asks at once, and again after each pause until the answer will do or the time is over.

    Args:
        question: What is asked.
        end_s: When the time is over, by time.monotonic.
        pause_s: Between an answer and the next question.
        will_do: Whether an answer ends the asking.
        is_passing: Whether an error may pass, so that it is worth asking again.

    Returns:
        The answer that will do, or the last one.

    Raises:
        Exception: What the question raised, if it does not pass or the time is over.
    """
    while True:
        try:
            answer = question()
        except Exception as error:
            if not is_passing(error) or time.monotonic() >= end_s:
                raise
        else:
            if will_do(answer) or time.monotonic() >= end_s:
                return answer
        time.sleep(pause_s)
