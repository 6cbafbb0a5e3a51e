"""The client's channels: one for each address of a stack, with its TLS and token; failures are SynthMixErrors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from synthmix.client.endpoints import Endpoints
from synthmix.client.user_files import read_user_file
from synthmix.service_kit.errors import InvalidArgument, SynthMixError
from synthmix.service_kit.transport import UNARY_DEADLINE_S, error_of, open_channel, status_of

LONGEST_BACKOFF_OF_FORWARDS_MS = 5_000


class Channels:
    """One channel for each service, or fewer where services share an address."""

    def __init__(self, endpoints: Endpoints):
        self._endpoints = endpoints
        # A forward that leads nowhere costs nothing to try again, and another pod may be ready any moment.
        options = [("grpc.max_reconnect_backoff_ms", LONGEST_BACKOFF_OF_FORWARDS_MS)] if endpoints.release else []
        credentials = _tls_credentials(endpoints.tls_ca) if endpoints.tls else None
        self._channels = {
            address: open_channel(address, endpoints.bearer, credentials, options)
            for address in set(endpoints.addresses.values())
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
        if release and error.code() is grpc.StatusCode.UNAVAILABLE and status_of(error) is None:
            problem = release.problem_of(service)  # gRPC sees only that its connection to this machine is closed
            if problem is not None:
                return problem
        return error_of(error, service, self._endpoints.place_of(service))


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
