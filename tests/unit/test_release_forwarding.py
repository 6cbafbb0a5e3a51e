"""Forwards to a release's pods: over real HTTP, WebSockets and gRPC, through an API server that does as kubelets do."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

import fake_kubelet
import fake_services as fake
from fake_kubernetes import (
    NAMESPACE,
    Failure,
    FakeKubernetes,
    Json,
    serving,
)
from release_lab import (
    LONG_S,
    MEBIBYTE,
    RELEASE,
    add_pod,
    connect,
    failure,
    get_study,
    install,
    port_of,
    write_contexts,
)
from synthmix.client.release import forwarding
from synthmix.client.release.access import connect_as_caller
from synthmix.client.release.discovery import find_release
from synthmix.client.release.forwarding import Forwards
from synthmix.service_kit import errors
from synthmix.service_kit.environment import SERVICES, STUDY_CONTROL


@pytest.fixture
def forwards(lab: FakeKubernetes) -> Iterator[Forwards]:
    access = connect_as_caller()
    opened = Forwards(access, find_release(access, RELEASE), SERVICES)
    yield opened
    opened.close()


class Listening:
    """Serves each connection by a function, in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], object]):
        self._serve = serve

    def __enter__(self) -> int:
        self._server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._server.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            self._serve(peer)

    def __exit__(self, *error: object) -> None:
        self._server.close()


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets, and ends when its peer does."""
    with Listening(lambda peer: [peer.sendall(piece) for piece in iter(lambda: peer.recv(65536), b"")]) as port:
        yield port


def dial(forwards: Forwards, service: str = STUDY_CONTROL) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(forwards.addresses[service].rpartition(":")[2])))
    connection.settimeout(LONG_S)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_call_goes_through_and_only_its_service_is_forwarded(lab: FakeKubernetes) -> None:
    threads = set(threading.enumerate())
    with connect() as client:
        assert client.get_study("demo").name == fake.STUDY
        assert all(address.startswith("127.0.0.1:") for address in client.endpoints.addresses.values())
        listened = list(client.endpoints.addresses.values())
    assert lab.count("get", "pods/portforward") == 1
    assert not [thread for thread in set(threading.enumerate()) - threads if "forward" in thread.name]
    for address in listened:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))


def test_every_service_is_reached_by_its_own_forward(lab: FakeKubernetes) -> None:
    with connect() as client:
        assert len(set(client.endpoints.addresses.values())) == len(SERVICES)
        for service in SERVICES:
            client.check_health(service)
    assert lab.count("get", "pods/portforward") == len(SERVICES)


@pytest.mark.parametrize("tls", [False, True])
def test_large_uploads_arrive_whole(services: fake.FakeServices, tmp_path: Path, monkeypatch: Any, tls: bool) -> None:
    certificate, key = fake_kubelet.make_certificate(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path, content = tmp_path / "images.zip", os.urandom(8 * MEBIBYTE)
    path.write_bytes(content)
    with serving(fake_kubelet.server_tls(certificate, key) if tls else None) as kubernetes:
        install(kubernetes, port_of(services))
        write_contexts(tmp_path, kubernetes.url, **({"certificate-authority": str(certificate)} if tls else {}))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        with connect() as client:
            assert client.upload(path).name == f"uploads/{hashlib.sha256(content).hexdigest()}"


def test_two_connections_carry_8_mib_both_ways_at_once(lab: FakeKubernetes, forwards: Forwards, echo: int) -> None:
    lab.ports["study-control-a", 50051] = echo
    content = [os.urandom(8 * MEBIBYTE) for _ in range(2)]

    def there_and_back(number: int) -> bool:
        with dial(forwards) as connection:
            sender = threading.Thread(target=connection.sendall, args=(content[number],))
            sender.start()
            arrived = hashlib.sha256()
            left = len(content[number])
            while left:
                piece = connection.recv(65536)
                assert piece, f"{left} bytes are missing"
                arrived.update(piece)
                left -= len(piece)
            sender.join()
        return arrived.digest() == hashlib.sha256(content[number]).digest()

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(there_and_back, range(2))) == [True, True]


def test_what_comes_after_ones_own_end_still_arrives(
    lab: FakeKubernetes, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-closed: the protocol can't say so, but nothing that is under way is dropped."""
    monkeypatch.setattr(forwarding, "LINGER_S", LONG_S)  # however slow this machine is
    ended = threading.Event()

    def answer_late(peer: socket.socket) -> None:
        peer.recv(16)
        assert ended.wait(LONG_S)
        peer.sendall(b"x" * 8 * MEBIBYTE)

    with Listening(answer_late) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            connection.sendall(b"question")
            connection.shutdown(socket.SHUT_WR)
            ended.set()
            assert len(rest_of(connection)) == 8 * MEBIBYTE


def test_a_pod_that_says_no_more_is_left_after_ones_own_end(
    lab: FakeKubernetes, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LINGER_S", 0.01)
    left = threading.Event()

    def say_nothing(peer: socket.socket) -> None:
        try:
            while peer.recv(16):
                pass
        finally:
            left.set()

    with Listening(say_nothing) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            connection.sendall(b"question")
            connection.shutdown(socket.SHUT_WR)
            assert rest_of(connection) == b""
        assert left.wait(LONG_S)


def test_the_last_bytes_of_a_pod_arrive_before_the_end(lab: FakeKubernetes, forwards: Forwards) -> None:
    sent = threading.Event()

    def send_all(peer: socket.socket) -> None:
        peer.sendall(b"y" * 3 * MEBIBYTE)
        sent.set()

    with Listening(send_all) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            first = connection.recv(1)
            assert len(first + rest_of(connection)) == 3 * MEBIBYTE
    assert sent.is_set()


@pytest.mark.parametrize("direction", ["to the pod", "from the pod"])
def test_the_faster_side_waits_for_the_slower(lab: FakeKubernetes, forwards: Forwards, direction: str) -> None:
    """What neither side has taken lies in the sockets' buffers, and is bounded."""
    sent, stalled, most = [0], threading.Event(), 256 * MEBIBYTE

    def flood(peer: socket.socket) -> None:
        peer.settimeout(0.5)
        try:
            while sent[0] < most:
                sent[0] += peer.send(b"z" * 65536)
        except TimeoutError:
            pass
        stalled.set()

    with Listening(flood if direction == "from the pod" else lambda peer: stalled.wait(LONG_S)) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            if direction == "to the pod":
                flood(connection)
            assert stalled.wait(LONG_S)
    assert 0 < sent[0] < 64 * MEBIBYTE


def test_closing_ends_what_is_under_way(lab: FakeKubernetes, forwards: Forwards, echo: int) -> None:
    lab.ports["study-control-a", 50051] = echo
    with dial(forwards) as connection:
        connection.sendall(b"hello")
        assert connection.recv(16) == b"hello"
        forwards.close()
        with pytest.raises(ConnectionResetError):
            assert connection.recv(16) == b""
            raise ConnectionResetError  # a clean end is as good


def test_a_pod_that_is_replaced_in_mid_command(lab: FakeKubernetes, services: fake.FakeServices) -> None:
    """A wait, as `studies submit --wait` is, through three pods, each of which dies with the call under way."""
    del lab.objects["pods", NAMESPACE, "study-control-a"]
    with connect() as client, ThreadPoolExecutor(1) as threads:
        waiting: Future[Any] | None = None
        for number in range(3):
            asked, last = threading.Event(), number == 2
            gone = threading.Event()

            def wait(
                request: Any, context: Any, asked: threading.Event = asked, gone: Any = gone, last: bool = last
            ) -> Any:
                asked.set()
                if last:
                    return fake.operation(fake.STUDY_OPERATION, response=fake.study())
                gone.wait(LONG_S)
                return fake.operation(fake.STUDY_OPERATION)

            with fake.serving() as pod_services:
                pod_services.answers["WaitOperation"] = wait
                add_pod(lab, f"pod-{number}", STUDY_CONTROL, port_of(pod_services))
                waiting = waiting or threads.submit(client.wait, fake.operation(fake.STUDY_OPERATION))
                waiting.add_done_callback(lambda _, asked=asked: asked.set())  # a wait that fails says why, at once
                assert asked.wait(LONG_S)
                if last or waiting.done():
                    assert waiting.result(LONG_S).done
                    assert last
            gone.set()
            del lab.objects["pods", NAMESPACE, f"pod-{number}"]


def test_a_wait_goes_on_where_a_pod_that_stops_cancels_its_call(
    lab: FakeKubernetes, services: fake.FakeServices
) -> None:
    """As gRPC's servers do of a call that came in just before they stop."""
    stopping = iter([True, False])

    def wait(request: Any, context: Any) -> Any:
        if next(stopping):
            context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
        return fake.operation(fake.STUDY_OPERATION, response=fake.study())

    services.answers["WaitOperation"] = wait
    with connect() as client:
        assert client.wait(fake.operation(fake.STUDY_OPERATION)).done
    assert len(services.requests["WaitOperation"]) == 2


def test_a_pod_that_is_gone_since_it_was_listed_is_passed_over(lab: FakeKubernetes, services: Any) -> None:
    """Five that the API server can't forward to, and one that it can."""
    for number in range(5):
        add_pod(lab, f"study-control-gone-{number}", STUDY_CONTROL, None)
    find = lab.get

    def get(resource: str, name: str, namespace: str = NAMESPACE) -> Json:
        if "gone" in name:
            raise Failure(404, f'{resource} "{name}" not found')
        return find(resource, name, namespace)

    lab.get = get  # type: ignore[method-assign]
    get_study()


def test_a_pod_in_which_nothing_listens(lab: FakeKubernetes) -> None:
    del lab.ports["study-control-a", 50051]
    error = failure(get_study)
    assert isinstance(error, errors.Unavailable)
    assert "error forwarding port 50051 to pod study-control-a" in error.message and "refused" in error.message
