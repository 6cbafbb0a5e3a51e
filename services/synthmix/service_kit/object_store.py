"""Object storage as everything that uses it sees it. tests/contracts holds every store to the same behaviour."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from synthmix.service_kit.errors import NotFound

CHUNK_SIZE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ObjectInfo:
    """An object. What only a listing tells is "" elsewhere.

    Attributes:
        version: Changes whenever other bytes are written.
        modify_time: When it was written last, RFC 3339, UTC.
    """

    key: str
    size_bytes: int
    version: str = field(default="", compare=False)
    modify_time: str = field(default="", compare=False)


class ObjectStore(Protocol):
    """Objects by key in one bucket. Puts are atomic: a reader sees the whole object or none."""

    def uri(self, key: str) -> str:
        """Where an object is, for clients that can reach object storage, such as s3://bucket/key."""
        ...

    def create_bucket(self) -> None:
        """Creates the bucket if it isn't there."""
        ...

    def check(self) -> None:
        """Raises unless the bucket can be reached."""
        ...

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None: ...

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None: ...

    def get_bytes(self, key: str) -> bytes:
        """Raises NotFound if there is no such object."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Downloads to a path, which appears only when it is whole. Raises NotFound."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yields the object in chunks of at most 1 MiB. Raises NotFound."""
        ...

    def stat(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose key begins with the prefix, in the order of keys."""
        ...

    def delete(self, key: str) -> None:
        """Deletes an object; deleting what isn't there is no error."""
        ...

    def delete_prefix(self, prefix: str) -> None: ...

    def put_json(self, key: str, value: Any) -> None:
        self.put_bytes(key, json.dumps(value, sort_keys=True, indent=1).encode(), "application/json")

    def get_json(self, key: str) -> Any:
        """Raises NotFound if there is no such object."""
        return json.loads(self.get_bytes(key))

    def find_json(self, key: str) -> Any | None:
        """The object as JSON, or None if there is none."""
        try:
            return self.get_json(key)
        except NotFound:
            return None
