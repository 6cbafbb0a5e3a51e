"""Content addresses: sha256 over canonical JSON."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ID_LENGTH = 32


def canonical_json(value: Any) -> bytes:
    """One byte string for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def digest_of(value: Any) -> str:
    """The id of a request or of content: the first 128 bits of its sha256, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:ID_LENGTH]


def sha256_of(chunks: Iterable[bytes]) -> str:
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
