"""The sweep: deletes from object storage what nothing needs any more, once it is old enough.

Payloads that no manifest names, and no checkpoint of an operation that makes them; uploads; checkpoints of operations
that have ended; claims of what is not there, as a deletion that was interrupted leaves them. Records of operations and
manifests are never swept.

A writer may write a payload that lies there, old and orphaned, just when it is about to be deleted. So a payload is
laid aside first, then deleted, and then looked for in the manifest once more; the writer of a manifest looks for its
payloads once more when the manifest is there (synthmix.service_kit.artifacts). Whoever comes second sees what the other
did, and puts the payload back. Two sweeps at once do the same things, which harms nothing.

    laid-aside/{the payload's key}   deleted an hour later
"""

import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from synthmix.service_kit import metrics, owners
from synthmix.service_kit.artifacts import LAID_ASIDE, MANIFEST, list_artifacts
from synthmix.service_kit.deletion import DELETIONS, WITHOUT_GRACE
from synthmix.service_kit.environment import SERVICES, SweepSettings
from synthmix.service_kit.errors import FailedPrecondition, NotFound, SynthMixError
from synthmix.service_kit.object_store import ObjectInfo, ObjectStore
from synthmix.service_kit.operation_records import find_record, find_result
from synthmix.service_kit.references import unfinished_operations
from synthmix.service_kit.resource_names import COLLECTIONS, DATASETS, ArtifactName, OperationName

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3600.0
LONGEST_FIRST_WAIT_SECONDS = 300.0
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Swept:
    """What a sweep deleted, or would have."""

    objects: tuple[ObjectInfo, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(item.key for item in self.objects)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.objects)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Count and bytes by the first part of the keys, such as adapters or uploads, in the order of kinds."""
        found: dict[str, tuple[int, int]] = {}
        for item in sorted(self.objects, key=lambda item: item.key):
            kind = item.key.partition("/")[0]
            count, size_bytes = found.get(kind, (0, 0))
            found[kind] = (count + 1, size_bytes + item.size_bytes)
        return found


def sweep(
    store: ObjectStore, settings: SweepSettings, clock: Clock = lambda: datetime.now(UTC), *, dry_run: bool = False
) -> Swept:
    """Deletes what nothing needs, and is old enough by the clock.

    Args:
        dry_run: Deletes nothing, and returns what would be deleted.
    """
    work = _Sweep(store, settings, clock)
    swept: list[ObjectInfo] = []
    for collection in COLLECTIONS:
        for artifact, item in work.orphans(collection):
            if dry_run or work.lay_aside(artifact, item):
                swept.append(item)
    for item in work.claims():
        if dry_run or work.withdraw(item):
            swept.append(item)
    for item in (*work.uploads(), *work.checkpoints()):
        if not dry_run:
            store.delete(item.key)
        swept.append(item)
    if not dry_run:
        work.clean_up()
    return Swept(tuple(swept))


def start_sweeping(store: ObjectStore, settings: SweepSettings) -> None:
    """Sweeps every hour, in a thread that ends with the process: a sweep that is broken off harms nothing."""
    threading.Thread(target=_sweep_for_ever, args=(store, settings), name="sweep", daemon=True).start()


def _sweep_for_ever(store: ObjectStore, settings: SweepSettings) -> None:
    time.sleep(random.uniform(0.2, 1.0) * LONGEST_FIRST_WAIT_SECONDS)  # replicas that start at once sweep in turn
    while True:
        sweep_and_log(store, settings)
        time.sleep(SWEEP_SECONDS)


def sweep_and_log(store: ObjectStore, settings: SweepSettings) -> None:
    """One sweep of a front end. What fails is told, and left to the next one."""
    try:
        swept = sweep(store, settings)
    except SynthMixError as error:
        log.warning("the sweep did not end: %s", error.message)
    except Exception:  # a fault of ours: the next sweep may meet another state
        log.exception("the sweep failed")
    else:
        metrics.SWEPT_OBJECTS.inc(len(swept.keys))
        metrics.SWEPT_BYTES.inc(swept.size_bytes)
        log.info("swept %d objects of %d bytes", len(swept.keys), swept.size_bytes)


class _Sweep:
    """One sweep: what was going on when it began."""

    def __init__(self, store: ObjectStore, settings: SweepSettings, clock: Clock):
        self._store, self._settings, self._clock = store, settings, clock
        self._unfinished = unfinished_operations(store)
        self._being_made = {name.id for name in self._unfinished}
        self._checkpoints = [
            (OperationName.of_key(item.key.removeprefix("checkpoints/"))[0], item)
            for item in store.list("checkpoints/")
        ]
        self._without_grace = {
            item.key.removeprefix(DELETIONS).removesuffix(WITHOUT_GRACE)
            for item in store.list(DELETIONS)
            if item.key.endswith(WITHOUT_GRACE)
        }
        # An import does not know which dataset it makes before it has made it.
        self._importing = any(_kind(request) == DATASETS for request in self._unfinished.values())

    def orphans(self, collection: str) -> Iterator[tuple[ArtifactName, ObjectInfo]]:
        """The old payloads of a collection that no manifest names."""
        for artifact, payloads in self._payloads(collection):
            urgent = str(artifact) in self._without_grace
            if collection == DATASETS and self._importing and not urgent:
                continue
            old = [item for item in payloads if self._is_past_grace(artifact, item)]
            if not old or artifact.id in self._being_made:
                continue
            named = self._named_by_manifest(artifact)
            if all(_sha256(item) in named for item in old) or (not urgent and self._was_deleted_lately(artifact)):
                continue
            named |= self._named_by_checkpoints(artifact)
            yield from ((artifact, item) for item in old if _sha256(item) not in named)

    def lay_aside(self, artifact: ArtifactName, item: ObjectInfo) -> bool:
        """Takes a payload away, unless it is needed after all. Returns whether it did."""
        found = self._store.stat(item.key)
        if found is None or not self._is_past_grace(artifact, found):
            return False  # another sweep took it, or someone wrote it again
        if _sha256(item) in self._named_by_manifest(artifact):
            return False
        aside = f"{LAID_ASIDE}{item.key}"
        try:
            self._store.copy(item.key, aside)
        except NotFound:
            return False
        self._store.delete(item.key)
        if _sha256(item) not in self._named_by_manifest(artifact):
            return True
        self._store.copy(aside, item.key)
        return False

    def claims(self) -> Iterator[ObjectInfo]:
        """Old claims of artifacts that are not there, and that no operation is still to make."""
        there = {name for collection in COLLECTIONS for name in list_artifacts(self._store, collection)}
        for item in self._store.list(owners.CLAIMS):
            artifact, _ = owners.of_claim(item.key)
            if (
                artifact not in there
                and self._is_old(item, self._settings.grace_hours)
                and not self._is_wanted(artifact)
            ):
                yield item

    def withdraw(self, item: ObjectInfo) -> bool:
        """Deletes a claim, unless its artifact was asked for again. Returns whether it did."""
        found = self._store.stat(item.key)
        if found is None or not self._is_old(found, self._settings.grace_hours):
            return False
        self._store.delete(item.key)
        artifact, owner = owners.of_claim(item.key)
        if not self._is_wanted(artifact):
            return True
        owners.claim(self._store, artifact, owner)
        return False

    def uploads(self) -> Iterator[ObjectInfo]:
        """Old uploads that no unfinished import needs."""
        needed = set(_SHA256.findall("\n".join(self._unfinished.values())))
        for item in self._store.list("uploads/"):
            if self._is_old(item, self._settings.upload_hours) and item.key.removeprefix("uploads/") not in needed:
                yield item

    def checkpoints(self) -> Iterator[ObjectInfo]:
        """Old checkpoints of operations that have ended or are forgotten."""
        for name, item in self._checkpoints:
            if self._is_old(item, self._settings.checkpoint_hours) and name not in self._unfinished:
                yield item

    def clean_up(self) -> None:
        """Puts back what a sweep that was interrupted took from an artifact; deletes what was laid aside before."""
        for item in self._store.list(LAID_ASIDE):
            key = item.key.removeprefix(LAID_ASIDE)
            artifact = ArtifactName(*key.split("/")[:2])
            if _sha256(item) in self._named_by_manifest(artifact) and self._store.stat(key) is None:
                self._store.copy(item.key, key)
            if self._is_old(item, self._settings.laid_aside_hours):
                self._store.delete(item.key)
        for item in self._store.list(DELETIONS):
            if self._is_old(item, self._settings.grace_hours):
                self._store.delete(item.key)

    def _payloads(self, collection: str) -> Iterator[tuple[ArtifactName, list[ObjectInfo]]]:
        """The payloads of each artifact, in the order of ids."""
        of_artifact: list[ObjectInfo] = []
        current = None
        for item in self._store.list(f"{collection}/"):
            _, _, rest = item.key.partition("/")
            artifact_id, _, leaf = rest.partition("/")
            if artifact_id != current:
                if current is not None:
                    yield ArtifactName(collection, current), of_artifact
                current, of_artifact = artifact_id, []
            if _SHA256.fullmatch(leaf):
                of_artifact.append(item)
        if current is not None:
            yield ArtifactName(collection, current), of_artifact

    def _named_by_manifest(self, artifact: ArtifactName) -> set[str]:
        """Every sha256 that a manifest says, wherever: one of a newer version says its payloads as well."""
        return _sha256s(self._store, [f"{artifact}/{MANIFEST}"])

    def _named_by_checkpoints(self, artifact: ArtifactName) -> set[str]:
        """As _named_by_manifest, of the records of shards that an operation has finished."""
        keys = [item.key for name, item in self._checkpoints if name.id == artifact.id and item.key.endswith(".json")]
        return _sha256s(self._store, keys)

    def _is_wanted(self, artifact: ArtifactName) -> bool:
        """Whether it is there, or an operation has not made it yet; what has failed may be asked for again."""
        return self._store.stat(f"{artifact}/{MANIFEST}") is not None or any(
            _has_not_succeeded(self._store, OperationName(service, artifact.id)) for service in SERVICES
        )

    def _was_deleted_lately(self, artifact: ArtifactName) -> bool:
        found = self._store.stat(f"{DELETIONS}{artifact}.json")
        return found is not None and not self._is_old(found, self._settings.grace_hours)

    def _is_past_grace(self, artifact: ArtifactName, item: ObjectInfo) -> bool:
        return str(artifact) in self._without_grace or self._is_old(item, self._settings.grace_hours)

    def _is_old(self, item: ObjectInfo, hours: float) -> bool:
        return datetime.fromisoformat(item.modify_time) + timedelta(hours=hours) < self._clock()


def _sha256(item: ObjectInfo) -> str:
    return item.key.rpartition("/")[2]


def _sha256s(store: ObjectStore, keys: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for key in keys:
        try:
            found.update(_SHA256.findall(store.get_bytes(key).decode(errors="replace")))
        except NotFound:
            continue
    return found


def _has_not_succeeded(store: ObjectStore, name: OperationName) -> bool:
    """Whether there is an operation that has not made anything."""
    try:
        record = find_record(store, name)
        result = None if record is None else find_result(store, record)
    except FailedPrecondition:
        return True  # a newer version's: it may be going on
    return record is not None and (result is None or "error" in result)


def _kind(request: str) -> str:
    try:
        return str(json.loads(request)["kind"])
    except (ValueError, KeyError, TypeError):
        return DATASETS  # unreadable: it may be an import
