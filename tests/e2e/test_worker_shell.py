"""What somebody gets who has taken a worker over: a shell there, its files, its environment and its network."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes import client
from minio import Minio
from release import CONNECTS, PREFIX, Release

from cluster.prometheus import NAMESPACE as MONITORING
from cluster.prometheus import Prometheus
from studies import reduced_study
from synthmix import GroupRule
from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset
from synthmix.local.ports import LOOPBACK
from synthmix.service_kit.environment import SERVICES
from waiting import wait_until

DECODES, TRAINS = "study-control-worker", "adapter-training-worker"
NAME = "to-be-taken-over"
START_TIMEOUT_S = 300.0
BUCKET, KEY = "of-others", "secret"
# What a shell in a worker tries. That it reaches object storage shows that what it does not reach is refused, not lost.
SHELL = f"""
{CONNECTS}
import io, json, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit
from minio import Minio
from minio.credentials import StaticProvider
from minio.error import MinioAdminException, S3Error
from minio.minioadmin import MinioAdmin
from synthmix.service_kit.environment import object_store_settings

targets, bucket, key = json.loads(sys.argv[1])
settings = object_store_settings()
place = urlsplit(settings.endpoint_url).netloc
own = StaticProvider(settings.access_key, settings.secret_key)
s3 = Minio(place, credentials=own, secure=False, region=settings.region)
admin = MinioAdmin(endpoint=place, credentials=own, secure=False)
attempts = [
    lambda: list(s3.list_objects(settings.bucket)),
    lambda: list(s3.list_objects(bucket)),
    lambda: s3.get_object(bucket, key),
    lambda: s3.put_object(bucket, key, io.BytesIO(b"mine"), 4),
    lambda: s3.remove_object(bucket, key),
    lambda: s3.make_bucket("mine"),
    lambda: s3.get_bucket_policy(settings.bucket),
    admin.info,
    admin.user_list,
    lambda: admin.user_add("mine", "a secret key of mine"),
    lambda: admin.user_add(settings.access_key, "a secret key of mine"),
    lambda: admin.policy_set("readwrite", user=settings.access_key),
    lambda: admin.add_service_account(access_key="mine-to-keep", secret_key="of-mine-to-keep", name="x"),
]
def said(attempt):
    try:
        attempt()
    except (MinioAdminException, S3Error) as error:
        return "AccessDenied" if "AccessDenied" in str(error) else str(error)
    return "done"
with ThreadPoolExecutor(len(targets)) as threads:
    reached = list(threads.map(lambda target: connects(*target), targets))
print(json.dumps(dict(
    reached=reached,
    environment=dict(os.environ),
    files=[str(path) for folder in ("/run/secrets", "/etc/synthmix") for path in Path(folder).rglob("*")],
    buckets=[item.name for item in s3.list_buckets()],
    storage=[said(attempt) for attempt in attempts],
)))
"""


@pytest.fixture(scope="module", params=[DECODES, TRAINS])
def shell(request: pytest.FixtureRequest, shells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the shell says of a worker that decodes what users send, and of one that trains."""
    return shells[request.param]


@pytest.fixture(scope="module")
def shells(
    release: Release, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    # Images of its own: what was imported before has no worker now.
    folder = tmp_path_factory.mktemp("images")
    write_simulated_dataset(folder, SimulatedCellsSettings(images_per_class=32, chips=8, seed=1))
    with release.client() as caller, bucket_of_others(release):
        caller.import_dataset(folder, NAME, group=GroupRule(pattern=GROUP_PATTERN), simulated=True)
        decodes = said_in(release, DECODES)
        # Longer than all that is tried meanwhile.
        caller.submit_study(reduced_study(NAME, NAME, adapters={"rank": 4, "images_seen": 64_000}))
        wait_until(lambda: release.are_ready(TRAINS), "a worker trains", START_TIMEOUT_S, poll_s=0.5)
        yield {DECODES: decodes, TRAINS: said_in(release, TRAINS)}
        study = caller.get_study(NAME)
        caller.cancel_study(study.name)
        caller.wait(study.operation, timeout_s=120)


@contextmanager
def bucket_of_others(release: Release) -> Iterator[None]:
    """In the release's MinIO, with an object."""
    keys = release.secret(f"{PREFIX}-object-storage")
    place = f"{LOOPBACK}:{release.storage_port}"
    root = Minio(place, access_key=keys["access-key"], secret_key=keys["secret-key"], secure=False)
    root.make_bucket(BUCKET)
    try:
        root.put_object(BUCKET, KEY, io.BytesIO(b"theirs"), 6)
        yield
        with root.get_object(BUCKET, KEY) as answer:
            assert answer.read() == b"theirs"
    finally:
        root.remove_object(BUCKET, KEY)
        root.remove_bucket(BUCKET)


def needed() -> list[tuple[str, int]]:
    """Where workers have to get."""
    return [(f"{PREFIX}-minio", 9000), (f"{PREFIX}-ray-head-svc", 6379)]


def forbidden(release: Release) -> list[tuple[str, int]]:
    """The services, the API server by its name and by its address, nodes, and who measures."""
    core = client.CoreV1Api(release.cluster.api())
    server = [
        (address.ip, port.port)
        for subset in core.read_namespaced_endpoints("kubernetes", "default").subsets
        for address in subset.addresses
        for port in subset.ports
    ]
    nodes = [
        (address.address, 10250)
        for node in core.list_node().items
        for address in node.status.addresses
        if address.type == "InternalIP"
    ]
    return [
        *((f"{PREFIX}-{service}", port) for service in SERVICES for port in (50051, 9090)),
        ("kubernetes.default.svc", 443),
        *server,
        *nodes,
        (f"prometheus.{MONITORING}.svc", 9090),
    ]


def said_in(release: Release, component: str) -> dict[str, Any]:
    pod = release.pods(component)[0].metadata.name
    arguments = json.dumps([[*needed(), *forbidden(release)], BUCKET, KEY])
    command = ("exec", f"--namespace={release.namespace}", pod, "--container=ray-worker", "--", "python", "-c", SHELL)
    said: dict[str, Any] = json.loads(release.cluster.kubectl(*command, arguments).stdout)
    return said


def test_it_finds_no_secret_but_the_keys_that_a_worker_works_by(release: Release, shell: dict[str, Any]) -> None:
    assert shell["files"] == [], "no token of Kubernetes', of a service's or of callers'"
    environment = shell["environment"]
    secrets = {name for name in environment if re.search("TOKEN$|_KEY$|PASSWORD|SECRET", name)}
    storage = {"SYNTHMIX_OBJECT_STORE_ACCESS_KEY", "SYNTHMIX_OBJECT_STORE_SECRET_KEY"}
    assert secrets == {"RAY_AUTH_TOKEN", *storage}
    keys = release.secret(f"{PREFIX}-object-storage-user")
    assert {environment[name] for name in storage} == set(keys.values())


def test_it_reaches_object_storage_and_ray_alone(release: Release, shell: dict[str, Any]) -> None:
    refused = forbidden(release)
    reached = dict(zip([*needed(), *refused], shell["reached"], strict=True))
    assert reached == {**dict.fromkeys(needed(), True), **dict.fromkeys(refused, False)}


def test_it_opens_one_bucket_and_administers_nothing(shell: dict[str, Any]) -> None:
    assert shell["buckets"] == ["synthmix"], "nor are others' named"
    own, *others = shell["storage"]
    assert own == "done"
    assert set(others) == {"AccessDenied"}
