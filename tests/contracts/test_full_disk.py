"""Object storage on a disk of 100 MB: what doesn't fit is refused and leaves nothing, and what is deleted gives way."""

import asyncio
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from image_archives import dataset
from real_servers import running
from synthmix import Client, cli
from synthmix.api.artifacts.v1 import artifacts_pb2_grpc
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels
from synthmix.image_data.import_bounds import import_bounds
from synthmix.local import object_storage
from synthmix.local.home import object_storage_keys, prepare
from synthmix.service_kit import storage_space
from synthmix.service_kit.environment import SERVICES, STUDY_CONTROL
from synthmix.service_kit.errors import ResourceExhausted
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore
from synthmix.service_kit.server import SERVER_OPTIONS
from synthmix.service_kit.tokens import StaticTokens
from synthmix.study_control.artifact_service import ArtifactService

TOKEN = "correct horse"
MB = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    """SeaweedFS as the local stack starts it, on a disk of 100 MB."""
    home = prepare(tmp_path / "home")
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(home.object_storage)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here")
    try:
        with tempfile.TemporaryDirectory(prefix="smx") as sockets:
            storage = object_storage.plan(home, object_storage_keys(home), Path(sockets), set())
            environment = object_storage.environment(storage, os.environ)
            command = object_storage.command(storage)
            with running("weed", command, environment, home.folder, lambda: object_storage.is_ready(storage)):
                yield S3ObjectStore(storage.settings)
            for path in storage.temporary_paths:
                path.unlink(missing_ok=True)
    finally:
        subprocess.run(["umount", "--lazy", str(home.object_storage)], check=True)


@pytest.fixture
def address(store: ObjectStore) -> Iterator[str]:
    """Where a front end with this store takes uploads."""
    ready, stop, ports = threading.Event(), asyncio.Event(), []
    loop = asyncio.new_event_loop()

    async def main() -> None:
        server = grpc.aio.server(
            interceptors=interceptors(STUDY_CONTROL, StaticTokens.of(TOKEN)), options=SERVER_OPTIONS
        )
        artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(store, import_bounds()), server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def file_of(folder: Path, name: str, size_bytes: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(MB) * (size_bytes // MB))
    return path


def test_what_does_not_fit_is_refused_and_a_small_import_works_afterwards(
    store: ObjectStore,
    address: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = tmp_path / "images"
    file_of(images, "alpha/a.png", 60 * MB)
    file_of(images, "beta/b.png", 57 * MB)
    monkeypatch.setenv("SYNTHMIX_ADDRESS", address)
    monkeypatch.setenv("SYNTHMIX_TOKEN", TOKEN)
    assert cli.main(["datasets", "import", str(images), "--name", "big", "--no-groups"]) == 1
    said = capsys.readouterr().err
    assert f"object storage at {store.settings.endpoint_url}, in {store.settings.folder}, has no room for" in said
    assert "iB are free); delete studies and datasets that are not needed" in said
    assert store.list("") == []

    monkeypatch.setattr(storage_space, "_WAITS_S", (0.0,))  # nothing was deleted that would still come back
    with Client(Channels(Endpoints(dict.fromkeys(SERVICES, address), TOKEN))) as client:

        def upload(number: int) -> Any:
            try:
                return client.upload(file_of(tmp_path, f"upload-{number}", (40 + number) * MB))
            except ResourceExhausted as error:
                return error

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(upload, range(4)))
    refused = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
    assert refused and all(error.reason == "STORAGE_FULL" for error in refused)
    kept = {answer.name for answer in answers if not isinstance(answer, ResourceExhausted)}
    assert kept and {item.key for item in store.list("uploads/")} == kept
    assert dataset(store, tmp_path).name


def test_what_is_deleted_makes_room(store: ObjectStore) -> None:
    store.put_bytes("large", os.urandom(60 * MB))
    store.delete("large")
    store.put_bytes("large", os.urandom(60 * MB))
    store.delete("large")
    assert store.list("") == []
