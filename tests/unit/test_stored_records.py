"""Records of a newer version and damaged ones: read as far as they can be, else left out of lists and named."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bad_requests import SPEC, spec_of
from image_archives import BY_PLATE, plates, zipped
from memory_object_store import MemoryObjectStore
from served import TOKEN, serving
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.client.client import Client, metadata_of
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels
from synthmix.image_data.import_bounds import import_bounds
from synthmix.service_kit import metrics
from synthmix.service_kit.artifacts import (
    MANIFEST,
    SCHEMA,
    Manifest,
    find_manifest,
    read_manifest,
    write_manifest,
    write_payload,
)
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import (
    FailedPrecondition,
    Internal,
    NotFound,
    SynthMixError,
    Unavailable,
    from_json,
    to_json,
)
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.stored_records import UNREADABLE
from synthmix.study_control import datasets
from synthmix.study_control.dataset_service import DatasetService
from synthmix.study_control.image_import.importer import import_archive

pytestmark = pytest.mark.usefixtures("own_cache")

ARTIFACT = ArtifactName("adapters", "a" * 32)


def rewritten(store: MemoryObjectStore, artifact: ArtifactName, **fields: Any) -> None:
    key = f"{artifact}/{MANIFEST}"
    store.put_json(key, store.get_json(key) | fields)


def each_damage(store: MemoryObjectStore) -> Iterator[tuple[str, str]]:
    """Lets each record lack each of its fields, and have it wrongly, one after the other; yields key and field."""
    for key in [key for key in store.keys if key.endswith(".json")]:
        before = store.get_bytes(key)
        value = json.loads(before)
        for field in value:
            for damaged in ({name: value[name] for name in value if name != field}, value | {field: [3]}):
                store.put_json(key, damaged)
                yield key, field
        store.put_bytes(key, before)


def test_what_tomorrows_version_adds_is_ignored(store: MemoryObjectStore) -> None:
    payload = write_payload(store, ARTIFACT, "weights.bin", b"weights")
    manifest = write_manifest(store, Manifest(ARTIFACT, {}, {"rank": 4}, 1, (payload,)))
    stored = store.get_json(f"{ARTIFACT}/{MANIFEST}")
    rewritten(store, ARTIFACT, owner="alice", payloads=[{**stored["payloads"][0], "codec": "zstd"}])
    assert find_manifest(store, ARTIFACT) == manifest


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            json.dumps({"schema": SCHEMA + 1}),
            f"is of schema {SCHEMA + 1}, and this version reads schema {SCHEMA} at most",
        ),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        (json.dumps({"name": "x", "payloads": 3}), "is damaged"),
        (json.dumps({"schema": "x"}), "is damaged"),
    ],
)
def test_what_cannot_be_read_says_so(store: MemoryObjectStore, data: str, problem: str) -> None:
    store.put_bytes(f"{ARTIFACT}/{MANIFEST}", data.encode())
    with pytest.raises(FailedPrecondition, match=problem) as refusal:
        find_manifest(store, ARTIFACT)
    assert refusal.value.reason == UNREADABLE
    assert f"{ARTIFACT}/{MANIFEST}" in refusal.value.message


def test_a_list_goes_on_without_what_cannot_be_read(store: MemoryObjectStore, tmp_path: Path) -> None:
    names = []
    for number in range(3):
        archive = zipped(tmp_path / f"{number}.zip", plates(per_plate=2 + number))
        found = import_archive(
            store, archive, group_rule=BY_PLATE, classes=[], simulated=False, progress=lambda done, total: None
        )
        datasets.claim_name(store, LOCAL, f"name-{number}", found.name, account=found.account(), replace=False)
        names.append(found.name)
    rewritten(store, names[1], schema=SCHEMA + 1)
    store.put_bytes(datasets._name_key(LOCAL, "torn"), b"{")
    store.put_bytes(datasets._name_key(LOCAL, "empty"), b"{}")
    service = DatasetService(store, operations=None, bounds=import_bounds())  # type: ignore[arg-type]
    answer = asyncio.run(service.ListDatasets(datasets_pb2.ListDatasetsRequest(), None))  # type: ignore[arg-type]
    assert {item.name for item in answer.datasets} == {str(names[0]), str(names[2])}
    assert list(answer.unreachable) == [str(names[1])]
    assert {item.display_name for item in answer.datasets} == {"name-0", "name-2"}


def test_a_dataset_of_tomorrow_is_shown_as_far_as_it_is_known(store: MemoryObjectStore, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "images.zip", plates())
    name = import_archive(
        store, archive, group_rule=BY_PLATE, classes=[], simulated=False, progress=lambda done, total: None
    ).name
    changes = {
        "group_rule": {"pattern": "x", "flags": "i"},
        "pixels": {"plane": 2, "gamma": 1.5},
        "left_out": [{"folder": "", "reason": "OF_TOMORROW", "count": 2, "examples": ["a"], "size_bytes": 3}],
        "has_manifest": True,
    }
    rewritten(store, name, summary=read_manifest(store, name).summary | changes)
    shown = datasets.get_dataset(store, str(name), owner=LOCAL)
    assert (shown.group_rule.pattern, shown.pixels.plane) == ("x", 2)
    assert [(row.count, row.description) for row in shown.left_out] == [(2, "OF_TOMORROW")]


def test_an_error_of_tomorrow_is_told_as_far_as_it_is_known() -> None:
    value = to_json(NotFound("it is gone", reason="GONE"))
    value["details"].append({"@type": "type.googleapis.com/synthmix.tomorrow.v1.Remedy", "command": "find it"})
    error = from_json(value | {"severity": "low"})
    assert isinstance(error, NotFound) and (error.message, error.reason) == ("it is gone", "GONE")


def test_a_name_that_a_newer_version_used_is_used_on(store: MemoryObjectStore, tmp_path: Path) -> None:
    with serving(store) as addresses, Client(Channels(Endpoints(addresses, TOKEN))) as caller:
        caller.import_dataset(zipped(tmp_path / "images.zip", plates(plate_count=8)), "cells", group=BY_PLATE)

        def submitted(seeds: int) -> str:
            spec = spec_of(SPEC | {"name": "first", "dataset": "cells", "seeds": seeds})
            return metadata_of(caller.submit_study(spec)).target

        newer = submitted(2)
        store.put_json(f"{newer}/{MANIFEST}", {"schema": SCHEMA + 1})
        operation = f"operations/{STUDY_CONTROL}/{newer.removeprefix('studies/')}"
        attempt = store.get_json(f"{operation}/request.json")["attempt"]
        store.put_json(f"{operation}/result.json", {"schema": SCHEMA + 1, "attempt": attempt})
        ours = submitted(3)
        assert [study.name for study in caller.list_studies("first")] == [ours] == [caller.get_study("first").name]
        assert caller.unreachable == [newer]


def test_a_name_that_an_earlier_version_recorded_is_nobodys_in_particular(
    store: MemoryObjectStore, tmp_path: Path
) -> None:
    """It had no owner in the name's key."""
    with serving(store) as addresses, Client(Channels(Endpoints(addresses, TOKEN))) as caller:
        caller.import_dataset(zipped(tmp_path / "images.zip", plates(plate_count=8)), "cells", group=BY_PLATE)
        spec = spec_of(SPEC | {"name": "first", "dataset": "cells"})
        study = metadata_of(caller.submit_study(spec)).target
        [key] = [key for key in store.keys if key.startswith("study-names/first/")]
        store.put_json(f"study-names/first/{study.removeprefix('studies/')}.json", store.get_json(key))
        store.delete(key)
        assert caller.get_study("first").name == study
        assert [item.name for item in caller.list_studies("first")] == [study]
        caller.plan_study(spec)


def test_a_list_goes_on_whatever_one_record_lacks_or_has_wrongly(store: MemoryObjectStore, tmp_path: Path) -> None:
    with serving(store) as addresses, Client(Channels(Endpoints(addresses, TOKEN))) as caller:
        caller.import_dataset(zipped(tmp_path / "images.zip", plates(plate_count=8)), "cells", group=BY_PLATE)
        study = metadata_of(caller.submit_study(spec_of(SPEC | {"name": "first", "dataset": "cells"}))).target

        def listed() -> int:
            return sum(
                len(list(items))
                for items in (
                    caller.list_datasets(),
                    caller.list_studies(),
                    caller.list_studies("first"),
                    caller.list_studies("first", unfinished=True),
                    caller.list_operations(STUDY_CONTROL),
                )
            )

        assert listed() == 6
        unreadable = metrics.UNREADABLE_RECORDS._value.get()
        for _ in each_damage(store):
            listed()  # raises nothing
        assert metrics.UNREADABLE_RECORDS._value.get() > unreadable
        assert {study, f"operations/study-control/{study.removeprefix('studies/')}"} <= set(caller.unreachable)
        assert listed() == 6


def test_one_record_that_lacks_something_or_has_it_wrongly_is_said_to_be_damaged(
    store: MemoryObjectStore, tmp_path: Path
) -> None:
    """Whoever asks for it by name is told which object is damaged, and not that the service has a fault."""
    with serving(store) as addresses, Client(Channels(Endpoints(addresses, TOKEN))) as caller:
        caller.import_dataset(zipped(tmp_path / "images.zip", plates(plate_count=8)), "cells", group=BY_PLATE)
        operation = caller.submit_study(spec_of(SPEC | {"name": "first", "dataset": "cells"}))
        study = caller.get_study(metadata_of(operation).target)
        asked = [
            lambda: caller.get_dataset(study.dataset),
            lambda: caller.get_split(study.split),
            lambda: caller.get_study(study.name),
            lambda: caller.get_operation(operation.name),
        ]
        reasons = set()
        for damage in each_damage(store):
            for ask in asked:
                try:
                    ask()
                except SynthMixError as error:
                    assert not isinstance(error, Internal), damage
                    reasons.add(error.reason)
        assert UNREADABLE in reasons


def test_a_manifest_never_names_what_is_gone(store: MemoryObjectStore) -> None:
    payload = write_payload(store, ARTIFACT, "weights.bin", b"weights")
    store.delete(f"{ARTIFACT}/{payload.sha256}")
    with pytest.raises(Unavailable, match=r"weights\.bin of adapters/a+ is no longer in object storage"):
        write_manifest(store, Manifest(ARTIFACT, {}, {}, 1, (payload,)))
    assert find_manifest(store, ARTIFACT) is None
