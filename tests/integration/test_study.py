"""Studies from YAML to report, on simulated and on real images."""

import json
from pathlib import Path

import pytest
from google.longrunning.operations_pb2 import Operation

from real_images import FIELD, MITOCHECK_SIX, PLATE, real_images
from studies import FEW, reduced_study, steps_of
from synthmix import Client, GroupRule
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import metadata_of, result_of
from synthmix.image_data.image_table import read_index
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import read_manifest, read_payload
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName


@pytest.fixture(scope="module")
def enlarged() -> studies_pb2.StudySpec:
    """The finished study with one ratio more."""
    return reduced_study("enlarged", FEW, mixtures={"ratios": [0, 0.25, 0.10], "synthetic_only": True})


@pytest.fixture(scope="module")
def submitted(client: Client, finished: studies_pb2.Study, enlarged: studies_pb2.StudySpec) -> dict[str, Operation]:
    """Studies that run side by side: each is one process at a time for the most part, which imports torch."""
    client.import_dataset(real_images("hek_ht1080"), "hek-ht1080", group=GroupRule(pattern=FIELD))
    synthesis = {"prompt": "a brightfield image of {label} cells", "steps": 3}
    specs = [
        reduced_study("hek-reduced", "hek-ht1080", mixtures={"ratios": [0, 0.5]}),
        reduced_study("other-images", FEW, synthesis=synthesis),
        reduced_study(
            "methods",
            FEW,
            adapters={
                "method": "lokr",
                "per": "class",
                "images_seen": 64,
                "held_out": 0.2,
                "evaluations": 2,
            },
            mixtures={"ratios": [0, 0.25]},
        ),
        reduced_study(
            "searched",
            FEW,
            adapters={"rank": [2, 4], "images_seen": 64},
            search={"budget_seconds": 3600, "rungs": 2, "images_per_class": 4, "sampler": "random"},
            synthesis=synthesis,
            mixtures={"ratios": [0, 0.25]},
        ),
        reduced_study(
            "of-each-image",
            FEW,
            adapters={"rank": 2, "per": "image", "images_seen": 64},
            synthesis={**synthesis, "per_class": 8, "fused_adapters": 2},
            mixtures={"ratios": [0, 0.25]},
        ),
        enlarged,
    ]
    return {spec.name: client.submit_study(spec) for spec in specs}


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
    assert len(report["trials"]) == 3


def test_synthetic_images_and_trials_are_what_the_grid_says(store: ObjectStore, finished: studies_pb2.Study) -> None:
    split = read_manifest(store, ArtifactName.parse(finished.split, field="split"))
    train = split.summary["parts"]["train"]["image_count"]
    evaluation = read_manifest(store, ArtifactName.parse(finished.evaluation, field="evaluation"))
    results = message_json.from_bytes(read_payload(store, evaluation, "trials.json"), evaluations_pb2.TrialResults)
    comparison = message_json.from_value(evaluation.summary["comparison"], evaluations_pb2.Comparison)
    labels = {result.mixture.key: result.mixture.label for result in comparison.mixtures}
    trainings = [trial.training for trial in results.trials]
    counts = {labels[item.mixture]: (item.real_images, item.synthetic_images) for item in trainings}
    assert counts == {
        "real only": (train, 0),
        "append 25 %": (train, round(0.25 * train)),
        "synthetic only": (0, train),
    }
    assert {item.optimizer_steps for item in trainings} == {-(-train // 32)}  # match: steps


def test_the_generator_saw_the_train_part_only(store: ObjectStore, finished: studies_pb2.Study) -> None:
    split = read_manifest(store, ArtifactName.parse(finished.split, field="split"))
    adapter = read_manifest(store, ArtifactName.parse(finished.adapters[0], field="adapter"))
    assert adapter.inputs["train_split"] == split.summary["parts"]["train"]["digest"]


def test_submitted_again_nothing_runs(client: Client, store: ObjectStore, finished: studies_pb2.Study) -> None:
    before = {item.key for item in store.list("operations/")}
    operation = client.submit_study(reduced_study("reduced", FEW))
    assert operation.done
    assert metadata_of(operation).target == finished.name
    assert client.get_study("reduced") == finished
    assert {item.key for item in store.list("operations/")} == before


def test_the_plan_of_one_ratio_more_has_the_new_trials_only(
    client: Client, finished: studies_pb2.Study, enlarged: studies_pb2.StudySpec
) -> None:
    plan = {step.display_name.split()[0]: step.plan for step in client.plan_study(enlarged).steps}
    assert (plan["grid"].done, plan["grid"].total) == (3, 4)
    assert plan["adapter"].done == plan["adapter"].total == 320


def test_one_ratio_more_runs_the_new_trials_only(
    client: Client, finished: studies_pb2.Study, submitted: dict[str, Operation]
) -> None:
    study = result_of(client.wait(submitted["enlarged"]), studies_pb2.Study)
    steps = steps_of(client, study)
    assert (steps["grid"].reused, steps["grid"].total) == (3, 4)
    assert steps["adapter"].reused == steps["adapter"].total == 320
    assert study.adapters == finished.adapters
    assert study.image_sets == finished.image_sets


def test_a_study_that_shares_the_adapter_does_not_train_it(
    client: Client, finished: studies_pb2.Study, submitted: dict[str, Operation]
) -> None:
    study = result_of(client.wait(submitted["other-images"]), studies_pb2.Study)
    assert study.adapters == finished.adapters
    assert study.image_sets != finished.image_sets
    steps = steps_of(client, study)
    assert steps["adapter"].reused == 320
    assert steps["images"].reused == 0
    assert steps["grid"].reused == 1  # real only


def test_a_study_with_an_adapter_of_each_class(client: Client, submitted: dict[str, Operation], tmp_path: Path) -> None:
    """By a method that is stored otherwise than LoRA, with images held out."""
    study = result_of(client.wait(submitted["methods"]), studies_pb2.Study)
    [name] = study.adapters
    adapter = client.adapters.get(name)
    folders = [f"class-000{number}" for number in range(3)]
    assert [item.folder for item in adapter.class_adapters] == folders
    assert all(len(item.held_out_losses) == 2 for item in adapter.class_adapters)
    assert [measured.images_seen for measured in adapter.held_out_losses] == [48, 66], "of all three together"
    assert adapter.images_seen == 64
    assert {payload.name for payload in adapter.payloads} == {
        f"{folder}/{name}"
        for folder in folders
        for name in ("adapter_config.json", "adapter_model.safetensors", "losses.json")
    }
    client.download_report(study.name, tmp_path)
    assert "Loss on held-out train images" in (tmp_path / "report.html").read_text()


def test_a_study_that_searches_goes_on_with_the_best_adapter(
    client: Client, store: ObjectStore, submitted: dict[str, Operation], tmp_path: Path
) -> None:
    study = result_of(client.wait(submitted["searched"]), studies_pb2.Study)
    client.download_report(study.name, tmp_path)
    manifest = read_manifest(store, ArtifactName.parse(study.name, field="study"))
    search = json.loads(read_payload(store, manifest, "search.json"))["search"]
    tried = [(rung["rung"], rung["images_seen"], rung["outcome"]) for rung in search["rungs"]]
    assert sorted(tried) == [(1, 32, "scored"), (1, 32, "scored"), (2, 64, "scored")]
    # The whole adapter is the one that went on from the better half of one.
    [whole] = [rung for rung in search["rungs"] if rung["rung"] == 2]
    assert study.adapters == [name for name in whole["made"] if name.startswith("adapters/")]
    assert len(study.image_sets) == 1
    better, other = sorted(
        (rung for rung in search["rungs"] if rung["rung"] == 1),
        key=lambda rung: (-rung["class_consistency"], rung["kernel_inception_distance"]),
    )
    assert (better["candidate"], search["chosen"]) == (whole["candidate"], [whole["candidate"]])
    assert other["candidate"] != whole["candidate"]
    assert "The study goes on with" in (tmp_path / "report.html").read_text()


def test_a_study_with_an_adapter_of_each_image(
    client: Client, store: ObjectStore, submitted: dict[str, Operation]
) -> None:
    study = result_of(client.wait(submitted["of-each-image"]), studies_pb2.Study)
    [name] = study.adapters
    train = read_index(store, read_manifest(store, ArtifactName.parse(study.dataset, field="x")), ["sha256"])
    known = set(train["sha256"].to_pylist())
    of_images = {item.image: item.label for item in client.adapters.get(name).class_adapters}
    counts = {
        item.part: sum(count.images for count in item.class_counts)
        for item in client.get_split(study.split).part_counts
    }
    assert of_images.keys() <= known and len(of_images) == counts["train"]
    [image_set] = study.image_sets
    manifest = read_manifest(store, ArtifactName.parse(image_set, field="x"))
    index = read_index(store, manifest, ["label", "sources"])
    for label, sources in zip(index["label"].to_pylist(), index["sources"].to_pylist(), strict=True):
        first, second = sources
        assert first != second and of_images[first] == of_images[second] == label


def test_real_images_by_field(client: Client, submitted: dict[str, Operation]) -> None:
    study = result_of(client.wait(submitted["hek-reduced"]), studies_pb2.Study)
    assert study.verdict
    assert client.get_split(study.split).part_counts[0].part == "train"


def test_real_images_by_plate_are_imported_and_planned(client: Client) -> None:
    """The study itself takes minutes: `make real-studies` runs it."""
    client.import_dataset(
        real_images("mitocheck"), "mitocheck-six", group=GroupRule(pattern=PLATE), classes=MITOCHECK_SIX
    )
    assert client.get_dataset("mitocheck-six").image_count == 2217
    plan = client.plan_study(reduced_study("mitocheck-reduced", "mitocheck-six"))
    assert {step.display_name.split()[0]: step.plan.total for step in plan.steps}["grid"] == 3
