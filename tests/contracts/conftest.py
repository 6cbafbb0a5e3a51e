"""What the contract suite runs against: SeaweedFS, as the local stack starts it, MinIO, and memory."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memory_object_store import MemoryObjectStore
from real_servers import running, running_minio
from synthmix.local import object_storage
from synthmix.local.home import object_storage_keys, prepare
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.minio_user import make_user
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore


@pytest.fixture(scope="session")
def local_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_storage.ObjectStorage]:
    """SeaweedFS, as the local stack starts it."""
    home = prepare(tmp_path_factory.mktemp("seaweedfs"))
    # weed's sockets need a short path, which pytest's folders haven't.
    with tempfile.TemporaryDirectory(prefix="smx") as sockets:
        storage = object_storage.plan(home, object_storage_keys(home), Path(sockets), set())
        environment = object_storage.environment(storage, os.environ)
        try:
            with running(
                "seaweedfs",
                object_storage.command(storage),
                environment,
                home.folder,
                lambda: object_storage.is_ready(storage),
            ):
                yield storage
        finally:
            for path in storage.temporary_paths:
                path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def seaweedfs(local_storage: object_storage.ObjectStorage) -> ObjectStoreSettings:
    return local_storage.settings


@pytest.fixture(scope="session")
def minio(minio_root: ObjectStoreSettings) -> ObjectStoreSettings:
    """MinIO, with the keys that services and workers hold in a cluster."""
    user = replace(minio_root, access_key=secrets.token_hex(10), secret_key=secrets.token_urlsafe(30))
    make_user(minio_root, user)
    return user


@pytest.fixture(scope="session")
def minio_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreSettings]:
    with running_minio(tmp_path_factory.mktemp("minio")) as settings:
        yield settings


@pytest.fixture(params=["seaweedfs", "minio"])
def server(request: pytest.FixtureRequest) -> ObjectStoreSettings:
    """A real server, with an empty bucket."""
    settings: ObjectStoreSettings = request.getfixturevalue(request.param)
    empty(S3ObjectStore(settings))
    return settings


@pytest.fixture(params=["seaweedfs", "minio", "memory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """A store whose bucket is there and empty."""
    if request.param == "memory":
        return MemoryObjectStore.created()
    store = S3ObjectStore(request.getfixturevalue(request.param))
    empty(store)
    return store


def empty(store: ObjectStore) -> None:
    store.create_bucket()
    store.delete_prefix("")
    assert store.list("") == []
