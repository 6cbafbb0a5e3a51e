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
    """An object.

    Attributes:
        version: Changes whenever other bytes are written.
        modify_time: When it was written last, RFC 3339, UTC, to the second or finer.
    """

    key: str
    size_bytes: int
    version: str = field(compare=False)
    modify_time: str = field(compare=False)


class ObjectStore(Protocol):
    """Objects by key in one bucket. Puts are atomic: a reader sees the whole object or none."""

    def uri(self, key: str) -> str:
        """Where an object is, for clients that can reach object storage, such as s3://bucket/key."""
        ...

    def create_bucket(self) -> None:
        """Creates the bucket if it is not there."""
        ...

    def check(self) -> None:
        """Raises unless the bucket can be reached."""
        ...

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None: ...

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None: ...

    def put_if(self, key: str, data: bytes, *, version: str) -> bool:
        """Writes if the object has this version still, or if there is none and the version is "".

        Of several writers that saw the same version, one is told True. It is told to a writer whose very bytes are
        there already as well: its own put may have arrived although the answer was lost.

        Returns:
            Whether the object holds `data`; False if another writer was there first.
        """
        ...

    def get_bytes(self, key: str) -> bytes:
        """Raises NotFound if there is no such object."""
        ...

    def get_with_version(self, key: str) -> tuple[bytes, str]:
        """An object's bytes, and the version for put_if that they have. Raises NotFound."""
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

    def copy(self, source: str, target: str) -> None:
        """Writes an object again under another key, within object storage. Raises NotFound."""
        ...

    def delete(self, key: str) -> None:
        """Deletes an object; deleting what is not there is no error."""
        ...

    def delete_prefix(self, prefix: str) -> None: ...

    def put_json(self, key: str, value: Any) -> None:
        self.put_bytes(key, to_json_bytes(value), "application/json")

    def put_json_if(self, key: str, value: Any, *, version: str) -> bool:
        """As put_if."""
        return self.put_if(key, to_json_bytes(value), version=version)

    def get_json(self, key: str) -> Any:
        """Raises NotFound if there is no such object."""
        return json.loads(self.get_bytes(key))

    def find_json(self, key: str) -> Any | None:
        """The object as JSON, or None if there is none."""
        return self.find_json_with_version(key)[0]

    def find_json_with_version(self, key: str) -> tuple[Any | None, str]:
        """The object as JSON and its version for put_if, or None and "" if there is none."""
        try:
            data, version = self.get_with_version(key)
        except NotFound:
            return None, ""
        return json.loads(data), version


def to_json_bytes(value: Any) -> bytes:
    """Of equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1).encode()
