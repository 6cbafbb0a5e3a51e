"""What workers keep between tasks: within a bound, and given back when there is nothing to do."""

import threading
from collections.abc import Iterator

import pytest

from synthmix.service_kit import kept_values
from synthmix.service_kit.kept_values import KeptValues, at_work
from waiting import wait_until


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kept_values, "_all", [])
    monkeypatch.setattr(kept_values, "_timer", None)
    yield
    if kept_values._timer is not None:
        kept_values._timer.cancel()


def kept(most: float, *, newest_always: bool = False) -> KeptValues[str]:
    return KeptValues(len, lambda kept_bytes: most, newest_always=newest_always)


def test_what_is_kept_is_not_made_again_and_the_longest_unused_goes_first() -> None:
    values, made = kept(10), []

    def get(key: str, size: int) -> str:
        return values.get(key, lambda: made.append(key) or key * size)

    for key in "abac":
        assert get(key, 4) == key * 4
    assert made == ["a", "b", "c"] and values.bytes == 8
    get("a", 4)
    assert made[3:] == []
    get("b", 4)
    assert made[3:] == ["b"], "c was used later than b"


def test_what_does_not_fit_is_not_kept_and_takes_nothing_elses_place() -> None:
    values = kept(10)
    values.get("a", lambda: "1234")
    assert values.get("b", lambda: "12345678901") == "12345678901"
    assert values.bytes == 4
    assert values.get("b", lambda: "other") == "other"


def test_the_newest_is_kept_where_it_is_said_to_be_in_use() -> None:
    values = kept(3, newest_always=True)
    values.get("a", lambda: "12345")
    assert values.get("a", lambda: "other") == "12345"

    def make() -> str:
        assert values.bytes == 0, "room is made first"
        return "1234567"

    values.get("b", make)
    assert values.bytes == 7


def test_the_bound_may_depend_on_what_is_kept() -> None:
    values: KeptValues[str] = KeptValues(len, lambda kept_bytes: 0.5 * (10 - kept_bytes + kept_bytes))
    for key in "abc":
        values.get(key, lambda: "12")
    assert values.bytes == 4


def test_a_worker_without_work_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_values, "IDLE_SECONDS", 0.2)
    values, others = kept(10), kept(10)
    with at_work():
        values.get("a", lambda: "1")
        others.get("b", lambda: "2")
    assert values.bytes == others.bytes == 1
    wait_until(lambda: values.bytes == others.bytes == 0, "the memory")


def test_where_nothing_is_kept_nothing_is_waited_for() -> None:
    values = kept(10)
    with at_work():
        values.get("a", lambda: "12345678901")
    assert len(values) == 0 and kept_values._timer is None


def test_a_task_that_goes_on_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_values, "IDLE_SECONDS", 0.05)
    values = kept(10)
    with at_work():
        values.get("a", lambda: "1")
    with at_work():
        values.get("a", lambda: "2")
        timer = kept_values._timer
        assert isinstance(timer, threading.Timer) and timer.finished.is_set(), "it counts from the end of the last task"
        kept_values._give_back_if_idle()
        assert values.bytes == 1
    wait_until(lambda: values.bytes == 0, "the memory")


def test_a_task_that_fails_is_followed_by_idleness_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_values, "IDLE_SECONDS", 0.05)
    values = kept(10)
    values.get("a", lambda: "1")
    with pytest.raises(ZeroDivisionError), at_work():
        raise ZeroDivisionError
    wait_until(lambda: values.bytes == 0, "the memory")
