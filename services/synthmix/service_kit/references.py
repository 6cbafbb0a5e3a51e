"""What refers to what: from manifests, from the records of studies, and from operations that have not ended.

An id is a digest of 32 hexadecimal digits, so that a record refers to an artifact if it says its id, wherever it says
it: as an input, in the canonical request, or in a summary. Adapters and trials say the digest of a split's part, which
every split with that part provides. So what a newer version of SynthMix wrote is understood as well.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

from synthmix.service_kit.artifacts import IMPORTED, MANIFEST, list_artifacts
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import REQUEST, RESULT
from synthmix.service_kit.owners import all_owners
from synthmix.service_kit.resource_names import COLLECTIONS, SPLITS, STUDIES, ArtifactName, OperationName
from synthmix.service_kit.stored_records import readable

READS_AT_ONCE = 16
SEARCH = "search.json"
"""What a study's search has made, among the checkpoints of the study's operation."""
_MENTION = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


@dataclass(frozen=True)
class Resource:
    """An artifact, or a study that has a record of its operation alone.

    Attributes:
        mentions: Every id and every part's digest that its manifest and its record say, but not its own.
        size_bytes: Of its payloads.
        parts: Of a split, the digests of its parts.
        is_finished: Whether it has a manifest.
        is_imported: Whether its user brought it, where others of its collection are made here.
    """

    name: ArtifactName
    mentions: frozenset[str]
    size_bytes: int = 0
    parts: frozenset[str] = frozenset()
    is_finished: bool = True
    is_imported: bool = False


@dataclass(frozen=True)
class References:
    """All that there is at one time, and what refers to what.

    Attributes:
        resources: By name.
        unfinished: What each operation that has not ended mentions, with its own id: that of what it makes. A study
            mentions what its search has made so far.
        owners: Who asked for each, where anybody did.
    """

    resources: Mapping[ArtifactName, Resource]
    unfinished: Mapping[OperationName, frozenset[str]] = field(default_factory=dict)
    owners: Mapping[ArtifactName, frozenset[str]] = field(default_factory=dict)

    def owners_of(self, name: ArtifactName) -> frozenset[str]:
        return self.owners.get(name, frozenset())

    @cached_property
    def _providers(self) -> dict[str, set[ArtifactName]]:
        """The splits that have a part of each digest."""
        providers: dict[str, set[ArtifactName]] = defaultdict(set)
        for resource in self.resources.values():
            for digest in resource.parts:
                providers[digest].add(resource.name)
        return dict(providers)

    def lost_with(self, gone: Collection[ArtifactName]) -> set[str]:
        """The ids, and the parts' digests, that mean nothing any more if these are gone."""
        lost = {name.id for name in gone}
        for name in gone:
            if name.collection == SPLITS and name in self.resources:
                lost.update(part for part in self.resources[name].parts if self._providers[part] <= set(gone))
        return lost

    def refer_to(self, gone: Collection[ArtifactName]) -> set[ArtifactName]:
        """What refers to any of these, directly or through others, without these themselves."""
        reached = set(gone)
        while True:
            lost = self.lost_with(reached)
            more = {
                item.name
                for item in self.resources.values()
                if item.name not in reached and not lost.isdisjoint(item.mentions)
            }
            if not more:
                return reached - set(gone)
            reached |= more

    def unfinished_users(self, gone: Collection[ArtifactName]) -> list[OperationName]:
        """The operations that have not ended and make or use any of these."""
        lost = self.lost_with(gone)
        return sorted(
            (name for name, mentions in self.unfinished.items() if not lost.isdisjoint(mentions)),
            key=str,
        )

    def mentioned_by(self, name: ArtifactName) -> set[ArtifactName]:
        """The artifacts that a resource says by their ids."""
        mentions = self.resources[name].mentions
        return {item for item in self.resources if item.id in mentions and item != name}

    def with_parts(self, mentions: frozenset[str]) -> frozenset[str]:
        """What is mentioned, and the digests of the parts of the splits among it."""
        splits = (item for item in self.resources.values() if item.parts and item.name.id in mentions)
        return mentions.union(*(split.parts for split in splits))


def read_references(store: ObjectStore) -> References:
    """Reads every manifest and every operation's record: some seconds for tens of thousands."""
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        names = [name for collection in COLLECTIONS for name in list_artifacts(store, collection)]
        found = threads.map(lambda name: _resource(store, name), names)
        resources = {resource.name: resource for resource in found if resource is not None}
        studies, unfinished = {}, {}
        for operation in threads.map(lambda name: _operation(store, name), _operations(store)):
            if operation is None:
                continue
            name, kind, mentions, ended = operation
            if not ended:
                unfinished[name] = mentions
            if name.service == STUDY_CONTROL and kind == STUDIES:
                studies[ArtifactName(STUDIES, name.id)] = mentions
    for study, mentions in studies.items():
        mentions -= {study.id}
        known = resources.get(study)
        resources[study] = (
            Resource(study, mentions, is_finished=False)
            if known is None
            else replace(known, mentions=known.mentions | mentions)
        )
    return References(resources, unfinished, all_owners(store))


def unfinished_operations(store: ObjectStore) -> dict[OperationName, str]:
    """The operations that have not ended, with their requests as they are written."""
    found = {}
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        names = _operations(store)
        for name, read in zip(names, threads.map(lambda name: _read_operation(store, name), names), strict=True):
            if read is not None and not read[1]:
                found[name] = read[0]
    return found


def operations_that_mention(
    store: ObjectStore, names: Collection[OperationName], ids: Collection[str]
) -> list[OperationName]:
    """Those of the operations whose requests say any of these ids."""
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        texts = threads.map(lambda name: _find_text(store, f"{name}/{REQUEST}"), names)
        return [
            name
            for name, text in zip(names, texts, strict=True)
            if text is not None and not mentions_in(text).isdisjoint(ids)
        ]


def _resource(store: ObjectStore, name: ArtifactName) -> Resource | None:
    text = _find_text(store, f"{name}/{MANIFEST}")
    if text is None:
        return None
    mentions = mentions_in(text) - {name.id}
    manifest = readable(text)
    payloads = manifest.get("payloads")
    size_bytes = sum(
        item["size_bytes"]
        for item in (payloads if isinstance(payloads, list) else [])
        if isinstance(item, dict) and isinstance(item.get("size_bytes"), int)
    )
    parts: frozenset[str] = frozenset()
    if name.collection == SPLITS:
        summary = manifest.get("summary")
        parts = mentions_in(json.dumps(summary.get("parts", {}))) if isinstance(summary, dict) else parts
    request = manifest.get("request")
    imported = isinstance(request, dict) and IMPORTED in request
    return Resource(name, mentions - parts, size_bytes, parts, is_imported=imported)


def _operations(store: ObjectStore) -> list[OperationName]:
    """Every operation of every service that has a record."""
    return [
        name for name, leaf in (OperationName.of_key(item.key) for item in store.list("operations/")) if leaf == REQUEST
    ]


def _operation(store: ObjectStore, name: OperationName) -> tuple[OperationName, str, frozenset[str], bool] | None:
    """Its name, its kind, what it mentions, and whether it has ended."""
    read = _read_operation(store, name)
    if read is None:
        return None
    text, ended = read
    searched = _find_text(store, f"{name.checkpoints}{SEARCH}") if name.service == STUDY_CONTROL else None
    return name, str(readable(text).get("kind", "")), mentions_in(text + (searched or "")) | {name.id}, ended


def _read_operation(store: ObjectStore, name: OperationName) -> tuple[str, bool] | None:
    """Its request as it is written, and whether it has ended."""
    text = _find_text(store, f"{name}/{REQUEST}")
    if text is None:
        return None
    result = _find_text(store, f"{name}/{RESULT}")
    # A result of an earlier attempt ends none of a later one.
    ended = result is not None and readable(result).get("attempt") == readable(text).get("attempt")
    return text, ended


def mentions_in(text: str) -> frozenset[str]:
    """Every id, and every digest of a split's part, that a text says."""
    return frozenset(_MENTION.findall(text))


def _find_text(store: ObjectStore, key: str) -> str | None:
    try:
        return store.get_bytes(key).decode(errors="replace")
    except NotFound:
        return None


def names_of(names: Iterable[ArtifactName]) -> list[ArtifactName]:
    """In the order in which they can be deleted: what refers to others before what is referred to."""
    return sorted(names, key=lambda name: (-COLLECTIONS.index(name.collection), name.id))
