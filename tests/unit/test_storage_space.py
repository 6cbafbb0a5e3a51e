"""Full storage: each server's answer becomes the same error, and a full local disk names itself."""

import errno
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from minio.error import S3Error

from service_kit.errors import ResourceExhausted, Unavailable
from service_kit.object_store import ObjectStore
from service_kit.settings import ObjectStoreSettings
from service_kit.storage_space import writing_to


def store(folder: str = "") -> ObjectStore:
    return ObjectStore(ObjectStoreSettings("http://127.0.0.1:1", "a", "b", "bucket", folder=folder), attempts=1)


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


def test_an_internal_error_of_a_server_with_room_is_unavailable(tmp_path: Path) -> None:
    def fail() -> None:
        raise answer("InternalError", "We encountered an internal error, please try again.", 500)

    with pytest.raises(Unavailable):
        store()._call("write x", fail)


def test_nothing_is_sent_that_does_not_fit_and_internal_errors_of_a_full_disk_say_so(
    small_disk: Path, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(5_000_000))
    with pytest.raises(ResourceExhausted, match=r"has no room for 5\.0 MB \(2.* MB are free\)"):
        store(str(small_disk)).put_file("x", big)  # nothing listens there: it is refused before
    (small_disk / "filling").write_bytes(bytes(8_000_000))

    def fail() -> None:
        raise answer("InternalError", "We encountered an internal error, please try again.", 500)

    with pytest.raises(ResourceExhausted):
        store(str(small_disk))._call("write x", fail)


def test_a_full_local_disk_is_named(small_disk: Path) -> None:
    with pytest.raises(ResourceExhausted, match=f"the disk of {small_disk} is full"), writing_to(small_disk):
        (small_disk / "file").write_bytes(bytes(30_000_000))


def test_other_errors_of_files_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing_to(tmp_path):
        raise PermissionError(errno.EACCES, "no")
