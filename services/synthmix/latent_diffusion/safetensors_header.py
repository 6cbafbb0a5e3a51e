"""The header of a safetensors file: it says which bytes the file has, so a truncated one is known without its weights.

The format (huggingface.co/docs/safetensors): eight bytes of the header's length, little endian; the header, JSON that
gives each tensor's type, shape and offsets; the tensors' bytes, one after the other without a hole.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST_HEADER_BYTES = 100_000_000  # as in the safetensors library
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64,
}  # fmt: skip


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by name.

    Raises:
        ValueError: The file isn't what its header says, with the sentence's end: "is 10 bytes long where ...".
        OSError: It can't be read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"is {size_bytes} bytes long, too short to be a safetensors file")
        if start.startswith(b"version "):
            raise ValueError("is a pointer of Git LFS, not the file itself: run `git lfs pull` where it came from")
        header_bytes = int.from_bytes(start, "little")
        if header_bytes > LARGEST_HEADER_BYTES:
            raise ValueError("doesn't begin with a header of safetensors")
        if 8 + header_bytes > size_bytes:
            raise ValueError(f"is cut off within its header: it is {size_bytes} bytes long")
        text = file.read(header_bytes)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("has a header that isn't JSON") from None
    if not isinstance(header, dict):
        raise ValueError("has a header that isn't a JSON object")
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    if not tensors:
        raise ValueError("holds no tensors")
    end = _end_of_data({name: _offsets(name, value) for name, value in tensors.items()})
    expected_bytes = 8 + header_bytes + end
    if size_bytes != expected_bytes:
        what = "is cut off" if size_bytes < expected_bytes else "has bytes after its end"
        raise ValueError(f"{what}: its header says {expected_bytes} bytes and it is {size_bytes} long")
    return {name: tuple(value["shape"]) for name, value in tensors.items()}


def _offsets(name: str, value: Any) -> tuple[int, int]:
    """Where a tensor begins and ends; checked against its type and shape."""
    problem = ValueError(f"has a header with an impossible entry for {name[:80]!r}")
    if not isinstance(value, Mapping):
        raise problem
    shape, offsets, bits = value.get("shape"), value.get("data_offsets"), DTYPE_BITS.get(str(value.get("dtype")))
    if bits is None or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise problem
    if not all(isinstance(item, int) and item >= 0 for item in (*shape, *offsets)):
        raise problem
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise problem
    return begin, end


def _end_of_data(offsets: Mapping[str, tuple[int, int]]) -> int:
    position = 0
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if begin != position:
            what = "overlap" if begin < position else "leave a hole"
            raise ValueError(f"has a header whose tensors {what} at {name[:80]!r}")
        position = end
    return position
