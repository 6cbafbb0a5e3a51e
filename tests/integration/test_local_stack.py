"""The local stack: who may come in, and what is served there."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from minio import Minio
from minio.error import S3Error

from stack_processes import marker_of
from synthmix.local import Connection, start_stack
from synthmix.local.sweep import MARKER_VARIABLE, marked_processes
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from waiting import wait_until

DRIVER = """
import os, sys, time
began_s = time.monotonic()
import ray
ray.init(address=os.environ["SYNTHMIX_RAY_ADDRESS"], namespace="synthmix", log_to_driver=False)
@ray.remote(num_cpus=0)
class Probe:
    def count(self):
        from ray.util.metrics import Counter
        Counter("local_stack_probe", tag_keys=("kind",)).inc(1, tags={"kind": "test"})
        return os.getpid()
probe = Probe.options(name=sys.argv[1], lifetime="detached", get_if_exists=True).remote()
print(ray.get(probe.count.remote()), flush=True)
os.kill(os.getpid(), 9)
"""


def test_every_port_is_on_loopback(stack: Connection) -> None:
    listening = [
        connection.laddr.ip
        for process in marked_processes(marker_of(stack.home))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > len(SERVICES)
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_secrets_are_for_this_user_only(stack: Connection) -> None:
    for name in ("stack.json", "credentials.json", "users.json", "certificate.pem", "running.json"):
        assert (stack.home / name).stat().st_mode & 0o777 == 0o600, name
    for process in marked_processes(marker_of(stack.home)):
        command = " ".join(process.cmdline())
        for secret in (stack.token, stack.ray_auth_token, stack.object_store.secret_key):
            assert secret not in command


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({}, "AccessDenied"),
        ({"access_key": "somebody"}, "InvalidAccessKeyId"),
        ({"secret_key": "x" * 40}, "SignatureDoesNotMatch"),
    ],
    ids=["anonymous", "wrong access key", "wrong secret key"],
)
def test_object_storage_refuses_strangers(
    stack: Connection, store: ObjectStore, keys: dict[str, str], code: str
) -> None:
    store.put_bytes("local-stack/known", b"known")
    ours = {"access_key": stack.object_store.access_key, "secret_key": stack.object_store.secret_key}
    stranger = Minio(
        stack.object_store.endpoint_url.removeprefix("http://"),
        **(ours | keys if keys else {}),
        secure=False,
        region="us-east-1",
    )
    attempts: list[Callable[[], Any]] = [
        lambda: stranger.get_object(stack.object_store.bucket, "local-stack/known"),
        lambda: stranger.remove_object(stack.object_store.bucket, "local-stack/known"),
        lambda: list(stranger.list_objects(stack.object_store.bucket)),
        lambda: stranger.make_bucket("theirs"),
    ]
    for attempt in attempts:
        with pytest.raises(S3Error) as refusal:
            attempt()
        assert refusal.value.code == code
    assert store.get_bytes("local-stack/known") == b"known"


def test_object_storage_has_no_open_back_door(stack: Connection, store: ObjectStore) -> None:
    """weed's other ports hold the same bytes. None of them may hand them out over HTTP."""
    store.put_bytes("local-stack/hidden", b"hidden")
    ports = {
        connection.laddr.port
        for connection in psutil.Process(stack.pids["object-storage"]).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    for port in ports:
        for path in ("/buckets/synthmix/local-stack/hidden", "/buckets/?pretty=y"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                    assert b"hidden" not in answer.read(), f"port {port} serves {path}"
            except (urllib.error.HTTPError, urllib.error.URLError, ConnectionError, TimeoutError):
                continue


def test_a_second_stack_at_one_home_is_refused(stack: Connection) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        start_stack(stack.home)
    assert refusal.value.reason == "STACK_RUNNING"
    assert str(stack.home) in refusal.value.message
    assert str(stack.pid) in refusal.value.message


def test_a_detached_actor_outlives_its_driver_and_its_counts_are_served(
    stack: Connection, driver_environment: dict[str, str]
) -> None:
    pids = []
    for _ in range(2):
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER, "local-stack-probe"],
            env=driver_environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert driver.returncode == -signal.SIGKILL
        pids.append(int(driver.stdout))
    assert pids[0] == pids[1]
    assert psutil.Process(pids[0]).environ()[MARKER_VARIABLE] == marker_of(stack.home)
    wait_until(lambda: "ray_local_stack_probe_total" in _metrics(stack, "ray-node"), "the metric", 5.0)


def _metrics(connection: Connection, name: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{connection.metrics[name]}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
