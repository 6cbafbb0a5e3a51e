"""One local stack for all integration tests that don't break it.

Those of own_stack/ do, and run beside them in another process: what they compare with is noted where both find it.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from studies import FEW, import_simulated, payload_digests, reduced_study, run_study
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2
from synthmix.local import Connection, local_stack
from synthmix.service_kit.environment import ADAPTER_TRAINING, variable_prefix
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore

OWN_STACK = "own_stack"
"""The folder of the tests that have a stack of their own."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # Of two trainings with two threads each on two processors, each is a third as fast as with one (decision 31).
    os.environ.setdefault(f"{variable_prefix(ADAPTER_TRAINING)}_CPUS", "1")


class StackScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Of pytest-xdist: the tests that share a stack go to one process, and of the others each to any."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if f"/{OWN_STACK}/" in nodeid else "stack"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> StackScheduling:
    return StackScheduling(config, log)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with local_stack(tmp_path_factory.mktemp("stack")) as connection:
        yield connection


@pytest.fixture(scope="session")
def driver_environment(stack: Connection) -> dict[str, str]:
    """The environment of a process that connects to the stack's Ray."""
    return os.environ | {
        "SYNTHMIX_RAY_ADDRESS": stack.ray_address,
        "RAY_AUTH_TOKEN": stack.ray_auth_token,
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


@pytest.fixture(scope="session")
def client(stack: Connection) -> Iterator[Client]:
    with Client.connect(stack.home) as client:
        yield client


@pytest.fixture(scope="session")
def store(stack: Connection) -> ObjectStore:
    return S3ObjectStore(stack.object_store)


@pytest.fixture(scope="session")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the digests of the finished study stand for every process of this run."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "undisturbed.json"


@pytest.fixture(scope="session")
def finished(
    client: Client, store: ObjectStore, noted: Path, tmp_path_factory: pytest.TempPathFactory
) -> studies_pb2.Study:
    """A study through all services, which nothing has disturbed."""
    with alone(noted):
        import_simulated(client, tmp_path_factory.mktemp("simulated"))
        study = run_study(client, reduced_study("reduced", FEW))
        noted.write_text(json.dumps(payload_digests(store, study)))
    return study


@pytest.fixture
def undisturbed_digests(noted: Path, request: pytest.FixtureRequest) -> Callable[[], dict[str, str]]:
    """The digests of the finished study's payloads: of the process that has one, or else of this one."""

    def read() -> dict[str, str]:
        with alone(noted):
            known = noted.exists()
        if not known:
            request.getfixturevalue("finished")
        digests: dict[str, str] = json.loads(noted.read_text())
        return digests

    return read


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While another process of this run is at work on the file, this one waits."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
