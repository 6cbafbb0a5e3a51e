"""Channels to the services: keepalive, retries, the token, and every failure as a SynthMixError.

Retries are gRPC's own, by service_kit/service_config.json: only UNAVAILABLE, and every method, since each may run
twice: content addressing makes every Create such a method. UploadFile is the exception: gRPC would have to keep
the whole upload to send it again; the caller repeats it instead, and the same bytes become the same upload.
"""

import importlib.resources
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from synthmix.client.endpoints import Endpoints
from synthmix.client.user_files import read_user_file
from synthmix.service_kit.errors import (
    InvalidArgument,
    SynthMixError,
    Unauthenticated,
    Unavailable,
    from_status,
    printable,
)

UNARY_DEADLINE_S = 60.0
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
LONGEST_BACKOFF_OF_FORWARDS_MS = 5_000
LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024  # a resource lists its payloads, and an image set may have thousands


def service_config() -> str:
    """The gRPC service config that every client of SynthMix uses, as JSON."""
    return importlib.resources.files("synthmix.service_kit").joinpath("service_config.json").read_text(encoding="utf-8")


class Channels:
    """One channel for each service, or fewer where services share an address."""

    def __init__(self, endpoints: Endpoints):
        self._endpoints = endpoints
        credentials = _tls_credentials(endpoints.tls_ca) if endpoints.tls else None
        self._channels = {
            address: _open_channel(address, endpoints, credentials) for address in set(endpoints.addresses.values())
        }

    def of(self, service: str) -> grpc.Channel:
        return self._channels[self._endpoints.addresses[service]]

    def unary(
        self,
        service: str,
        method: Callable[..., Any],
        request: Any,
        *,
        timeout_s: float | None = UNARY_DEADLINE_S,
    ) -> Any:
        """The one response to a request, which may be an iterator of messages. Raises SynthMixError."""
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._failure(service, error) from None

    def stream(self, service: str, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """Yields the responses. No deadline: keepalive finds a dead server. Raises SynthMixError."""
        call = method(request)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._failure(service, error) from None
        finally:
            call.cancel()

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        if self._endpoints.release:
            self._endpoints.release.close()

    @property
    def endpoints(self) -> Endpoints:
        return self._endpoints

    def _failure(self, service: str, error: Any) -> SynthMixError:
        release = self._endpoints.release
        if release and error.code() is grpc.StatusCode.UNAVAILABLE and _rich_status(error) is None:
            problem = release.problem_of(service)  # gRPC sees only that its connection to this machine is closed
            if problem is not None:
                return problem
        return error_of(error, service, self._endpoints.place_of(service))


def error_of(error: Any, service: str, address: str) -> SynthMixError:
    """What a failed call stands for: the server's own error, or gRPC's, said in the user's words.

    Args:
        error: A grpc.RpcError that is also a grpc.Call.
    """
    code, details = error.code(), error.details() or ""
    status = _rich_status(error)
    if status is not None:
        return from_status(status)
    where = f"{service} at {address}"
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"{where} can't be reached ({_reason(details)}); is the stack up? `synthmix doctor` checks it",
            reason="SERVICE_UNREACHABLE",
            metadata={"service": service, "address": address},
        )
    if code is grpc.StatusCode.CANCELLED:
        # This client cancels no call whose end it waits for: a server that stops does, of those it has just accepted.
        return Unavailable(
            f"{where} stopped in the middle of the call; try again, or look at it with `synthmix doctor`",
            reason="SERVICE_STOPPED",
            metadata={"service": service, "address": address},
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(
            f"{where} didn't answer in time; try again, or look at it with `synthmix doctor`",
            reason="DEADLINE_EXCEEDED",
            metadata={"service": service, "address": address},
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Unauthenticated(
            f"{where} refuses the token ({_reason(details)}); check --token or SYNTHMIX_TOKEN",
            reason="TOKEN_REFUSED",
        )
    name = code_pb2.Code.Name(code.value[0])
    said = f" ({printable(details)})" if details else ""
    return from_status(
        status_pb2.Status(
            code=code.value[0],
            message=f"{where} answers {name}{said}; is it SynthMix, of this version? `synthmix doctor` checks it",
        )
    )


def _rich_status(error: Any) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(error)
    except ValueError:  # a proxy changed the code and left the trailing metadata
        return None


def _reason(details: str) -> str:
    """The last cause of gRPC's nested descriptions, such as "connect: Connection refused (111)"."""
    return details.rpartition("Failed to connect to remote host: ")[2] or "no reason given"


def _tls_credentials(tls_ca: Path | None) -> grpc.ChannelCredentials:
    if tls_ca is None:
        return grpc.ssl_channel_credentials()
    try:
        authorities = read_user_file(tls_ca)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"the TLS authorities: {error.message}; check --tls-ca or SYNTHMIX_TLS_CA", reason="TLS_CA_UNREADABLE"
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in authorities:
        raise InvalidArgument(
            f"the TLS authorities at {tls_ca} are no PEM file of certificates; check --tls-ca or SYNTHMIX_TLS_CA",
            reason="TLS_CA_UNREADABLE",
        )
    return grpc.ssl_channel_credentials(authorities)


def open_async_channel(address: str) -> grpc.aio.Channel:
    """A channel of one service to another, without TLS and without a token. For the event loop that runs."""
    return grpc.aio.insecure_channel(address, options=_channel_options(address))


def _open_channel(address: str, endpoints: Endpoints, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    options = _channel_options(address)
    if endpoints.release:
        # A forward that leads nowhere costs nothing to try again, and another pod may be ready any moment.
        options.append(("grpc.max_reconnect_backoff_ms", LONGEST_BACKOFF_OF_FORWARDS_MS))
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    return grpc.intercept_channel(channel, _BearerToken(endpoints.bearer))


def _channel_options(address: str) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", service_config()),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
        # Otherwise gRPC sends calls to this very machine through the http_proxy of the environment.
        ("grpc.enable_http_proxy", 0 if _is_loopback(address) else 1),
    ]


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class _CallDetails(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _BearerToken(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Adds the token to every call. gRPC allows call credentials on encrypted channels only.

    Args:
        token: Gives the one that is good now.
    """

    def __init__(self, token: Callable[[], str]):
        self._token = token

    def _signed(self, details: Any) -> _CallDetails:
        return _CallDetails(
            details.method,
            details.timeout,
            [*(details.metadata or ()), ("authorization", f"Bearer {self._token()}")],
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._signed(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._signed(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._signed(client_call_details), request_iterator)
