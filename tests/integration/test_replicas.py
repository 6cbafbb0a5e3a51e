"""Replicas of one service agree on nothing: an operation's actor has its name, so there is one, whoever starts it."""

import os
import subprocess
import sys

from synthmix.local import Connection

LAUNCH = """
import sys
from synthmix.service_kit.coordinator import launch
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.resource_names import OperationName

address, operation = sys.argv[1:]
ray = RayConnection(address).ensure()
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    actor = launch(ray, OperationName.parse(f"{operation}{number}"), "no_such_module:coordinate")
    print(actor._actor_id.hex(), flush=True)
"""


def test_replicas_that_start_an_operation_at_once_get_one_actor(stack: Connection) -> None:
    """No record says what the operations are, so the actors end by themselves, long after both have asked for them."""
    arguments = [sys.executable, "-c", LAUNCH, stack.ray_address, f"operations/study-control/{'ab' * 15}f"]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": stack.ray_auth_token}
    replicas = [
        subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for replica in replicas:
        assert replica.stdout is not None and replica.stdout.readline() == "ready\n"
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    first, second = (replica.communicate(timeout=60)[0].split() for replica in replicas)
    assert first == second
    assert len(set(first)) == 8
