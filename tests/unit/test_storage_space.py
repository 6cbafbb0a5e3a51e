"""Full storage: each server's answer becomes the same error, and a full local disk names itself."""

import errno
import os
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from minio.error import S3Error

from synthmix.cli import exit_codes, outcomes
from synthmix.client.packing import pack
from synthmix.service_kit import storage_space
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import ResourceExhausted, Unavailable
from synthmix.service_kit.node_cache import open_cached
from synthmix.service_kit.s3_object_store import S3ObjectStore
from synthmix.service_kit.storage_space import room_for, writing_to


def store(folder: str = "", attempts: int = 1) -> S3ObjectStore:
    settings = ObjectStoreSettings("http://127.0.0.1:1", "a", "b", "bucket", folder=folder)
    return S3ObjectStore(settings, attempts=attempts)


def answer(code: str, message: str, status: int) -> S3Error:
    return S3Error(SimpleNamespace(status=status), code, message, "", "", "")  # type: ignore[arg-type]


@pytest.fixture
def small_disk(tmp_path: Path) -> "object":
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        ("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.", 507),
        ("XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded", 400),
        ("InternalError", "cause(no space left on device)", 500),
        ("InternalError", "no free volumes left for collection", 500),
        ("SomethingElse", "", 507),
    ],
)
def test_a_server_that_says_it_is_full(code: str, message: str, status: int) -> None:
    def fail() -> None:
        raise answer(code, message, status)

    with pytest.raises(ResourceExhausted, match=r"bucket 'bucket' of object storage at http://127.0.0.1:1") as raised:
        store()._call("write x", fail)
    assert raised.value.reason == "STORAGE_FULL"


@pytest.mark.parametrize(
    ("code", "status", "times"),
    [
        ("InternalError", 500, 3),
        ("XMinioBackendDown", 503, 3),
        ("OperationAborted", 409, 3),
        ("MethodNotAllowed", 405, 1),
    ],
)
def test_what_a_server_may_yet_overcome_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, times: int
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    asked = []

    def fail() -> None:
        asked.append(code)
        raise answer(code, "", status)

    with pytest.raises(Unavailable, match=rf"cannot write x \({code}\)"):
        store(attempts=3)._call("write x", fail)
    assert len(asked) == times


def test_nothing_is_sent_that_does_not_fit_and_internal_errors_of_a_full_disk_say_so(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_space, "_WAITS_S", (0.0,))
    big = tmp_path / "big"
    big.write_bytes(bytes(5_000_000))
    with pytest.raises(ResourceExhausted, match=r"has no room for 4\.8 MiB \(2.* MiB are free\)"):
        store(str(small_disk)).put_file("x", big)  # nothing listens there: it is refused before
    (small_disk / "filling").write_bytes(bytes(8_000_000))

    def fail() -> None:
        raise answer("InternalError", "We encountered an internal error, please try again.", 500)

    with pytest.raises(ResourceExhausted):
        store(str(small_disk))._call("write x", fail)


def test_a_full_local_disk_is_named(small_disk: Path) -> None:
    with pytest.raises(ResourceExhausted, match=f"the disk of {small_disk} is full"), writing_to(small_disk):
        (small_disk / "file").write_bytes(bytes(30_000_000))


def file_system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


FULL = {
    "disk": file_system_error(errno.ENOSPC),
    "quota": file_system_error(errno.EDQUOT),
    "of another language": RuntimeError("I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_known_in_whatever_is_raised(error: Exception, wrapped: bool, tmp_path: Path) -> None:
    said = re.escape(f"the disk of {tmp_path} is full")
    with pytest.raises(ResourceExhausted, match=said) as raised, writing_to(tmp_path):
        if wrapped:
            raise ValueError("a library's own") from error
        raise error
    assert (raised.value.reason, raised.value.metadata["where"]) == ("STORAGE_FULL", str(tmp_path))
    assert outcomes.of_error(raised.value) == exit_codes.FAILED


def test_a_file_that_is_not_there_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "no" / "file").write_bytes(b"")


def test_packing_to_a_full_disk_names_it_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    for label in ("alpha", "beta"):
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "a.png").write_bytes(bytes(15_000_000))
    with pytest.raises(ResourceExhausted, match=re.escape(f"the disk of {small_disk} is full")):
        pack(tmp_path / "images", small_disk / "dataset.zip", progress=lambda done, total: None)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("size_bytes", [30_000_000, 10_000_000])
def test_what_does_not_fit_a_workers_cache(small_disk: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Known before it is written; or found while it is written, since others write to the disk as well."""
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(small_disk))
    monkeypatch.setenv("SYNTHMIX_CACHE_MOST_BYTES", "100000000")
    with pytest.raises(ResourceExhausted, match=re.escape(f"the disk of {small_disk} is full")):
        open_cached("pixels", "a", size_bytes, lambda path: path.write_bytes(bytes(30_000_000)))
    assert [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_what_is_in_flight_is_kept_free(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_space, "_WAITS_S", (0.0,))
    asked = []

    def make_room() -> None:
        asked.append(1)

    with room_for(small_disk, 2_000_000, "it", make_room):
        said = r"1\.9 MiB of them for what is being written"
        with pytest.raises(ResourceExhausted, match=said), room_for(small_disk, 3_000_000, "it", make_room):
            pass
        assert asked == [1]
    with room_for(small_disk, 3_000_000, "it", make_room):
        assert asked == [1]


def test_what_is_deleted_is_asked_back_before_a_write_is_refused(small_disk: Path) -> None:
    deleted = small_disk / "deleted"
    deleted.write_bytes(bytes(8_000_000))
    with room_for(small_disk, 2_000_000, "it", deleted.unlink):
        assert not deleted.exists()


def test_other_errors_of_files_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing_to(tmp_path):
        raise PermissionError(errno.EACCES, "no")
