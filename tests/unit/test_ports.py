"""Ports of local stacks, several of which may start at the same moment."""

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, count

import pytest

from synthmix.local.ports import HIGHEST_PORT, LOWEST_PORT, free_port
from synthmix.service_kit.errors import FailedPrecondition

HOLDER = """
from synthmix.local.ports import free_port
print(free_port(set()), flush=True)
input()
"""


@pytest.fixture
def of_another_process() -> Iterator[int]:
    """A port that another process has, and does not listen on yet."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        yield int(holder.stdout.readline())


def test_what_another_process_is_about_to_listen_on_is_not_free(
    of_another_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = chain([of_another_process] * 2, count(of_another_process + 1))
    monkeypatch.setattr(random, "randint", lambda lowest, highest: next(drawn))
    assert free_port(set()) > of_another_process


def test_a_partner_that_another_process_has_makes_a_port_unfit(
    of_another_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = chain([of_another_process - 1000] * 2, count(of_another_process - 999))
    monkeypatch.setattr(random, "randint", lambda lowest, highest: next(drawn))
    taken: set[int] = set()
    port = free_port(taken, partner_offset=1000)
    assert port > of_another_process - 1000
    assert taken == {port, port + 1000}


def test_a_port_is_free_again_when_the_process_that_had_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HOLDER], input="\n", capture_output=True, text=True, check=True, timeout=60
    )
    port = int(ended.stdout)
    monkeypatch.setattr(random, "randint", lambda lowest, highest: port)
    assert free_port(set()) == port


def test_ports_are_taken_once_and_none_that_somebody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(random, "randint", lambda lowest, highest: server.getsockname()[1])
        with pytest.raises(FailedPrecondition, match=f"no free port on 127.0.0.1 between {LOWEST_PORT} and"):
            free_port(set())
    monkeypatch.undo()
    taken: set[int] = set()
    ports = [free_port(taken) for _ in range(200)]
    assert len(set(ports)) == 200
    assert taken == set(ports)
    assert LOWEST_PORT <= min(ports) <= max(ports) <= HIGHEST_PORT
