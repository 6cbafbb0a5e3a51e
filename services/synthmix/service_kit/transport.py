"""Channels to the services and what their failed calls mean: for the client, and for services that call others.

Retries are gRPC's own, by service_config.json beside this file: only UNAVAILABLE, and every method, since each may
run twice: content addressing makes every Create such a method. Streams are the exception. Of an upload gRPC would have
to keep all of it to send it again; the caller repeats it instead, and the same bytes become the same upload. A call
whose responses are a stream may wait for ever where gRPC tries it again and the server has just come back (grpcio
1.85.1; grpc/grpc#41036 is alike): whoever reads the stream tries it again, by the same policy.
"""

import importlib.resources
import ipaddress
import json
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from synthmix.service_kit.errors import SynthMixError, Unauthenticated, Unavailable, from_status, printable

UNARY_DEADLINE_S = 60.0
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
TLS_PROBE_S = 2.0
TLS_FAILED = "TLS_FAILED"
# As gRPC begins to say why.
NOT_CONNECTED = "Failed to connect to remote host: "
LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024  # a resource lists its payloads, and an image set may have thousands


def service_config() -> str:
    """The gRPC service config that every client of SynthMix uses, as JSON."""
    return importlib.resources.files("synthmix.service_kit").joinpath("service_config.json").read_text(encoding="utf-8")


def retry_waits_s() -> list[float]:
    """How long to wait before each further attempt of a call, by the policy that gRPC has for other calls."""
    policy = json.loads(service_config())["methodConfig"][0]["retryPolicy"]
    first_s, most_s = (float(policy[name].removesuffix("s")) for name in ("initialBackoff", "maxBackoff"))
    waits = [
        min(first_s * policy["backoffMultiplier"] ** number, most_s) for number in range(policy["maxAttempts"] - 1)
    ]
    return [wait_s * random.uniform(0.8, 1.2) for wait_s in waits]


def open_channel(
    address: str,
    token: Callable[[], str],
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """A channel to a service.

    Args:
        address: A gRPC target without a scheme.
        token: Gives the bearer token of the call that is made now.
        credentials: Of a connection that is encrypted; none without TLS.
        options: gRPC's channel options beside those that every channel of SynthMix has.
    """
    every = [*_channel_options(address), *options]
    if credentials is None:
        channel = grpc.insecure_channel(address, every)
    else:
        channel = grpc.secure_channel(address, credentials, every)
    return grpc.intercept_channel(channel, _BearerToken(token))


def open_async_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel of one service to another, without a token. For the event loop that runs."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_channel_options(address))
    return grpc.aio.secure_channel(address, credentials, options=_channel_options(address))


def error_of(error: Any, service: str, address: str) -> SynthMixError:
    """What a failed call stands for: the server's own error, or gRPC's, said in the user's words.

    Args:
        error: A grpc.RpcError that is also a grpc.Call.
    """
    code, details = error.code(), error.details() or ""
    status = status_of(error)
    if status is not None:
        return from_status(status)
    where = f"{service} at {address}"
    place = {"service": service, "address": address}
    if code is grpc.StatusCode.UNAVAILABLE and (tls_error := _tls_error(details, where, place)):
        return tls_error
    if code is grpc.StatusCode.UNAVAILABLE:
        message = f"{where} cannot be reached ({_reason(details)}); is the stack up? `synthmix doctor` checks it"
        return Unavailable(message, reason="SERVICE_UNREACHABLE", metadata=place)
    if code is grpc.StatusCode.CANCELLED:
        # This client cancels no call whose end it waits for: a server that stops does, of those it has just accepted.
        message = f"{where} stopped in the middle of the call; try again, or look at it with `synthmix doctor`"
        return Unavailable(message, reason="SERVICE_STOPPED", metadata=place)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return timed_out(service, address)
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


def timed_out(service: str, address: str) -> Unavailable:
    """The error for a call that got no answer in time."""
    return Unavailable(
        f"{service} at {address} did not answer in time; try again, or look at it with `synthmix doctor`",
        reason="DEADLINE_EXCEEDED",
        metadata={"service": service, "address": address},
    )


def status_of(error: Any) -> status_pb2.Status | None:
    """The google.rpc.Status that a failed call carries, if the server is one of ours and sent one."""
    try:
        return rpc_status.from_call(error)
    except ValueError:  # a proxy changed the code and left the trailing metadata
        return None


def tls_wanted(error: Any, service: str, address: str) -> SynthMixError | None:
    """What a failed call without TLS stands for, if the server speaks nothing else; None if it is not that.

    gRPC says no more than that the connection was closed, so the server is asked. May take some seconds.
    """
    if error.code() is not grpc.StatusCode.UNAVAILABLE or not any(map(_speaks_tls, addresses_to_ask(error, address))):
        return None
    return Unavailable(
        f"{service} at {address} speaks TLS, and was called without; name the PEM file of its authority by --tls-ca or "
        f"SYNTHMIX_TLS_CA, or write https://{address} if the system trusts that authority",
        reason=TLS_FAILED,
        metadata={"service": service, "address": address},
    )


def tls_failure(
    error: Any, service: str, address: str, credentials: grpc.ChannelCredentials, options: Sequence[tuple[str, Any]]
) -> SynthMixError | None:
    """What a failed call with TLS stands for, if TLS failed at one of the addresses that a name has; None if not.

    Of several addresses gRPC says only why the last could not be reached, so that one where nothing listens (such as
    ::1 of localhost) hides the certificate that another shows. Each is asked. May take some seconds.

    Args:
        credentials: As of the channel whose call failed.
        options: Likewise.
    """
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    known_as = {"grpc.ssl_target_name_override": address.rpartition(":")[0].strip("[]"), **dict(options)}
    for numeric in addresses_to_ask(error, address):
        with grpc.secure_channel(numeric, credentials, [*_channel_options(numeric), *known_as.items()]) as channel:
            try:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TLS_PROBE_S)
            except grpc.RpcError as answer:
                failure = error_of(answer, service, address)
                if failure.reason == TLS_FAILED:
                    return failure
    return None


def addresses_to_ask(error: Any, address: str) -> list[str]:
    """The numeric addresses of `address` at which a call that failed with `error` may have met something."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return []
    hosts = [str(place[0]) for *_, place in found]
    # gRPC knows of ::1 for localhost even where the system's resolver does not, so that one address of a name tells
    # nothing of how many it has tried.
    if host.strip("[]") in hosts and NOT_CONNECTED in (error.details() or ""):
        return []
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def _speaks_tls(address: str) -> bool:
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is told to it, and nothing believed
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), TLS_PROBE_S) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except (OSError, ValueError):
        return False


def _tls_error(details: str, where: str, place: dict[str, str]) -> SynthMixError | None:
    """What gRPC's description of a failed connection means; None if it is not TLS that failed."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        cause = printable(details.rpartition("CERTIFICATE_VERIFY_FAILED")[2].strip(": ").removesuffix(": OK"))
        return Unavailable(
            f"{where} shows a certificate that cannot be verified ({cause or 'no reason given'}); name the PEM file of "
            "its authority by --tls-ca or SYNTHMIX_TLS_CA",
            reason=TLS_FAILED,
            metadata=place,
        )
    if "Hostname Verification Check failed" in details:
        return Unavailable(
            f"{where} shows a certificate for another name; use an address that its certificate is for, or have one "
            "made for this address",
            reason=TLS_FAILED,
            metadata=place,
        )
    if "WRONG_VERSION_NUMBER" in details:
        return Unavailable(
            f"{where} does not speak TLS; use an address without https://, and leave --tls-ca and SYNTHMIX_TLS_CA out",
            reason=TLS_FAILED,
            metadata=place,
        )
    return None


def _reason(details: str) -> str:
    """The last cause of gRPC's nested descriptions, such as "connect: Connection refused (111)"."""
    return details.rpartition(NOT_CONNECTED)[2] or "no reason given"


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
    """Adds the token to every call. gRPC allows call credentials on encrypted channels only."""

    def __init__(self, token: Callable[[], str]):
        self._token = token

    def _call(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token()}")]
        given = {item.name: getattr(details, item.name) for item in fields(_CallDetails)}
        return continuation(_CallDetails(**given | {"metadata": metadata}), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _call
