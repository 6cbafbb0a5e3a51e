"""What object storage that is reached by TLS may do wrong: a setting's fault is said at once, all else tried again."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from answering_port import answering_port
from certificates import Authority, new_authority
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import FailedPrecondition, Unavailable
from synthmix.service_kit.s3_object_store import S3ObjectStore


def ends(connection: socket.socket) -> None:
    connection.recv(2**16)


def answers_in_plain_text(connection: socket.socket) -> None:
    connection.recv(2**16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def shows_a_certificate(authority: Authority, folder: Path, name: str) -> Callable[[socket.socket], None]:
    tls = authority.write_server(folder, [name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)

    def answer(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).recv(1)

    return answer


def store_at(port: int, folder: Path, trusted: Authority) -> S3ObjectStore:
    ca = folder / "ca.crt"
    ca.write_bytes(trusted.pem)
    return S3ObjectStore(
        ObjectStoreSettings(f"https://127.0.0.1:{port}", "key", "secret", "synthmix", ca=str(ca)), attempts=3
    )


def test_a_server_that_stops_in_a_handshake_is_asked_again(tmp_path: Path) -> None:
    with answering_port(ends) as (port, taken):
        with pytest.raises(Unavailable) as caught:
            store_at(port, tmp_path, new_authority()).get_bytes("key")
        assert len(taken) == 3 and caught.value.reason == "OBJECT_STORAGE_UNAVAILABLE"


def test_a_certificate_that_is_not_trusted_and_a_server_without_tls_are_told_at_once(tmp_path: Path) -> None:
    authority = new_authority()
    for answer, trusted in (
        (shows_a_certificate(authority, tmp_path, "127.0.0.1"), new_authority("another")),
        (shows_a_certificate(authority, tmp_path, "storage.example"), authority),
        (answers_in_plain_text, authority),
    ):
        with answering_port(answer) as (port, taken):
            with pytest.raises(FailedPrecondition, match=r"cannot be trusted by TLS .* SYNTHMIX_OBJECT_STORE_CA"):
                store_at(port, tmp_path, trusted).get_bytes("key")
            assert len(taken) == 1
