"""Deleting resources: what may go, what goes with it, and what is left for the sweep.

An artifact is gone when its manifest is. Its payloads go by the sweep (synthmix.service_kit.sweep), once the grace
period after the deletion has passed, which this record begins:

    deletions/{collection}/{id}.json   when the manifest was deleted
    deletions/{collection}/{id}.now    it has no grace period
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.service_kit.artifacts import MANIFEST
from synthmix.service_kit.environment import STUDY_CONTROL, sweep_settings
from synthmix.service_kit.errors import FailedPrecondition, NotFound, listing
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_index import Created, OperationIndex
from synthmix.service_kit.operation_records import REQUEST, RESULT, find_readable_record, now
from synthmix.service_kit.owners import Caller, owner_of_key, owners_of, said_of, withdraw
from synthmix.service_kit.references import (
    References,
    Resource,
    mentions_in,
    names_of,
    operations_that_mention,
    read_references,
)
from synthmix.service_kit.resource_names import (
    ADAPTERS,
    AUTOENCODER_CHECKS,
    DATASETS,
    EVALUATIONS,
    FEATURES,
    IMAGE_SET_SCORES,
    MODELS,
    RECONSTRUCTIONS,
    SPLITS,
    STUDIES,
    TRIALS,
    ArtifactName,
    OperationName,
)

# They have no user of their own: what they were made from takes them with it, and they keep nothing from being deleted.
INTERNAL = (SPLITS, AUTOENCODER_CHECKS, TRIALS, RECONSTRUCTIONS, FEATURES, IMAGE_SET_SCORES)

# Their users brought them, so that nothing else that goes takes them with it, as nothing that was imported.
ALWAYS_IMPORTED = (DATASETS, MODELS)

DELETIONS = "deletions/"
WITHOUT_GRACE = ".now"
CHECKPOINTS = "checkpoints/"


@dataclass(frozen=True)
class Deletion:
    """What a deletion deletes, in order, each with the bytes of its payloads.

    Attributes:
        unneeded: What nothing refers to any more afterwards, and what a deletion with `force` takes as well.
        kept: What others asked for as well. It stays, and is the caller's no more.
        owners: In whose names it is done.
    """

    deleted: tuple[tuple[ArtifactName, int], ...]
    unneeded: tuple[ArtifactName, ...] = ()
    kept: tuple[ArtifactName, ...] = ()
    owners: frozenset[str] = frozenset()

    @property
    def names(self) -> list[ArtifactName]:
        return [name for name, _ in self.deleted]

    def message(self) -> artifacts_pb2.Deletion:
        message = artifacts_pb2.Deletion(
            deleted=[artifacts_pb2.DeletedResource(name=str(name), size_bytes=size) for name, size in self.deleted],
            size_bytes=sum(size for _, size in self.deleted),
            unneeded=[str(name) for name in self.unneeded],
            kept=[str(name) for name in self.kept],
        )
        message.payloads_expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=sweep_settings().grace_hours))
        return message


def delete(
    store: ObjectStore,
    target: ArtifactName,
    *,
    caller: Caller,
    force: bool,
    validate_only: bool,
    by: OperationName | None = None,
    skip_grace_period: bool = False,
) -> Deletion:
    """Deletes a resource, and with `force` what refers to it and what only it needed. Raises as plan_deletion does.

    What others ask for meanwhile stays, and so does what that was made from.

    Args:
        by: The operation that deletes it, which is no user of it.
        skip_grace_period: The next sweep takes the payloads.
    """
    references = read_references(store)
    unfinished = {name: mentions for name, mentions in references.unfinished.items() if name != by}
    planned = plan_deletion(replace(references, unfinished=unfinished), target, caller=caller, force=force)
    if validate_only:
        return planned
    for name in planned.kept:
        leave(store, name, planned.owners)
    _forget_checkpoints(store, references, planned.names)
    deleted: list[tuple[ArtifactName, int]] = []
    wanted: set[ArtifactName] = set()
    for name, size_bytes in planned.deleted:
        if wanted and not wanted.isdisjoint(references.refer_to({name})):
            continue  # it stays with what was made from it
        owners = references.owners_of(name) | planned.owners
        if forget(store, name, owners, skip_grace_period=skip_grace_period):
            deleted.append((name, size_bytes))
        else:
            wanted.add(name)
    return replace(planned, deleted=tuple(deleted), kept=(*planned.kept, *names_of(wanted)))


def plan_deletion(references: References, target: ArtifactName, *, caller: Caller, force: bool) -> Deletion:
    """What deleting a resource would delete.

    Raises:
        NotFound: There is no such resource.
        PermissionDenied: It belongs to others, or with `force` something that refers to it does.
        FailedPrecondition: Something refers to it, and `force` does not say to delete that as well; or an operation
            that has not ended makes or uses any of it.
    """
    if target not in references.resources:
        raise NotFound(
            f"{target} does not exist; `synthmix {_command(target)} list` shows what does",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(target)},
        )
    asked = references.owners_of(target)
    caller.check(target, asked)
    owners = caller.acts_for(asked)
    if asked - owners:
        return Deletion((), kept=(target,), owners=owners)
    gone = {target} | references.refer_to({target})
    _check_unfinished(references, target, gone)
    users = names_of(name for name in gone - {target} if name.collection not in INTERNAL)
    if users and not force:
        raise FailedPrecondition(
            f"{target} is still used by what was made from it; delete that first, or delete it all with "
            f"--cascade (`force` in a request){listing([str(name) for name in users])}",
            reason="STILL_REFERENCED",
            metadata={"artifact": str(target), "references": str(len(users))},
        )
    others = {name: references.owners_of(name) - owners for name in users}
    others = {name: who for name, who in others.items() if who}
    if others and not caller.administers:
        raise caller.denied(
            f"{target} is used by what others made from it",
            [f"{name}, of {said_of(who)}" for name, who in others.items()],
        )
    unneeded, kept = _unneeded(references, target, gone, owners)
    if force:
        gone |= unneeded
    return Deletion(
        tuple((name, references.resources[name].size_bytes) for name in names_of(gone)),
        () if force else tuple(names_of(unneeded)),
        tuple(names_of(kept)) if force else (),
        owners,
    )


def forget(
    store: ObjectStore, artifact: ArtifactName, owners: Collection[str], *, skip_grace_period: bool = False
) -> bool:
    """Deletes a manifest, and of a study its operation and its names. Payloads are left for the sweep.

    If others than these owners ask for it meanwhile, it stays theirs. Done again after an interruption, it goes on.

    Returns:
        Whether it is gone.
    """
    if not owners_of(store, artifact) - set(owners):
        without_grace = f"{DELETIONS}{artifact}{WITHOUT_GRACE}"
        if skip_grace_period:
            store.put_json(without_grace, {"time": now()})
        put_back = _forget(store, artifact)
        if not owners_of(store, artifact) - set(owners):
            leave(store, artifact, owners)
            return True
        put_back()
        store.delete(without_grace)
    leave(store, artifact, owners)
    return False


def leave(store: ObjectStore, artifact: ArtifactName, owners: Collection[str]) -> None:
    """Forgets that these asked for it, and what they call it if it is a study: it is others', or nobody's."""
    if artifact.collection == STUDIES:
        for item in store.list("study-names/"):
            *owner, study, _ = item.key.split("/", 2)[2].rsplit(".", 2)  # an earlier version's has no owner
            if study == artifact.id and (not owners or not owner or owner_of_key(owner[0]) in owners):
                store.delete(item.key)
    withdraw(store, artifact, owners)


def _forget(store: ObjectStore, artifact: ArtifactName) -> Callable[[], None]:
    """Deletes what makes it a resource, and returns what puts that back."""
    saved = _saved(store, [f"{artifact}/{MANIFEST}"])
    store.put_json(deletion_key(artifact), {"time": now()})
    store.delete(f"{artifact}/{MANIFEST}")
    if artifact.collection != STUDIES:
        return lambda: _put(store, saved)
    name = OperationName(STUDY_CONTROL, artifact.id)
    record, index = find_readable_record(store, name), OperationIndex(store, STUDY_CONTROL)
    saved |= _saved(store, [f"{name}/{RESULT}", f"{name}/{REQUEST}"])
    store.delete_prefix(f"{name}/")
    if record is None:
        return lambda: _put(store, saved)
    created = Created(record.create_time, record.kind)
    index.remove(name, created)

    def put_back() -> None:
        _put(store, saved)
        index.add(name, created)

    return put_back


def _saved(store: ObjectStore, keys: Iterable[str]) -> dict[str, bytes]:
    saved = {}
    for key in keys:
        with suppress(NotFound):
            saved[key] = store.get_bytes(key)
    return saved


def _put(store: ObjectStore, objects: Mapping[str, bytes]) -> None:
    for key, data in objects.items():
        store.put_if(key, data, version="")


def _forget_checkpoints(store: ObjectStore, references: References, gone: Sequence[ArtifactName]) -> None:
    """Deletes what was learnt and made from what goes by operations that were cancelled or failed on the way."""
    lost = references.lost_with([name for name in gone if name.collection in (DATASETS, MODELS, SPLITS, ADAPTERS)])
    if not lost:
        return
    kept = {item.key: OperationName.of_key(item.key.removeprefix(CHECKPOINTS)) for item in store.list(CHECKPOINTS)}
    names = {name for name, _ in kept.values()}
    for name in operations_that_mention(store, sorted(names, key=str), lost):
        store.delete_prefix(name.checkpoints)
    for key, (_, leaf) in kept.items():
        if not mentions_in(leaf).isdisjoint(lost):  # what several operations go on from says it itself
            store.delete(key)


def deletion_key(artifact: ArtifactName) -> str:
    """Where it is recorded when an artifact was deleted."""
    return f"{DELETIONS}{artifact}.json"


def _check_unfinished(references: References, target: ArtifactName, gone: set[ArtifactName]) -> None:
    users = references.unfinished_users(gone)
    if not users:
        return
    own = [name for name in users if name.id == target.id]
    what = "is not finished" if own else "is used by operations that are not finished"
    raise FailedPrecondition(
        f"{target} {what}; wait for them, or cancel them first{listing([str(name) for name in users])}",
        reason="OPERATION_RUNNING",
        metadata={"artifact": str(target), "operation": str(users[0])},
    )


def _unneeded(
    references: References, target: ArtifactName, gone: set[ArtifactName], owners: Collection[str]
) -> tuple[set[ArtifactName], set[ArtifactName]]:
    """What the deleted studies and evaluations were made of, and nothing that stays refers to.

    What others than the owners asked for stays. What of it these asked for as well is returned second.

    Of the study that is to be deleted that is all it made; of other studies and of evaluations only trials: whoever
    deletes an adapter does not mean the other adapters of its studies.
    """
    candidates: set[ArtifactName] = set()
    if target.collection == STUDIES:
        frontier = {target}
        while frontier:
            found = set().union(*(references.mentioned_by(name) for name in frontier))
            frontier = {name for name in found if not _is_imported(references, name)} - candidates - gone
            candidates |= frontier
        candidates |= _trials_for(references, references.resources[target].mentions)
    for name in gone:
        if name.collection == EVALUATIONS:
            candidates |= {item for item in references.mentioned_by(name) if item.collection == TRIALS}
    candidates -= gone
    kept = {name for name in candidates if references.owners_of(name) - set(owners)}
    candidates -= kept
    while True:
        stays = [item for item in references.resources.values() if item.name not in gone | candidates]
        needed = _needed(references, candidates, stays)
        if not needed:
            break
        candidates -= needed
    # Checks, features, reconstructions and scores are of the splits and image sets that go.
    unneeded = candidates | {
        name for name in references.refer_to(gone | candidates) if name.collection in INTERNAL and name not in gone
    }
    return unneeded, {name for name in kept if not references.owners_of(name).isdisjoint(owners)}


def _is_imported(references: References, name: ArtifactName) -> bool:
    return name.collection in ALWAYS_IMPORTED or references.resources[name].is_imported


def _needed(references: References, candidates: set[ArtifactName], stays: Sequence[Resource]) -> set[ArtifactName]:
    """Those of the candidates that something which stays needs, or an operation that has not ended."""
    users = [item.mentions for item in stays if item.name.collection not in INTERNAL]
    # What has no result yet says its splits and image sets, and not its trials.
    open_ended = [item.mentions for item in stays if not item.is_finished] + list(references.unfinished.values())
    said = set().union(*users, *references.unfinished.values())
    needed = {name for name in candidates if not references.lost_with({name}).isdisjoint(said)}
    for mentioned in open_ended:
        needed |= _trials_for(references, mentioned) & candidates
    return needed


def _trials_for(references: References, mentions: frozenset[str]) -> set[ArtifactName]:
    """The trials that a grid over these splits and image sets may have."""
    known = references.with_parts(mentions)
    return {
        item.name for item in references.resources.values() if item.name.collection == TRIALS and item.mentions <= known
    }


def _command(artifact: ArtifactName) -> str:
    """The command line's word for a collection."""
    return "images" if artifact.collection == "image-sets" else artifact.collection
