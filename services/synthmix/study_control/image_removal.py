"""Removing images from a dataset, as when a patient withdraws consent.

Datasets are immutable, and addressed by their content. So a removal makes the dataset of the other images, deletes the
old one with what was made from it, and lets its names mean the new one. Done again after an interruption, it goes on.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from synthmix.api.datasets.v1.datasets_pb2 import DeleteDatasetRequest
from synthmix.image_data.captions import caption_columns, digest_of_captions
from synthmix.image_data.image_payloads import shard_name
from synthmix.image_data.image_table import CAPTIONS, read_images, read_index, write_index, write_shard
from synthmix.image_data.seen_images import sets_that_saw
from synthmix.service_kit import audit
from synthmix.service_kit.artifacts import (
    Manifest,
    Payload,
    find_manifest,
    payload_key,
    read_manifest,
    write_manifest,
)
from synthmix.service_kit.deletion import delete
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import sweep_settings
from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    invalid_field,
    listing,
    missing_field,
    printable,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.owners import EVERYONE, Caller, claim, owners_of, said_of
from synthmix.service_kit.quantities import listed, plural
from synthmix.service_kit.resource_names import DATASETS, ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.sweep import sweep
from synthmix.study_control import datasets
from synthmix.study_control.image_import.importer import class_counts

MOST_SHOWN = 10
FEWEST_CLASSES = 2


@dataclass(frozen=True)
class Removal:
    """What removing images leaves of a dataset.

    Attributes:
        dataset: As it is.
        index: Its index.
        kept: The rows of the index that stay, ascending.
        reduced: The dataset of these, without its payloads.
    """

    dataset: Manifest
    index: pa.Table
    kept: np.ndarray
    reduced: Manifest

    @property
    def removed_sha256s(self) -> list[str]:
        sha256s = self.index["sha256"].to_numpy(zero_copy_only=False)
        return sorted(np.delete(sha256s, self.kept).tolist())


def plan_removal(store: ObjectStore, dataset: Manifest, images: Sequence[str], groups: Sequence[str]) -> Removal:
    """What a removal leaves.

    Args:
        images: Paths and sha256s of images of the dataset.
        groups: Groups of it.

    Raises:
        InvalidArgument: The dataset has no such image or group, or none is named.
        FailedPrecondition: Fewer than two classes would be left.
    """
    if not images and not groups:
        raise missing_field("images", "name images by path or sha256, or groups")
    index = read_index(store, dataset)
    paths, sha256s, of_groups = (index[column].to_pylist() for column in ("path", "sha256", "group"))
    unknown = sorted(set(images) - set(paths) - set(sha256s))
    if unknown:
        raise _unknown("images", unknown, dataset, "give each by its path in the dataset, such as", paths[0])
    unknown = sorted(set(groups) - set(of_groups))
    if unknown:
        raise _unknown("groups", unknown, dataset, "give groups as the dataset has them, such as", of_groups[0])
    gone, gone_groups = set(images), set(groups)
    kept = np.array(
        [
            row
            for row, (path, sha256, group) in enumerate(zip(paths, sha256s, of_groups, strict=True))
            if not (path in gone or sha256 in gone or group in gone_groups)
        ],
        dtype=np.int64,
    )
    return Removal(dataset, index, kept, _reduced(dataset, index.take(kept)))


def _unknown(field: str, unknown: Sequence[str], dataset: Manifest, remedy: str, example: str) -> InvalidArgument:
    return invalid_field(
        field,
        listed(unknown, MOST_SHOWN),
        f"are not of {dataset.name}",
        f"{remedy} {example!r}",
        reason="NOT_IN_DATASET",
    )


def _reduced(dataset: Manifest, kept: pa.Table) -> Manifest:
    """The dataset of the rows that are kept, as an import of these images alone would name it."""
    columns = [kept[column].to_pylist() for column in ("path", "label", "group", "sha256")]
    labels, groups = columns[1], columns[2]
    counts = class_counts(labels, groups)
    if len(counts) < FEWEST_CLASSES:
        raise FailedPrecondition(
            f"{dataset.name} would be left with {plural(len(labels), 'image')} of {listed(list(counts))}, and a "
            f"dataset has at least {FEWEST_CLASSES} classes; delete it with `synthmix datasets delete`",
            reason="SINGLE_CLASS",
        )
    request = dataset.request | {"images": digest_of([list(row) for row in zip(*columns, strict=True)])}
    if caption_columns(dataset):
        request["captions"] = digest_of_captions(caption_columns(dataset), kept[CAPTIONS].to_pylist())
    summary = dataset.summary | {
        "image_count": len(labels),
        "group_count": len(set(groups)),
        "class_counts": counts,
    }
    if "left_out" in summary:
        summary["left_out"] = datasets.without_examples(summary["left_out"])
    return Manifest(ArtifactName(DATASETS, digest_of(request)), {}, request, dataset.recipe_version, (), summary)


def run(context: OperationContext) -> ArtifactName:
    """Returns the name of the dataset that is left."""
    store, asked = context.store, context.record.request["removal"]
    old = ArtifactName(DATASETS, asked["dataset"])
    left = ArtifactName.parse(context.record.target, field="dataset", collection=DATASETS)
    found = find_manifest(store, old)
    if found is not None and found.create_time == asked["create_time"]:
        _replace(context, old, left)
        found = None
    # Of one that was imported again since the deletion, its owners' names and uploads are of that import.
    again = owners_of(store, old) if found is not None else frozenset()
    datasets.pass_names_on(store, old, left, but_of=again)
    if found is None:
        datasets.forget_imports(store, old, ())
    if asked["skip_grace_period"]:
        context.update(message="deleting files")
        sweep(store, sweep_settings())
    return left


def _replace(context: OperationContext, old: ArtifactName, left: ArtifactName) -> None:
    """Makes the dataset that is left, and deletes the old one.

    Raises:
        PermissionDenied: Others have asked for the old one since, and no administrator asked for the removal.
        Unavailable: Somebody else's request came in between; it is to be done again.
    """
    store, request = context.store, context.record.request
    asked, requester = request["removal"], context.record.requested_by.owner
    caller = EVERYONE if request["for_all"] else Caller(requester)
    context.update(unit="steps", message="removing images")
    context.run_tasks(
        "synthmix.study_control.image_removal:write_reduced",
        [{"dataset": str(old), "sha256s": asked["sha256s"]}],
    )
    with audit.change_by(context.record, DeleteDatasetRequest(name=str(old))) as change:
        owners = owners_of(store, old)
        check_alone(caller, old, owners)
        for owner in owners:
            claim(store, left, owner)
        if find_manifest(store, left) is None:  # another's, who deleted it before these claimed it
            raise Unavailable(f"{left} was deleted while it was made; it is made again", reason="ARTIFACT_GONE")
        seen = _delete_what_saw(store, asked, caller, context.record.name)
        deletion = delete(
            store,
            old,
            caller=caller,
            force=asked["force"],
            validate_only=False,
            by=context.record.name,
            skip_grace_period=asked["skip_grace_period"],
        )
        change.response = replace(deletion, deleted=(*seen, *deletion.deleted)).message()
    if old not in deletion.names:
        raise Unavailable(f"{old} was asked for while it was deleted; that is tried again", reason="ARTIFACT_WANTED")


def _delete_what_saw(
    store: ObjectStore, asked: dict[str, Any], caller: Caller, by: OperationName
) -> list[tuple[ArtifactName, int]]:
    """Deletes imported image sets whose generators saw the images, with what used them, and returns what was deleted.

    Raises:
        FailedPrecondition: One was imported since the removal was asked for, without `force`.
    """
    deleted: list[tuple[ArtifactName, int]] = []
    names = sets_that_saw(store, asked["sha256s"])
    if names and not asked["force"]:
        raise FailedPrecondition(
            f"{names[0]} was imported since the removal was asked for, and its generator saw images that are to be "
            "removed; delete it and ask again, or delete it all with --cascade (`force` in a request)",
            reason="STILL_REFERENCED",
            metadata={"artifact": str(names[0])},
        )
    for name in names:
        if find_manifest(store, name) is not None:
            deletion = delete(
                store,
                name,
                caller=caller,
                force=True,
                validate_only=False,
                by=by,
                skip_grace_period=asked["skip_grace_period"],
            )
            deleted += deletion.deleted
    return deleted


def check_seen(
    store: ObjectStore, removal: Removal, *, caller: Caller, force: bool, by: OperationName | None = None
) -> None:
    """Checks that imported image sets whose generators saw the images, or that hold their files, may go with them.

    Those that were said to have seen a part of the dataset's splits, or all of it, refer to it, as any other artifact
    that was made from it does. These were said to have seen single images.

    Raises:
        FailedPrecondition: There are some, and `force` does not say to delete them; or an operation uses one of them.
        PermissionDenied: Others asked for one of them as well.
    """
    names = sets_that_saw(store, removal.removed_sha256s)
    if names and not force:
        raise FailedPrecondition(
            f"images that are to be removed from {removal.dataset.name} were seen by the generators of imported image "
            "sets; delete these first, or delete it all with --cascade (`force` in a request)"
            f"{listing([str(name) for name in names])}",
            reason="STILL_REFERENCED",
            metadata={"artifact": str(removal.dataset.name), "references": str(len(names))},
        )
    for name in names:
        delete(store, name, caller=caller, force=True, validate_only=True, by=by)


def check_alone(caller: Caller, dataset: ArtifactName, owners: Collection[str]) -> None:
    """Raises PermissionDenied if others asked for a dataset too, for whom the images would go as well."""
    others = set(owners) - {caller.name}
    if others and not caller.administers:
        also = " as well as to you" if caller.name in owners else f", and you are {printable(caller.name)}"
        raise caller.denied(f"{dataset} belongs to {said_of(others)}{also}")


def write_reduced(dataset: str, sha256s: list[str], report: Callable[[int, int], None], threads: int) -> str:
    """Makes the dataset without these images, on a worker, and returns its name."""
    store = open_object_store()
    manifest = read_manifest(store, ArtifactName.parse(dataset, field="dataset", collection=DATASETS))
    removal = plan_removal(store, manifest, sha256s, [])
    return str(write(store, removal, report).name)


def write(store: ObjectStore, removal: Removal, report: Callable[[int, int], None]) -> Manifest:
    """Writes the dataset that is left: shards that lose an image anew, and copies of the others."""
    name = removal.reduced.name
    found = find_manifest(store, name)
    if found is not None:
        return found
    shard_of, row_of = (removal.index[column].to_numpy() for column in ("shard", "row"))
    payloads: list[Payload] = []
    places: dict[str, list[int]] = {"shard": [], "row": []}
    shards = np.unique(shard_of[removal.kept]).tolist()
    for number, shard in enumerate(shards):
        rows = removal.kept[shard_of[removal.kept] == shard]
        places["shard"] += [number] * len(rows)
        if len(rows) == np.count_nonzero(shard_of == shard):
            payload = removal.dataset.payload(shard_name(shard))
            store.copy(payload_key(removal.dataset.name, payload), payload_key(name, payload))
            payloads.append(replace(payload, name=shard_name(number)))
            places["row"] += row_of[rows].tolist()
        else:
            images = [data for _, data in read_images(store, removal.dataset, rows.tolist())]
            payloads.append(write_shard(store, name, number, images).payload)
            places["row"] += range(len(rows))
        report(number + 1, len(shards))
    kept = removal.index.take(removal.kept)
    columns: dict[str, Any] = {column: kept[column].to_pylist() for column in kept.column_names} | places
    payloads.append(write_index(store, name, columns))
    return write_manifest(store, replace(removal.reduced, payloads=tuple(payloads)))
