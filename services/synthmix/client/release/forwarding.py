"""Port forwards through the Kubernetes API: a listener on loopback for each service, whose connections end in a pod.

Each connection is a WebSocket of its own (subprotocol v4.channel.k8s.io) that the API server hands to the kubelet: a
message's first byte is 0 for data and 1 for what went wrong, and the first message of either says the port. Which pod
it leads to is decided when it is made, so that gRPC, which connects anew, survives its pod. kubernetes.stream's
PortForward isn't fit for this: of a refusal it leaves neither status nor text, it has no time limit, it blocks in
sending while it should receive, and it drops what is under way when one side ends (deploy/decisions/0015).
"""

import asyncio
import functools
import random
import socket
import ssl
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias

import aiohttp
from kubernetes.client.rest import should_bypass_proxies
from kubernetes.config import ConfigException

from synthmix.client.release.access import Access, forbidden, refused
from synthmix.client.release.discovery import Release, ready_pods
from synthmix.local.ports import LOOPBACK
from synthmix.service_kit.errors import Internal, SynthMixError, Unavailable
from synthmix.service_kit.kubernetes_api import Right, said_in

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
PIECE_BYTES = 64 * 1024
LARGEST_MESSAGE_BYTES = 32 * 1024 * 1024
HANDSHAKE_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0
# The protocol can't say that one side sends no more: the other's last bytes are waited for while they come.
LINGER_S = 5.0

Tunnel: TypeAlias = "aiohttp.ClientWebSocketResponse[Any]"


class Forwards:
    """Listens until it is closed. A thread of its own carries what goes through; it starts no other until it is used.

    Args:
        services: Those to listen for.

    Attributes:
        addresses: host:port on loopback, by service.
    """

    def __init__(self, access: Access, release: Release, services: Iterable[str]):
        self._access, self._release = access, release
        self._problems: dict[str, SynthMixError] = {}
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        listening = {service: _listener() for service in services}
        self.addresses = {service: f"{LOOPBACK}:{item.getsockname()[1]}" for service, item in listening.items()}
        started: Future[None] = Future()
        # A daemon: a client that nobody closes mustn't keep its program from ending.
        self._thread = threading.Thread(
            target=self._work, args=(listening, started), name=f"forwards of {release}", daemon=True
        )
        self._thread.start()
        started.result()

    def problem_of(self, service: str) -> SynthMixError | None:
        """Why the latest connection to the service came to nothing; None if it didn't."""
        return self._problems.get(service)

    def close(self) -> None:
        """Ends every connection and the thread. May be called again."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # another thread has just closed it
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _work(self, listening: dict[str, socket.socket], started: Future[None]) -> None:
        try:
            asyncio.run(self._run(listening, started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _run(self, listening: dict[str, socket.socket], started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[None]] = set()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=HANDSHAKE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=_raise_refusal) as session:

            def accepted(service: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connection = self._loop.create_task(self._carry(session, service, reader, writer))
                connections.add(connection)
                connection.add_done_callback(connections.discard)

            servers = [
                await asyncio.start_server(functools.partial(accepted, service), sock=item, limit=PIECE_BYTES)
                for service, item in listening.items()
            ]
            started.set_result(None)
            await self._stop.wait()
            for server in servers:
                server.close()
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _carry(
        self,
        session: aiohttp.ClientSession,
        service: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """One connection, from its beginning to its end."""
        try:
            try:
                tunnel = await self._open(session, service)
                try:
                    self._problems.pop(service, None)
                    await _exchange(tunnel, reader, writer)
                finally:
                    await tunnel.close()
            except SynthMixError as error:
                self._problems[service] = error
            except (OSError, aiohttp.ClientError):
                pass  # one side is gone, and the other is told below
            except Exception as error:
                self._problems[service] = Internal(f"the forward to {service} failed: {type(error).__name__}: {error}")
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()  # closed already, but where this was cancelled

    async def _open(self, session: aiohttp.ClientSession, service: str) -> Tunnel:
        """A tunnel to one of the service's ready pods. Raises SynthMixError where there is none."""
        pods = await asyncio.to_thread(ready_pods, self._access, self._release, service)
        random.shuffle(pods)
        for number, (pod, port) in enumerate(pods, start=1):
            try:
                return await self._open_to(session, pod, port)
            except Unavailable:
                if number == len(pods):
                    raise
        raise AssertionError("ready_pods gives at least one")

    async def _open_to(self, session: aiohttp.ClientSession, pod: str, port: int) -> Tunnel:
        configuration, namespace = self._access.api.configuration, self._release.namespace
        try:
            # A kubeconfig's login program may have to run for it.
            settings = await asyncio.to_thread(configuration.auth_settings)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                tunnel: Tunnel = await session.ws_connect(
                    f"{self._access.server}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}",
                    protocols=[PROTOCOL],
                    headers={item["key"]: item["value"] for item in settings.values() if item["in"] == "header"},
                    ssl=_tls(configuration),
                    server_hostname=configuration.tls_server_name,
                    max_msg_size=LARGEST_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                    **_proxy(configuration),
                )
                return tunnel
        except _RefusalError as refusal:
            if refusal.status == 401:
                raise refused(self._access) from None
            if refusal.status == 403:
                # Before Kubernetes 1.35 `get` alone was asked for.
                verb = "create" if " create " in f" {refusal.said} " else "get"
                raise forbidden(Right(verb, "pods/portforward", "", namespace), refusal.said) from None
            raise self._no_way(pod, refusal.said) from None
        except ConfigException as error:
            raise refused(self._access, str(error)) from None
        except TimeoutError:
            raise self._no_way(pod, f"nothing came in {HANDSHAKE_TIMEOUT_S:g} s") from None
        except (OSError, aiohttp.ClientError) as error:
            raise self._no_way(pod, str(error) or type(error).__name__) from None

    def _no_way(self, pod: str, said: str) -> Unavailable:
        return Unavailable(
            f"the Kubernetes API server at {self._access.server} makes no port forward to pod {pod} in namespace "
            f"{self._release.namespace} ({said}); see whether `kubectl port-forward` does",
            reason="PORT_FORWARD_FAILED",
        )


async def _exchange(tunnel: Tunnel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes both ways until the pod's side ends. Either way waits for the slower side. Raises Unavailable."""
    arrived_bytes = 0

    async def to_pod() -> None:
        while piece := await reader.read(PIECE_BYTES):
            await tunnel.send_bytes(bytes([DATA]) + piece)

    async def from_pod() -> None:
        nonlocal arrived_bytes
        begun: set[int] = set()
        async for message in tunnel:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, piece = message.data[0], message.data[1:]
            if channel not in begun:
                begun.add(channel)  # the port
            elif channel == DATA:
                arrived_bytes += len(piece)
                writer.write(piece)
                await writer.drain()
            elif channel == ERROR:
                said = piece.decode(errors="replace")[:500]
                raise Unavailable(f"the port forward failed: {said}; try again", reason="PORT_FORWARD_FAILED")

    sending, receiving = asyncio.create_task(to_pod()), asyncio.create_task(from_pod())
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        before = -1
        while before != arrived_bytes and not receiving.done():
            before = arrived_bytes
            await asyncio.wait({receiving}, timeout=LINGER_S)
        if receiving.done():
            receiving.result()
    finally:
        for task in (sending, receiving):
            task.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)


class _RefusalError(Exception):
    """The API server's answer where a WebSocket was asked for."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status, self.said = status, said


async def _raise_refusal(response: aiohttp.ClientResponse) -> None:
    """aiohttp's own error for a handshake that fails leaves out what the server says."""
    if response.status != 101:
        body = (await response.content.read(16 * 1024)).decode(errors="replace")
        response.close()
        raise _RefusalError(response.status, said_in(body) or f"{response.status} {response.reason}: {body[:200]}")


def _tls(configuration: Any) -> ssl.SSLContext:
    """As the library's own connections have it."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _proxy(configuration: Any) -> dict[str, Any]:
    if not configuration.proxy or should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return {}
    return {"proxy": configuration.proxy, "proxy_headers": configuration.proxy_headers}


def _listener() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((LOOPBACK, 0))
    listener.setblocking(False)
    return listener
