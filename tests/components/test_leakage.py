"""The report's leakage lines: all hold of an untouched study, and what is changed in object storage breaks its own."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memory_object_store import MemoryObjectStore
from striped_study import ADAPTER, IMAGE_SET, evaluate, split_of, striped_store, write_image_set
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.image_data import split_parts
from synthmix.image_data.image_payloads import part_payload
from synthmix.image_data.split_parts import dataset_rows, open_split
from synthmix.image_data.trial_files import PREDICTIONS, TRAINING, VALIDATION_PREDICTIONS
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, payload_key, read_manifest, read_payload, write_payload
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control.leakage import leakage_checks
from synthmix.study_control.report.data import LeakageCheck
from tampering import replace_manifest

GROUPS, IMAGES, ADAPTERS, IMAGE_SETS, TRIALS, REAL_ONLY, READS, EPOCHS, CHOICE, TYPES = range(10)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str]:
    """The objects of a study with an evaluation, and the evaluation's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        store = striped_store(tmp_path_factory.mktemp("images"))
        evaluation, _ = evaluate(store, ratios=[0.25, 0.5])
    return {key: store.get_bytes(key) for key in store.keys}, str(evaluation.name)


@pytest.fixture
def store(objects: tuple[dict[str, bytes], str], own_cache: None) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    for key, data in objects[0].items():
        store.put_bytes(key, data)
    return store


@pytest.fixture
def checks(store: MemoryObjectStore, objects: tuple[dict[str, bytes], str]) -> Callable[..., tuple[LeakageCheck, ...]]:
    def checks(scores: Sequence[Manifest] = ()) -> tuple[LeakageCheck, ...]:
        evaluation = read_manifest(store, ArtifactName.parse(objects[1], field="evaluation"))
        return leakage_checks(
            store,
            split_of(store),
            [read_manifest(store, ArtifactName("adapters", ADAPTER))],
            [read_manifest(store, ArtifactName("image-sets", IMAGE_SET))],
            message_json.from_value(evaluation.summary["comparison"], evaluations_pb2.Comparison),
            message_json.from_bytes(read_payload(store, evaluation, "trials.json"), evaluations_pb2.TrialResults),
            scores,
        )

    return checks


def scores_of(store: MemoryObjectStore, *others: str) -> list[Manifest]:
    """Two scores by the split's train and validation parts, of which the second says these digests in their place."""
    train, validation, _ = open_split(store, split_of(store), field="split")
    inputs = {"train_split": train.digest, "validation_split": validation.digest}
    changed = dict(zip(inputs, others, strict=False))
    names = [ArtifactName("image-set-scores", letter * 32) for letter in "ab"]
    return [Manifest(names[0], inputs, {}, 1, ()), Manifest(names[1], inputs | changed, {}, 1, ())]


def test_adapters_that_were_chosen_were_by_train_and_validation_images(
    store: MemoryObjectStore, checks: Callable[..., tuple[LeakageCheck, ...]]
) -> None:
    _, _, test = open_split(store, split_of(store), field="split")

    def line(scores: list[Manifest]) -> list[LeakageCheck]:
        return [check for check in checks(scores) if check.statement.startswith("Adapters were chosen")]

    assert line([]) == []
    [held] = line(scores_of(store))
    assert (held.status, held.evidence[:12]) == ("held", "2 of 2 score")
    for others in ((test.digest,), ("0" * 32, test.digest)):
        [broken] = line(scores_of(store, *others))
        assert (broken.status, broken.evidence[:12]) == ("broken", "1 of 2 score")
    [broken] = line([dataclasses.replace(scores_of(store)[0], inputs=scores_of(store)[0].inputs | {"x": test.digest})])
    assert broken.status == "broken"


def replace_payload(store: MemoryObjectStore, manifest: Manifest, name: str, data: bytes, **changes: Any) -> None:
    """Writes a payload and the manifest that belongs to it, as whoever can write to the bucket could."""
    written = write_payload(store, manifest.name, name, data)
    payloads = tuple(written if item.name == name else item for item in manifest.payloads)
    replace_manifest(store, dataclasses.replace(manifest, payloads=payloads, **changes))


def trial_manifest(store: MemoryObjectStore, mixture: str = "append-0.5", seed: int = 0) -> Manifest:
    for key in store.keys:
        if key.startswith("trials/") and key.endswith("/manifest.json"):
            manifest = read_manifest(store, ArtifactName("trials", key.split("/")[1]))
            training = message_json.from_bytes(read_payload(store, manifest, TRAINING), evaluations_pb2.Training)
            if training.mixture.startswith(mixture) and training.seed == seed:
                return manifest
    raise AssertionError


def change_training(store: MemoryObjectStore, **fields: int) -> None:
    manifest = trial_manifest(store)
    training = message_json.from_bytes(read_payload(store, manifest, TRAINING), evaluations_pb2.Training)
    for name, value in fields.items():
        setattr(training, name, value)
    replace_payload(store, manifest, TRAINING, message_json.to_bytes(training))


def rewrite_part(store: MemoryObjectStore, part: str, index_rows: set[int]) -> str:
    """Writes a part of other rows of the dataset, with the digest that this makes, and returns that."""
    split = read_manifest(store, ArtifactName.parse(split_of(store), field="split"))
    dataset = read_manifest(store, ArtifactName("datasets", split.inputs["dataset"]))
    rows = dataset_rows(store, dataset, sorted(index_rows))
    buffer = io.BytesIO()
    columns = [list(rows.index_rows), list(rows.sha256s), list(rows.class_names), list(rows.groups)]
    pq.write_table(pa.table(columns, schema=split_parts.PART_SCHEMA), buffer)
    summary = dict(split.summary)
    summary["parts"] = {**summary["parts"], part: {**summary["parts"][part], "digest": rows.digest}}
    replace_payload(store, split, part_payload(part), buffer.getvalue(), summary=summary)
    return rows.digest


def train_on_a_test_image(store: MemoryObjectStore, *, still_tested: bool) -> None:
    train, _, test = open_split(store, split_of(store), field="split")
    digest = rewrite_part(store, "train", {*train.index_rows, test.index_rows[0]})
    if not still_tested:
        rewrite_part(store, "test", set(test.index_rows[1:]))
    change_inputs("adapters", train_split=digest)(store)


def change_results(store: MemoryObjectStore, change: Callable[[evaluations_pb2.TrialResults], None]) -> None:
    [name] = {key.split("/")[1] for key in store.keys if key.startswith("evaluations/")}
    manifest = read_manifest(store, ArtifactName("evaluations", name))
    results = message_json.from_bytes(read_payload(store, manifest, "trials.json"), evaluations_pb2.TrialResults)
    change(results)
    replace_payload(store, manifest, "trials.json", message_json.to_bytes(results))


def choose_another_mixture(store: MemoryObjectStore) -> None:
    [name] = {key.split("/")[1] for key in store.keys if key.startswith("evaluations/")}
    manifest = read_manifest(store, ArtifactName("evaluations", name))
    comparison = message_json.from_value(manifest.summary["comparison"], evaluations_pb2.Comparison)
    scores = {item.mixture.key: item.validation_balanced_accuracy for item in comparison.mixtures}
    comparison.verdict.key = min(comparison.candidates, key=lambda key: scores[key])

    def worse(results: evaluations_pb2.TrialResults) -> None:
        for trial in results.trials:
            if trial.training.mixture == comparison.verdict.key:
                trial.validation_metrics["balanced_accuracy"] -= 0.25

    change_results(store, worse)
    manifest = read_manifest(store, manifest.name)
    summary = {**manifest.summary, "comparison": message_json.to_value(comparison)}
    replace_manifest(store, dataclasses.replace(manifest, summary=summary))


def keep_a_worse_epoch(store: MemoryObjectStore) -> None:
    def change(results: evaluations_pb2.TrialResults) -> None:
        training = results.trials[0].training
        scores = [(epoch.validation_balanced_accuracy, -epoch.validation_loss) for epoch in training.epochs]
        training.best_epoch = 1 + scores.index(min(scores))

    change_results(store, change)


def predict_a_synthetic_image(store: MemoryObjectStore) -> None:
    manifest = trial_manifest(store)
    table = pq.read_table(io.BytesIO(read_payload(store, manifest, VALIDATION_PREDICTIONS)))
    sha256s = ["0" * 64, *table["sha256"].to_pylist()[1:]]
    buffer = io.BytesIO()
    pq.write_table(table.set_column(0, "sha256", pa.array(sha256s)), buffer)
    replace_payload(store, manifest, VALIDATION_PREDICTIONS, buffer.getvalue())


def make_an_image_set_of_test_images(store: MemoryObjectStore) -> None:
    _, _, test = open_split(store, split_of(store), field="split")
    write_image_set(
        store, [(test.classes[label], data) for label, data in zip(test.labels, test.images(), strict=True)]
    )


def change_inputs(collection: str, **inputs: str) -> Callable[[MemoryObjectStore], None]:
    def change(store: MemoryObjectStore) -> None:
        names = {"adapters": ADAPTER, "image-sets": IMAGE_SET}
        name = ArtifactName(collection, names[collection]) if collection in names else trial_manifest(store).name
        manifest = read_manifest(store, name)
        replace_manifest(store, dataclasses.replace(manifest, inputs={**manifest.inputs, **inputs}))

    return change


def test_every_line_holds_of_an_untouched_study_and_shows_its_numbers(
    checks: Callable[[], tuple[LeakageCheck, ...]],
) -> None:
    lines = checks()
    assert [line.status for line in lines] == ["held"] * 9 + ["by construction"]
    assert [line.evidence for line in lines[:8]] == [
        "0 of 8 groups in two parts",
        "0 of 48 images in two parts",
        "1 of 1 adapter with its digest",
        "1 of 1 image set, and those of 4 of 4 trials that use one",
        "6 of 6 trials with their digests",
        "0 of 144 predictions of other images than theirs, 0 of 40 synthetic images among them",
        "6 reads by 6 trials",
        "6 of 6 trials kept the epoch that did best there",
    ]


@pytest.mark.parametrize(
    ("change", "broken", "evidence"),
    [
        (lambda s: train_on_a_test_image(s, still_tested=True), {GROUPS, IMAGES, TRIALS}, "1 of 48 images"),
        (lambda s: train_on_a_test_image(s, still_tested=False), {GROUPS, TRIALS, REAL_ONLY}, "1 of 8 groups"),
        (change_inputs("adapters", train_split="9" * 32), {ADAPTERS}, "0 of 1 adapter with"),
        (change_inputs("image-sets", adapter="9" * 32), {IMAGE_SETS}, "0 of 1 image set, and those of 4 of 4"),
        (change_inputs("trials", image_set="9" * 32), {IMAGE_SETS}, "1 of 1 image set, and those of 3 of 4"),
        (change_inputs("trials", test_split="9" * 32), {TRIALS}, "5 of 6 trials"),
        (predict_a_synthetic_image, {REAL_ONLY}, "1 of 144 predictions of other images"),
        (make_an_image_set_of_test_images, {REAL_ONLY}, "12 of 12 synthetic images among them"),
        (lambda s: change_training(s, test_reads=3), {READS}, "8 reads by 6 trials"),
        (keep_a_worse_epoch, {EPOCHS}, "5 of 6 trials"),
        (choose_another_mixture, {CHOICE, EPOCHS}, "the best of 2 mixtures"),
    ],
)
def test_what_was_tampered_with_breaks_its_line_and_no_other(
    store: MemoryObjectStore,
    checks: Callable[[], tuple[LeakageCheck, ...]],
    change: Callable[[MemoryObjectStore], None],
    broken: set[int],
    evidence: str,
) -> None:
    change(store)
    lines = checks()
    assert {index for index, line in enumerate(lines) if line.status == "broken"} == broken
    assert any(evidence in lines[index].evidence for index in broken)


def test_a_payload_that_is_not_what_was_written_is_an_error(
    store: MemoryObjectStore, checks: Callable[[], tuple[LeakageCheck, ...]]
) -> None:
    trial = trial_manifest(store)
    key = payload_key(trial.name, trial.payload(PREDICTIONS))
    store.put_bytes(key, store.get_bytes(key) + b" ")
    with pytest.raises(DataLoss):
        checks()


def test_groups_that_were_never_stated_are_not_vouched_for(
    store: MemoryObjectStore, checks: Callable[[], tuple[LeakageCheck, ...]]
) -> None:
    split = read_manifest(store, ArtifactName.parse(split_of(store), field="split"))
    dataset = read_manifest(store, ArtifactName("datasets", split.inputs["dataset"]))
    replace_manifest(store, dataclasses.replace(dataset, summary={**dataset.summary, "group_rule": {"none": True}}))
    lines = checks()
    assert lines[GROUPS].status == "unknown" and "states no groups" in lines[GROUPS].evidence
    assert {line.status for line in lines[1:]} == {"held", "by construction"}
