"""The life cycle that every front end shares: health, reflection, keepalive, authentication, drain on SIGTERM."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from synthmix.service_kit import kubernetes_api, metrics, node_cache
from synthmix.service_kit.authentication import KubernetesReviews
from synthmix.service_kit.blocking_calls import CallThreads
from synthmix.service_kit.environment import ServerSettings
from synthmix.service_kit.errors import SynthMixError
from synthmix.service_kit.incidents import LOG_FORMAT
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.tls import server_credentials

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
HEALTH_TIMEOUT_SECONDS = 3.0
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
# Client and server keepalive are set together (client.transport): a server that allows fewer pings than its clients
# send closes their connections with ENHANCE_YOUR_CALM.
SERVER_OPTIONS = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients look up a service's addresses when a connection ends: so they find replicas that were added meanwhile.
    # Running calls, such as watching a study, keep the old connection for as long as they take.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True)
class Servicer:
    """A servicer, the generated function that adds it to a server, and the full name of its gRPC service."""

    implementation: object
    add: Callable[[object, grpc.aio.Server], None]
    full_name: str


Background = Callable[[], Coroutine[Any, Any, None]]


async def serve(
    service: str,
    settings: ServerSettings,
    servicers: Sequence[Servicer],
    background: Sequence[Background] = (),
) -> None:
    """Serves until SIGTERM or SIGINT: health turns to NOT_SERVING, running calls get 10 s, then it returns.

    Args:
        service: The service's name, for metrics and logs.
        background: Endless tasks that run beside the server; one that fails ends the server. They are cancelled
            after the last call has ended, and waited for.
    """
    asyncio.get_running_loop().set_default_executor(CallThreads())
    reviews = await kubernetes_reviews(settings)
    server = grpc.aio.server(interceptors=interceptors(service, settings.tokens, reviews), options=SERVER_OPTIONS)
    for servicer in servicers:
        servicer.add(servicer.implementation, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = [servicer.full_name for servicer in servicers]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    try:
        if settings.tls:
            server.add_secure_port(settings.listen, server_credentials(settings.tls))
        else:
            server.add_insecure_port(settings.listen)
    except RuntimeError:
        raise SystemExit(f"{service}: cannot listen on SYNTHMIX_LISTEN={settings.listen}; is the port taken?") from None
    try:
        metrics.serve(settings.metrics_listen, partial(_problem, health_servicer, asyncio.get_running_loop()))
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{service}: cannot listen on SYNTHMIX_METRICS_LISTEN={settings.metrics_listen} ({error}); "
            "use a free host:port"
        ) from None
    node_cache.start_expiring()
    await server.start()
    for name in ("", *names):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    metrics.READY.labels(service).set(1)
    log.info("%s serves on %s, metrics on %s", service, settings.listen, settings.metrics_listen)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.ensure_future(task()) for task in background]
    stopping = asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)

    metrics.READY.labels(service).set(0)
    await health_servicer.enter_graceful_shutdown()
    await server.stop(DRAIN_SECONDS)
    for task in (stopping, *tasks):
        task.cancel()
    await asyncio.wait([stopping, *tasks])
    for task in done - {stopping}:
        task.result()
    log.info("%s stopped", service)


def _problem(servicer: health.aio.HealthServicer, loop: asyncio.AbstractEventLoop) -> str:
    """Why this server does not serve, as its health and its event loop say it; "" if it does. For another thread."""
    check = servicer.Check(health_pb2.HealthCheckRequest(), None)
    try:
        answer = asyncio.run_coroutine_threadsafe(check, loop).result(HEALTH_TIMEOUT_SECONDS)
    except TimeoutError:
        return f"its event loop has not answered for {HEALTH_TIMEOUT_SECONDS:g} s"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"it is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    return ""


async def kubernetes_reviews(settings: ServerSettings) -> KubernetesReviews | None:
    """What checks tokens of the cluster, if there may be any. Raises FailedPrecondition if there is no cluster."""
    kubernetes = settings.kubernetes
    if not kubernetes.audience:
        return None
    api = await asyncio.to_thread(kubernetes_api.connect)
    return KubernetesReviews(
        api,
        kubernetes.audience,
        kubernetes.namespace,
        kubernetes.role_prefix,
        services_audience=kubernetes.services_audience,
        service_accounts=kubernetes.service_accounts,
    )


def run(service: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a front end's main; a SynthMixError ends it with one line instead of a stack trace."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=LOG_FORMAT.format(service=service))
    try:
        asyncio.run(main())
    except SynthMixError as error:
        raise SystemExit(f"{service}: {error.message}") from None
