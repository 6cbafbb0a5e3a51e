"""Names of datasets: each that a user gave is seen, with the account of the import that was made under it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from image_archives import BY_PLATE, picture, plates, zipped
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.sources.source_account import to_json
from synthmix.service_kit import pages
from synthmix.service_kit.artifacts import read_manifest, times_of_artifacts
from synthmix.service_kit.errors import AlreadyExists, InvalidArgument
from synthmix.service_kit.requesters import LOCAL, Requester
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control import datasets
from synthmix.study_control.image_import.import_operation import run
from synthmix.study_control.image_import.importer import import_archive
from synthmix.study_control.reporting import _dataset

pytestmark = pytest.mark.usefixtures("own_cache")

JUNK = {"alpha/notes.txt": b"x", "gamma/readme.txt": b"x"}
UPLOAD = f"uploads/{'0' * 64}"


def take(store: MemoryObjectStore, folder: Path, name: str, files: dict[str, bytes], **changes: Any) -> ArtifactName:
    """As the import's operation does."""
    found = import_archive(
        store,
        zipped(folder / f"{name}.zip", files),
        group_rule=BY_PLATE,
        classes=[],
        simulated=False,
        progress=lambda done, total: None,
    )
    account = datasets.with_left_out(found.account(), changes.pop("left_out", []))
    datasets.claim_name(store, LOCAL, name, found.name, account=account, replace=changes.pop("replace", False))
    return found.name


def rows(dataset: datasets_pb2.Dataset) -> list[tuple[str, str, int]]:
    return [(row.folder, row.reason, row.count) for row in dataset.left_out]


def test_a_dataset_of_two_names_is_shown_under_the_one_that_is_asked(store: MemoryObjectStore, tmp_path: Path) -> None:
    first = take(store, tmp_path, "plain", plates())
    assert take(store, tmp_path, "messy", plates() | JUNK) == first
    plain, messy = (
        datasets.get_dataset(store, "plain", owner=LOCAL),
        datasets.get_dataset(store, "datasets/messy", owner=LOCAL),
    )
    assert (plain.display_name, messy.display_name) == ("plain", "messy")
    assert list(plain.display_names) == list(messy.display_names) == ["messy", "plain"]
    assert (rows(plain), list(plain.warnings)) == ([], [])
    assert rows(messy) == [("alpha", "NOT_AN_IMAGE", 1), ("gamma", "NOT_AN_IMAGE", 1)]
    assert messy.left_out[0].description == "not an image"
    assert list(messy.warnings) == [
        "the folder 'gamma' is not a class of this dataset: 1 file, not an image (gamma/readme.txt)"
    ]
    assert datasets.get_dataset(store, str(first), owner=LOCAL).display_name == "messy"


def test_the_account_is_that_of_the_last_import_of_a_name(store: MemoryObjectStore, tmp_path: Path) -> None:
    take(store, tmp_path, "cells", plates() | JUNK)
    take(store, tmp_path, "cells", plates())
    assert rows(datasets.get_dataset(store, "cells", owner=LOCAL)) == []
    seen = datasets_pb2.LeftOut(folder="alpha", reason="SYSTEM_FILE", count=3, examples=["alpha/Thumbs.db"])
    request = datasets_pb2.CreateDatasetRequest(left_out=[seen])
    take(store, tmp_path, "cells", plates() | JUNK, left_out=datasets.left_out_of(request))
    assert ("alpha", "SYSTEM_FILE", 3) in rows(datasets.get_dataset(store, "cells", owner=LOCAL))
    assert ("gamma", "NOT_AN_IMAGE", 1) in rows(datasets.get_dataset(store, "cells", owner=LOCAL))


def test_a_name_moves_only_if_it_is_said(store: MemoryObjectStore, tmp_path: Path) -> None:
    first = take(store, tmp_path, "cells", plates())
    other = plates(plate_count=7)
    with pytest.raises(AlreadyExists):
        take(store, tmp_path, "cells", other)
    assert datasets.get_dataset(store, "cells", owner=LOCAL).name == str(first)
    second = take(store, tmp_path, "cells", other, replace=True)
    assert datasets.get_dataset(store, "cells", owner=LOCAL).name == str(second)
    assert datasets.get_dataset(store, str(first), owner=LOCAL).display_name == ""


def test_names_of_earlier_versions_are_read(store: MemoryObjectStore, tmp_path: Path) -> None:
    name = take(store, tmp_path, "cells", plates() | JUNK)
    store.put_json(datasets._name_key(LOCAL, "old"), {"dataset": str(name)})
    assert len(datasets.get_dataset(store, "old", owner=LOCAL).left_out) == 2


def test_a_report_shows_the_account_of_its_dataset(store: MemoryObjectStore, tmp_path: Path) -> None:
    take(store, tmp_path, "aaa", plates())
    take(store, tmp_path, "messy", plates() | JUNK)
    split = datasets.create_split(store, datasets_pb2.Split(dataset="messy", settings={"seed": 1}), LOCAL)
    manifest = read_manifest(store, ArtifactName.parse(split.dataset, field="dataset"))
    page = _dataset(
        store, manifest, read_manifest(store, ArtifactName.parse(split.name, field="split")), LOCAL, "messy"
    )
    assert page.display_name == "messy"
    assert "gamma: 1 file, not an image (gamma/readme.txt)" in page.left_out
    assert "the folder 'gamma' is not a class" in page.warnings[0]


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([datasets_pb2.LeftOut(reason="NOT_AN_IMAGE")] * 101, "left_out"),
        ([datasets_pb2.LeftOut(reason="BORED")], "left_out[0].reason"),
        ([datasets_pb2.LeftOut(reason="NOT_AN_IMAGE", count=-1)], "left_out[0].count"),
        ([datasets_pb2.LeftOut(reason="NOT_AN_IMAGE", examples=["a"] * 4)], "left_out[0].examples"),
    ],
)
def test_what_a_caller_says_it_left_out_is_bounded(rows: list[datasets_pb2.LeftOut], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        datasets.left_out_of(datasets_pb2.CreateDatasetRequest(left_out=rows))
    assert caught.value.violations[0].field == field


def test_only_columns_of_other_names_are_part_of_the_request() -> None:
    def request(**changes: Any) -> dict[str, Any]:
        dataset = datasets_pb2.Dataset(display_name="cells", group_rule=BY_PLATE)
        return datasets.import_request(
            datasets_pb2.CreateDatasetRequest(dataset=dataset, upload=UPLOAD, **changes), LOCAL
        )

    plain = request()
    assert plain == request(label_column="label", path_column=" path ", accept_layout=True)
    assert request(label_column="kind") == plain | {"label_column": "kind"}


def test_an_accepted_layout_is_asked_about_again() -> None:
    account = {"layout_doubt": "the top folders look like parts"}
    datasets.check_layout(account, accept_layout=True)
    with pytest.raises(InvalidArgument, match="the top folders look like parts"):
        datasets.check_layout(account, accept_layout=False)


def test_datasets_are_listed_by_time_on_every_page(store: MemoryObjectStore, tmp_path: Path) -> None:
    made = [
        take(store, tmp_path, f"cells-{number}", plates() | {"alpha/plate-0_x.png": picture(100 + number)})
        for number in range(5)
    ]
    times = times_of_artifacts(store, "datasets")
    seen: list[ArtifactName] = []
    token = ""
    while True:
        found, token = pages.newest_first(times, 2, token)
        seen += found
        if not token:
            break
    assert seen == made[::-1]


def test_whoever_asks_for_an_import_that_runs_has_its_own_account(store: MemoryObjectStore, tmp_path: Path) -> None:
    found = import_archive(
        store,
        zipped(tmp_path / "cells.zip", plates()),
        group_rule=BY_PLATE,
        classes=[],
        simulated=False,
        progress=lambda done, total: None,
    )
    seen = [datasets_pb2.LeftOut(folder="gamma", reason="NOT_AN_IMAGE", count=1, examples=["gamma/readme.txt"])]

    def run_tasks(function: str, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        datasets.write_left_out(store, "0", to_json(seen))  # the second caller's, while the task runs
        return [{"name": str(found.name), "account": found.account()}]

    request = {
        "upload": UPLOAD,
        "group_rule": {},
        "classes": [],
        "simulated": False,
        "display_name": "cells",
    }
    datasets.write_left_out(store, "0", [])
    record = SimpleNamespace(
        name=SimpleNamespace(id="0"),
        request={"request": request, "replace_display_name": False},
        requested_by=Requester(),
    )
    context: Any = SimpleNamespace(record=record, store=store, run_tasks=run_tasks, update=lambda **progress: None)
    assert run(context) == found.name
    assert rows(datasets.get_dataset(store, "cells", owner=LOCAL)) == [("gamma", "NOT_AN_IMAGE", 1)]
