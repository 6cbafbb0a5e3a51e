"""A release by its name: over real HTTP, WebSockets and gRPC, through an API server that forwards as kubelets do."""

import base64
import hashlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fake_kubelet
import fake_services as fake
import synthmix.cli
from fake_kubernetes import (
    NAMESPACE,
    SERVICE_TOKEN,
    Failure,
    FakeKubernetes,
    Json,
    release_services,
    serving,
    serving_pod,
    write_kubeconfig,
)
from service_kit import errors
from service_kit.settings import SERVICES, STUDY_CONTROL
from synthmix.client import Client
from synthmix.endpoints import find_endpoints
from synthmix.release.access import connect_as_caller
from synthmix.release.connection import OpenRelease
from synthmix.release.discovery import find_release, parse_name, ready_pods
from synthmix.release.forwarding import Forwards
from synthmix.release.tokens import ReleaseToken
from waiting import wait_until

RELEASE = f"{NAMESPACE}/synthmix"
MEBIBYTE = 2**20


@pytest.fixture
def services() -> Iterator[fake.FakeServices]:
    with fake.serving() as services:
        services.answers["GetStudy"] = lambda request, context: fake.study()
        services.answers["UploadFile"] = fake.upload
        yield services


def port_of(services: fake.FakeServices) -> int:
    return int(services.address.rpartition(":")[2])


def install(kubernetes: FakeKubernetes, port: int | None, token: str = fake.TOKEN, **annotations: str) -> None:
    """A release whose services have a pod each, all of which are at this port of loopback."""
    for item in release_services(**annotations):
        kubernetes.put("services", item)
    for service in SERVICES:
        add_pod(kubernetes, f"{service}-a", service, port)
    data = {"token": base64.b64encode(token.encode()).decode()}
    kubernetes.put("secrets", {"metadata": {"name": "synthmix-token"}, "data": data})


def add_pod(kubernetes: FakeKubernetes, name: str, service: str, at: int | None, **more: Any) -> None:
    kubernetes.put("pods", serving_pod(name, service, **more))
    if at is not None:
        kubernetes.ports[name, 50051] = at


@pytest.fixture
def lab(kubernetes: FakeKubernetes, services: fake.FakeServices) -> FakeKubernetes:
    install(kubernetes, port_of(services))
    return kubernetes


@pytest.fixture
def forwards(lab: FakeKubernetes) -> Iterator[Forwards]:
    access = connect_as_caller()
    opened = Forwards(access, find_release(access, RELEASE), SERVICES)
    yield opened
    opened.close()


def failure(work: Callable[[], object]) -> errors.SynthMixError:
    with pytest.raises(errors.SynthMixError) as caught:
        work()
    return caught.value


def connect(**options: Any) -> Client:
    return Client.connect(release=RELEASE, **options)


def get_study(**options: Any) -> object:
    with connect(**options) as client:
        return client.get_study("demo")


# The way there and back


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


def test_the_name_alone_is_in_the_contexts_namespace(lab: FakeKubernetes, tmp_path: Path, services: Any) -> None:
    path = write_contexts(tmp_path, lab.url)
    assert os.environ["KUBECONFIG"] == str(path)
    with Client.connect(release="synthmix", kube_context="lab") as client:
        assert client.get_study("demo").name == fake.STUDY
    assert isinstance(failure(lambda: Client.connect(release="synthmix")), errors.NotFound)  # in "default"


def test_a_release_comes_from_the_environment(lab: FakeKubernetes) -> None:
    found = find_endpoints(environment={"SYNTHMIX_RELEASE": RELEASE, "SYNTHMIX_HOME": "/nowhere"})
    assert found.release is not None and found.bearer() == fake.TOKEN
    assert fake.TOKEN not in repr(found)
    found.release.close()
    found.release.close()  # may be closed twice


@pytest.mark.parametrize("tls", [False, True])
def test_large_uploads_arrive_whole(services: fake.FakeServices, tmp_path: Path, monkeypatch: Any, tls: bool) -> None:
    certificate, key = fake_kubelet.make_certificate(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path, content = tmp_path / "images.zip", os.urandom(MEBIBYTE) * 50
    path.write_bytes(content)
    with serving(fake_kubelet.server_tls(certificate, key) if tls else None) as kubernetes:
        install(kubernetes, port_of(services))
        write_contexts(tmp_path, kubernetes.url, **({"certificate-authority": str(certificate)} if tls else {}))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        with connect() as client:
            assert client.upload(path).name == f"uploads/{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("way", ["authority in the file", "client certificate", "unverified", "another name"])
def test_tls_as_a_kubeconfig_may_have_it(
    services: fake.FakeServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    certificate, key = fake_kubelet.make_certificate(tmp_path, "DNS:api.example" if way == "another name" else "")
    tls = fake_kubelet.server_tls(certificate, key)
    cluster: dict[str, Any] = {"certificate-authority": str(certificate)}
    if way == "authority in the file":
        cluster = {"certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode()}
    elif way == "client certificate":
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificate)
    elif way == "unverified":
        cluster = {"insecure-skip-tls-verify": True}
    else:
        cluster["tls-server-name"] = "api.example"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(tls) as kubernetes:
        install(kubernetes, port_of(services))
        path = write_contexts(tmp_path, kubernetes.url, **cluster)
        if way == "client certificate":
            content = json.loads(path.read_text())
            content["users"][0]["user"] |= {"client-certificate": str(certificate), "client-key": str(key)}
            path.write_text(json.dumps(content))
        monkeypatch.setenv("KUBECONFIG", str(path))
        get_study()


def test_an_api_server_that_is_not_who_it_should_be(services: Any, tmp_path: Path, monkeypatch: Any) -> None:
    certificate, key = fake_kubelet.make_certificate(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(fake_kubelet.server_tls(certificate, key)) as kubernetes:
        install(kubernetes, port_of(services))
        write_contexts(tmp_path, kubernetes.url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        error = failure(connect)
    assert isinstance(error, errors.Unavailable) and "certificate" in error.message.lower()


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets, and ends when its peer does."""
    with Listening(lambda peer: [peer.sendall(piece) for piece in iter(lambda: peer.recv(65536), b"")]) as port:
        yield port


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


def dial(forwards: Forwards, service: str = STUDY_CONTROL) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(forwards.addresses[service].rpartition(":")[2])))
    connection.settimeout(60)
    return connection


def test_two_connections_carry_50_mb_both_ways_at_once(lab: FakeKubernetes, forwards: Forwards, echo: int) -> None:
    lab.ports["study-control-a", 50051] = echo
    content = [os.urandom(MEBIBYTE) * 50 for _ in range(2)]

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


def test_what_comes_after_ones_own_end_still_arrives(lab: FakeKubernetes, forwards: Forwards) -> None:
    """Half-closed: the protocol can't say so, but nothing that is under way is dropped."""

    def answer_late(peer: socket.socket) -> None:
        peer.recv(16)
        for _ in range(8):
            time.sleep(0.05)
            peer.sendall(b"x" * MEBIBYTE)

    with Listening(answer_late) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            connection.sendall(b"question")
            connection.shutdown(socket.SHUT_WR)
            total = sum(len(piece) for piece in iter(lambda: connection.recv(65536), b""))
    assert total == 8 * MEBIBYTE


def test_the_last_bytes_of_a_pod_arrive_before_the_end(lab: FakeKubernetes, forwards: Forwards) -> None:
    with Listening(lambda peer: peer.sendall(b"y" * 3 * MEBIBYTE)) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            time.sleep(0.3)  # all that fits is on its way before anything is read
            total = sum(len(piece) for piece in iter(lambda: connection.recv(65536), b""))
    assert total == 3 * MEBIBYTE


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

    with Listening(flood if direction == "from the pod" else lambda peer: stalled.wait()) as port:
        lab.ports["study-control-a", 50051] = port
        with dial(forwards) as connection:
            if direction == "to the pod":
                flood(connection)
            assert stalled.wait(60)
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


# Pods come and go


def test_a_pod_that_is_replaced_in_mid_command(lab: FakeKubernetes, services: fake.FakeServices) -> None:
    """A wait, as `studies submit --wait` is, through three pods, between which none is ready for a moment."""
    operation = fake.operation(fake.STUDY_OPERATION)
    done = [False]

    def wait(request: Any, context: Any) -> Any:
        return fake.operation(fake.STUDY_OPERATION, response=fake.study() if done[0] else None)

    served: list[str] = []
    with connect() as client, ThreadPoolExecutor(1) as threads:
        waiting = None
        for name in ("study-control-b", "study-control-c", "study-control-d"):
            for pod in [key for key in lab.objects if key[0] == "pods" and key[2].startswith("study-control")]:
                del lab.objects[pod]
            with fake.serving() as pod_services:
                pod_services.answers["WaitOperation"] = wait
                add_pod(lab, name, STUDY_CONTROL, port_of(pod_services))
                waiting = waiting or threads.submit(client.wait, operation)
                wait_until(lambda seen=pod_services: "WaitOperation" in seen.requests, f"{name} is asked")
                served.append(name)
                if name == "study-control-d":
                    done[0] = True
                    assert waiting.result(60).done
    assert len(served) == 3


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


def test_pods_that_are_not_ready_or_are_ending_are_left_alone(lab: FakeKubernetes) -> None:
    add_pod(lab, "study-control-b", STUDY_CONTROL, None, conditions=[{"type": "Ready", "status": "False"}])
    add_pod(lab, "study-control-c", STUDY_CONTROL, None)
    lab.objects["pods", NAMESPACE, "study-control-c"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    add_pod(lab, "other", STUDY_CONTROL, None, instance="another")
    access = connect_as_caller()
    assert ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL) == [("study-control-a", 50051)]


@pytest.mark.parametrize(("target", "expected"), [("grpc", 6000), (7000, 7000), (None, 50051)])
def test_the_port_is_the_one_that_the_service_leads_to(
    kubernetes: FakeKubernetes, target: int | str | None, expected: int
) -> None:
    for item in release_services():
        port = item["spec"]["ports"][1]
        port["targetPort"] = target
        kubernetes.put("services", item)
    add_pod(kubernetes, "a", STUDY_CONTROL, None, port=6000)
    access = connect_as_caller()
    assert ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL) == [("a", expected)]


WAITING = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/control"'}}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"containerStatuses": [{"name": "c", "state": WAITING}]}, 'ImagePullBackOff: Back-off pulling image "nowhere'),
        ({"containerStatuses": [{"name": "c", "state": {"waiting": {}}}]}, "it is pending and not ready yet"),
        (
            {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "OOM",
        ),
        ({"initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "CrashLoop"),
        ({"conditions": [UNSCHEDULABLE]}, "Unschedulable: 0/3 nodes fit"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "Evicted: low on disk"),
        ({}, "it is pending and not ready yet"),
    ],
)
def test_where_no_pod_is_ready_each_says_why(lab: FakeKubernetes, status: Json, said: str) -> None:
    add_pod(lab, "study-control-a", STUDY_CONTROL, None, **{"phase": "Pending", "conditions": [], **status})
    access = connect_as_caller()
    error = failure(lambda: ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL))
    assert isinstance(error, errors.Unavailable) and error.reason == "NO_POD_READY"
    assert f"no pod of study-control of release {RELEASE} is ready (study-control-a: " in error.message
    assert said in error.message and "kubectl --namespace lab describe pod study-control-a" in error.message


def test_of_many_pods_the_first_are_told(lab: FakeKubernetes) -> None:
    for number in range(40):
        add_pod(lab, f"study-control-{number:02}", STUDY_CONTROL, None, conditions=[], reason="x" * 1000)
    del lab.objects["pods", NAMESPACE, "study-control-a"]
    access = connect_as_caller()
    message = failure(lambda: ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL)).message
    assert "study-control-04" in message and "study-control-05" not in message and "and 35 more" in message
    assert len(message) < 1500


def test_where_there_is_no_pod_at_all(lab: FakeKubernetes) -> None:
    del lab.objects["pods", NAMESPACE, "study-control-a"]
    assert "it has none; see `kubectl --namespace lab get deployments`" in failure(get_study).message


def test_a_pod_in_which_nothing_listens(lab: FakeKubernetes) -> None:
    del lab.ports["study-control-a", 50051]
    error = failure(get_study)
    assert isinstance(error, errors.Unavailable)
    assert "error forwarding port 50051 to pod study-control-a" in error.message and "refused" in error.message


# Discovery


@pytest.mark.parametrize(
    "text", ["", "/", "a/b/c", "lab/", "/synthmix", "Lab/synthmix", "lab/syn_thmix", "lab synthmix"]
)
def test_names_that_no_release_has(text: str) -> None:
    error = failure(lambda: parse_name(text, "default"))
    assert (
        isinstance(error, errors.InvalidArgument) and repr(text) in error.message and "NAMESPACE/NAME" in error.message
    )


def test_names_that_a_release_may_have() -> None:
    assert parse_name(" lab/synthmix ", "default") == ("lab", "synthmix")
    assert parse_name("my-release", "default") == ("default", "my-release")


def test_a_release_that_is_not_there_and_the_nearest(lab: FakeKubernetes) -> None:
    for item in release_services("second", "second-synthmix"):
        lab.put("services", item)
    error = failure(lambda: Client.connect(release=f"{NAMESPACE}/sinthmix"))
    assert isinstance(error, errors.NotFound)
    assert "no SynthMix release 'sinthmix' in lab" in error.message
    assert "did you mean 'synthmix'? SynthMix's releases there: second, synthmix" in error.message


def test_a_namespace_that_is_not_there_and_where_the_release_is(lab: FakeKubernetes) -> None:
    error = failure(lambda: Client.connect(release="lap/synthmix"))
    assert isinstance(error, errors.NotFound) and "there is no namespace 'lap'" in error.message
    assert "did you mean 'lab/synthmix'?" in error.message
    lab.forbidden = {("list", "services")}
    assert "lab/" not in failure(lambda: Client.connect(release="lap/x")).message


def test_a_namespace_that_may_not_be_looked_at(lab: FakeKubernetes) -> None:
    lab.forbidden = {("get", "namespaces")}
    error = failure(lambda: Client.connect(release="lap/synthmix"))
    assert "no SynthMix release 'synthmix' in lap" in error.message


def test_a_release_of_somebody_elses_chart_is_none(kubernetes: FakeKubernetes) -> None:
    for item in release_services():
        item["metadata"]["labels"]["app.kubernetes.io/part-of"] = "other"
        kubernetes.put("services", item)
    assert isinstance(failure(connect), errors.NotFound)


@pytest.mark.parametrize("lacking", ["a Service", "annotations", "the port", "the selector"])
def test_a_release_of_another_version_of_the_chart(lab: FakeKubernetes, lacking: str) -> None:
    if lacking == "a Service":
        del lab.objects["services", NAMESPACE, "synthmix-image-synthesis"]
    for item in (value for (kind, _, _), value in lab.objects.items() if kind == "services"):
        if lacking == "annotations":
            item["metadata"]["annotations"] = {}
        elif lacking == "the port":
            item["spec"]["ports"].pop()
        elif lacking == "the selector":
            item["spec"]["selector"] = {}
    error = failure(connect)
    assert isinstance(error, errors.FailedPrecondition) and "`helm upgrade`" in error.message


# The kubeconfig


def write_contexts(folder: Path, url: str, token: str = SERVICE_TOKEN, **cluster: Any) -> Path:
    """A kubeconfig of two contexts, the current one without a namespace."""
    path = folder / "kubeconfig"
    content = json.loads(write_kubeconfig(path, url).read_text())
    content["clusters"][0]["cluster"] |= cluster
    content["users"][0]["user"]["token"] = token
    content["contexts"].append(
        {"name": "lab", "context": {"cluster": "fake", "user": "service", "namespace": NAMESPACE}}
    )
    path.write_text(json.dumps(content))
    return path


def test_no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    error = failure(connect)
    assert isinstance(error, errors.FailedPrecondition) and str(tmp_path / "absent") in error.message
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / ".kube" / "config") in failure(connect).message


@pytest.mark.parametrize("text", ["", "nonsense", "contexts: [", "[]", "apiVersion: v1\nkind: Config\ncontexts: []\n"])
def test_a_kubeconfig_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    error = failure(connect)
    assert isinstance(error, errors.FailedPrecondition) and error.reason == "KUBECONFIG_INVALID"
    assert str(path) in error.message


def test_a_context_that_is_unknown(lab: FakeKubernetes, tmp_path: Path) -> None:
    write_contexts(tmp_path, lab.url)
    error = failure(lambda: connect(kube_context="lap"))
    assert isinstance(error, errors.InvalidArgument)
    assert "no context 'lap'; did you mean 'lab'? it has: fake, lab" in error.message


def test_an_api_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_contexts(tmp_path, "http://127.0.0.1:1")))
    error = failure(connect)
    assert isinstance(error, errors.Unavailable) and "http://127.0.0.1:1 doesn't answer" in error.message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_api_server_that_is_too_busy(lab: FakeKubernetes, status: int) -> None:
    lab.failing = status
    assert isinstance(failure(connect), errors.Unavailable)


def test_credentials_that_are_refused(lab: FakeKubernetes, tmp_path: Path) -> None:
    write_contexts(tmp_path, lab.url, token="an old one")
    error = failure(connect)
    assert isinstance(error, errors.Unauthenticated) and "log in again" in error.message
    assert "an old one" not in error.message


# Rights


@pytest.mark.parametrize(("verb", "resource"), [("list", "services"), ("list", "pods"), ("get", "pods/portforward")])
def test_a_right_that_is_missing_is_named(lab: FakeKubernetes, verb: str, resource: str) -> None:
    lab.forbidden = {(verb, resource)}
    error = failure(get_study)
    assert isinstance(error, errors.PermissionDenied) and error.reason == "RBAC_RIGHT_MISSING"
    assert f"you may not {verb} {resource} in namespace lab" in error.message
    assert (
        "access.clients" in error.message and f"`kubectl auth can-i {verb} {resource} --namespace lab`" in error.message
    )


# The token


def test_a_token_that_is_given_wins(lab: FakeKubernetes) -> None:
    lab.forbidden = {("get", "secrets")}
    get_study(token=fake.TOKEN)
    assert lab.count("get", "secrets") == 0
    found = find_endpoints(release=RELEASE, environment={"SYNTHMIX_TOKEN": "from outside"})
    assert found.bearer() == "from outside"
    assert found.release is not None
    found.release.close()


def test_the_token_of_the_secret_that_the_chart_names(kubernetes: FakeKubernetes, services: fake.FakeServices) -> None:
    install(kubernetes, port_of(services), token="not this one", token_secret="ours")
    data = {"token": base64.b64encode(fake.TOKEN.encode()).decode()}
    kubernetes.put("secrets", {"metadata": {"name": "ours"}, "data": data})
    get_study()


def own_token(kubernetes: FakeKubernetes, port: int, secret: str = "forbidden") -> None:
    """A release whose Secret gives no token, and that has a service account for clients."""
    install(kubernetes, port, token_audience="studies", client_service_account="synthmix-client")
    kubernetes.put("serviceaccounts", {"metadata": {"name": "synthmix-client"}})
    if secret == "forbidden":
        kubernetes.forbidden = {("get", "secrets")}
    elif secret == "absent":
        del kubernetes.objects["secrets", NAMESPACE, "synthmix-token"]
    else:
        kubernetes.objects["secrets", NAMESPACE, "synthmix-token"]["data"] = {"token": secret}


@pytest.mark.parametrize("secret", ["forbidden", "absent", "", "%%%", "w6Q="])
def test_a_token_of_the_service_account(kubernetes: FakeKubernetes, services: fake.FakeServices, secret: str) -> None:
    own_token(kubernetes, port_of(services), secret)
    asked: list[Json] = []
    kubernetes.issued = lambda spec: (asked.append(spec), (fake.TOKEN, 3600))[1]  # type: ignore[func-returns-value]
    get_study()
    assert asked == [{"audiences": ["studies"], "expirationSeconds": 3600}]


@pytest.mark.parametrize(
    ("annotations", "forbidden", "account", "said"),
    [
        ({}, {"secrets"}, True, "access.kubernetes.enabled"),
        ({"token_audience": "a"}, {"secrets"}, True, "access.clients.enabled"),
        ({"token_audience": "a", "client_service_account": "c"}, {"secrets"}, False, "gives no token"),
        (
            {"token_audience": "a", "client_service_account": "c"},
            {"secrets", "serviceaccounts/token"},
            True,
            "you may not create serviceaccounts/token of c in lab",
        ),
    ],
)
def test_without_any_token_both_ways_are_told(
    kubernetes: FakeKubernetes, annotations: dict[str, str], forbidden: set[str], account: bool, said: str
) -> None:
    install(kubernetes, None, **annotations)
    kubernetes.forbidden = {(verb, resource) for verb in ("get", "create") for resource in forbidden}
    if account:
        kubernetes.put("serviceaccounts", {"metadata": {"name": "c"}})
    error = failure(connect)
    assert isinstance(error, errors.Unauthenticated) and error.reason == "TOKEN_MISSING"
    assert "you may not get secrets/synthmix-token in namespace lab" in error.message
    assert said in error.message and "SYNTHMIX_TOKEN" in error.message


@pytest.fixture
def renewing(kubernetes: FakeKubernetes, clock: Any) -> tuple[ReleaseToken, list[int]]:
    """A service account's token, of which each new one is a number more and good for 600 s: the least there is."""
    own_token(kubernetes, 1)
    issued: list[int] = []

    def issue(spec: Json) -> tuple[str, int]:
        issued.append(len(issued) + 1)
        return f"token {issued[-1]}", 600

    kubernetes.issued = issue
    access = connect_as_caller()
    return ReleaseToken(access, find_release(access, RELEASE), clock), issued


def test_a_token_is_renewed_before_it_ends(renewing: Any, clock: Any) -> None:
    token, _ = renewing
    seen = []
    for _ in range(12):
        seen.append(token())
        clock.now_s += 100
    assert seen == ["token 1"] * 5 + ["token 2"] * 5 + ["token 3"] * 2
    assert "token" not in repr(token._held)


@pytest.mark.parametrize("fault", ["failing", "forbidden"])
def test_a_token_that_cannot_be_renewed_is_used_to_its_end(
    kubernetes: FakeKubernetes, renewing: Any, clock: Any, fault: str
) -> None:
    token, _ = renewing
    assert token() == "token 1"
    if fault == "failing":
        kubernetes.failing = 503
    else:
        kubernetes.forbidden = {("create", "serviceaccounts/token")}
    clock.now_s += 590
    assert token() == "token 1" and token() == "token 1"
    assert kubernetes.count("create", "serviceaccounts/token") == 2, "it isn't asked for at each call"
    clock.now_s += 11
    error = failure(token)
    assert isinstance(error, errors.Unavailable if fault == "failing" else errors.Unauthenticated)
    kubernetes.failing, kubernetes.forbidden = None, set()
    assert token() == "token 2"


def test_calls_after_the_renewal_show_the_new_token(
    kubernetes: FakeKubernetes, services: fake.FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_token(kubernetes, port_of(services))
    kubernetes.issued = lambda spec: (fake.TOKEN, 0)  # ends at once: each call needs a new one
    with connect() as client:
        client.get_study("demo")
        monkeypatch.setattr(fake, "TOKEN", "the next")
        client.get_study("demo")
        kubernetes.forbidden = {("get", "secrets"), ("create", "serviceaccounts/token")}
        error = failure(lambda: client.get_study("demo"))
        assert isinstance(error, errors.Unauthenticated) and error.reason == "TOKEN_ENDED"
        streamed = failure(lambda: list(client.watch_study("demo")))
        assert streamed.reason == "TOKEN_ENDED"


def test_many_threads_ask_for_one_token(renewing: Any) -> None:
    token, issued = renewing
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: token(), range(32))) == {"token 1"}
    assert issued == [1]


# What is said at once


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"release": "a/b", "addresses": "host:1"}, "--release"),
        ({"release": "a/b", "home": Path("/x")}, "a home"),
        ({"release": "a/b", "tls_ca": Path("/x")}, "--tls-ca"),
        ({"kube_context": "c", "environment": {}}, "--release"),
        ({"environment": {"SYNTHMIX_ADDRESS": "host:1", "SYNTHMIX_RELEASE": "a/b"}}, "unset one"),
    ],
)
def test_options_that_contradict_one_another(options: dict[str, Any], said: str) -> None:
    error = failure(lambda: find_endpoints(**options))
    assert isinstance(error, errors.InvalidArgument) and said in error.message


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"SYNTHMIX_RELEASE": "a/b", "SYNTHMIX_TOKEN": "t"}
    assert find_endpoints(addresses="host:1", environment=both).release is None
    assert isinstance(failure(lambda: find_endpoints(Path("/nowhere"), environment=both)), errors.Unavailable)


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = synthmix.cli.main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_command_line(lab: FakeKubernetes, services: fake.FakeServices, capsys: Any, place: str) -> None:
    words, option = ["studies", "show", "demo"], ["--release", RELEASE, "--kube-context", "fake"]
    code, out, err = run(capsys, *(option + words if place == "before" else words + option))
    assert code == 0 and fake.STUDY in out
    assert fake.TOKEN not in out + err


@pytest.mark.parametrize(
    ("release", "forbidden", "code", "said"),
    [
        ("lab/absent", set(), 3, "no SynthMix release 'absent'"),
        ("Lab", set(), 2, "isn't a release's name"),
        (RELEASE, {("list", "services")}, 4, "you may not list services"),
        (RELEASE, {("get", "pods/portforward")}, 4, "you may not get pods/portforward"),
    ],
)
def test_errors_and_exit_codes(
    lab: FakeKubernetes, capsys: Any, release: str, forbidden: set[Any], code: int, said: str
) -> None:
    lab.forbidden = forbidden
    found, out, err = run(capsys, "--release", release, "studies", "list")
    assert (found, out) == (code, "") and err.startswith("error: ") and said in err


def test_doctor_looks_at_the_release(lab: FakeKubernetes, services: fake.FakeServices, capsys: Any) -> None:
    from google.longrunning import operations_pb2

    def no_cluster(request: Any, context: Any) -> Any:
        raise errors.FailedPrecondition("no cluster", reason="NO_CLUSTER")

    services.answers["GetCluster"] = no_cluster
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    add_pod(lab, "study-control-b", STUDY_CONTROL, None, conditions=[UNSCHEDULABLE])
    code, out, _ = run(capsys, "doctor", "--services", "--output", "json", "--release", RELEASE)
    checks = json.loads(out)["checks"]
    assert code == 0
    names = [item["name"] for item in checks]
    assert [name for name in names if name.endswith(f"(release {RELEASE})")] == [
        f"{service} (release {RELEASE})" for service in SERVICES
    ]
    pods = [(item["status"], item["found"]) for item in checks if item["name"] == "  its pods"]
    assert pods[:3] == [("ok", "1 of 1 ready")] * 3
    assert pods[3] == ("warn", "1 of 2 ready; study-control-b: Unschedulable: 0/3 nodes fit")


@pytest.mark.parametrize("fault", ["absent", "unreachable", "forbidden"])
def test_doctor_where_there_is_no_way_to_the_release(lab: FakeKubernetes, capsys: Any, fault: str) -> None:
    if fault == "unreachable":
        lab.failing = 503
    elif fault == "forbidden":
        lab.forbidden = {("list", "services")}
    name = "lab/other" if fault == "absent" else RELEASE
    code, out, _ = run(capsys, "doctor", "--services", "--output", "json", "--release", name)
    [check] = json.loads(out)["checks"]
    assert (code, check["status"]) == (1, "fail")
    assert {"absent": "no SynthMix release", "unreachable": "doesn't answer", "forbidden": "you may not"}[fault] in (
        check["found"]
    )


def test_what_is_kept_shows_no_token(lab: FakeKubernetes) -> None:
    opened = OpenRelease(RELEASE, token="secret")
    assert str(opened) == f"release {RELEASE}" and "secret" not in repr(opened)
    opened.close()
