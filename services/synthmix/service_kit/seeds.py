"""Random seeds and generators from (seed, purpose, index, ...), never from a process' state (DESIGN: determinism)."""

import hashlib
from typing import Any

import numpy as np

from synthmix.service_kit.digests import canonical_json


def derived_seed(*parts: Any) -> int:
    """A 63-bit seed: the same in every process, on every machine."""
    return int.from_bytes(hashlib.sha256(canonical_json(list(parts))).digest()[:8], "big") >> 1


def derived_rng(*parts: object) -> np.random.Generator:
    """numpy's generator of 128 bits of seed: the same on every machine. Parts count by their text."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
