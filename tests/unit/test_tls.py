"""TLS of the services: what a server shows, what its callers trust, and what each is told if that does not fit."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certificates import Authority, new_authority
from synthmix.client.client import Client
from synthmix.service_kit import open_streams
from synthmix.service_kit import server as server_module
from synthmix.service_kit.environment import (
    WORKER_SERVICES,
    ServerSettings,
    ServerTls,
    server_tls,
)
from synthmix.service_kit.errors import FailedPrecondition, SynthMixError
from synthmix.service_kit.server import Servicer, serve
from synthmix.service_kit.tls import server_credentials, service_credentials
from synthmix.service_kit.tokens import StaticTokens
from synthmix.service_kit.transport import NOT_CONNECTED, addresses_to_ask, error_of
from synthmix.study_control.step_services import StepServices

TOKEN = "correct horse"
OPERATION = f"operations/adapter-training/{1:032x}"


class Operations(operations_pb2_grpc.OperationsServicer):
    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        return operations_pb2.Operation(name=request.name, done=True)


@pytest.fixture
def authority() -> Authority:
    return new_authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> ServerTls:
    return authority.write_server(tmp_path)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def with_server(
    tls: ServerTls | None,
    body: Callable[[str], Any],
    asynchronous: Callable[[str], Coroutine[Any, Any, Any]] | None = None,
) -> str:
    """Calls `body` in a thread with the address of a server, and returns that of its metrics."""
    settings = ServerSettings(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", StaticTokens.of(TOKEN), tls=tls)

    async def main() -> None:
        servicer = Servicer(
            Operations(), operations_pb2_grpc.add_OperationsServicer_to_server, "google.longrunning.Operations"
        )
        server = asyncio.create_task(serve("test", settings, [servicer]))
        try:
            while not await asyncio.to_thread(listens, settings.listen):
                assert not server.done(), server.result()
                await asyncio.sleep(0.02)
            await (asynchronous(settings.listen) if asynchronous else asyncio.to_thread(body, settings.listen))
        finally:
            if not server.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(server, 15)

    asyncio.run(main())
    return settings.metrics_listen


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def status_of(address: str, authority: Authority | None) -> Any:
    every = [("grpc.enable_http_proxy", 0)]
    if authority is None:
        channel = grpc.insecure_channel(address, every)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.pem), every)
    with channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    return answer.status


def ca_file(authority: Authority, folder: Path) -> Path:
    path = folder / "ca.crt"
    path.write_bytes(authority.pem)
    return path


class LastError(grpc.RpcError):
    """gRPC's error of a call that reached nothing."""

    def __init__(self, details: str):
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


def both_of_localhost(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
    """As a machine resolves it that has IPv6."""
    v4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))
    v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", int(port), 0, 0))
    return [v4, v6] if host == "localhost" else [v6 if ":" in host else v4]


def failure_of(**options: Any) -> SynthMixError:
    with pytest.raises(SynthMixError) as caught, Client.connect(token=TOKEN, **options) as client:
        client.get_operation(OPERATION)
    return caught.value


def test_a_client_that_trusts_the_authority_is_answered(authority: Authority, tls: ServerTls, tmp_path: Path) -> None:
    def body(address: str) -> None:
        for form in (address, f"https://{address}"):
            with Client.connect(addresses=form, token=TOKEN, tls_ca=ca_file(authority, tmp_path)) as client:
                assert client.get_operation(OPERATION).done
        with pytest.raises(grpc.RpcError):
            status_of(address, None)

    with_server(tls, body)


def test_what_does_not_fit_is_told_with_its_remedy(tls: ServerTls, authority: Authority, tmp_path: Path) -> None:
    others = ca_file(new_authority("another"), tmp_path)

    def body(address: str) -> None:
        error = failure_of(addresses=address, tls_ca=others)
        assert error.reason == "TLS_FAILED"
        assert f"adapter-training at {address} shows a certificate that cannot be verified" in error.message
        assert "by --tls-ca or SYNTHMIX_TLS_CA" in error.message
        by_name = f"localhost:{address.rpartition(':')[2]}"
        error = failure_of(addresses=by_name, tls_ca=ca_file(authority, tmp_path))
        assert f"adapter-training at {by_name} shows a certificate for another name" in error.message

    with_server(tls, body)


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_address_of_the_name_where_nothing_listens_hides_nothing(
    tls: ServerTls, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    """gRPC says only why the last of several addresses failed, and which is the last is a matter of milliseconds."""
    refused = f"failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:1: {NOT_CONNECTED}refused"
    monkeypatch.setattr("synthmix.client.transport.error_of", lambda _, *place: error_of(LastError(refused), *place))
    monkeypatch.setattr(socket, "getaddrinfo", both_of_localhost)

    def body(address: str) -> None:
        by_name = f"localhost:{address.rpartition(':')[2]}"
        error = failure_of(addresses=by_name, **{"tls_ca": ca_file(authority, tmp_path)} if encrypted else {})
        assert error.reason == "TLS_FAILED"
        told = "shows a certificate for another name" if encrypted else "speaks TLS, and was called without"
        assert f"adapter-training at {by_name} {told}" in error.message

    with_server(tls, body)


@pytest.mark.parametrize(
    ("address", "asked"),
    [("localhost:1", ["127.0.0.1:1"]), ("127.0.0.1:1", []), ("[::1]:1", [])],
)
def test_a_name_of_one_address_is_asked_too(monkeypatch: pytest.MonkeyPatch, address: str, asked: list[str]) -> None:
    """gRPC tries ::1 for localhost even where the system's resolver knows 127.0.0.1 alone, and says why that failed."""
    refused = LastError(f"failed to connect to all addresses; last error: UNKNOWN: ipv6:x: {NOT_CONNECTED}refused")

    def one_of_localhost(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return both_of_localhost(host, port)[:1]

    monkeypatch.setattr(socket, "getaddrinfo", one_of_localhost)
    assert addresses_to_ask(refused, address) == asked


def test_a_server_without_tls_is_told(authority: Authority, tmp_path: Path) -> None:
    def body(address: str) -> None:
        error = failure_of(addresses=address, tls_ca=ca_file(authority, tmp_path))
        assert f"adapter-training at {address} does not speak TLS" in error.message

    with_server(None, body)


def test_a_client_without_tls_is_told_how_a_server_with_it_is_called(tls: ServerTls) -> None:
    def body(address: str) -> None:
        error = failure_of(addresses=address)
        assert error.message == (
            f"adapter-training at {address} speaks TLS, and was called without; name the PEM file of its authority by "
            f"--tls-ca or SYNTHMIX_TLS_CA, or write https://{address} if the system trusts that authority"
        )
        assert error.reason == "TLS_FAILED"

    with_server(tls, body)


def test_a_server_that_closes_every_connection_is_not_taken_for_one_with_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_each() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=close_each, daemon=True).start()
        error = failure_of(addresses=f"127.0.0.1:{listener.getsockname()[1]}")
    assert error.reason == "SERVICE_UNREACHABLE"


def test_a_renewed_certificate_takes_no_restart(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a mounted Secret is renewed: a link is moved to another folder."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    renewed = new_authority("renewed")
    for folder, signer in zip(folders, (authority, renewed, authority), strict=True):
        folder.mkdir()
        signer.write_server(folder)
    shutil.copy(folders[0] / "tls.key", folders[2] / "tls.key")  # not this certificate's
    current = tmp_path / "current"

    def show(folder: Path) -> None:
        (tmp_path / "next").symlink_to(folder)
        (tmp_path / "next").replace(current)

    show(folders[0])
    serving = health_pb2.HealthCheckResponse.SERVING

    def body(address: str) -> None:
        assert status_of(address, authority) == serving
        show(folders[1])
        assert status_of(address, renewed) == serving
        with pytest.raises(grpc.RpcError):
            status_of(address, authority)
        # What is no pair, and what is not there, leave the one in use that was good.
        show(folders[2])
        assert status_of(address, renewed) == serving
        assert "is not renewed" in caplog.text and "cannot be used together" in caplog.text
        show(tmp_path / "nowhere")
        assert status_of(address, renewed) == serving
        show(folders[0])
        assert status_of(address, authority) == serving

    with_server(ServerTls(current / "tls.crt", current / "tls.key"), body)


def test_services_call_one_another_by_the_authority_of_their_environment(
    authority: Authority, tls: ServerTls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(address: str) -> bool:
        services = StepServices(dict.fromkeys(WORKER_SERVICES, address), lambda: TOKEN)
        try:
            return bool(services.get_operation(OPERATION).done)
        finally:
            services.close()

    def body(address: str) -> None:
        monkeypatch.setenv("SYNTHMIX_TLS_CA", str(ca_file(authority, tmp_path)))
        assert ask(address)
        monkeypatch.setenv("SYNTHMIX_TLS_CA", str(ca_file(new_authority("another"), tmp_path)))
        with pytest.raises(SynthMixError, match="certificate that cannot be verified"):
            ask(address)

    with_server(tls, body)


def test_settings_of_tls_are_checked(tls: ServerTls, tmp_path: Path) -> None:
    assert server_tls({}) is None
    with pytest.raises(FailedPrecondition, match="SYNTHMIX_TLS_KEY is not set"):
        server_tls({"SYNTHMIX_TLS_CERTIFICATE": str(tls.certificate)})
    assert server_tls({"SYNTHMIX_TLS_CERTIFICATE": str(tls.certificate), "SYNTHMIX_TLS_KEY": str(tls.key)}) == tls
    assert service_credentials({}) is None
    absent, others = tmp_path / "absent", tmp_path / "others"
    others.mkdir()
    new_authority().write_server(others)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        load_pem_private_key(tls.key.read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    for broken, said in (
        (replace(tls, key=absent), f"SYNTHMIX_TLS_KEY is '{absent}', which cannot be read"),
        (replace(tls, certificate=tls.key), "SYNTHMIX_TLS_CERTIFICATE is .*holds no BEGIN CERTIFICATE"),
        (replace(tls, key=tls.certificate), "SYNTHMIX_TLS_KEY is .*holds no PRIVATE KEY"),
        (
            replace(tls, key=others / "tls.key"),
            "SYNTHMIX_TLS_CERTIFICATE, .* and SYNTHMIX_TLS_KEY, .* cannot be used together",
        ),
        (replace(tls, key=encrypted), "SYNTHMIX_TLS_KEY, .* cannot be used together .* not encrypted"),
    ):
        with pytest.raises(FailedPrecondition, match=said):
            server_credentials(broken)
    with pytest.raises(FailedPrecondition, match=f"SYNTHMIX_TLS_CA is '{absent}', which cannot be read"):
        service_credentials({"SYNTHMIX_TLS_CA": str(absent)})


def test_health_is_told_over_http_to_probes_that_speak_no_tls(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(server_module, "HEALTH_TIMEOUT_SECONDS", 0.2)
    settings = ServerSettings(f"127.0.0.1:{free_port()}", f"127.0.0.1:{port}", StaticTokens.of(TOKEN), tls=tls)

    def probe() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def main() -> None:
        server = asyncio.create_task(serve("test", settings, []))
        while not await asyncio.to_thread(listens, settings.listen):
            await asyncio.sleep(0.02)
        assert await asyncio.to_thread(probe) == (200, "ok\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert b"synthmix_ready" in answer.read()
        # A loop that is kept busy, as this is here.
        assert probe() == (503, "its event loop has not answered for 0.2 s\n")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(server, 15)
        assert await asyncio.to_thread(probe) == (503, "it is NOT_SERVING\n")

    asyncio.run(main())


def test_streams_that_need_no_token_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_streams, "MOST", 6)

    async def watch(channel: grpc.aio.Channel) -> Any:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        try:
            await call.read()
            code = await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(call.code())), 0.2)
        except TimeoutError:
            return call
        except grpc.aio.AioRpcError as error:
            code = error.code()
        return code

    async def unasked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        await asyncio.Event().wait()
        yield reflection_pb2.ServerReflectionRequest()

    async def body(address: str) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with contextlib.AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(grpc.aio.insecure_channel(address, options)) for _ in range(2)]
            watches = [await watch(channels[0]) for _ in range(4)]
            assert all(isinstance(item, grpc.aio.Call) for item in watches)
            assert await watch(channels[0]) is grpc.StatusCode.RESOURCE_EXHAUSTED
            # It asks nothing: a question that is sent when the stream is refused already fails by itself.
            reflection = reflection_pb2_grpc.ServerReflectionStub(channels[0]).ServerReflectionInfo(unasked())
            with pytest.raises(grpc.aio.AioRpcError, match="a connection may have 4 and all together 6"):
                await reflection.read()
            # Another connection has its own, within those of all; one that ends makes room.
            others = [await watch(channels[1]) for _ in range(2)]
            assert all(isinstance(item, grpc.aio.Call) for item in others)
            assert await watch(channels[1]) is grpc.StatusCode.RESOURCE_EXHAUSTED
            watches[0].cancel()
            await asyncio.sleep(0.2)
            assert isinstance(await watch(channels[1]), grpc.aio.Call)
            # A question that is answered at once is none of them.
            answer = await health_pb2_grpc.HealthStub(channels[0]).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    with_server(None, lambda _: None, body)
