"""An upgrade, what the newer version records, and the way back: what was made before is served, and work goes on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from release import Release

from cluster.prometheus import Prometheus
from studies import FEW, import_simulated, payload_digests, reduced_study, run_study
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import operation_records
from synthmix.service_kit.artifacts import MANIFEST, SCHEMA
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_index import Created, OperationIndex
from synthmix.service_kit.operation_records import OperationRecord
from synthmix.service_kit.resource_names import STUDIES, ArtifactName, OperationName
from synthmix.service_kit.stored_records import UNREADABLE
from waiting import wait_until

# In the environment of every process, Ray's included.
VALUES = {"imports": {"files": 100_000}}
NEWER_ID = "f" * 32
COUNTED_TIMEOUT_S = 60.0


def resources_of(study: studies_pb2.Study) -> list[ArtifactName]:
    """One of each kind that lists show."""
    names = [study.name, study.dataset, study.adapters[0], study.image_sets[0], study.evaluation]
    return [ArtifactName.parse(name, field="name") for name in names]


@contextmanager
def recorded_by_a_newer_version(store: ObjectStore, study: studies_pb2.Study) -> Iterator[None]:
    """For the length of a `with` block: what this version reads as far as it knows it, and beside it what it cannot.

    A newer version leaves the schema of what an older one would read rightly, and raises it of the rest.
    """
    resources = resources_of(study)
    unreadable = [replace(name, id=NEWER_ID) for name in resources]
    operations = [OperationName(service, NEWER_ID) for service in SERVICES]
    records = [
        OperationRecord(name, STUDIES, f"studies/{NEWER_ID}", {}, operation_records.now()) for name in operations
    ]
    operation = operation_records.read_record(store, OperationName.parse(study.operation)).name
    own = [*(f"{name}/{MANIFEST}" for name in resources), f"{operation}/request.json", f"{operation}/result.json"]
    before = {key: store.get_json(key) for key in own}
    try:
        for key, value in before.items():
            store.put_json(key, with_what_is_not_known(value))
        for name, source in zip(unreadable, resources, strict=True):
            store.put_json(
                f"{name}/{MANIFEST}", before[f"{source}/{MANIFEST}"] | {"schema": SCHEMA + 1, "payloads": {}}
            )
        for record in records:
            value = {"schema": operation_records.SCHEMA + 1, "does": "what this version does not know"}
            store.put_json(f"{record.name}/request.json", value)
            OperationIndex(store, record.name.service).add(record.name, Created(record.create_time, record.kind))
            # Nor may what it left undone keep anything else from being done.
            store.put_json(f"open-operations/{record.name.service}/{NEWER_ID}.json", value)
        yield
    finally:
        for record in records:
            store.delete(f"open-operations/{record.name.service}/{NEWER_ID}.json")
            OperationIndex(store, record.name.service).remove(record.name, Created(record.create_time, record.kind))
        for name in [*unreadable, *operations]:
            store.delete_prefix(f"{name}/")
        for key, value in before.items():
            store.put_json(key, value)


def with_what_is_not_known(value: dict[str, object]) -> dict[str, object]:
    """A record with a field more, in itself and in each message of the request that it holds."""

    def grown(part: object) -> object:
        if isinstance(part, list):
            return [grown(item) for item in part]
        if not isinstance(part, dict):
            return part
        return {name: grown(item) for name, item in part.items()} | {"of_tomorrow": {"option": 0.5}}

    value = value | {"of_tomorrow": [1]}
    request = value.get("request")
    if isinstance(request, dict):
        value["request"] = request | {key: grown(request[key]) for key in ("spec", "settings") if key in request}
    return value


def check_served(caller: Client, study: studies_pb2.Study) -> None:
    """The study and all that it was made of is listed and read as before; what cannot be read is named."""
    caller.unreachable.clear()
    listed = {
        item.name
        for items in (
            caller.list_studies(),
            caller.list_datasets(),
            caller.adapters.list(),
            caller.image_sets.list(),
            caller.evaluations.list(),
        )
        for item in items
    }
    assert {str(name) for name in resources_of(study)} <= listed
    for service in SERVICES:
        assert f"operations/{service}/{NEWER_ID}" not in [item.name for item in caller.list_operations(service)]
    assert set(caller.unreachable) >= {
        *(str(replace(name, id=NEWER_ID)) for name in resources_of(study)),
        *(f"operations/{service}/{NEWER_ID}" for service in SERVICES),
    }
    assert caller.get_study(study.name) == study
    with pytest.raises(
        FailedPrecondition, match="use the version of SynthMix that wrote it, or a newer one"
    ) as refused:
        caller.get_study(f"{STUDIES}/{NEWER_ID}")
    assert refused.value.reason == UNREADABLE


def test_what_a_newer_version_recorded_keeps_nothing_from_going_on(
    release: Release, prometheus: Prometheus, values: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "upgrade.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    with release.client() as caller:
        import_simulated(caller, tmp_path / "simulated")
        study = run_study(caller, reduced_study("before-the-upgrade", FEW))
    digests = payload_digests(release.store(), study)
    revision = json.loads(release.helm("status", "--output=json"))["version"]
    release.upgrade_all([*values, path])
    with release.client() as caller:
        assert caller.get_study(study.name) == study
    with recorded_by_a_newer_version(release.store(), study):
        release.roll_back_all()
        assert json.loads(release.helm("status", "--output=json"))["version"] == revision + 2
        with release.client() as caller:
            check_served(caller, study)
            caller.download_report(study.name, tmp_path / "report")
            assert run_study(caller, reduced_study("after-the-rollback", FEW, mixtures={"ratios": [0, 0.5]})).verdict
        assert payload_digests(release.store(), study) == digests
        left_out = f"synthmix_unreadable_records_total{{namespace='{release.namespace}'}} > 0"
        left_alone = f"synthmix_unreadable_operations{{namespace='{release.namespace}'}} == 1"
        wait_until(lambda: bool(prometheus.query(left_out)), "what lists left out is counted", COUNTED_TIMEOUT_S)
        wait_until(
            lambda: {labels["service"] for labels, _ in prometheus.query(left_alone)} == set(SERVICES),
            "what was left undone is counted",
            COUNTED_TIMEOUT_S,
        )
