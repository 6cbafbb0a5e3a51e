"""Real servers as children of a test."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from certificates import Authority
from programs import BUILT
from synthmix.local.children import Child, stop_children, wait_until_ready
from synthmix.local.ports import LOOPBACK, accepts_connections, free_port
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.s3_object_store import S3ObjectStore

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 5.0
MINIO_BUCKET = "contract"


@contextmanager
def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, is_ready: Callable[[], bool]
) -> Iterator[None]:
    """A child for the length of a `with` block, from when it is ready."""
    child = Child(name, command, environment, folder=folder, log=folder / f"{name}.log")
    child.start()
    try:
        wait_until_ready(
            {child: is_ready}, timeout_s=START_TIMEOUT_S, say_ready=lambda _: None, check_stop=lambda: None
        )
        yield
    finally:
        stop_children([child], STOP_GRACE_S)


@contextmanager
def running_minio(folder: Path, authority: Authority | None = None) -> Iterator[ObjectStoreSettings]:
    """MinIO in a folder, with the keys of its root user; over TLS if there is an authority for its certificate."""
    if os.environ.get("SYNTHMIX_WITHOUT_MINIO") == "1":
        pytest.skip("SYNTHMIX_WITHOUT_MINIO=1: the contract is not held against MinIO")
    program = minio_program()
    if not os.access(program, os.X_OK):
        pytest.fail(
            f"there is no MinIO server at {program}; `make test-programs` builds it, "
            "SYNTHMIX_MINIO names another one, and SYNTHMIX_WITHOUT_MINIO=1 leaves these tests out",
            pytrace=False,
        )
    ports: set[int] = set()
    port, console_port = free_port(ports), free_port(ports)
    settings = ObjectStoreSettings(
        f"{'https' if authority else 'http'}://{LOOPBACK}:{port}",
        secrets.token_hex(10),
        secrets.token_urlsafe(30),
        bucket=MINIO_BUCKET,
    )
    certificates = folder / "certs"
    certificates.mkdir()
    if authority:
        tls = authority.write_server(folder)
        tls.certificate.rename(certificates / "public.crt")
        tls.key.rename(certificates / "private.key")
        (folder / "ca.crt").write_bytes(authority.pem)
        settings = replace(settings, ca=str(folder / "ca.crt"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MINIO_")}
    environment = inherited | {
        "MINIO_ROOT_USER": settings.access_key,
        "MINIO_ROOT_PASSWORD": settings.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    command = [str(program), "server", str(folder / "data"), "--certs-dir", str(certificates)]
    addresses = ["--address", f"{LOOPBACK}:{port}", "--console-address", f"{LOOPBACK}:{console_port}"]
    with running("minio", [*command, *addresses], environment, folder, lambda: serves(settings, port)):
        yield settings


def minio_program() -> Path:
    """SYNTHMIX_MINIO, or where the Makefile puts it."""
    return Path(os.environ.get("SYNTHMIX_MINIO") or BUILT / "minio")


def serves(settings: ObjectStoreSettings, port: int) -> bool:
    if not accepts_connections(port):
        return False
    try:
        S3ObjectStore(settings, attempts=1).create_bucket()
    except Unavailable:
        return False
    return True
