"""What adapters of one worker have in common: encoded images and prompts, which stay in its memory.

Encoding a train part takes seconds, and a study trains one adapter after another on it. What is kept is what would be
made again, bit for bit: whatever changes it is in its key. Nobody changes its values in place.

Not safe to share between threads: a worker runs one task at a time.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import torch

from synthmix.service_kit.machine_memory import available_memory_bytes

# Of the memory that is free without what is kept.
KEPT_SHARE = 0.1

Tensors = TypeVar("Tensors", bound=tuple[torch.Tensor, ...])

_kept: OrderedDict[Hashable, Any] = OrderedDict()


def kept(key: Hashable, make: Callable[[], Tensors]) -> Tensors:
    """What `make` returns, which is called unless this process has kept it. What does not fit is not kept."""
    if key not in _kept:
        made = make()
        size_bytes = _bytes([made])
        room_bytes = KEPT_SHARE * (available_memory_bytes() + _bytes(_kept.values()))
        if size_bytes > room_bytes:
            return made
        while _bytes(_kept.values()) + size_bytes > room_bytes:
            _kept.popitem(last=False)
        _kept[key] = made
    _kept.move_to_end(key)
    found: Tensors = _kept[key]
    return found


def forget_all() -> None:
    """Gives the memory back."""
    _kept.clear()


def _bytes(made: Iterable[tuple[torch.Tensor, ...]]) -> int:
    return sum(tensor.nbytes for tensors in made for tensor in tensors)
