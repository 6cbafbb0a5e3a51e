"""Studies from YAML to report, on simulated and on real images."""

import json
from pathlib import Path

import pytest
from studies import DATA, FIELD, MITOCHECK_SIX, PLATE, import_simulated, reduced_study, run_study, steps_of

from service_kit.artifacts import read_manifest
from service_kit.object_store import ObjectStore
from service_kit.resource_names import ArtifactName
from synthmix import Client, GroupRule
from synthmix.client import metadata_of
from synthmix_api.operations.v1 import operations_pb2
from synthmix_api.studies.v1 import studies_pb2


@pytest.fixture(scope="module")
def finished(client: Client, tmp_path_factory: pytest.TempPathFactory) -> studies_pb2.Study:
    import_simulated(client, tmp_path_factory.mktemp("simulated"), "sim-few")
    return run_study(client, reduced_study("reduced", "sim-few"))


def test_a_study_ends_in_a_report(client: Client, finished: studies_pb2.Study, tmp_path: Path) -> None:
    assert finished.state == operations_pb2.STATE_SUCCEEDED
    paths = client.download_report(finished.name, tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.json", "results.csv"]
    page = (tmp_path / "report.html").read_text()
    assert finished.verdict[:40] in page
    assert "SIMULATED IMAGES" in page.upper()
    assert finished.adapters[0].split("/")[1] in page
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 3  # real only, append 25 %, synthetic only, of one seed
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["cells"]) == 3


def test_synthetic_images_and_cells_are_what_the_grid_says(store: ObjectStore, finished: studies_pb2.Study) -> None:
    split = read_manifest(store, ArtifactName.parse(finished.split, field="split"))
    train = split.summary["parts"]["train"]["image_count"]
    evaluation = read_manifest(store, ArtifactName.parse(finished.evaluation, field="evaluation"))
    cells = [
        read_manifest(store, ArtifactName.parse(name, field="cell")).summary for name in evaluation.summary["cells"]
    ]
    counts = {cell["mixture"]["label"]: (cell["real_images"], cell["synthetic_images"]) for cell in cells}
    assert counts == {
        "real only": (train, 0),
        "append 25 %": (train, round(0.25 * train)),
        "synthetic only": (0, train),
    }
    assert {cell["steps"] for cell in cells} == {-(-train // 32)}  # match: steps


def test_the_generator_saw_the_train_part_only(store: ObjectStore, finished: studies_pb2.Study) -> None:
    split = read_manifest(store, ArtifactName.parse(finished.split, field="split"))
    adapter = read_manifest(store, ArtifactName.parse(finished.adapters[0], field="adapter"))
    assert adapter.inputs["train_split"] == split.summary["parts"]["train"]["digest"]


def test_submitted_again_nothing_runs(client: Client, store: ObjectStore, finished: studies_pb2.Study) -> None:
    before = {item.key for item in store.list("operations/")}
    operation = client.submit_study(reduced_study("reduced", "sim-few"))
    assert operation.done
    assert metadata_of(operation).target == finished.name
    assert client.get_study("reduced") == finished
    assert {item.key for item in store.list("operations/")} == before


def test_one_ratio_more_runs_the_new_cells_only(client: Client, finished: studies_pb2.Study) -> None:
    spec = reduced_study("enlarged", "sim-few", mixtures={"ratios": [0, 0.25, 0.10], "synthetic_only": True})
    plan = {step.display_name.split()[0]: step.plan for step in client.plan_study(spec).steps}
    assert {name: (step.done, step.total) for name, step in plan.items() if name == "grid"} == {"grid": (3, 4)}
    assert plan["adapter"].done == plan["adapter"].total
    study = run_study(client, spec)
    steps = steps_of(client, study)
    assert (steps["grid"].reused, steps["grid"].total) == (3, 4)
    assert steps["adapter"].reused == steps["adapter"].total == 64
    assert study.adapters == finished.adapters
    assert study.image_sets == finished.image_sets


def test_a_study_that_shares_the_adapter_does_not_train_it(client: Client, finished: studies_pb2.Study) -> None:
    synthesis = {"prompt": "a brightfield image of {label} cells", "steps": 3}
    study = run_study(client, reduced_study("other-images", "sim-few", synthesis=synthesis))
    assert study.adapters == finished.adapters
    assert study.image_sets != finished.image_sets
    steps = steps_of(client, study)
    assert steps["adapter"].reused == 64
    assert steps["images"].reused == 0
    assert steps["grid"].reused == 1  # real only


def test_real_images_by_plate(client: Client) -> None:
    client.import_dataset(DATA / "mitocheck", "mitocheck-six", group=GroupRule(pattern=PLATE), classes=MITOCHECK_SIX)
    synthesis = {"prompt": "a fluorescence image of a {label} nucleus", "steps": 2, "per_class": 71}
    study = run_study(
        client, reduced_study("mitocheck-reduced", "mitocheck-six", synthesis=synthesis, mixtures={"ratios": [0, 0.25]})
    )
    assert study.verdict
    assert client.get_dataset("mitocheck-six").image_count == 2217


def test_real_images_by_field(client: Client) -> None:
    client.import_dataset(DATA / "hek_ht1080", "hek-ht1080", group=GroupRule(pattern=FIELD))
    study = run_study(client, reduced_study("hek-reduced", "hek-ht1080", mixtures={"ratios": [0, 0.5]}))
    assert study.verdict
    assert client.get_split(study.split).part_counts[0].part == "train"
