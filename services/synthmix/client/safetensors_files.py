"""A safetensors file taken apart and put together without its library: bytes of tensors are copied, headers rewritten.

The format: eight bytes with the header's length, the header as JSON, then the tensors' bytes without a gap
(https://github.com/huggingface/safetensors#format).
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from synthmix.service_kit.safetensors_header import read_header
from synthmix.service_kit.storage_space import writing_to

METADATA = "__metadata__"
COPIED_BYTES = 1 << 20
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Span:
    """Where a tensor's bytes are in the file that it was read from."""

    begin: int
    end: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file.

    Attributes:
        dtype: As safetensors names it, such as F32.
        data: Its bytes, or where they are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Span | bytes


def scalar(name: str, value: float) -> Tensor:
    """A tensor of no dimensions, in float32."""
    return Tensor(name, "F32", (), struct.pack("<f", value))


def read_tensors(path: Path) -> tuple[list[Tensor], dict[str, str]]:
    """What a safetensors file holds, in the order of the bytes, and its metadata. The tensors' bytes are not read.

    Raises:
        ValueError: It is no such file, or not whole. It says what is wrong.
    """
    header, start = read_header(path)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("it has metadata that are not text")
    tensors = sorted((_tensor(name, entry, start) for name, entry in header.items()), key=_place)
    end = start
    for tensor in tensors:
        span = _place(tensor)
        if span[0] != end:
            raise ValueError(f"it has a gap or an overlap before {tensor.name}")
        end = span[1]
    if end != path.stat().st_size:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, and its header speaks of {end:,}")
    return tensors, metadata


def read_bytes(tensor: Tensor, path: Path) -> bytes:
    """A tensor's bytes, from the file that it was read from."""
    if isinstance(tensor.data, bytes):
        return tensor.data
    with path.open("rb") as file:
        file.seek(tensor.data.begin)
        return file.read(tensor.data.end - tensor.data.begin)


def numbers(tensor: Tensor, path: Path) -> list[float]:
    """A tensor's numbers, row by row.

    Raises:
        ValueError: It is of a type that has no numbers here.
    """
    data = read_bytes(tensor, path)
    if tensor.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
    form = {"F64": "d", "F32": "f", "BF16": "f", "F16": "e"}.get(tensor.dtype)
    if form is None:
        raise ValueError(f"it has a tensor {tensor.name} of {tensor.dtype}, which is no type of weights")
    return list(struct.unpack(f"<{math.prod(tensor.shape)}{form}", data))


def write_tensors(path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str], source: Path) -> None:
    """Writes a safetensors file: the same bytes for the same tensors.

    Args:
        source: The file from which tensors were read that hold no bytes.

    Raises:
        ValueError: Two tensors have the same name, or one has a shape that is not that of its bytes.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for tensor in tensors:
        if tensor.name in header:
            raise ValueError(f"it would have two tensors of the name {tensor.name}")
        begin, end = end, end + _size_bytes(tensor)
        if end - begin != _DTYPE_BYTES[tensor.dtype] * math.prod(tensor.shape):
            raise ValueError(f"its {tensor.name} would be of {end - begin} bytes and the shape {tensor.shape}")
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to eight bytes
    with writing_to(path.parent), source.open("rb") as read, path.open("wb") as written:
        written.write(struct.pack("<Q", len(text)))
        written.write(text)
        for tensor in tensors:
            if isinstance(tensor.data, bytes):
                written.write(tensor.data)
            else:
                _copy(read, tensor.data, written)


def _tensor(name: str, entry: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError
        size_bytes = _DTYPE_BYTES[dtype] * math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it has a tensor {name} whose type, shape or place is not one") from error
    if end - begin != size_bytes:
        raise ValueError(f"it has a tensor {name} of {end - begin} bytes, whose shape takes {size_bytes}")
    return Tensor(name, dtype, shape, Span(start + begin, start + end))


def _place(tensor: Tensor) -> tuple[int, int]:
    assert isinstance(tensor.data, Span)
    return tensor.data.begin, tensor.data.end


def _size_bytes(tensor: Tensor) -> int:
    return len(tensor.data) if isinstance(tensor.data, bytes) else tensor.data.end - tensor.data.begin


def _copy(read: BinaryIO, span: Span, written: BinaryIO) -> None:
    read.seek(span.begin)
    left = span.end - span.begin
    while left:
        chunk = read.read(min(left, COPIED_BYTES))
        if not chunk:
            raise ValueError("it ends within a tensor")
        written.write(chunk)
        left -= len(chunk)
