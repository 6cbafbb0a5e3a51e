"""Records of a newer version and damaged ones: read as far as they can be, else left out of lists and named."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from image_archives import BY_PLATE, plates, zipped
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.service_kit.artifacts import MANIFEST, SCHEMA, Manifest, find_manifest, write_manifest, write_payload
from synthmix.service_kit.errors import FailedPrecondition, Unavailable
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.stored_records import UNREADABLE
from synthmix.study_control import datasets
from synthmix.study_control.dataset_service import DatasetService
from synthmix.study_control.image_import.importer import import_archive
from synthmix.study_control.import_bounds import import_bounds

pytestmark = pytest.mark.usefixtures("own_cache")

ARTIFACT = ArtifactName("adapters", "a" * 32)


def rewritten(store: MemoryObjectStore, artifact: ArtifactName, **fields: Any) -> None:
    key = f"{artifact}/{MANIFEST}"
    store.put_json(key, store.get_json(key) | fields)


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


def test_a_manifest_never_names_what_is_gone(store: MemoryObjectStore) -> None:
    payload = write_payload(store, ARTIFACT, "weights.bin", b"weights")
    store.delete(f"{ARTIFACT}/{payload.sha256}")
    with pytest.raises(Unavailable, match=r"weights\.bin of adapters/a+ is no longer in object storage"):
        write_manifest(store, Manifest(ARTIFACT, {}, {}, 1, (payload,)))
    assert find_manifest(store, ARTIFACT) is None
