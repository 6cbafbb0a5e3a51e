"""Deleting resources: what may go, what goes with it, and what is left for the sweep.

An artifact is gone when its manifest is. Its payloads go by the sweep (synthmix.service_kit.sweep), once the grace
period after the deletion has passed, which this record begins:

    deletions/{collection}/{id}.json   when the manifest was deleted
    deletions/{collection}/{id}.now    it has no grace period
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.service_kit.artifacts import MANIFEST
from synthmix.service_kit.environment import STUDY_CONTROL, sweep_settings
from synthmix.service_kit.errors import FailedPrecondition, NotFound, listing
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_index import Created, OperationIndex
from synthmix.service_kit.operation_records import find_readable_record, now
from synthmix.service_kit.references import (
    References,
    Resource,
    names_of,
    operations_that_mention,
    read_references,
)
from synthmix.service_kit.resource_names import (
    ADAPTERS,
    DATASETS,
    EVALUATIONS,
    FEATURES,
    RECONSTRUCTIONS,
    SPLITS,
    STUDIES,
    TRIALS,
    ArtifactName,
    OperationName,
)

# They have no user of their own: what they were made from takes them with it, and they keep nothing from being deleted.
INTERNAL = (SPLITS, TRIALS, RECONSTRUCTIONS, FEATURES)

DELETIONS = "deletions/"
WITHOUT_GRACE = ".now"
CHECKPOINTS = "checkpoints/"


@dataclass(frozen=True)
class Deletion:
    """What a deletion deletes, in order, each with the bytes of its payloads.

    Attributes:
        unneeded: What nothing refers to any more afterwards, and what a deletion with `force` takes as well.
    """

    deleted: tuple[tuple[ArtifactName, int], ...]
    unneeded: tuple[ArtifactName, ...] = ()

    @property
    def names(self) -> list[ArtifactName]:
        return [name for name, _ in self.deleted]

    def message(self) -> artifacts_pb2.Deletion:
        message = artifacts_pb2.Deletion(
            deleted=[artifacts_pb2.DeletedResource(name=str(name), size_bytes=size) for name, size in self.deleted],
            size_bytes=sum(size for _, size in self.deleted),
            unneeded=[str(name) for name in self.unneeded],
        )
        message.payloads_expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=sweep_settings().grace_hours))
        return message


def delete(
    store: ObjectStore,
    target: ArtifactName,
    *,
    force: bool,
    validate_only: bool,
    by: OperationName | None = None,
    skip_grace_period: bool = False,
) -> Deletion:
    """Deletes a resource, and with `force` what refers to it and what only it needed.

    Args:
        by: The operation that deletes it, which is no user of it.
        skip_grace_period: The next sweep takes the payloads.

    Raises:
        NotFound, FailedPrecondition: As plan_deletion does.
    """
    references = read_references(store)
    others = {name: mentions for name, mentions in references.unfinished.items() if name != by}
    planned = plan_deletion(replace(references, unfinished=others), target, force=force)
    if not validate_only:
        _forget_checkpoints(store, references, planned.names)
        for name in planned.names:
            forget(store, name, skip_grace_period=skip_grace_period)
    return planned


def plan_deletion(references: References, target: ArtifactName, *, force: bool) -> Deletion:
    """What deleting a resource would delete.

    Raises:
        NotFound: There is no such resource.
        FailedPrecondition: Something refers to it, and `force` does not say to delete that as well; or an operation
            that has not ended makes or uses any of it.
    """
    if target not in references.resources:
        raise NotFound(
            f"{target} does not exist; `synthmix {_command(target)} list` shows what does",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(target)},
        )
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
    unneeded = _unneeded(references, target, gone)
    if force:
        gone |= unneeded
    return Deletion(
        tuple((name, references.resources[name].size_bytes) for name in names_of(gone)),
        () if force else tuple(names_of(unneeded)),
    )


def forget(store: ObjectStore, artifact: ArtifactName, *, skip_grace_period: bool = False) -> None:
    """Deletes a manifest, and of a study its operation and its name. Payloads are left for the sweep.

    Done again after an interruption, it goes on.
    """
    if artifact.collection == STUDIES:
        for item in store.list("study-names/"):
            if item.key.endswith(f"/{artifact.id}.json"):
                store.delete(item.key)
    if skip_grace_period:
        store.put_json(f"{DELETIONS}{artifact}{WITHOUT_GRACE}", {"time": now()})
    store.put_json(deletion_key(artifact), {"time": now()})
    store.delete(f"{artifact}/{MANIFEST}")
    if artifact.collection == STUDIES:
        name = OperationName(STUDY_CONTROL, artifact.id)
        record = find_readable_record(store, name)
        store.delete_prefix(f"{name}/")
        if record is not None:
            OperationIndex(store, STUDY_CONTROL).remove(name, Created(record.create_time, record.kind))


def _forget_checkpoints(store: ObjectStore, references: References, gone: Sequence[ArtifactName]) -> None:
    """Deletes what was learnt and made from what goes by operations that were cancelled or failed on the way."""
    lost = references.lost_with([name for name in gone if name.collection in (DATASETS, SPLITS, ADAPTERS)])
    if not lost:
        return
    kept = {OperationName.of_key(item.key.removeprefix(CHECKPOINTS))[0] for item in store.list(CHECKPOINTS)}
    for name in operations_that_mention(store, sorted(kept, key=str), lost):
        store.delete_prefix(name.checkpoints)


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


def _unneeded(references: References, target: ArtifactName, gone: set[ArtifactName]) -> set[ArtifactName]:
    """What the deleted studies and evaluations were made of, and nothing that stays refers to.

    Of the study that is to be deleted that is all it made; of other studies and of evaluations only trials: whoever
    deletes an adapter does not mean the other adapters of its studies.
    """
    candidates: set[ArtifactName] = set()
    if target.collection == STUDIES:
        frontier = {target}
        while frontier:
            found = set().union(*(references.mentioned_by(name) for name in frontier))
            frontier = {name for name in found if name.collection != DATASETS} - candidates - gone
            candidates |= frontier
        candidates |= _trials_for(references, references.resources[target].mentions)
    for name in gone:
        if name.collection == EVALUATIONS:
            candidates |= {item for item in references.mentioned_by(name) if item.collection == TRIALS}
    candidates -= gone
    while True:
        stays = [item for item in references.resources.values() if item.name not in gone | candidates]
        needed = _needed(references, candidates, stays)
        if not needed:
            break
        candidates -= needed
    # Features and reconstructions are of the splits and image sets that go.
    return candidates | {
        name for name in references.refer_to(gone | candidates) if name.collection in INTERNAL and name not in gone
    }


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
