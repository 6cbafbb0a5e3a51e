"""Two writers of one artifact in every order of their calls, with a failure anywhere: nothing finished is ever lost."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from interleaving import Failure, run_interleaved
from synthmix.service_kit.artifacts import (
    Manifest,
    find_manifest,
    read_manifest,
    read_payload,
    write_manifest,
    write_payload,
)
from synthmix.service_kit.errors import AlreadyExists
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import DATASETS, ArtifactName
from synthmix.study_control.datasets import _name_key, claim_name, display_names

SCHEDULES = 1000
LONGEST_SCHEDULE = 20


def writer_of(artifact: ArtifactName, who: int) -> Callable[[ObjectStore], Manifest]:
    """Work whose bytes differ in part, as those of two kinds of processors do."""

    def write(store: ObjectStore) -> Manifest:
        found = find_manifest(store, artifact)
        if found is not None:
            return found
        payloads = (
            write_payload(store, artifact, "same.bin", b"same"),
            write_payload(store, artifact, "own.bin", f"of writer {who}".encode()),
        )
        return write_manifest(store, Manifest(artifact, {}, {}, 1, payloads, seconds=float(who), software={}))

    return write


def check_whole(store: ObjectStore, manifest: Manifest) -> None:
    assert read_manifest(store, manifest.name) == manifest
    for payload in manifest.payloads:
        read_payload(store, manifest, payload.name)


@pytest.mark.parametrize("part", range(4))
def test_no_finished_artifact_is_lost_and_no_manifest_mismatched(store: ObjectStore, part: int) -> None:
    failures = 0
    for seed in range(part, SCHEDULES, 4):
        artifact = ArtifactName("trials", f"{seed:032x}")
        fail_at = random.Random(seed).choice([None, *range(1, LONGEST_SCHEDULE)])
        writers = [writer_of(artifact, who) for who in range(2)]
        results, _ = run_interleaved(store, writers, seed=seed, fail_at=fail_at)
        finished = [result for result in results if not isinstance(result, Failure)]
        failures += len(results) - len(finished)
        assert finished, "one failure stops one writer"
        for manifest in finished:
            check_whole(store, manifest)
        # Whoever failed comes again, and finds what stands.
        assert writers[0](store) == writers[1](store) == finished[0]
    assert failures > SCHEDULES // 16


@pytest.mark.parametrize("part", range(4))
def test_a_name_that_two_claim_at_once_means_one_data_set(store: ObjectStore, part: int) -> None:
    ids = [ArtifactName(DATASETS, f"{who:032x}") for who in range(2)]
    for dataset in ids:
        write_manifest(store, Manifest(dataset, {}, {}, 1, (), software={}))
    refused = 0
    for seed in range(part, SCHEDULES, 4):
        name = f"name-{seed}"

        def claim(dataset: ArtifactName, name: str = name) -> Callable[[ObjectStore], Any]:
            def call(store: ObjectStore) -> ArtifactName | None:
                try:
                    claim_name(store, LOCAL, name, dataset, account={"of": str(dataset)}, replace=False)
                except AlreadyExists:
                    return None
                return dataset

            return call

        fail_at = random.Random(seed).choice([None, *range(1, 6)])
        results, _ = run_interleaved(store, [claim(dataset) for dataset in ids], seed=seed, fail_at=fail_at)
        holders = [dataset for dataset in results if isinstance(dataset, ArtifactName)]
        assert len(holders) <= 1, "a claim that was granted stands"
        held = store.find_json(_name_key(LOCAL, name))
        if holders:
            assert held == {"dataset": str(holders[0]), "account": {"of": str(holders[0])}}
        refused += None in results
    assert refused > SCHEDULES // 16
    assert display_names(store)
