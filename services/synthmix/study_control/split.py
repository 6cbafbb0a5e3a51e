"""Splits into train, validation and test: no group in two parts, every class in each, shares as asked.

Groups cannot be divided, so that shares are met only as well as groups allow. Each try deals the groups out in
a random order, largest first, each to the part that it brings nearest to its shares, and then moves and swaps
groups while that helps. The first try that is near enough is taken, rather than the best of many: another
seed should give another split, not find the same optimum again.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.image_data.fingerprints import near_duplicates
from synthmix.image_data.image_payloads import part_payload
from synthmix.image_data.image_table import read_index
from synthmix.image_data.split_parts import PART_SCHEMA, dataset_rows
from synthmix.service_kit.artifacts import Manifest, find_manifest, write_manifest, write_payload
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition, Problems, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import PARTS, SPLITS, ArtifactName
from synthmix.service_kit.seeds import derived_seed
from synthmix.service_kit.settings_messages import canonical, check, with_defaults
from synthmix.study_control.image_import.importer import class_counts

RECIPE_VERSION = 1
"""Raise it when the same request gives other parts, as when a declared default changes: a split's digest has it."""

NEAR_ENOUGH = 0.02
"""A try is taken at once if no class's share of a part is further off."""
WARN_BEYOND = 0.05
"""A share that is further off is a warning."""
MOST_EXAMPLES = 10

_MOST_TRIES = 24
_TRIES_BUDGET = 50_000  # groups dealt out in all: if each image is a group, the first try meets every share
_MOST_GROUPS_TO_SWAP = 400  # swaps are tried between all pairs of groups
_ABSENT = 1e6  # cost of a class that a part has not: above what shares can cost


@dataclass(frozen=True)
class SplitTables:
    """A split that is not stored yet.

    Attributes:
        rows: Positions in the dataset's index, ascending, of each part.
        class_counts: Images and groups of each class, of each part.
        warnings: Shares that groups do not allow, and near duplicates that lie in different parts.
    """

    rows: dict[str, tuple[int, ...]]
    class_counts: dict[str, dict[str, dict[str, int]]]
    warnings: tuple[str, ...]


def check_settings(settings: SplitSettings) -> None:
    """Raises InvalidArgument unless all three parts get something."""
    problems = Problems()
    check(settings, "split.settings", problems)
    problems.raise_if_any()
    if settings.test + settings.validation >= 1:
        raise invalid_field(
            "split.settings.test",
            settings.test,
            f"and validation, {settings.validation:g}, leave nothing to train on",
            "choose two shares of a sum below 1, such as 0.25 and 0.15",
            reason="OUT_OF_RANGE",
        )


def canonical_request(settings: SplitSettings, *, dataset_id: str) -> dict[str, Any]:
    """What a split's digest is of."""
    return {"settings": canonical(settings), "dataset": dataset_id, "recipe_version": RECIPE_VERSION}


def make_split(index: pa.Table, settings: SplitSettings, *, dataset_id: str) -> SplitTables:
    """Divides a dataset's images between the parts. The same arguments give the same split, on any machine.

    Args:
        index: The dataset's index, with label, group, path, perceptual_hash and thumbnail.
        settings: With their defaults, and checked.
        dataset_id: The dataset's digest.

    Raises:
        FailedPrecondition: A class cannot be in every part.
    """
    labels, groups = index["label"].to_pylist(), index["group"].to_pylist()
    _check_groups(labels, groups)
    classes, class_of = np.unique(np.array(labels, dtype=object), return_inverse=True)
    names, group_of = np.unique(np.array(groups, dtype=object), return_inverse=True)
    images = np.zeros((len(names), len(classes)))
    np.add.at(images, (group_of, class_of), 1)
    # In the order of PARTS.
    shares = np.array([1 - settings.test - settings.validation, settings.validation, settings.test])
    part_of_group = _best_assignment(images, shares, list(names), dataset_id, settings.seed)
    counts = np.stack([images[part_of_group == part].sum(axis=0) for part in range(len(PARTS))])
    if not counts.all():
        raise _absent(classes, images, counts)
    rows: dict[str, tuple[int, ...]] = {
        part: tuple(np.flatnonzero(part_of_group[group_of] == number).tolist()) for number, part in enumerate(PARTS)
    }
    return SplitTables(
        rows=rows,
        class_counts={
            part: class_counts([labels[row] for row in rows[part]], [groups[row] for row in rows[part]])
            for part in PARTS
        },
        warnings=tuple(_share_warnings(counts, shares, list(classes)) + _near_duplicate_warnings(index, rows)),
    )


def create_split(store: ObjectStore, dataset: Manifest, given: SplitSettings) -> ArtifactName:
    """Makes and stores a split, unless it exists. Raises as check_settings and make_split do."""
    settings = with_defaults(given)
    check_settings(settings)
    request = canonical_request(settings, dataset_id=dataset.name.id)
    name = ArtifactName(SPLITS, digest_of(request))
    if find_manifest(store, name) is not None:
        return name
    tables = make_split(read_index(store, dataset), settings, dataset_id=dataset.name.id)
    payloads, parts = [], {}
    for part in PARTS:
        rows = dataset_rows(store, dataset, tables.rows[part])
        table = pa.table([rows.index_rows, rows.sha256s, rows.class_names, rows.groups], schema=PART_SCHEMA)
        payloads.append(write_payload(store, name, part_payload(part), _parquet(table)))
        parts[part] = {
            "digest": rows.digest,
            "image_count": len(rows),
            "group_count": len(set(rows.groups)),
            "class_counts": tables.class_counts[part],
        }
    write_manifest(
        store,
        Manifest(
            name=name,
            inputs={"dataset": dataset.name.id},
            request=request,
            recipe_version=RECIPE_VERSION,
            payloads=tuple(payloads),
            summary={"dataset": str(dataset.name), "parts": parts, "warnings": list(tables.warnings)},
        ),
    )
    return name


def _check_groups(labels: Sequence[str], groups: Sequence[str]) -> None:
    for label, count in class_counts(labels, groups).items():
        if count["groups"] < len(PARTS):
            raise FailedPrecondition(
                f"class {label!r} has {count['groups']} groups, and train, validation and test need one "
                "each; import the dataset with more groups of it, or without it",
                reason="CLASS_TOO_SMALL",
                metadata={"class": label},
            )


def _best_assignment(
    images: np.ndarray, shares: np.ndarray, names: list[str], dataset_id: str, seed: int
) -> np.ndarray:
    """The part of each group: (groups,) int."""
    # Beside the images of each class, a part should get its share of all images and of the groups: a test
    # part of a single huge plate would balance the classes, and say nothing of other plates.
    amounts = np.column_stack([images, images.sum(axis=1), np.ones(len(images))])
    amounts /= amounts.sum(axis=0)
    best, best_cost = None, np.inf
    for attempt in range(min(_MOST_TRIES, max(1, _TRIES_BUDGET // len(names)))):
        noise = (
            np.array([derived_seed(seed, "split", dataset_id, attempt, name) for name in names], dtype=np.float64)
            / 2**63
        )
        parts = _deal(amounts, shares, noise)
        _improve(amounts, shares, parts, len(images[0]))
        totals = _totals(amounts, parts)
        cost = _cost(totals, shares, len(images[0]))
        if cost < best_cost:
            best, best_cost = parts, cost
        if cost < _ABSENT and np.abs(totals - shares[:, None]).max() <= NEAR_ENOUGH:
            break
    assert best is not None
    return best


def _deal(amounts: np.ndarray, shares: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Gives each group, larger ones first, to the part that lacks most of what it has."""
    parts = np.empty(len(amounts), dtype=np.int64)
    totals = np.zeros((len(shares), amounts.shape[1]))
    # Sizes weigh in logarithm and with noise: near the largest first, yet in another order in each try.
    for group in np.argsort(-(np.log(amounts.sum(axis=1)) + noise), kind="stable"):
        lack = shares[:, None] - totals
        part = int(np.argmax(np.round((lack * amounts[group] / shares[:, None]).sum(axis=1), 12)))
        parts[group] = part
        totals[part] += amounts[group]
    return parts


def _improve(amounts: np.ndarray, shares: np.ndarray, parts: np.ndarray, classes: int) -> None:
    """Moves and swaps groups, the best first, until none lowers the cost. Changes parts in place."""
    totals = _totals(amounts, parts)
    cost = _cost(totals, shares, classes)
    while True:
        best_cost: float = cost - 1e-9
        best_changes: list[tuple[int, int]] = []
        for source, target in permutations(range(len(shares)), 2):
            here, there = np.flatnonzero(parts == source), np.flatnonzero(parts == target)
            moved = amounts[here]
            if not len(moved):
                continue
            if target > source and len(parts) <= _MOST_GROUPS_TO_SWAP:
                swapped = amounts[here][:, None] - amounts[there][None]
                moved = np.concatenate([moved, swapped.reshape(-1, amounts.shape[1])])
            changed = np.repeat(totals[None], len(moved), axis=0)
            changed[:, source] -= moved
            changed[:, target] += moved
            costs = _cost(changed, shares, classes)
            cheapest = int(np.argmin(costs))
            if costs[cheapest] < best_cost:
                best_cost, swap = float(costs[cheapest]), cheapest - len(here)
                if swap < 0:
                    best_changes = [(here[cheapest], target)]
                else:
                    best_changes = [(here[swap // len(there)], target), (there[swap % len(there)], source)]
        if not best_changes:
            return
        for group, part in best_changes:
            parts[group] = part
        cost, totals = best_cost, _totals(amounts, parts)


def _totals(amounts: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The share that each part has of each amount: (parts, amounts)."""
    return np.stack([amounts[parts == part].sum(axis=0) for part in range(len(PARTS))])


def _cost(totals: np.ndarray, shares: np.ndarray, classes: int) -> Any:
    """Distance of (..., parts, amounts) from the shares.

    As in chi-squared, 5 points too few weigh more in a small part.
    """
    absent = (totals[..., :classes] < 1e-12).sum(axis=(-2, -1))
    # Rounded, so that equal costs are equal whatever order a machine adds in, and ties go to the first group.
    return np.round(((totals - shares[:, None]) ** 2 / shares[:, None]).sum(axis=(-2, -1)) + _ABSENT * absent, 12)


def _absent(classes: np.ndarray, images: np.ndarray, counts: np.ndarray) -> FailedPrecondition:
    part, position = np.argwhere(counts == 0)[0]
    label, groups = classes[position], int((images[:, position] > 0).sum())
    return FailedPrecondition(
        f"class {label!r} has {groups} groups, and no division of the {len(images)} groups was found that "
        f"gives {PARTS[part]} one of every class; import the dataset with more groups, or without this class",
        reason="SPLIT_IMPOSSIBLE",
        metadata={"class": str(label)},
    )


def _share_warnings(counts: np.ndarray, shares: np.ndarray, classes: list[str]) -> list[str]:
    found = counts / counts.sum(axis=0)
    off = [
        (
            abs(found[part, k] - shares[part]),
            f"{found[part, k]:.0%} of {classes[k]} instead of {shares[part]:.0%} is in {name}",
        )
        for part, name in enumerate(PARTS)
        for k in range(len(classes))
    ]
    beyond = [text for distance, text in sorted(off, reverse=True) if distance > WARN_BEYOND]
    if not beyond:
        return []
    more = f"; and {len(beyond) - MOST_EXAMPLES} more" if len(beyond) > MOST_EXAMPLES else ""
    return [
        "groups cannot be divided, so that shares are off by more than 5 points: "
        f"{'; '.join(beyond[:MOST_EXAMPLES])}{more}"
    ]


def _near_duplicate_warnings(index: pa.Table, rows: dict[str, tuple[int, ...]]) -> list[str]:
    """Images of different parts that look the same (leakage rule 2)."""
    hashes = index["perceptual_hash"].to_numpy()
    thumbnails = np.stack([np.frombuffer(item, dtype=np.uint8) for item in index["thumbnail"].to_pylist()])
    count, examples = 0, []
    for left, right in (("train", "test"), ("train", "validation"), ("validation", "test")):
        left_rows, right_rows = np.array(rows[left]), np.array(rows[right])
        found = near_duplicates(
            hashes[left_rows],
            thumbnails[left_rows],
            hashes[right_rows],
            thumbnails[right_rows],
            most_examples=MOST_EXAMPLES,
        )
        count += found.count
        examples += [
            (
                -pair.correlation,
                f"{index['path'][int(left_rows[pair.left])]} ({left}) and "
                f"{index['path'][int(right_rows[pair.right])]} ({right})",
            )
            for pair in found.examples
        ]
    if not count:
        return []
    shown = "; ".join(text for _, text in sorted(examples)[:MOST_EXAMPLES])
    return [
        f"{count:,} pairs of images in different parts are near duplicates, which make results too "
        f"optimistic: {shown}"
        f"{'; ...' if count > MOST_EXAMPLES else ''}"
    ]


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
