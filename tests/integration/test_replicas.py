"""Replicas of one service agree on nothing: an operation's actor has its name, so there is one, whoever starts it."""

import subprocess
import sys
import time

LAUNCH = """
import os, sys
from synthmix.service_kit.coordinator import launch
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.resource_names import OperationName

ray = RayConnection(os.environ["SYNTHMIX_RAY_ADDRESS"]).ensure()
for name in sys.stdin:
    actor = launch(ray, OperationName.parse(name.strip()), "no_such_module:coordinate")
    print(actor._actor_id.hex(), flush=True)
"""


CLOSE_S = 0.1
"""No record says what the operations here are, so that their actors end by themselves, but not as soon as that."""


def test_replicas_that_start_an_operation_at_once_get_one_actor(driver_environment: dict[str, str]) -> None:
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCH],
            env=driver_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    def actors_of(*numbers: int) -> list[str]:
        for replica, number in zip(replicas, numbers, strict=True):
            assert replica.stdin is not None
            replica.stdin.write(f"operations/study-control/{number:032x}\n")
            replica.stdin.flush()
        return [replica.stdout.readline().strip() for replica in replicas if replica.stdout is not None]

    one, other = actors_of(1000, 2000)  # both are connected from here on
    assert one != other
    close = 0
    for number in range(100):
        began_s = time.monotonic()
        first, second = actors_of(number, number)
        if time.monotonic() - began_s < CLOSE_S:
            assert first == second
            close += 1
        if close == 10:
            break
    assert close == 10
    for replica in replicas:
        replica.communicate(timeout=60)
        assert replica.returncode == 0
