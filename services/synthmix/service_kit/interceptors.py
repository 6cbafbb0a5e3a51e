"""What surrounds every gRPC method: metrics and audit outermost, then errors, then authentication, then decoding.

Unary and streaming handlers alike: a streaming handler's errors come out of its generator, so the wrapping is around
the iteration, not around the call.
"""

import asyncio
import inspect
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from synthmix.service_kit import audit, incidents, metrics
from synthmix.service_kit.authentication import KubernetesReviews, authenticate, is_read
from synthmix.service_kit.blocking_calls import begin_call
from synthmix.service_kit.errors import Internal, InvalidArgument, SynthMixError, Unimplemented, to_status
from synthmix.service_kit.open_streams import OpenStreams
from synthmix.service_kit.owners import set_administration
from synthmix.service_kit.requesters import requester_of, set_requester
from synthmix.service_kit.storage_space import disk_full, says_full
from synthmix.service_kit.tokens import StaticTokens

# A probe carries no token, and what a server offers is no secret.
OPEN_SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


def interceptors(
    service: str, tokens: StaticTokens, reviews: KubernetesReviews | None = None
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server."""
    return [_Surround(service, tokens, reviews)]


class _Surround(grpc.aio.ServerInterceptor):
    """Surrounds every handler to its very end, and refuses bytes that are no message of its method.

    gRPC would answer such bytes by UNKNOWN and log a stack trace for each, with which a caller could fill the disk. Its
    deserializers run before any handler, so what one raises is handed on as a value, and raised where the handler is
    called: inside what surrounds it, and so after authentication.
    """

    def __init__(self, service: str, tokens: StaticTokens, reviews: KubernetesReviews | None):
        self._service = service
        self._tokens = tokens
        self._reviews = reviews
        self._open_streams = OpenStreams()

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler: Any = await continuation(details)
        if handler is None:
            return None
        method = details.method
        form = "_".join(
            "stream" if many else "unary" for many in (handler.request_streaming, handler.response_streaming)
        )
        behaviour = getattr(handler, form)
        decoded = _all_decoded if handler.request_streaming else _decoded

        async def answering(request: Any, context: Any) -> Any:
            async with self._around(context, method, request, handler.response_streaming) as call:
                call.response = await behaviour(decoded(request), context)
                return call.response

        async def generating(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._around(context, method, request, handler.response_streaming):
                async for response in behaviour(decoded(request), context):
                    yield response

        make = getattr(grpc, f"{form}_rpc_method_handler")
        return make(
            # A streaming handler that writes to its context is a coroutine, and gRPC looks at which of the two it is.
            generating if inspect.isasyncgenfunction(behaviour) else answering,
            request_deserializer=_tolerant(handler.request_deserializer, method),
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _around(self, context: Any, method: str, request: Any, streams: bool) -> AsyncIterator[audit.Call]:
        begin_call(method, context.time_remaining())
        metadata = tuple(context.invocation_metadata() or ())
        is_open = method.split("/")[1] in OPEN_SERVICES
        call = audit.begin(method, metadata, request, is_change=not is_open and not is_read(method))
        async with _counted(self._service, context, call), _errors_mapped(context, call):
            if not is_open:
                shown = dict(metadata).get("authorization", "")
                identity = await authenticate(shown, method, self._tokens, self._reviews)
                # Each call is a task with a context of its own, so that there is nothing to put back.
                requester = requester_of(metadata, identity.name, names_others=identity.names_others)
                call.caller, call.owner = identity.name, requester.owner
                set_requester(requester)
                set_administration(identity.administration)
            with self._open_streams.another(method, context.peer()) if is_open and streams else nullcontext():
                yield call


@asynccontextmanager
async def _counted(service: str, context: Any, call: audit.Call) -> AsyncIterator[None]:
    start_s = time.perf_counter()
    failure = grpc.StatusCode.OK
    try:
        yield
    except BaseException as error:
        left = isinstance(error, (GeneratorExit, asyncio.CancelledError))
        failure = grpc.StatusCode.CANCELLED if left else grpc.StatusCode.UNKNOWN
        raise
    finally:
        code = context.code() or grpc.StatusCode.OK
        if isinstance(code, int):
            code = next(item for item in grpc.StatusCode if item.value[0] == code)
        if code == grpc.StatusCode.OK:
            code = failure
        metrics.REQUESTS.labels(service, call.method, code.name).inc()
        metrics.REQUEST_SECONDS.labels(service, call.method).observe(time.perf_counter() - start_s)
        call.write(code.name)


@asynccontextmanager
async def _errors_mapped(context: Any, call: audit.Call) -> AsyncIterator[None]:
    try:
        yield
    except (grpc.aio.AbortError, grpc.RpcError):
        raise
    except Exception as error:
        shown = _shown_as(error, context, call.method)
        if call.is_change:
            shown = copy(shown)  # what is remembered of a token is raised again
            shown.metadata["request_id"] = call.request_id
        await context.abort_with_status(rpc_status.to_status(to_status(shown)))


def _shown_as(error: Exception, context: Any, method: str) -> SynthMixError:
    """What the caller is told of an error."""
    if isinstance(error, SynthMixError):
        return error
    if isinstance(error, NotImplementedError) and context.code() == grpc.StatusCode.UNIMPLEMENTED:
        # A generated servicer's method that nobody has written, such as the library's Health.List.
        return Unimplemented(
            f"{method} is not offered by this server; reflection lists what is", reason="METHOD_UNIMPLEMENTED"
        )
    if says_full(error):
        return disk_full(Path(tempfile.gettempdir()))
    incident = incidents.record(method, error)
    return Internal(
        f"{method} failed unexpectedly; the stack trace of incident {incident.number} is {incident.place}; report it",
        reason="INTERNAL",
        metadata=incident.metadata,
    )


def _tolerant(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # protobuf documents DecodeError alone, and raises more
            return InvalidArgument(
                f"the {len(data):,} bytes sent to {method} are not the message that it takes; encode that message as "
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
