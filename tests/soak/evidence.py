"""What object storage says of a soak: what was made, whether anything was made again, and with which digests."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from synthmix.service_kit.artifacts import LAID_ASIDE, MANIFEST
from synthmix.service_kit.object_store import ObjectInfo
from synthmix.service_kit.resource_names import COLLECTIONS

Digests = Mapping[str, str]
"""sha256 by artifact and payload, as studies.payload_digests gives them."""

# A server tells times to the second.
CLOCK_SECONDS = 1.0


@dataclass(frozen=True)
class Again:
    """A payload of a finished artifact that was written once more, and how long after the manifest."""

    key: str
    seconds: float


@dataclass
class Account:
    """What listings of the bucket have shown, one after the other. Safe to share between threads.

    An artifact's manifest is written last, once. So whoever does its work again writes its payloads again, which are
    younger than the manifest from then on. A manifest with another time is another life: it was deleted meanwhile.

    Attributes:
        lives: Every manifest that was seen, by artifact, with when it was written.
        again: By artifact and life, the payload that was written latest after its manifest.
        kept: Objects and bytes by the first part of the keys, as they were last.
    """

    lives: set[tuple[str, str]] = field(default_factory=set)
    again: dict[tuple[str, str], Again] = field(default_factory=dict)
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, objects: Iterable[ObjectInfo]) -> None:
        listed = list(objects)
        manifests = {artifact: item for item in listed if (artifact := _artifact_of(item)) and _is_manifest(item)}
        # The sweep puts back what it took from an artifact that came to be meanwhile: nobody did any work for that.
        put_back = {item.key.removeprefix(LAID_ASIDE) for item in listed if item.key.startswith(LAID_ASIDE)}
        with self._lock:
            self.kept = by_kind(listed)
            for artifact, manifest in manifests.items():
                self.lives.add((artifact, manifest.modify_time))
            for item in listed:
                manifest = manifests.get(_artifact_of(item))
                if manifest is None or _is_manifest(item) or item.key in put_back:
                    continue
                late_s = _seconds(item.modify_time) - _seconds(manifest.modify_time)
                life = (_artifact_of(item), manifest.modify_time)
                if late_s > CLOCK_SECONDS and (life not in self.again or late_s > self.again[life].seconds):
                    self.again[life] = Again(item.key, late_s)

    def made(self) -> dict[str, int]:
        """How many artifacts of each collection were made, one that was deleted and made anew as often as that."""
        with self._lock:
            counts = Counter(artifact.partition("/")[0] for artifact, _ in self.lives)
        return {collection: counts[collection] for collection in COLLECTIONS if counts[collection]}


def by_kind(objects: Iterable[ObjectInfo]) -> dict[str, tuple[int, int]]:
    """(number, bytes) by the first part of the keys, such as adapters or uploads."""
    found: dict[str, tuple[int, int]] = {}
    for item in objects:
        kind = item.key.partition("/")[0]
        number, size_bytes = found.get(kind, (0, 0))
        found[kind] = (number + 1, size_bytes + item.size_bytes)
    return dict(sorted(found.items()))


def differences(found: Digests, expected: Digests) -> list[str]:
    """What tells two results of one study apart, a line each."""
    return [
        f"{name} is {found.get(name, 'missing')} instead of {expected.get(name, 'missing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def _artifact_of(item: ObjectInfo) -> str:
    """The artifact that an object belongs to, or ""."""
    collection, _, rest = item.key.partition("/")
    artifact_id, _, leaf = rest.partition("/")
    return f"{collection}/{artifact_id}" if collection in COLLECTIONS and leaf and "/" not in leaf else ""


def _is_manifest(item: ObjectInfo) -> bool:
    return item.key.endswith(f"/{MANIFEST}")


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
