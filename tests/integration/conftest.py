"""One local stack for all integration tests that don't break it."""

import os
from collections.abc import Iterator

import pytest

from studies import FEW, import_simulated, reduced_study, run_study
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2
from synthmix.local import Connection, local_stack
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore


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
def finished(client: Client, tmp_path_factory: pytest.TempPathFactory) -> studies_pb2.Study:
    """A study through all services, which nothing has disturbed."""
    import_simulated(client, tmp_path_factory.mktemp("simulated"))
    return run_study(client, reduced_study("reduced", FEW))
