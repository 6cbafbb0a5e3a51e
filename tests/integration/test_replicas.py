"""Replicas of one service agree on nothing: its host has one name, so there is one, whoever starts it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from synthmix.local import Connection
from synthmix.service_kit import errors, open_operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_hosts import find_claim, host_name
from synthmix.service_kit.resource_names import OperationName
from waiting import wait_until

KIND = "probes"
TESTS = Path(__file__).parents[1]

# A front end that says who its service's host is, whenever it is asked to.
REPLICA = """
import os, sys
from synthmix.service_kit.operation_hosts import Hosts
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.s3_object_store import open_object_store

service, version, function = sys.argv[1:]
ray = RayConnection(os.environ["SYNTHMIX_RAY_ADDRESS"])
hosts = Hosts(service, open_object_store(), ray, {"probes": function}, version=version)
ray.ensure()
print("answer: ready", flush=True)
for _ in sys.stdin:
    actor, live = hosts._host(ray.ensure())
    actor.wake.remote()
    print("answer:", actor._actor_id.hex(), flush=True)
"""


ANSWER = "answer:"


class Replica:
    def __init__(self, environment: dict[str, str], service: str, version: str, function: str):
        self._process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, service, version, function],
            env=environment,
            cwd=TESTS,  # Ray's processes look for modules where those that start them work
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """The next one. Ray's own warnings come in between: it prints them where its driver prints."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER).strip()
        raise EOFError

    def host(self) -> str:
        """The id of the actor that works for it."""
        self.ask()
        return self.answer()

    def stop(self) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@pytest.fixture
def environment(stack: Connection, driver_environment: dict[str, str]) -> dict[str, str]:
    settings = stack.object_store
    return driver_environment | {
        "SYNTHMIX_OBJECT_STORE_ENDPOINT": settings.endpoint_url,
        "SYNTHMIX_OBJECT_STORE_ACCESS_KEY": settings.access_key,
        "SYNTHMIX_OBJECT_STORE_SECRET_KEY": settings.secret_key,
        "SYNTHMIX_OBJECT_STORE_BUCKET": settings.bucket,
    }


@contextmanager
def replicas(
    environment: dict[str, str], service: str, *versions: str, function: str = "nothing:at_all"
) -> Iterator[list[Replica]]:
    found = [Replica(environment, service, version, function) for version in versions]
    for replica in found:
        assert replica.answer() == "ready"
    yield found
    for replica in found:
        replica.stop()


def test_replicas_that_start_a_host_at_once_get_one(environment: dict[str, str]) -> None:
    for number in range(3):
        with replicas(environment, f"probe-{'abc'[number]}", "1", "1") as found:
            for replica in found:
                replica.ask()
            assert len({replica.answer() for replica in found}) == 1


def test_a_new_version_takes_over_what_the_old_one_had_begun(
    environment: dict[str, str], store: ObjectStore, tmp_path: Path
) -> None:
    service, name = "probe-upgrade", OperationName("probe-upgrade", "a" * 32)
    record = records.OperationRecord(name, KIND, "", {"folder": str(tmp_path)}, records.now())
    open_operations.add(store, record)
    records.write_record(store, record)
    slow, quick = "probe_operations:wait", "probe_operations:end"
    with replicas(environment, service, "1", function=slow) as [old]:
        first = old.host()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 1, "the operation's beginning", 60)
        with replicas(environment, service, "2", function=quick) as [new]:
            second = new.host()
            assert second != first
            wait_until(lambda: records.find_result(store, record) is not None, "its end", 60)
            claim = find_claim(store, service)
            assert claim is not None and claim.version == "2"
            for _ in range(3):
                assert old.host() == second, "a front end of the old version leaves the new host be"
            wait_until(lambda: not actor_lives(environment, service, "1"), "the old host's leaving", 30)
    result = records.find_result(store, record)
    assert result is not None and result.get("target") == "probes/2"
    hosts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert len(hosts) == len(set(hosts)) == 2, "each host has run it once"


def actor_lives(environment: dict[str, str], service: str, version: str) -> bool:
    code = (
        "import os, sys; from synthmix.service_kit.ray_connection import NAMESPACE, RayConnection\n"
        "ray = RayConnection(os.environ['SYNTHMIX_RAY_ADDRESS']).ensure()\n"
        "try: ray.get_actor(sys.argv[1], namespace=NAMESPACE)\n"
        "except ValueError: sys.exit(3)"
    )
    command = [sys.executable, "-c", code, host_name(service, version)]
    return subprocess.run(command, env=environment, timeout=60).returncode == 0


def test_a_host_that_is_killed_comes_back_and_goes_on(
    environment: dict[str, str], store: ObjectStore, tmp_path: Path
) -> None:
    service, name = "probe-kill", OperationName("probe-kill", "b" * 32)
    record = records.OperationRecord(name, KIND, "", {"folder": str(tmp_path), "runs": 2}, records.now())
    open_operations.add(store, record)
    records.write_record(store, record)
    with replicas(environment, service, "1", function="probe_operations:wait") as [replica]:
        replica.host()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 1, "the operation's beginning", 60)
        began_s = time.monotonic()
        os.kill(int(next(tmp_path.iterdir()).read_text()), 9)
        wait_until(lambda: records.find_result(store, record) is not None, "its end, without any front end", 60)
    result = records.find_result(store, record)
    assert result is not None and result.get("target") == "probes/2"
    assert time.monotonic() - began_s < 60


def test_a_task_whose_worker_dies_again_and_again_fails_and_no_other_does(
    environment: dict[str, str], store: ObjectStore
) -> None:
    service = "operation-hosts"  # of this name as well there is a label, by which tasks find the node
    started = {}
    for letter, how in (("c", "die"), ("d", "work")):
        record = records.OperationRecord(
            OperationName(service, letter * 32), KIND, "", {"task": how, "tasks": 5}, records.now()
        )
        open_operations.add(store, record)
        records.write_record(store, record)
        started[how] = record
    with replicas(environment, service, "probe", function="probe_operations:run_tasks") as [replica]:
        replica.host()
        wait_until(lambda: records.find_result(store, started["work"]) is not None, "the one that works", 60)
        result = records.find_result(store, started["work"])
        assert result is not None and result.get("target") == "probes/10"
        wait_until(lambda: records.find_result(store, started["die"]) is not None, "the end of the other", 120)
    result = records.find_result(store, started["die"])
    assert result is not None
    error = errors.from_json(result["error"])
    assert error.reason == "WORKER_DIED"
    assert "probe_operations:die died in each of 6 attempts" in error.message
