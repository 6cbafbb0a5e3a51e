"""What a kubelet does of a port forward, by Kubernetes' own protocol (k8s.io/kubelet/pkg/cri/streaming/portforward).

Two channels: a message's first byte is 0 for data, 1 for errors. The first message of each holds the port, in two
bytes, the lesser first. The API server hands a caller's WebSocket through to it as it is.
"""

import asyncio
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

PROTOCOL = "v4.channel.k8s.io"
PIECE_BYTES = 32 * 1024  # Go's io.Copy


async def serve_port_forward(request: web.Request, pod: str, port: int, target: int | None) -> web.WebSocketResponse:
    """Forwards to a port of loopback; None: nothing listens in the pod."""
    socket = web.WebSocketResponse(protocols=[PROTOCOL], max_msg_size=0, compress=False, timeout=1.0)
    await socket.prepare(request)
    assert socket.ws_protocol == PROTOCOL
    for channel in (0, 1):
        await socket.send_bytes(bytes([channel]) + struct.pack("<H", port))
    try:
        if target is None:
            raise ConnectionRefusedError(f"dial tcp4 127.0.0.1:{port}: connect: connection refused")
        reader, writer = await asyncio.open_connection("127.0.0.1", target)
    except OSError as error:
        said = f"error forwarding port {port} to pod {pod}, uid : failed to connect to localhost:{port}: {error}"
        await socket.send_bytes(b"\x01" + said.encode())
        await socket.close()
        return socket

    async def from_pod() -> None:
        while piece := await reader.read(PIECE_BYTES):
            await socket.send_bytes(b"\x00" + piece)

    async def to_pod() -> None:
        async for message in socket:
            assert message.data[0] == 0, "a client only writes data"
            writer.write(message.data[1:])
            await writer.drain()

    tasks = [asyncio.create_task(from_pod()), asyncio.create_task(to_pod())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.transport.abort()
        await socket.close()
    return socket


@contextmanager
def serving(application: Callable[[], web.Application], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of loopback at which this is served, by a thread of its own, until the block ends."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(application(), shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def make_certificate(folder: Path, name: str = "") -> tuple[Path, Path]:
    """A certificate of loopback or of another subjectAltName, signed by itself, and its key."""
    certificate, key = folder / "server.crt", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=fake", "-addext", f"subjectAltName={name or 'IP:127.0.0.1'}", "-days", "2"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
