"""How the client calls a stack's services, with its TLS and token. Failures are SynthMixErrors."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from synthmix.client.endpoints import Endpoints
from synthmix.client.user_files import read_user_file
from synthmix.service_kit.errors import InvalidArgument, SynthMixError
from synthmix.service_kit.transport import (
    TLS_FAILED,
    UNARY_DEADLINE_S,
    error_of,
    open_channel,
    retry_waits_s,
    status_of,
    timed_out,
    tls_failure,
    tls_wanted,
)

LONGEST_BACKOFF_OF_FORWARDS_MS = 5_000
PAGE_SIZE = 200

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Service:
    """One service of a stack.

    Attributes:
        channel: What the stubs of its methods are made with.
        credentials: Of the channel, if it is encrypted.
        unreachable: Gets the names of what lists left out.
    """

    name: str
    channel: grpc.Channel
    credentials: grpc.ChannelCredentials | None
    endpoints: Endpoints
    unreachable: list[str]

    def call(
        self,
        method: Callable[..., Any],
        request: Any,
        response: type[M],
        *,
        timeout_s: float | None = UNARY_DEADLINE_S,
    ) -> M:
        """The one response to a request, which may be an iterator of messages. Raises SynthMixError."""
        try:
            answer = method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._failure(error) from None
        assert isinstance(answer, response)
        return answer

    def stream(self, method: Callable[..., Any], request: Any, *, silence_s: float | None = None) -> Iterator[Any]:
        """Yields the responses. No deadline: keepalive finds a dead server. Raises SynthMixError.

        Until the first response has come, a server that cannot be reached is tried again for some seconds.

        Args:
            silence_s: How long a response may take; None where there may be nothing to say for hours.
        """
        waits_s, begun = iter(retry_waits_s()), False
        while True:
            call = method(request)
            try:
                while (response := _next_within(call, silence_s)) is not None:
                    begun = True
                    yield response
                return
            except TimeoutError:
                raise timed_out(self.name, self.endpoints.place_of(self.name)) from None
            except grpc.RpcError as error:
                wait_s = None if begun or error.code() is not grpc.StatusCode.UNAVAILABLE else next(waits_s, None)
                if wait_s is None:
                    raise self._failure(error) from None
            finally:
                call.cancel()
            time.sleep(wait_s)

    def pages(
        self, method: Callable[..., Any], request: Callable[..., Any], field: str, **filters: Any
    ) -> Iterator[Any]:
        """Yields the items of every page of a listing, which are in this field of the response."""
        token = ""
        while True:
            page: Any = self.call(method, request(page_size=PAGE_SIZE, page_token=token, **filters), Message)
            yield from getattr(page, field)
            self.unreachable.extend(getattr(page, "unreachable", ()))  # older google.longrunning packages have none
            token = page.next_page_token
            if not token:
                return

    def _failure(self, error: Any) -> SynthMixError:
        release = self.endpoints.release
        if release and error.code() is grpc.StatusCode.UNAVAILABLE and status_of(error) is None:
            problem = release.problem_of(self.name)  # gRPC sees only that its connection to this machine is closed
            if problem is not None:
                return problem
        failure = error_of(error, self.name, self.endpoints.place_of(self.name))
        if release or status_of(error) is not None or failure.reason == TLS_FAILED:
            return failure
        address = self.endpoints.addresses[self.name]
        if self.credentials is None:
            return tls_wanted(error, self.name, address) or failure
        options = _known_as(self.endpoints, self.name)
        return tls_failure(error, self.name, address, self.credentials, options) or failure


def _next_within(call: Any, silence_s: float | None) -> Any:
    """A stream's next response; None at its end. Raises TimeoutError where none comes, and grpc.RpcError."""
    if silence_s is None:
        return next(call, None)
    silent = threading.Event()

    def give_up() -> None:
        silent.set()
        call.cancel()

    timer = threading.Timer(silence_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        return next(call, None)
    except grpc.RpcError:
        if silent.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


class Channels:
    """One channel for each service, or fewer where services share an address."""

    def __init__(self, endpoints: Endpoints):
        self.endpoints = endpoints
        self.unreachable: list[str] = []
        # A forward that leads nowhere costs nothing to try again, and another pod may be ready any moment.
        options: list[tuple[str, Any]] = (
            [("grpc.max_reconnect_backoff_ms", LONGEST_BACKOFF_OF_FORWARDS_MS)] if endpoints.release else []
        )
        self._channels: dict[str, grpc.Channel] = {}
        try:
            self._credentials = _tls_credentials(endpoints) if endpoints.tls else None
        except InvalidArgument:
            self.close()
            raise
        services = {address: service for service, address in endpoints.addresses.items()}
        self._channels = {
            address: open_channel(address, endpoints.bearer, self._credentials, options + _known_as(endpoints, service))
            for address, service in services.items()
        }

    def of(self, service: str) -> Service:
        channel = self._channels[self.endpoints.addresses[service]]
        return Service(service, channel, self._credentials, self.endpoints, self.unreachable)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        if self.endpoints.release:
            self.endpoints.release.close()


def _known_as(endpoints: Endpoints, service: str) -> list[tuple[str, Any]]:
    """A channel's option for a certificate that is for another name than the address."""
    name = endpoints.tls_names.get(service)
    return [("grpc.ssl_target_name_override", name)] if name else []


def _tls_credentials(endpoints: Endpoints) -> grpc.ChannelCredentials:
    tls_ca = endpoints.tls_ca
    if tls_ca is None:
        return grpc.ssl_channel_credentials(endpoints.tls_authority or None)
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
