"""What surrounds every gRPC method: metrics outermost, then errors, then authentication, then decoding.

Unary and streaming handlers alike: a streaming handler's errors come out of its generator, so the wrapping is around
the iteration, not around the call.
"""

import asyncio
import inspect
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from synthmix.service_kit import incidents, metrics
from synthmix.service_kit.authentication import KubernetesReviews, authenticate
from synthmix.service_kit.errors import Internal, InvalidArgument, SynthMixError, Unimplemented, to_status
from synthmix.service_kit.storage_space import disk_full, says_full

# A probe carries no token, and what a server offers is no secret.
OPEN_SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]
Around = Callable[[Any, str], Any]


class _Surround(grpc.aio.ServerInterceptor):
    """Runs `around(context, method)`, an asynchronous context manager, around every handler, to its very end."""

    def __init__(self, around: Around):
        self._around = around

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method

        def unary(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
            async def surrounded(request: Any, context: Any) -> Any:
                async with self._around(context, method):
                    return await behaviour(request, context)

            return surrounded

        def streaming(
            behaviour: Callable[[Any, Any], AsyncIterator[Any]],
        ) -> Callable[[Any, Any], AsyncIterator[Any]]:
            async def surrounded(request: Any, context: Any) -> AsyncIterator[Any]:
                async with self._around(context, method):
                    async for response in behaviour(request, context):
                        yield response

            return surrounded

        forms: dict[tuple[bool, bool], tuple[Any, Any, Callable[[Any], Any]]] = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary, unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream, streaming),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary, unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream, streaming),
        }
        make, behaviour, wrap = forms[handler.request_streaming, handler.response_streaming]
        if not inspect.isasyncgenfunction(behaviour):
            wrap = unary  # a streaming handler that writes to its context is a coroutine
        return make(
            wrap(behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class _RefuseUndecodable(grpc.aio.ServerInterceptor):
    """Answers bytes that are no message of the method with InvalidArgument.

    gRPC would answer UNKNOWN and log a stack trace for each, with which a caller could fill the disk. Its deserializers
    run before any handler, so what one raises is handed on as a value, and raised where the handler is called: inside
    what surrounds it, and so after authentication.
    """

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        form = f"{'stream' if handler.request_streaming else 'unary'}_" + (
            "stream" if handler.response_streaming else "unary"
        )
        make = getattr(grpc, f"{form}_rpc_method_handler")
        return make(
            _refusing(getattr(handler, form), streamed=handler.request_streaming),
            request_deserializer=_tolerant(handler.request_deserializer, details.method),
            response_serializer=handler.response_serializer,
        )


def _tolerant(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # protobuf documents DecodeError alone, and raises more
            return InvalidArgument(
                f"the {len(data):,} bytes sent to {method} aren't the message that it takes; encode that message as "
                "protobuf, with text in UTF-8, by code generated from this version's protos",
                reason="UNDECODABLE_REQUEST",
            )

    return tolerant


def _decoded(request: Any) -> Any:
    if isinstance(request, InvalidArgument):
        raise request
    return request


async def _all_decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _decoded(request)


def _refusing(behaviour: Callable[[Any, Any], Any], *, streamed: bool) -> Callable[[Any, Any], Any]:
    """The same handler, of the same kind: gRPC looks at whether it is a coroutine or an asynchronous generator."""
    check = _all_decoded if streamed else _decoded
    if inspect.isasyncgenfunction(behaviour):

        async def generating(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in behaviour(check(request), context):
                yield response

        return generating

    async def answering(request: Any, context: Any) -> Any:
        return await behaviour(check(request), context)

    return answering


class _CountRequests:
    def __init__(self, service: str, context: Any, method: str):
        self._service, self._context, self._method = service, context, method

    async def __aenter__(self) -> None:
        self._start_s = time.perf_counter()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        code = self._context.code() or grpc.StatusCode.OK
        if isinstance(code, int):
            code = next(item for item in grpc.StatusCode if item.value[0] == code)
        if error is not None and code == grpc.StatusCode.OK:
            left = isinstance(error, (GeneratorExit, asyncio.CancelledError))
            code = grpc.StatusCode.CANCELLED if left else grpc.StatusCode.UNKNOWN
        metrics.REQUESTS.labels(self._service, self._method, code.name).inc()
        metrics.REQUEST_SECONDS.labels(self._service, self._method).observe(time.perf_counter() - self._start_s)
        return False


class _MapErrors:
    def __init__(self, context: Any, method: str):
        self._context, self._method = context, method

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, NotImplementedError) and self._context.code() == grpc.StatusCode.UNIMPLEMENTED:
            # A generated servicer's method that nobody has written, such as the library's Health.List.
            error = Unimplemented(
                f"{self._method} isn't offered by this server; reflection lists what is", reason="METHOD_UNIMPLEMENTED"
            )
        if isinstance(error, Exception) and not isinstance(error, SynthMixError) and says_full(error):
            error = disk_full(Path(tempfile.gettempdir()))
        if isinstance(error, SynthMixError):
            await self._context.abort_with_status(rpc_status.to_status(to_status(error)))
        if isinstance(error, Exception) and not isinstance(error, (grpc.aio.AbortError, grpc.RpcError)):
            incident = incidents.record(self._method, error)
            internal = Internal(
                f"{self._method} failed unexpectedly; the stack trace of incident {incident.number} is "
                f"{incident.place}; report it",
                reason="INTERNAL",
                metadata=incident.metadata,
            )
            await self._context.abort_with_status(rpc_status.to_status(to_status(internal)))
        return False


class _Authenticate:
    def __init__(self, token: str, reviews: KubernetesReviews | None, context: Any, method: str):
        self._token, self._reviews, self._context, self._method = token, reviews, context, method

    async def __aenter__(self) -> None:
        if self._method.split("/")[1] in OPEN_SERVICES:
            return
        shown = dict(self._context.invocation_metadata() or ()).get("authorization", "")
        await authenticate(shown, self._method, self._token, self._reviews)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        return False


def interceptors(
    service: str, token: str, reviews: KubernetesReviews | None = None
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server, outermost first."""
    return [
        _Surround(lambda context, method: _CountRequests(service, context, method)),
        _Surround(_MapErrors),
        _Surround(lambda context, method: _Authenticate(token, reviews, context, method)),
        _RefuseUndecodable(),
    ]
