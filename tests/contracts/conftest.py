"""What the contract suite runs against: SeaweedFS, as the local stack starts it, MinIO, and memory."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memory_object_store import MemoryObjectStore
from programs import BUILT
from real_servers import running
from synthmix.local import object_storage
from synthmix.local.home import object_storage_keys, prepare
from synthmix.local.ports import LOOPBACK, accepts_connections, free_port
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.minio_user import make_user
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore

BUCKET = "contract"


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
    if os.environ.get("SYNTHMIX_WITHOUT_MINIO") == "1":
        pytest.skip("SYNTHMIX_WITHOUT_MINIO=1: the contract isn't held against MinIO")
    program = minio_program()
    if not os.access(program, os.X_OK):
        pytest.fail(
            f"there is no MinIO server at {program}; `make {program}` builds it (it needs Go 1.24 or newer), "
            "SYNTHMIX_MINIO names another one, and SYNTHMIX_WITHOUT_MINIO=1 leaves these tests out",
            pytrace=False,
        )
    folder = tmp_path_factory.mktemp("minio")
    ports: set[int] = set()
    port, console_port = free_port(ports), free_port(ports)
    settings = ObjectStoreSettings(
        f"http://{LOOPBACK}:{port}", secrets.token_hex(10), secrets.token_urlsafe(30), bucket=BUCKET
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MINIO_")}
    environment = inherited | {
        "MINIO_ROOT_USER": settings.access_key,
        "MINIO_ROOT_PASSWORD": settings.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    command = [str(program), "server", str(folder / "data"), "--certs-dir", str(folder / "certs")]
    addresses = ["--address", f"{LOOPBACK}:{port}", "--console-address", f"{LOOPBACK}:{console_port}"]
    with running("minio", [*command, *addresses], environment, folder, lambda: serves(settings, port)):
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


def minio_program() -> Path:
    """SYNTHMIX_MINIO, or where the Makefile puts it."""
    return Path(os.environ.get("SYNTHMIX_MINIO") or BUILT / "minio")


def empty(store: ObjectStore) -> None:
    store.create_bucket()
    store.delete_prefix("")
    assert store.list("") == []


def serves(settings: ObjectStoreSettings, port: int) -> bool:
    if not accepts_connections(port):
        return False
    try:
        S3ObjectStore(settings, attempts=1).create_bucket()
    except Unavailable:
        return False
    return True
