"""Object storage in memory, for unit tests. The contract suite holds it to what ObjectStore does."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import FailedPrecondition, NotFound, Unavailable
from synthmix.service_kit.object_store import CHUNK_SIZE_BYTES, ObjectInfo, ObjectStore


class MemoryObjectStore(ObjectStore):
    """Objects by key in a dictionary. The bucket has to be created, as anywhere."""

    def __init__(self, settings: ObjectStoreSettings | None = None) -> None:
        self.settings = settings or ObjectStoreSettings("http://memory.invalid", "unused", "unused", "synthmix")
        self._objects: dict[str, bytes] | None = None
        self._times: dict[str, str] = {}

    @classmethod
    def created(cls) -> Self:
        """A store whose bucket is there."""
        store = cls()
        store.create_bucket()
        return store

    @property
    def keys(self) -> list[str]:
        """The key of every object, in order."""
        return sorted(self._bucket())

    def uri(self, key: str) -> str:
        return f"s3://{self.settings.bucket}/{key}"

    def create_bucket(self) -> None:
        if self._objects is None:
            self._objects = {}

    def check(self) -> None:
        self._bucket()

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self._bucket()[key] = bytes(data)
        self._times[key] = datetime.now(UTC).isoformat(timespec="microseconds")

    def put_if(self, key: str, data: bytes, *, version: str) -> bool:
        found = self.stat(key)
        if (found.version if found else "") == version:
            self.put_bytes(key, data)
            return True
        return self._bucket().get(key) == data

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self.put_bytes(key, path.read_bytes(), content_type)

    def get_bytes(self, key: str) -> bytes:
        objects = self._bucket()
        if key not in objects:
            raise NotFound(f"object storage has no {key}", reason="OBJECT_NOT_FOUND")
        return objects[key]

    def get_with_version(self, key: str) -> tuple[bytes, str]:
        data = self.get_bytes(key)
        return data, _version(data)

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get_bytes(key))

    def stream(self, key: str) -> Iterator[bytes]:
        data = self.get_bytes(key)
        return (data[start : start + CHUNK_SIZE_BYTES] for start in range(0, len(data), CHUNK_SIZE_BYTES))

    def stat(self, key: str) -> ObjectInfo | None:
        data = self._bucket().get(key)
        return None if data is None else ObjectInfo(key, len(data), _version(data), self._times[key])

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [
            ObjectInfo(key, len(data), _version(data), self._times[key])
            for key, data in sorted(self._bucket().copy().items())
            if key.startswith(prefix)
        ]

    def set_modify_time(self, key: str, time: datetime) -> None:
        """Makes an object look as old as a test wants it."""
        self._times[key] = time.isoformat(timespec="microseconds")

    def copy(self, source: str, target: str) -> None:
        self.put_bytes(target, self.get_bytes(source))

    def delete(self, key: str) -> None:
        self._bucket().pop(key, None)

    def delete_prefix(self, prefix: str) -> None:
        for item in self.list(prefix):
            self.delete(item.key)

    def _bucket(self) -> dict[str, bytes]:
        if self._objects is None:
            raise FailedPrecondition(
                f"bucket {self.settings.bucket!r} doesn't exist at {self.settings.endpoint_url}; create it, "
                "or set SYNTHMIX_OBJECT_STORE_BUCKET",
                reason="BUCKET_MISSING",
            )
        return self._objects


class FailingObjectStore(MemoryObjectStore):
    """Its put of this number fails, from 1: the object storage of a test is down for a moment."""

    def __init__(self, *, fail_at: int) -> None:
        super().__init__()
        self.create_bucket()
        self.fail_at = fail_at
        self.puts = 0

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.puts += 1
        if self.puts == self.fail_at:
            raise Unavailable("object storage is down; try again", reason="OBJECT_STORAGE_UNAVAILABLE")
        super().put_bytes(key, data, content_type)


def _version(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
