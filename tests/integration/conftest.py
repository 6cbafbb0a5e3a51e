"""One embedded stack for all integration tests that don't break it."""

from collections.abc import Iterator

import pytest

from service_kit.object_store import ObjectStore
from synthmix import Client
from synthmix.embedded import Connection, embedded_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with embedded_stack(tmp_path_factory.mktemp("stack")) as connection:
        yield connection


@pytest.fixture(scope="session")
def client(stack: Connection) -> Iterator[Client]:
    with Client.connect(stack.home) as client:
        yield client


@pytest.fixture(scope="session")
def store(stack: Connection) -> ObjectStore:
    return ObjectStore(stack.object_store)
