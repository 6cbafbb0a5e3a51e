"""Object storage through the MinIO SDK: one client code path for SeaweedFS, MinIO and any other S3 endpoint."""

import io
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource, CopySource
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error, ServerError
from urllib3.util.ssl_match_hostname import CertificateError

from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.blocking_calls import remaining_seconds
from synthmix.service_kit.compaction import compact
from synthmix.service_kit.environment import ObjectStoreSettings, object_store_settings
from synthmix.service_kit.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from synthmix.service_kit.object_store import CHUNK_SIZE_BYTES, ObjectInfo, ObjectStore
from synthmix.service_kit.storage_space import is_low, room_for, storage_full, writing_to

log = logging.getLogger(__name__)

PART_SIZE_BYTES = 16 * 1024 * 1024
SMALL_OBJECT_BYTES = 1024 * 1024
# A server answers when it has copied: of gigabytes later than anybody waits for.
COPIED_AT_ONCE_BYTES = 512 * 1024 * 1024
ATTEMPTS = 6
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
SIGNED_FOR = timedelta(minutes=5)
CONNECT_SECONDS = 3.0
READ_SECONDS = 60.0
SHORTEST_SECONDS = 0.01
# With the last attempt, less than the 120 s after which a cluster restarts a server that hasn't started.
START_PATIENCE_SECONDS = 90.0

_MISSING = {"NoSuchKey", "NoSuchObject", "ResourceNotFound", "NotFound"}
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
# A bucket of another region, as the answers to HEAD and to other requests say it.
_ELSEWHERE = {"PermanentRedirect", "Redirect", "BadRequest", "AuthorizationHeaderMalformed"}
# MinIO's, with HTTP's 507, and those of quotas. SeaweedFS has none: a full disk is an InternalError like any other.
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"}
_FULL_STATUS = 507
_FULL_WORDS = ("no space left", "no free volumes", "disk quota exceeded")
# Besides every answer with a status of 5xx, those that have another.
_PASSING = {"RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
_PRECONDITION_FAILED_STATUS = 412
# What OpenSSL makes of an answer in plain text; from 3.2 on it is the second.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
# What a Job makes beside whoever waits for it: the bucket, and the user with its rights.
_MADE_MEANWHILE = ("BUCKET_MISSING", "OBJECT_STORAGE_DENIED")

Result = TypeVar("Result")


class _WithinDeadlines(urllib3.PoolManager):
    """Requests that wait no longer for a server than whoever waits for this thread."""

    def urlopen(  # type: ignore[override]  # as PoolManager's own
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        remaining_s = remaining_seconds()
        longest_s = READ_SECONDS if remaining_s is None else max(SHORTEST_SECONDS, min(READ_SECONDS, remaining_s))
        options["timeout"] = urllib3.Timeout(connect=min(CONNECT_SECONDS, longest_s), read=longest_s)
        return super().urlopen(method, url, redirect, **options)


def connection_pool(settings: ObjectStoreSettings) -> urllib3.PoolManager:
    """Connections that trust the settings' authorities, read again for each. Raises FailedPrecondition."""
    if not settings.ca:
        return _WithinDeadlines(num_pools=4, maxsize=32, retries=False)
    try:
        ssl.create_default_context(cafile=settings.ca)
    except OSError as error:  # such as ssl.SSLError, for a file of something else
        raise FailedPrecondition(
            f"SYNTHMIX_OBJECT_STORE_CA is {settings.ca!r}, which cannot be used ({error.strerror or error}); name a "
            "PEM file of certificates",
            reason="SETTING_INVALID",
        ) from None
    return _WithinDeadlines(num_pools=4, maxsize=32, retries=False, ca_certs=settings.ca)


class S3ObjectStore(ObjectStore):
    """Objects by key in one bucket of an S3 server. Safe to share between threads.

    Every call is retried with exponential backoff and jitter while the server is out of reach or overloaded, and then
    raises Unavailable.

    Raises:
        FailedPrecondition: The credentials are refused or the bucket doesn't exist.
        Unavailable: The server didn't answer within the retries.
        ResourceExhausted: There is no room for what is written.
    """

    def __init__(self, settings: ObjectStoreSettings, *, attempts: int = ATTEMPTS):
        parts = urlsplit(settings.endpoint_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise FailedPrecondition(
                f"SYNTHMIX_OBJECT_STORE_ENDPOINT is {settings.endpoint_url!r}; use http://host:port or https://host",
                reason="SETTING_INVALID",
            )
        self.settings = settings
        self._attempts = attempts
        self._pool = connection_pool(settings)
        # A region given up front saves a request for every bucket location.
        self._client = Minio(
            parts.netloc,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            secure=parts.scheme == "https",
            region=settings.region,
            http_client=self._pool,
        )

    def uri(self, key: str) -> str:
        return f"s3://{self.settings.bucket}/{key}"

    def create_bucket(self) -> None:
        """Creates the bucket if it isn't there."""

        def create() -> None:
            if not self._client.bucket_exists(self.settings.bucket):
                try:
                    self._client.make_bucket(self.settings.bucket)
                except S3Error as error:
                    if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                        raise

        self._call("create bucket", create)

    def check(self) -> None:
        """Raises unless the bucket can be reached with these credentials."""
        if not self._call("check bucket", lambda: self._client.bucket_exists(self.settings.bucket)):
            raise FailedPrecondition(
                f"bucket {self.settings.bucket!r} doesn't exist at {self.settings.endpoint_url}; create it, or set "
                "SYNTHMIX_OBJECT_STORE_BUCKET",
                reason="BUCKET_MISSING",
            )

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        with self._room_for(len(data)):
            self._call(
                f"write {key}",
                lambda: self._client.put_object(
                    self.settings.bucket,
                    key,
                    io.BytesIO(data),
                    len(data),
                    content_type=content_type,
                    part_size=PART_SIZE_BYTES,
                ),
            )

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Uploads a file, in parts of 16 MiB if it is larger than that. What a failed upload had sent goes."""
        with self._room_for(path.stat().st_size):
            self._call(
                f"write {key}",
                lambda: self._client.fput_object(
                    self.settings.bucket, key, str(path), content_type=content_type, part_size=PART_SIZE_BYTES
                ),
            )

    def put_if(self, key: str, data: bytes, *, version: str) -> bool:
        # The SDK's own put sends no condition, so this one goes to an address that the SDK has signed.
        condition = {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}

        def put() -> bool:
            url = self._client.get_presigned_url("PUT", self.settings.bucket, key, expires=SIGNED_FOR)
            answer = self._pool.request("PUT", url, body=data, headers=condition | {"Content-Type": "application/json"})
            if answer.status in (200, 204):
                return True
            if answer.status == _PRECONDITION_FAILED_STATUS:
                return False
            if "application/xml" not in answer.headers.get("Content-Type", ""):
                raise ServerError(f"server failed with HTTP status code {answer.status}", answer.status)
            error = S3Error.fromxml(answer)
            if version and error.code in _MISSING:
                return False
            raise error

        if self._call(f"write {key}", put):
            return True
        try:
            return self.get_bytes(key) == data
        except NotFound:
            return False

    def get_bytes(self, key: str) -> bytes:
        """Raises NotFound if there is no such object."""
        return self.get_with_version(key)[0]

    def get_with_version(self, key: str) -> tuple[bytes, str]:
        def get() -> tuple[bytes, str]:
            response = self._client.get_object(self.settings.bucket, key)
            return b"".join(_chunks(response)), response.headers.get("ETag", "").strip('"')

        return self._call(f"read {key}", get)

    def get_file(self, key: str, path: Path) -> None:
        """Downloads to a path, which appears only when it is whole."""
        partial = path.with_name(f"{path.name}.{threading.get_ident()}-{random.getrandbits(32):08x}.partial")

        def get() -> None:
            with writing_to(path.parent), partial.open("wb") as file:
                for chunk in _chunks(self._client.get_object(self.settings.bucket, key)):
                    file.write(chunk)

        try:
            self._call(f"read {key}", get)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def stream(self, key: str) -> Iterator[bytes]:
        """Yields the object in chunks of at most 1 MiB. Only opening is retried: a reader has seen the first chunks."""
        response = self._call(f"read {key}", lambda: self._client.get_object(self.settings.bucket, key))
        try:
            yield from _chunks(response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unavailable(f"read {key}", error) from error

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            found = self._call(f"look up {key}", lambda: self._client.stat_object(self.settings.bucket, key))
        except NotFound:
            return None
        return _info(found)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose key begins with the prefix, in the order of keys."""
        return self._call(
            f"list {prefix}",
            lambda: [
                _info(item) for item in self._client.list_objects(self.settings.bucket, prefix=prefix, recursive=True)
            ],
        )

    def copy(self, source: str, target: str) -> None:
        """Writes an object again under another key, within object storage. Raises NotFound."""
        bucket = self.settings.bucket

        def copy() -> None:
            size_bytes = self._client.stat_object(bucket, source).size or 0
            if size_bytes <= COPIED_AT_ONCE_BYTES:
                self._client.copy_object(bucket, target, CopySource(bucket, source))
                return
            starts = range(0, size_bytes, COPIED_AT_ONCE_BYTES)
            lengths = [min(COPIED_AT_ONCE_BYTES, size_bytes - start) for start in starts]
            parts = zip(starts, lengths, strict=True)
            self._client.compose_object(
                bucket, target, [ComposeSource(bucket, source, offset=start, length=length) for start, length in parts]
            )

        self._call(f"read {source}", copy)

    def delete(self, key: str) -> None:
        """Deletes an object; deleting what isn't there is no error."""
        self._call(f"delete {key}", lambda: self._client.remove_object(self.settings.bucket, key))

    def delete_prefix(self, prefix: str) -> None:
        def delete() -> None:
            names = (DeleteObject(item.key) for item in self.list(prefix))
            for failure in self._client.remove_objects(self.settings.bucket, names):
                raise Unavailable(
                    f"object storage didn't delete {failure.name}: {failure.message}; try again",
                    reason="OBJECT_STORAGE_UNAVAILABLE",
                )

        self._call(f"delete {prefix}", delete)

    def _call(self, action: str, call: Callable[[], Result]) -> Result:
        for attempt in range(self._attempts):
            self._check_time(action)
            try:
                return call()
            except S3Error as error:
                if _says_full(error):
                    raise self._full(f" left ({error.code})") from error
                if error.code in _MISSING:
                    raise NotFound(
                        f"object storage has no {action.partition(' ')[2]}", reason="OBJECT_NOT_FOUND"
                    ) from error
                if error.code == "NoSuchBucket":
                    raise FailedPrecondition(
                        f"bucket {self.settings.bucket!r} doesn't exist at {self.settings.endpoint_url}; "
                        "create it, or set SYNTHMIX_OBJECT_STORE_BUCKET",
                        reason="BUCKET_MISSING",
                    ) from error
                if error.code in _DENIED:
                    raise FailedPrecondition(
                        f"object storage at {self.settings.endpoint_url} refuses the credentials for bucket "
                        f"{self.settings.bucket!r} ({error.code}); check SYNTHMIX_OBJECT_STORE_ACCESS_KEY, _SECRET_KEY "
                        "and _BUCKET, and what the server lets this user do",
                        reason="OBJECT_STORAGE_DENIED",
                    ) from error
                if error.code in _ELSEWHERE:
                    raise FailedPrecondition(
                        f"object storage at {self.settings.endpoint_url} answers {error.code} to a request for region "
                        f"{self.settings.region!r} ({error.message}); check SYNTHMIX_OBJECT_STORE_REGION and _ENDPOINT",
                        reason="OBJECT_STORAGE_ELSEWHERE",
                    ) from error
                if error.code == "InternalError" and action.startswith("write") and self._is_low():
                    self._compact()
                    if attempt == self._attempts - 1 or self._is_low():
                        raise self._full(" left") from error
                if not _is_passing(error) or attempt == self._attempts - 1:
                    raise self._unavailable(action, error) from error
            except (urllib3.exceptions.HTTPError, MinioException, OSError) as error:
                if _settings_forbid_tls(error):
                    raise FailedPrecondition(
                        f"object storage at {self.settings.endpoint_url} cannot be trusted by TLS ({error}); name the "
                        "PEM file of its certificate's authority by SYNTHMIX_OBJECT_STORE_CA, and check that the "
                        "certificate is for this address, and that the server uses TLS",
                        reason="OBJECT_STORAGE_TLS",
                    ) from error
                if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                    raise  # a local file, not the network
                if attempt == self._attempts - 1:
                    raise self._unavailable(action, error) from error
            backoff = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**attempt)
            self._check_time(action, backoff)
            time.sleep(backoff * (0.5 + random.random() / 2))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_time(self, action: str, needed_s: float = 0.0) -> None:
        """Raises Unavailable if whoever waits for this thread will not wait for so long."""
        remaining_s = remaining_seconds()
        if remaining_s is not None and remaining_s <= needed_s:
            raise self._unavailable(action, TimeoutError())

    def _room_for(self, size_bytes: int) -> AbstractContextManager[None]:
        """Records are always tried: what frees room is asked for by them."""
        if self.settings.folder and size_bytes > SMALL_OBJECT_BYTES:
            return room_for(Path(self.settings.folder), size_bytes, self._where, self._compact)
        return nullcontext()

    def _compact(self) -> None:
        if not self.settings.compaction_address:
            return
        try:
            compact(self.settings.compaction_address, Path(self.settings.certificate))
        except (grpc.RpcError, OSError) as error:
            log.warning("object storage couldn't be compacted: %s", error)

    def _is_low(self) -> bool:
        return bool(self.settings.folder) and is_low(Path(self.settings.folder))

    @property
    def _where(self) -> str:
        return f"object storage at {self.settings.endpoint_url}"

    def _full(self, why: str) -> ResourceExhausted:
        folder = f" (in {self.settings.folder})" if self.settings.folder else ""
        return storage_full(f"bucket {self.settings.bucket!r} of {self._where}{folder}", why)

    def _unavailable(self, action: str, error: Exception) -> Unavailable:
        what = error.code if isinstance(error, S3Error) else type(error).__name__
        return Unavailable(
            f"object storage at {self.settings.endpoint_url} cannot {action} ({what}); "
            "check that it runs and is reachable, then try again",
            reason="OBJECT_STORAGE_UNAVAILABLE",
        )


def open_object_store() -> S3ObjectStore:
    """Object storage as this process' environment names it. Raises FailedPrecondition if it names none."""
    return S3ObjectStore(object_store_settings())


def _info(item: Object) -> ObjectInfo:
    assert item.last_modified is not None
    return ObjectInfo(
        item.object_name, item.size or 0, item.etag or "", item.last_modified.isoformat(timespec="microseconds")
    )


def _is_passing(error: S3Error) -> bool:
    return error.code in _PASSING or getattr(error.response, "status", 0) >= 500


def _settings_forbid_tls(error: Exception) -> bool:
    """Whether the certificate is not trusted, or the server uses no TLS. Other errors of TLS pass, as when it stops."""
    cause = error.args[0] if isinstance(error, urllib3.exceptions.SSLError) and error.args else None
    return isinstance(cause, (ssl.SSLCertVerificationError, CertificateError)) or (
        isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS
    )


def _says_full(error: S3Error) -> bool:
    said = f"{error.code} {error.message}".lower()
    return (
        error.code in _FULL
        or getattr(error.response, "status", None) == _FULL_STATUS
        or any(words in said for words in _FULL_WORDS)
    )


def when_available(action: Callable[[], None], *, patience_s: float = START_PATIENCE_SECONDS) -> None:
    """Does something as soon as object storage allows it: on a cluster its server, bucket and user are made meanwhile.

    Args:
        action: Such as a store's check. It is tried again while it raises Unavailable, finds no bucket or is refused.
        patience_s: After so long, what it raises is raised.
    """

    def is_passing(error: Exception) -> bool:
        passing = isinstance(error, Unavailable) or getattr(error, "reason", "") in _MADE_MEANWHILE
        if passing:
            log.warning("waiting for object storage: %s", error)
        return passing

    ask_until(action, end_s=time.monotonic() + patience_s, pause_s=1.0, is_passing=is_passing)


def _chunks(response: Any) -> Iterator[bytes]:
    """Yields a response's body, and raises if it is shorter than the server said."""
    try:
        received_bytes = 0
        for chunk in response.stream(CHUNK_SIZE_BYTES):
            received_bytes += len(chunk)
            yield chunk
            remaining_s = remaining_seconds()
            if remaining_s is not None and remaining_s <= 0:  # a server that sends little by little
                raise TimeoutError
        _check_length(response, received_bytes)
    finally:
        response.close()
        response.release_conn()


def _check_length(response: Any, received_bytes: int) -> None:
    declared = response.headers.get("Content-Length")
    if declared is not None and int(declared) != received_bytes:
        raise urllib3.exceptions.IncompleteRead(received_bytes, int(declared) - received_bytes)
