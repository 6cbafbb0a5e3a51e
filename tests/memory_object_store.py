"""Object storage in memory, for unit tests. The contract suite holds it to what ObjectStore does."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import FailedPrecondition, NotFound
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

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self.put_bytes(key, path.read_bytes(), content_type)

    def get_bytes(self, key: str) -> bytes:
        objects = self._bucket()
        if key not in objects:
            raise NotFound(f"object storage has no {key}", reason="OBJECT_NOT_FOUND")
        return objects[key]

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get_bytes(key))

    def stream(self, key: str) -> Iterator[bytes]:
        data = self.get_bytes(key)
        return (data[start : start + CHUNK_SIZE_BYTES] for start in range(0, len(data), CHUNK_SIZE_BYTES))

    def stat(self, key: str) -> ObjectInfo | None:
        data = self._bucket().get(key)
        return None if data is None else ObjectInfo(key, len(data))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [
            ObjectInfo(key, len(data), hashlib.md5(data).hexdigest(), self._times[key])
            for key, data in sorted(self._bucket().copy().items())
            if key.startswith(prefix)
        ]

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
