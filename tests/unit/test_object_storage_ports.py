"""When local object storage is taken for ready: its gRPC ports ask for a certificate, or do not, or do not say yet."""

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from answering_port import answering_port
from certificates import Authority, new_authority
from synthmix.local import object_storage
from synthmix.service_kit import s3_object_store
from synthmix.service_kit.errors import FailedPrecondition

H2_SETTINGS = bytes(3) + b"\x04" + bytes(5)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = new_authority()
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    return authority


def by_tls(
    authority: Authority, folder: Path, answer: bytes, verify: ssl.VerifyMode = ssl.CERT_NONE
) -> Callable[[socket.socket], None]:
    tls = authority.write_server(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(cadata=authority.pem.decode())
    context.verify_mode = verify

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            if answer:
                encrypted.sendall(answer)

    return serve


def is_ready(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    serves = SimpleNamespace(check=lambda: None)
    monkeypatch.setattr(s3_object_store, "S3ObjectStore", lambda settings, attempts: serves)
    monkeypatch.setattr(object_storage, "accepts_connections", lambda port: True)
    monkeypatch.setattr(object_storage, "HANDSHAKE_TIMEOUT_S", 0.5)
    storage: Any = SimpleNamespace(
        ports=SimpleNamespace(s3=0, of_grpc=(port,)), certificate=folder / "ca.crt", settings=None
    )
    return object_storage.is_ready(storage)


def test_a_port_that_asks_for_a_certificate_is_ready(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering_port(by_tls(authority, tmp_path, b"", ssl.CERT_REQUIRED)) as (port, _):
        assert is_ready(port, tmp_path, monkeypatch)


def test_a_port_that_answers_without_one_ends_the_start(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in (by_tls(authority, tmp_path, H2_SETTINGS), lambda connection: connection.sendall(H2_SETTINGS)):
        with answering_port(answer) as (port, _), pytest.raises(FailedPrecondition) as caught:
            is_ready(port, tmp_path, monkeypatch)
        assert caught.value.reason == "OBJECT_STORAGE_OPEN"


def test_a_port_that_does_not_say_is_not_ready_yet(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resets(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    answers: list[Callable[[socket.socket], None]] = [
        lambda connection: threading.Event().wait(1),  # longer than is waited for
        lambda connection: connection.recv(2**16) and None,
        resets,
        by_tls(authority, tmp_path, b""),
    ]
    for answer in answers:
        with answering_port(answer) as (port, _):
            assert not is_ready(port, tmp_path, monkeypatch)
    assert not is_ready(port, tmp_path, monkeypatch), "it is gone"
