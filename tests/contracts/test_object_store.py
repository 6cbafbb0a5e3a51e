"""What every object store must do: one suite, run against SeaweedFS, MinIO and the memory store of the unit tests."""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio.credentials import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin

from certificates import new_authority
from real_servers import running_minio
from synthmix.service_kit import create_bucket
from synthmix.service_kit.artifacts import (
    Manifest,
    find_manifest,
    list_artifacts,
    payload_key,
    read_payload,
    stream_payload,
    times_of_artifacts,
    write_manifest,
    write_payload,
)
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from synthmix.service_kit.minio_user import make_user
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.s3_object_store import PART_SIZE_BYTES, S3ObjectStore, when_available

ARTIFACT = ArtifactName("adapters", "0123456789abcdef" * 2)


def test_bytes_come_back(store: ObjectStore) -> None:
    for data in (b"", b"x", os.urandom(1_000_000)):
        store.put_bytes("a/object", data)
        assert store.get_bytes("a/object") == data
        info = store.stat("a/object")
        assert info is not None
        assert info.size_bytes == len(data)


def test_a_put_replaces(store: ObjectStore) -> None:
    store.put_json("a/record.json", {"n": 1})
    store.put_json("a/record.json", {"n": 2})
    assert store.get_json("a/record.json") == {"n": 2}


def test_a_put_with_a_condition_keeps_what_another_wrote(store: ObjectStore) -> None:
    assert store.put_if("a/record", b"1", version="")
    assert not store.put_if("a/record", b"2", version="")
    data, first = store.get_with_version("a/record")
    assert data == b"1"
    assert store.put_if("a/record", b"2", version=first)
    assert not store.put_if("a/record", b"3", version=first)
    data, second = store.get_with_version("a/record")
    assert (data, first != second) == (b"2", True)
    # The answer to the first put was lost, and it is sent again.
    assert store.put_if("a/record", b"2", version=first)
    store.delete("a/record")
    assert not store.put_if("a/record", b"3", version=second)
    assert store.find_json_with_version("a/record") == (None, "")
    assert store.put_json_if("a/record", {"n": 1}, version="")
    assert store.get_json("a/record") == {"n": 1}


def test_an_object_has_one_version_wherever_it_is_asked(store: ObjectStore) -> None:
    store.put_bytes("a/record", b"1")
    found, [listed] = store.stat("a/record"), store.list("a/record")
    assert found is not None
    assert found.version == listed.version == store.get_with_version("a/record")[1]
    assert datetime.fromisoformat(found.modify_time).replace(microsecond=0) == datetime.fromisoformat(
        listed.modify_time
    ).replace(microsecond=0)


def test_of_many_puts_with_one_condition_one_succeeds(store: ObjectStore) -> None:
    writers, version = 8, ""
    for round_ in range(20):
        texts = [f"{number} of round {round_}".encode() for number in range(writers)]
        put = functools.partial(put_at_once, store, "a/contended", threading.Barrier(writers), version)
        with ThreadPoolExecutor(writers) as threads:
            [winner] = [text for text, won in zip(texts, threads.map(put, texts), strict=True) if won]
        data, version = store.get_with_version("a/contended")
        assert data == winner


def put_at_once(store: ObjectStore, key: str, barrier: threading.Barrier, version: str, data: bytes) -> bool:
    barrier.wait()
    return store.put_if(key, data, version=version)


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match="a/nothing"):
        store.get_bytes("a/nothing")
    with pytest.raises(NotFound):
        list(store.stream("a/nothing"))
    assert store.stat("a/nothing") is None
    assert store.find_json("a/nothing") is None
    assert store.list("nothing/") == []
    store.delete("a/nothing")


def test_a_prefix_of_a_key_is_no_object(store: ObjectStore) -> None:
    store.put_bytes("a/b/c", b"x")
    assert store.stat("a/b") is None
    with pytest.raises(NotFound):
        store.get_bytes("a/b")


def test_names_with_spaces_and_letters_of_other_scripts(store: ObjectStore) -> None:
    key = "a/Zellen é 細胞 + 100 %/image #1.png"
    store.put_bytes(key, b"x")
    assert store.get_bytes(key) == b"x"
    assert [item.key for item in store.list("a/")] == [key]


def test_large_files_go_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(1024) * ((2 * PART_SIZE_BYTES + 5_000_000) // 1024)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    store.put_file("a/large", source)
    store.get_file("a/large", target)
    assert target.read_bytes() == data
    assert b"".join(store.stream("a/large")) == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_failed_download_leaves_no_file(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.get_file("a/nothing", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_listing_is_whole_and_in_order(store: ObjectStore) -> None:
    keys = [f"many/{number:04d}/x" for number in range(1100)]
    threads = [
        threading.Thread(target=lambda part=part: [store.put_bytes(key, b"x") for key in keys[part::8]])
        for part in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.key for item in store.list("many/")] == keys
    assert [item.key for item in store.list("many/0001")] == ["many/0001/x"]
    store.delete_prefix("many/")
    assert store.list("many/") == []


def test_a_reader_never_sees_half_a_put(store: ObjectStore) -> None:
    versions = [bytes([letter]) * 300_000 for letter in b"abcd"]
    store.put_bytes("a/torn", versions[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for version in versions:
                store.put_bytes("a/torn", version)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            assert store.get_bytes("a/torn") in versions
    finally:
        stop.set()
        writer.join()


def test_an_artifact_exists_once_its_manifest_does(store: ObjectStore) -> None:
    payload = write_payload(store, ARTIFACT, "weights.bin", b"weights")
    assert find_manifest(store, ARTIFACT) is None
    assert list_artifacts(store, "adapters") == []
    manifest = Manifest(
        name=ARTIFACT, inputs={"train_split": "x"}, request={"rank": 4}, recipe_version=1, payloads=(payload,)
    )
    write_manifest(store, manifest)
    assert find_manifest(store, ARTIFACT) == manifest
    assert list_artifacts(store, "adapters") == list(times_of_artifacts(store, "adapters")) == [ARTIFACT]
    [place] = times_of_artifacts(store, "adapters").values()
    written = datetime.fromisoformat(place.split(" ")[0])
    assert abs((written - datetime.now(UTC)).total_seconds()) < 3600
    assert read_payload(store, manifest, "weights.bin") == b"weights"
    with pytest.raises(NotFound, match=r"it has weights\.bin"):
        read_payload(store, manifest, "other.bin")


def test_changed_bytes_are_noticed(store: ObjectStore) -> None:
    payload = write_payload(store, ARTIFACT, "weights.bin", b"weights")
    manifest = Manifest(name=ARTIFACT, inputs={}, request={}, recipe_version=1, payloads=(payload,))
    store.put_bytes(payload_key(ARTIFACT, payload), b"wejghts")
    with pytest.raises(DataLoss, match=r"weights\.bin"):
        read_payload(store, manifest, "weights.bin")
    with pytest.raises(DataLoss):
        list(stream_payload(store, manifest, "weights.bin"))


def test_wrong_credentials_are_refused(server: ObjectStoreSettings) -> None:
    wrong = S3ObjectStore(
        ObjectStoreSettings(server.endpoint_url, server.access_key, "not the secret key", server.bucket)
    )
    with pytest.raises(FailedPrecondition, match="refuses the credentials"):
        wrong.get_bytes("a/object")
    with pytest.raises(FailedPrecondition, match="refuses the credentials"):
        wrong.put_bytes("a/object", b"x")
    unknown = S3ObjectStore(ObjectStoreSettings(server.endpoint_url, "nobody", server.secret_key, server.bucket))
    with pytest.raises(FailedPrecondition, match="refuses the credentials"):
        unknown.put_bytes("a/object", b"x")


def test_a_missing_bucket_is_named(minio_root: ObjectStoreSettings) -> None:
    elsewhere = S3ObjectStore(replace(minio_root, bucket="no-such-bucket"))
    with pytest.raises(FailedPrecondition, match="'no-such-bucket' doesn't exist"):
        elsewhere.check()
    with pytest.raises((FailedPrecondition, NotFound), match=r"no-such-bucket|a/object"):
        elsewhere.get_bytes("a/object")


def test_a_server_that_is_down_is_unavailable() -> None:
    nowhere = S3ObjectStore(ObjectStoreSettings("http://127.0.0.1:9", "key", "secret", "synthmix"), attempts=2)
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 cannot read a/object \(NewConnectionError\)"):
        nowhere.get_bytes("a/object")


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:9000", "ftp://127.0.0.1", "http://127.0.0.1:9000/path"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(FailedPrecondition, match="SYNTHMIX_OBJECT_STORE_ENDPOINT"):
        S3ObjectStore(ObjectStoreSettings(endpoint, "key", "secret", "synthmix"))


def test_requests_are_signed_for_the_region() -> None:
    """A bucket of another one is told by a redirection, or by 400."""
    said: list[str] = []
    statuses = [200, 200, 301, 400]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            said.append(self.headers["Authorization"])
            self.send_response(statuses[len(said) - 1])
            self.send_header("x-amz-bucket-region", "eu-central-1")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for region in ({}, {"region": "eu-central-1"}):
            S3ObjectStore(ObjectStoreSettings(url, "key", "secret", "synthmix", **region)).check()
        for _ in range(2):
            with pytest.raises(FailedPrecondition, match=r"'us-east-1'.*check SYNTHMIX_OBJECT_STORE_REGION"):
                when_available(S3ObjectStore(ObjectStoreSettings(url, "key", "secret", "synthmix")).check)
        server.shutdown()
    assert ["/us-east-1/s3/" in said[0], "/eu-central-1/s3/" in said[1]] == [True, True]


def test_whoever_starts_first_waits_for_object_storage(minio_root: ObjectStoreSettings) -> None:
    user = replace(minio_root, bucket="made-meanwhile", access_key="made-meanwhile", secret_key="correct horse")
    makers = [
        threading.Timer(1.5, S3ObjectStore(replace(minio_root, bucket=user.bucket)).create_bucket),
        threading.Timer(3.0, make_user, (minio_root, user)),
    ]
    for maker in makers:
        maker.start()
    when_available(S3ObjectStore(replace(minio_root, bucket=user.bucket), attempts=1).check)
    when_available(S3ObjectStore(user, attempts=1).check)
    for maker in makers:
        maker.join()
    with pytest.raises(FailedPrecondition, match="refuses the credentials"):
        when_available(S3ObjectStore(replace(user, secret_key="wrong"), attempts=1).check, patience_s=0.5)
    nowhere = S3ObjectStore(replace(user, endpoint_url="http://127.0.0.1:9"), attempts=1)
    with pytest.raises(Unavailable):
        when_available(nowhere.check, patience_s=0.5)


@pytest.mark.parametrize("of_the_root_user", [True, False], ids=["with a user", "with the keys it is given"])
def test_the_command_that_makes_the_bucket_may_run_twice(
    of_the_root_user: bool, minio_root: ObjectStoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(minio_root, bucket=f"made-by-the-command-{of_the_root_user}".lower())
    store = S3ObjectStore(settings, attempts=1)
    with pytest.raises(FailedPrecondition, match=f"bucket '{settings.bucket}' doesn't exist"):
        store.check()
    if of_the_root_user:
        monkeypatch.setenv("SYNTHMIX_OBJECT_STORE_ROOT_ACCESS_KEY", minio_root.access_key)
        monkeypatch.setenv("SYNTHMIX_OBJECT_STORE_ROOT_SECRET_KEY", minio_root.secret_key)
        settings = replace(settings, access_key="made-by-the-command", secret_key="correct horse")
    monkeypatch.setenv("SYNTHMIX_OBJECT_STORE_ENDPOINT", settings.endpoint_url)
    monkeypatch.setenv("SYNTHMIX_OBJECT_STORE_ACCESS_KEY", settings.access_key)
    monkeypatch.setenv("SYNTHMIX_OBJECT_STORE_SECRET_KEY", settings.secret_key)
    monkeypatch.setenv("SYNTHMIX_OBJECT_STORE_BUCKET", settings.bucket)
    for _ in range(2):
        create_bucket.main()
    S3ObjectStore(settings).check()


def test_the_keys_of_services_and_workers_open_their_bucket_alone(
    minio: ObjectStoreSettings, minio_root: ObjectStoreSettings
) -> None:
    others = S3ObjectStore(replace(minio_root, bucket="of-others"))
    others.create_bucket()
    others.put_bytes("object", b"theirs")
    ours = S3ObjectStore(replace(minio, bucket="of-others"))
    attempts = (
        ours.check,
        lambda: ours.list(""),
        lambda: ours.get_bytes("object"),
        lambda: ours.put_bytes("object", b"ours"),
        lambda: ours.put_if("another", b"ours", version=""),
        lambda: ours.delete("object"),
        S3ObjectStore(replace(minio, bucket="new")).create_bucket,
    )
    for attempt in attempts:
        with pytest.raises(FailedPrecondition, match=r"refuses the credentials for bucket '(of-others|new)'"):
            attempt()
    assert others.get_bytes("object") == b"theirs"
    with pytest.raises(FailedPrecondition, match=r"does not make the user of .*_ACCESS_KEY for bucket 'of-others'"):
        make_user(minio, replace(minio, bucket="of-others", access_key="another"))


def test_a_worker_that_is_taken_over_shuts_nobody_out_of_minio(minio: ObjectStoreSettings) -> None:
    """MinIO lets its users change their own secret key, and make keys that outlive it, unless that is denied."""
    own = StaticProvider(minio.access_key, minio.secret_key)
    admin = MinioAdmin(endpoint=urlsplit(minio.endpoint_url).netloc, credentials=own, secure=False)
    attempts = (
        lambda: admin.user_add(minio.access_key, "changed by a worker"),
        lambda: admin.add_service_account(
            access_key="kept-by-a-worker", secret_key="another secret key", name="kept", description="kept"
        ),
        admin.user_list,
        admin.info,
    )
    for attempt in attempts:
        with pytest.raises(MinioAdminException, match="AccessDenied"):
            attempt()
    S3ObjectStore(minio).check()


def test_a_user_that_is_made_again_has_the_new_secret_key_and_the_policy(minio_root: ObjectStoreSettings) -> None:
    user = replace(minio_root, access_key="made-again", secret_key="the first secret key")
    make_user(minio_root, user)
    changed = replace(user, secret_key="the second secret key")
    make_user(minio_root, changed)
    S3ObjectStore(changed).check()
    with pytest.raises(FailedPrecondition, match="refuses the credentials"):
        S3ObjectStore(user).check()


def test_a_server_is_trusted_by_the_authority_that_is_named(tmp_path: Path) -> None:
    with running_minio(tmp_path, new_authority()) as settings:
        user = replace(settings, access_key="of-one-bucket", secret_key="correct horse")
        make_user(settings, user)
        store = S3ObjectStore(user)
        large = tmp_path / "large"
        large.write_bytes(os.urandom(PART_SIZE_BYTES + 1))
        store.put_file("large", large)
        store.get_file("large", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == large.read_bytes()
        assert store.put_if("record", b"{}", version="")
        (tmp_path / "others.crt").write_bytes(new_authority("another").pem)
        port = settings.endpoint_url.rpartition(":")[2]
        for broken in (
            replace(user, ca=""),
            replace(user, ca=str(tmp_path / "others.crt")),
            replace(user, endpoint_url=f"https://localhost:{port}"),
        ):
            with pytest.raises(FailedPrecondition, match=r"cannot be trusted by TLS .* SYNTHMIX_OBJECT_STORE_CA"):
                when_available(S3ObjectStore(broken).check)
        for path in (tmp_path / "absent", large):
            with pytest.raises(FailedPrecondition, match=f"SYNTHMIX_OBJECT_STORE_CA is '{path}', which cannot be used"):
                S3ObjectStore(replace(user, ca=str(path)))
