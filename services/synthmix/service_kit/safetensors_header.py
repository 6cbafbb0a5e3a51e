"""The header of a safetensors file, read before any library reads the file: bounded, and strict JSON."""

import json
import struct
from pathlib import Path
from typing import Any

from synthmix.service_kit.quantities import byte_size

# A tensor's entry takes some 130 bytes: room for 60,000, where a UNet has 700. The library's own bound is 100 MB, and
# JSON of that size becomes a gigabyte in memory.
LARGEST_HEADER_BYTES = 8 << 20
LENGTH_BYTES = 8


def header_length(start: bytes | bytearray) -> int:
    """How many bytes of a safetensors file come before the tensors', by the first bytes of it; 8 if these are fewer."""
    if len(start) < LENGTH_BYTES:
        return LENGTH_BYTES
    (length,) = struct.unpack("<Q", start[:LENGTH_BYTES])
    return LENGTH_BYTES + int(length)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the tensors' bytes begin.

    What the header says of the tensors is not checked.

    Raises:
        ValueError: The file does not begin with such a header. It says what is wrong.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        if len(start) < LENGTH_BYTES:
            raise ValueError(f"it ends within the {LENGTH_BYTES} bytes that give its header's length")
        length = header_length(start) - LENGTH_BYTES
        if length > LARGEST_HEADER_BYTES:
            raise ValueError(f"it says that its header has {length} bytes, more than {byte_size(LARGEST_HEADER_BYTES)}")
        if length > path.stat().st_size - LENGTH_BYTES:
            raise ValueError(f"it says that its header has {length} bytes, more than follow")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it has a header that is nested too deeply") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError("it has a header that is not valid JSON") from error
    if not isinstance(header, dict):
        raise ValueError("it has a header that is not a JSON object")
    return header, LENGTH_BYTES + length


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("it has a header with the same key twice")
    return value
