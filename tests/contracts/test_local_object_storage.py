"""What another user of the machine gets from the object storage of a local stack: nothing."""

import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psutil
import pytest
from cryptography import x509

from real_servers import running
from synthmix.local import certificate, object_storage
from synthmix.local.certificate import certificate_file
from synthmix.local.home import Home, object_storage_keys, prepare
from synthmix.local.object_storage import ObjectStorage
from synthmix.local.ports import LOOPBACK
from synthmix.service_kit.compaction import compact
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.s3_object_store import S3ObjectStore

# A method of each of weed's gRPC servers that reads nothing but how it is set up.
METHODS = {
    "master_grpc": "/master_pb.Seaweed/GetMasterConfiguration",
    "volume_grpc": "/volume_server_pb.VolumeServer/VolumeServerStatus",
    "filer_grpc": "/filer_pb.SeaweedFiler/GetFilerConfiguration",
    "s3_grpc": "/messaging_pb.SeaweedS3IamCache/NoSuchMethod",
    "admin_grpc": "/worker_pb.WorkerService/NoSuchMethod",
}
OURS, STRANGERS, NONE = "ours", "a stranger's", "none"


def grpc_ports(storage: ObjectStorage) -> dict[str, int]:
    return {name: getattr(storage.ports, name) for name in METHODS}


def http_ports(storage: ObjectStorage) -> dict[str, int]:
    return {name: port for name, port in asdict(storage.ports).items() if name not in METHODS}


def code_of_a_call(port: int, method: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    address = f"{LOOPBACK}:{port}"
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        try:
            channel.unary_unary(method)(b"", timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("name", METHODS)
def test_a_client_without_the_homes_certificate_is_refused(
    local_storage: ObjectStorage, name: str, tmp_path: Path
) -> None:
    authority = local_storage.certificate.read_bytes()
    strangers = certificate_file(tmp_path / "certificate.pem").read_bytes()
    credentials = {
        OURS: grpc.ssl_channel_credentials(authority, authority, authority),
        STRANGERS: grpc.ssl_channel_credentials(authority, strangers, strangers),
        NONE: grpc.ssl_channel_credentials(authority),
        "no TLS": None,
    }
    port = grpc_ports(local_storage)[name]
    codes = {who: code_of_a_call(port, METHODS[name], shown) for who, shown in credentials.items()}
    assert codes.pop(OURS) in (grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED)
    assert set(codes.values()) == {grpc.StatusCode.UNAVAILABLE}


@contextmanager
def started(home: Home, **changes: str | None) -> Iterator[ObjectStorage]:
    """At this home, as the local stack starts it, but for these variables of its environment; None leaves one out."""
    with tempfile.TemporaryDirectory(prefix="smx") as sockets:
        storage = object_storage.plan(home, object_storage_keys(home), Path(sockets), set())
        object_storage.forget_ports(storage)
        environment = object_storage.environment(storage, os.environ) | changes
        given = {name: value for name, value in environment.items() if value is not None}
        command = object_storage.command(storage)
        try:
            with running("seaweedfs", command, given, home.folder, lambda: object_storage.is_ready(storage)):
                yield storage
        finally:
            for path in storage.temporary_paths:
                path.unlink(missing_ok=True)


def test_a_server_that_would_answer_anybody_is_not_started(tmp_path: Path) -> None:
    """As a weed would that reads its certificate elsewhere: it goes on without."""
    with (
        pytest.raises(FailedPrecondition, match="would answer any user of this machine at port"),
        started(prepare(tmp_path / "home"), WEED_GRPC_CA=None),
    ):
        pytest.fail("it was started")


def test_it_starts_again_with_what_it_had(tmp_path: Path) -> None:
    home = prepare(tmp_path / "home")
    with started(home) as storage:
        S3ObjectStore(storage.settings).put_bytes("kept", b"kept")
        first = storage.certificate.read_bytes()
    with started(home) as storage:
        assert storage.certificate.read_bytes() == first
        assert S3ObjectStore(storage.settings).get_bytes("kept") == b"kept"


def test_no_port_is_forgotten(local_storage: ObjectStorage) -> None:
    """A port that a newer weed opens is to be closed as well."""
    [weed] = [
        process
        for process in psutil.Process().children(recursive=True)
        if f"-dir={local_storage.folder}" in process.cmdline()
    ]
    listening = {found.laddr.port for found in weed.net_connections() if found.status == psutil.CONN_LISTEN}
    assert listening == {*grpc_ports(local_storage).values(), *http_ports(local_storage).values()}


def test_nothing_is_read_or_deleted_over_http(local_storage: ObjectStorage) -> None:
    store = S3ObjectStore(local_storage.settings)
    # More than a filer keeps beside the object's name.
    data = b"hidden" * 200_000
    store.put_bytes("hidden/object", data)
    bucket = local_storage.settings.bucket
    paths = (
        f"/buckets/{bucket}/hidden/object",
        "/buckets/?pretty=y",
        "/1,01",
        "/dir/assign",
        "/dir/lookup?volumeId=1",
        "/vol/vacuum?garbageThreshold=0",
        f"/col/delete?collection={bucket}",
    )
    for name, port in http_ports(local_storage).items():
        for method in ("GET", "DELETE"):
            for path in paths:
                request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}", method=method)
                with pytest.raises(urllib.error.HTTPError) as refusal, urllib.request.urlopen(request, timeout=5):
                    pytest.fail(f"{name} answers {method} {path}")
                assert 400 <= refusal.value.code < 500, f"{name}: {method} {path}"
    assert store.get_bytes("hidden/object") == data


def test_its_user_has_the_bucket_alone(local_storage: ObjectStorage) -> None:
    theirs = S3ObjectStore(replace(local_storage.settings, bucket="theirs"))
    for attempt in (
        theirs.create_bucket,
        lambda: theirs.put_bytes("object", b"x"),
        lambda: theirs.get_bytes("object"),
        lambda: theirs.list(""),
    ):
        with pytest.raises(FailedPrecondition, match=r"refuses the credentials for bucket 'theirs' \(AccessDenied\)"):
            attempt()


def test_compaction_shows_the_certificate(local_storage: ObjectStorage, tmp_path: Path) -> None:
    address = local_storage.settings.compaction_address
    compact(address, Path(local_storage.settings.certificate))
    with pytest.raises(grpc.RpcError):
        compact(address, certificate_file(tmp_path / "certificate.pem"))


def test_a_certificate_is_made_once_for_this_user_and_anew_in_its_last_year(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "certificate.pem"
    monkeypatch.setattr(certificate, "VALID", certificate.RENEWED_BEFORE_END - timedelta(hours=1))
    ending = certificate_file(file).read_bytes()
    monkeypatch.undo()
    path = certificate_file(file)
    renewed = path.read_bytes()
    assert renewed != ending
    assert path.stat().st_mode & 0o777 == 0o600
    until = x509.load_pem_x509_certificate(renewed).not_valid_after_utc
    assert until > datetime.now(UTC) + certificate.RENEWED_BEFORE_END
    assert certificate_file(file).read_bytes() == renewed
    # Half of it, as after a restore from somewhere.
    path.write_bytes(renewed[: len(renewed) // 2])
    assert certificate_file(file).read_bytes() not in (renewed, renewed[: len(renewed) // 2])
