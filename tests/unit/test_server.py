"""A front end's server: health, reflection, token, errors and metrics, over a real loopback connection."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.service_kit import metrics
from synthmix.service_kit.environment import ServerSettings
from synthmix.service_kit.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    from_status,
    invalid_field,
    to_status,
)
from synthmix.service_kit.server import Servicer, serve
from synthmix.service_kit.tokens import StaticTokens

TOKEN = "correct horse"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)


NO_UTF8 = b"\x0a\x02\xff\xfe"  # in field 1
LONG = {
    "letters": "x" * 70_000,
    "emoji": "\U0001f9ea" * 70_000,
    "controls": "\0\n\x1b%" * 20_000,
    "surrogates": "\ud800" * 20_000,
}
ERRORS = {
    f"{kind.__name__} {name}": kind(
        f"dataset: {text!r} or {text} is wrong; use another",
        reason="LONG",
        violations=[FieldViolation(f"rows[{row}]", f"{text[:1000]} is wrong; mend it") for row in range(rows)],
        metadata={f"{key} {text[:500]}": text for key in range(entries)},
    )
    for kind in (InvalidArgument, NotFound, FailedPrecondition, ResourceExhausted, Unavailable, PermissionDenied)
    for (name, text), rows, entries in zip(LONG.items(), (10_000, 19, 21, 1), (0, 1, 40, 3), strict=True)
}


class Artifacts(artifacts_pb2_grpc.ArtifactServiceServicer):
    """Counts the bytes it gets; fails in the ways that a handler can."""

    async def UploadFile(self, request_iterator: AsyncIterator[Any], context: Any) -> artifacts_pb2.Upload:
        size = 0
        async for message in request_iterator:
            if message.chunk == b"bad":
                raise invalid_field("chunk", message.chunk, "is bad", "send another", reason="BAD_CHUNK")
            size += len(message.chunk)
        return artifacts_pb2.Upload(size_bytes=size)

    async def DownloadPayload(self, request: Any, context: Any) -> AsyncIterator[artifacts_pb2.DownloadPayloadResponse]:
        yield artifacts_pb2.DownloadPayloadResponse(chunk=b"first")
        if request.payload == "bad":
            raise invalid_field("payload", "bad", "is bad", "ask for another", reason="BAD_PAYLOAD")
        if request.payload in ERRORS:
            raise ERRORS[request.payload]
        if request.payload == "crash":
            raise ZeroDivisionError("a secret detail")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def with_server(
    body: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]], options: Sequence[tuple[str, int]] = ()
) -> None:
    async def main() -> None:
        port = free_port()
        settings = ServerSettings(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}", StaticTokens.of(TOKEN))
        servicer = Servicer(
            Artifacts(),
            artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server,
            "synthmix.artifacts.v1.ArtifactService",
        )
        server = asyncio.create_task(serve("test", settings, [servicer]))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0), *options]) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
            try:
                await body(channel)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.wait_for(server, 10)

    asyncio.run(main())


def error_of(raised: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> Any:
    status = rpc_status.from_call(_Call(raised.value))
    assert status is not None
    return from_status(status)


class _Call:
    """grpc_status reads a synchronous call's methods."""

    def __init__(self, error: grpc.aio.AioRpcError):
        self.code, self.details = error.code, error.details
        self.trailing_metadata = lambda: error.trailing_metadata()


def test_probes_and_reflection_need_no_token() -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        [listed] = [response async for response in stub.ServerReflectionInfo(requests)]
        names = {service.name for service in listed.list_services_response.service}
        assert {"synthmix.artifacts.v1.ArtifactService", "grpc.health.v1.Health"} <= names

    with_server(body)


def test_health_can_be_watched() -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

    with_server(body)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", "Bearer wrong"),), "TOKEN_WRONG"),
        ((("authorization", TOKEN),), "TOKEN_WRONG"),
    ],
)
def test_a_call_without_the_token_is_refused(metadata: Any, reason: str) -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.UploadFile(iter([artifacts_pb2.UploadFileRequest(chunk=b"x")]), metadata=metadata)
        error = error_of(raised)
        assert isinstance(error, Unauthenticated)
        assert error.reason == reason
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in stub.DownloadPayload(artifacts_pb2.DownloadPayloadRequest(), metadata=metadata):
                pass
        assert error_of(raised).reason == reason

    with_server(body)


def test_errors_of_unary_and_streaming_handlers_are_mapped() -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        upload = await stub.UploadFile(iter([artifacts_pb2.UploadFileRequest(chunk=b"four")] * 2), metadata=AUTHORIZED)
        assert upload.size_bytes == 8
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.UploadFile(iter([artifacts_pb2.UploadFileRequest(chunk=b"bad")]), metadata=AUTHORIZED)
        error = error_of(raised)
        assert isinstance(error, InvalidArgument)
        assert (error.reason, error.violations[0].field) == ("BAD_CHUNK", "chunk")

        received = []
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for response in stub.DownloadPayload(
                artifacts_pb2.DownloadPayloadRequest(payload="bad"), metadata=AUTHORIZED
            ):
                received.append(response.chunk)
        assert received == [b"first"]
        assert error_of(raised).reason == "BAD_PAYLOAD"

    with_server(body)


def test_a_defect_shows_an_incident_and_no_detail() -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in stub.DownloadPayload(
                artifacts_pb2.DownloadPayloadRequest(payload="crash"), metadata=AUTHORIZED
            ):
                pass
        error = error_of(raised)
        assert raised.value.code() == grpc.StatusCode.INTERNAL
        assert error.metadata["incident"] in error.message
        assert "secret" not in error.message

    with_server(body)


def test_requests_are_counted_after_they_ended_by_their_code() -> None:
    def count(code: str) -> float:
        labels = {
            "service": "test",
            "method": "/synthmix.artifacts.v1.ArtifactService/DownloadPayload",
            "code": code,
        }
        return metrics.REGISTRY.get_sample_value("synthmix_requests_total", labels) or 0.0

    before = {code: count(code) for code in ("OK", "INVALID_ARGUMENT")}

    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        for payload in ("good", "bad"):
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in stub.DownloadPayload(
                    artifacts_pb2.DownloadPayloadRequest(payload=payload), metadata=AUTHORIZED
                ):
                    pass

    with_server(body)
    assert {code: count(code) - before[code] for code in before} == {"OK": 1.0, "INVALID_ARGUMENT": 1.0}


def test_every_error_fits_what_peers_accept_and_says_what_it_leaves_out() -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        for payload, sent in ERRORS.items():
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in stub.DownloadPayload(
                    artifacts_pb2.DownloadPayloadRequest(payload=payload), metadata=AUTHORIZED
                ):
                    pass
            error = error_of(raised)
            assert type(error) is type(sent), payload
            assert error.reason == "LONG"
            assert "characters left out" in error.message and error.message.endswith("is wrong; use another")
            assert len(error.violations) <= 20
            if len(sent.violations) > 20:
                assert (
                    error.violations[-1].description == f"and {len(sent.violations) - len(error.violations) + 1:,} more"
                )
            again = from_status(to_status(error))  # as where an operation's error is stored, and sent
            assert (again.message, again.violations, again.metadata) == (
                error.message,
                error.violations,
                error.metadata,
            )
            assert sum(len(key) + len(value) + 32 for key, value in raised.value.trailing_metadata()) < 8192

    with_server(body, [("grpc.max_metadata_size", 8192), ("grpc.absolute_max_metadata_size", 8192)])


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", NO_UTF8, b"\x0b" * 50_000, b"\x00"])
def test_undecodable_bytes_are_the_callers_fault(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    calls = {
        "/synthmix.artifacts.v1.ArtifactService/DownloadPayload": "unary_stream",
        "/synthmix.artifacts.v1.ArtifactService/UploadFile": "stream_unary",
        "/grpc.health.v1.Health/Check": "unary_unary",
        "/grpc.health.v1.Health/Watch": "unary_stream",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "stream_stream",
    }

    async def fail(channel: grpc.aio.Channel, method: str, metadata: Any) -> Any:
        form = calls[method]
        request = iter([data]) if form.startswith("stream") else data
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            call = getattr(channel, form)(method)(request, metadata=metadata)
            if form.endswith("unary"):
                await call
            else:
                await call.read()
                await call.read()
        return error_of(raised)

    async def body(channel: grpc.aio.Channel) -> None:
        for method in calls:
            if method.endswith("UploadFile") and data == NO_UTF8:
                continue  # its field is bytes
            error = await fail(channel, method, AUTHORIZED)
            assert isinstance(error, InvalidArgument)
            assert (error.reason, method in error.message) == ("UNDECODABLE_REQUEST", True)
            if "artifacts" in method:
                assert isinstance(await fail(channel, method, ()), Unauthenticated)

    with_server(body)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_method_of_a_library_that_is_not_written_is_unimplemented(caplog: pytest.LogCaptureFixture) -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/grpc.health.v1.Health/List")(b"")
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED

    with_server(body)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "authorization", [b"Bearer \xff\xfe", "Bearer na\u00efve", "Bearer \u53e3", f"Bearer {TOKEN}\0"]
)
def test_metadata_that_is_not_ascii_does_not_leave_the_client(authorization: str | bytes) -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        chunk = artifacts_pb2.UploadFileRequest(chunk=b"x")
        with pytest.raises(grpc.aio.AioRpcError, match="Invalid metadata"):
            await stub.UploadFile(iter([chunk]), metadata=(("authorization", authorization),))
        assert (await stub.UploadFile(iter([chunk]), metadata=AUTHORIZED)).size_bytes == 1

    with_server(body)


@pytest.mark.parametrize("value", [b"\xff\xfe", b"", b"\0", "na\u00efve".encode(), bytes(range(256))])
def test_binary_metadata_changes_nothing(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        chunk = artifacts_pb2.UploadFileRequest(chunk=b"x")
        for key in ("x-bin", "authorization-bin", "grpc-trace-bin"):
            assert (await stub.UploadFile(iter([chunk]), metadata=(*AUTHORIZED, (key, value)))).size_bytes == 1
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.UploadFile(iter([chunk]), metadata=((key, value),))
            assert error_of(raised).reason == "TOKEN_MISSING"

    with_server(body)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_token_of_a_megabyte_ends_its_own_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        stub = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        chunk = artifacts_pb2.UploadFileRequest(chunk=b"x")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.UploadFile(iter([chunk]), metadata=(("authorization", "Bearer " + "t" * 1_000_000),), timeout=10)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # of gRPC itself: no handler sees it
        assert (await stub.UploadFile(iter([chunk]), metadata=AUTHORIZED)).size_bytes == 1

    with_server(body)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xed\xb0\x80abc", b"\xed\xa0\xbd\xed\xb8\x80"])
def test_a_surrogate_over_the_wire_is_the_callers_fault(text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def body(channel: grpc.aio.Channel) -> None:
        method = "/synthmix.artifacts.v1.ArtifactService/DownloadPayload"
        data = bytes([0x0A, len(text)]) + text
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_stream(method)(data, metadata=AUTHORIZED).read()
        assert error_of(raised).reason == "UNDECODABLE_REQUEST"

    with_server(body)
    assert not [record for record in caplog.records if record.exc_info]
