"""An evaluation's results: computed from stored predictions, so that what changes in them trains nothing."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_archives import encoded, noise
from memory_object_store import MemoryObjectStore
from striped_study import IMAGE_SET, InProcessContext, evaluate, split_of, striped_store, write_image_set
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation import front_end, metrics, planning, recipe
from synthmix.classifier_evaluation.evaluation_operation import TRIAL
from synthmix.classifier_evaluation.fidelity_measures import MEASURES
from synthmix.classifier_evaluation.image_fidelity import NEAREST_PAIRS, measure_fidelity
from synthmix.classifier_evaluation.metrics import METRICS, Metric
from synthmix.image_data.image_table import read_index
from synthmix.image_data.split_parts import open_split
from synthmix.image_data.trial_files import read_trial
from synthmix.image_features import distances, features
from synthmix.image_features.distances import balanced_rows
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, list_artifacts, read_manifest, read_payload
from synthmix.service_kit.resource_names import ArtifactName

Evaluated = tuple[MemoryObjectStore, Manifest, InProcessContext]
GRID = {"ratios": [0.5], "synthetic_only": True, "controls": ["duplicated_real"]}


@pytest.fixture
def store(own_cache: None, tmp_path: Path) -> MemoryObjectStore:
    return striped_store(tmp_path)


@pytest.fixture(scope="module")
def first_evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """A store in which GRID has been evaluated, once for all tests; each begins with a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        store = striped_store(tmp_path_factory.mktemp("images"))
        return store, *evaluate(store, **GRID)


@pytest.fixture
def evaluated(first_evaluation: Evaluated, own_cache: None) -> Evaluated:
    return copy.deepcopy(first_evaluation)


def results_of(store: MemoryObjectStore, evaluation: Manifest) -> evaluations_pb2.TrialResults:
    return message_json.from_bytes(read_payload(store, evaluation, "trials.json"), evaluations_pb2.TrialResults)


def comparison_of(evaluation: Manifest) -> evaluations_pb2.Comparison:
    return message_json.from_value(evaluation.summary["comparison"], evaluations_pb2.Comparison)


def test_a_metric_that_is_added_or_fixed_trains_nothing(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    store, first, ran = evaluated
    assert ran.tasks_run.count(TRIAL) == 8 and ran.reused == 0
    error_rate = Metric(
        "error_rate", "Errors", False, lambda probabilities, labels: 1 - METRICS[0].compute(probabilities, labels)
    )  # type: ignore[operator]
    fixed = dataclasses.replace(METRICS[1], compute=lambda probabilities, labels: 0.5, version=2)
    monkeypatch.setattr(metrics, "METRICS", (METRICS[0], fixed, error_rate))
    again, ran = evaluate(store, **GRID)
    assert TRIAL not in ran.tasks_run and ran.reused == 8
    assert again.name != first.name, "another table of metrics makes another evaluation"
    assert again.summary["trials"] == first.summary["trials"]
    results = results_of(store, again)
    assert [metric.name for metric in results.metrics] == ["accuracy", "balanced_accuracy", "error_rate"]
    for trial in results.trials:
        assert trial.test_metrics["error_rate"] == pytest.approx(1 - trial.test_metrics["accuracy"])
        assert trial.test_metrics["balanced_accuracy"] == 0.5


def test_its_tasks_say_what_evaluations_beside_it_make_as_well(evaluated: Evaluated) -> None:
    """So that the service's host runs one of them, and the others find it made."""
    store, first, ran = evaluated
    features, *trials = ran.makes
    assert features == f"features of {split_of(store)}"
    assert sorted(trials) == sorted(first.summary["trials"])


def test_another_comparison_trains_nothing(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    store, first, _ = evaluated
    monkeypatch.setattr(planning, "COMPARISON_VERSION", planning.COMPARISON_VERSION + 1)
    again, ran = evaluate(store, **GRID)
    assert TRIAL not in ran.tasks_run and again.name != first.name
    assert comparison_of(again) == comparison_of(first)


def test_a_mode_shares_the_trials_that_do_not_depend_on_it(evaluated: Evaluated) -> None:
    store, _, _ = evaluated
    evaluation, ran = evaluate(store, mode="replace", ratios=[0.5], synthetic_only=True)
    assert ran.tasks_run.count(TRIAL) == 2 and ran.reused == 4
    trials = {(trial.training.mixture, trial.training.seed): trial for trial in results_of(store, evaluation).trials}
    replaced = trials[f"replace-0.5-{IMAGE_SET}", 0].training
    assert (replaced.real_images, replaced.synthetic_images) == (12, 12)
    comparison = comparison_of(evaluation)
    assert comparison.candidates == [f"replace-0.5-{IMAGE_SET}"]
    assert [kind.name for kind in comparison.kinds] == ["real", "replace", "synthetic_only"]
    assert comparison.kinds[1].axis_title == "real replaced by synthetic, %"


def test_results_are_those_of_the_stored_predictions(evaluated: Evaluated) -> None:
    store, evaluation, _ = evaluated
    results, comparison = results_of(store, evaluation), comparison_of(evaluation)
    assert [result.trial for result in results.trials] == evaluation.summary["trials"]
    accuracies: dict[str, list[float]] = {}
    for result in results.trials:
        trial = read_trial(store, read_manifest(store, ArtifactName.parse(result.trial, field="trial")))
        right = trial.test.predicted == trial.test.labels
        recalls = [right[trial.test.labels == label].mean() for label in (0, 1)]
        assert result.test_metrics["accuracy"] == pytest.approx(right.mean())
        assert [one.recall for one in result.classes] == pytest.approx(recalls)
        assert result.training == trial.training and trial.training.test_reads == 1
        accuracies.setdefault(result.training.mixture, []).append(float(np.mean(recalls)))
    assert {one.mixture.key: list(one.balanced_accuracy.per_seed) for one in comparison.mixtures} == {
        key: pytest.approx(values) for key, values in accuracies.items()
    }
    assert comparison.verdict.key == f"append-0.5-{IMAGE_SET}"


def test_the_resource_tells_the_comparison(evaluated: Evaluated) -> None:
    store, evaluation, _ = evaluated
    resource = front_end.evaluation_message(store, evaluation)
    assert resource.comparison == comparison_of(evaluation)
    assert resource.trial_count == len(list_artifacts(store, "trials")) == 8
    assert resource.mixtures.mode == "append"


def test_fidelity_tells_copies_and_strange_images_from_real_ones(evaluated: Evaluated) -> None:
    store, evaluation, _ = evaluated
    fidelity = front_end.evaluation_message(store, evaluation).fidelity
    real, reconstructed, image_set = fidelity.sources
    assert (real.label, image_set.image_set) == ("real images", f"image-sets/{IMAGE_SET}")
    assert fidelity.image_size == 32 and "ImageNet" in fidelity.feature_network
    assert real.kernel_inception_distance < reconstructed.kernel_inception_distance, "the autoencoder smooths noise"
    assert image_set.near_copy_share < 0.5

    train, _, _ = open_split(store, split_of(store), field="split")
    labels = [train.classes[label] for label in train.labels]
    write_image_set(store, list(zip(labels, train.images(), strict=True)))
    copies = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources[2]
    assert copies.near_copy_share == 1.0
    assert not copies.HasField("near_source_share") and not copies.HasField("source_distance")
    noisy = [(label, encoded(noise(number, 32, 32))) for label in train.classes for number in range(10)]
    write_image_set(store, noisy)
    strange = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources[2]
    assert strange.kernel_inception_distance > 10 * abs(copies.kernel_inception_distance)


def of_all(source: evaluations_pb2.SourceFidelity) -> dict[str, float]:
    """A source's measures, of all its images."""
    assert source.measured[0].class_name == ""
    return {value.name: value.value for value in source.measured[0].values}


def test_measures_tell_copies_and_strange_images_from_real_ones(evaluated: Evaluated) -> None:
    store, evaluation, _ = evaluated
    fidelity = front_end.evaluation_message(store, evaluation).fidelity
    assert [measure.name for measure in fidelity.measures] == [measure.name for measure in MEASURES]
    for source in fidelity.sources:
        assert of_all(source).keys() == {measure.name for measure in MEASURES}
        assert of_all(source)["kernel_inception_distance"] == pytest.approx(source.kernel_inception_distance)
        assert of_all(source)["near_copies"] == pytest.approx(source.near_copy_share)
        counts = {value.name: value.images for value in source.measured[0].values}
        assert counts["coverage"] == counts["frechet_distance"] == 24, "as many as there are train images"
        for of_class in source.measured[1:]:
            assert {value.name for value in of_class.values} <= {"class_consistency", "near_copies", "diversity"}, (
                "there are six test images of each class"
            )
    real, reconstructed, image_set = map(of_all, fidelity.sources)
    assert real["class_consistency"] > 0.8 and image_set["class_consistency"] > 0.8
    assert reconstructed["frechet_distance"] > real["frechet_distance"], "the autoencoder smooths noise"

    train, _, _ = open_split(store, split_of(store), field="split")
    labels = [train.classes[label] for label in train.labels]
    write_image_set(store, list(zip(labels, train.images(), strict=True)))
    [floor, _, copies] = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources
    for name in ("frechet_distance", "precision", "recall", "density", "coverage", "diversity"):
        assert of_all(copies)[name] == pytest.approx(of_all(floor)[name], rel=1e-3), "they are the train images"
    for pair in copies.nearest_pairs:
        assert pair.image == pair.train_image in train.sha256s and pair.distance == pytest.approx(0.0, abs=1e-2)
    assert not floor.nearest_pairs

    noisy = [(label, encoded(noise(number, 32, 32))) for label in train.classes for number in range(12)]
    write_image_set(store, noisy)
    strange = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources[2]
    assert of_all(strange)["coverage"] < of_all(floor)["coverage"] / 2
    assert of_all(strange)["class_consistency"] == pytest.approx(0.5), "each picture is of both classes"
    assert of_all(strange)["frechet_distance"] > of_all(floor)["frechet_distance"]
    distances = [pair.distance for pair in strange.nearest_pairs]
    assert distances == sorted(distances) and len(distances) == NEAREST_PAIRS


def test_children_are_compared_with_others_than_their_sources(store: MemoryObjectStore) -> None:
    """Copies of their own source are no near copies, and copies of another image are."""
    train, _, _ = open_split(store, split_of(store), field="split")
    labels = [train.classes[label] for label in train.labels]
    copies = list(zip(labels, train.images(), strict=True))
    own = [[sha256] for sha256 in train.sha256s]
    write_image_set(store, copies, sources=own)
    found = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources[2]
    assert (found.near_source_share, found.source_distance) == (1.0, pytest.approx(0.0))
    assert found.near_copy_share < 0.25, "some real images are near each other"
    assert found.nearest_pairs and all(pair.image != pair.train_image for pair in found.nearest_pairs)
    # A source that is no train image, as imported images may have, takes nothing from those of the others.
    write_image_set(store, copies, sources=[["0" * 64], *own[1:]])
    found = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources[2]
    assert found.near_source_share == 1.0 and found.near_copy_share < 0.25
    # Each is said to be of the next one of its class, and is a copy of another then.
    of_class = {
        label: [sha256 for sha256, one in zip(train.sha256s, labels, strict=True) if one == label] for label in labels
    }
    next_one = {
        sha256: [all_of[(place + 1) % len(all_of)]]
        for all_of in of_class.values()
        for place, sha256 in enumerate(all_of)
    }
    write_image_set(store, copies, sources=[next_one[sha256] for sha256 in train.sha256s])
    found = measure_fidelity(store, split_of(store), [IMAGE_SET]).sources[2]
    assert found.near_copy_share == 1.0 and found.near_source_share < 0.5 and found.source_distance > 0.2


def test_each_autoencoder_has_a_floor_of_its_own(store: MemoryObjectStore) -> None:
    larger = "9" * 32
    train, _, _ = open_split(store, split_of(store), field="split")
    pictures = [(label, encoded(noise(number, 64, 64))) for label in train.classes for number in range(4)]
    write_image_set(store, pictures, larger)
    labels = [source.label for source in measure_fidelity(store, split_of(store), [IMAGE_SET, larger]).sources]
    assert labels == [
        "real images",
        "train images through the autoencoder of builtin, 32 pixels",
        "train images through the autoencoder of builtin, 64 pixels",
        "",
        "",
    ]


def test_features_are_computed_once(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure_fidelity(store, split_of(store), [IMAGE_SET])
    monkeypatch.setattr(features, "compute_features", lambda pixels: pytest.fail("computed again"))
    assert measure_fidelity(store, split_of(store), [IMAGE_SET]) == first
    assert len(list_artifacts(store, "features")) == 5  # train, validation, test, reconstructed, the image set


def test_reconstructed_real_is_trained_on_what_the_autoencoder_leaves(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train_and_evaluate = recipe.train_and_evaluate

    def watched(settings: Any, classes: int, images: recipe.TrainingImages, *arguments: Any, **options: Any) -> Any:
        seen.append(np.array(images.real))
        return train_and_evaluate(settings, classes, images, *arguments, **options)

    monkeypatch.setattr(recipe, "train_and_evaluate", watched)
    evaluation, _ = evaluate(store, ratios=[0.5], controls=["reconstructed_real"])
    comparison = comparison_of(evaluation)
    assert [kind.name for kind in comparison.kinds] == ["real", "reconstructed_real", "append"]
    control = comparison.mixtures[1]
    assert (control.mixture.label, control.mixture.image_set) == ("real reconstructed", "")
    assert control.mixture.key not in comparison.candidates and control.HasField("difference")
    real, reconstructed = seen[0], seen[-1]  # which waits for what restores it
    assert real.shape == reconstructed.shape and (real != reconstructed).any()
    error = np.abs(real.astype(float) - reconstructed)
    assert error.mean() < 0.5 * np.abs(real.astype(float) - real.mean()).mean(), "they are the same pictures"
    [name] = list_artifacts(store, "reconstructions")
    train, _, _ = open_split(store, split_of(store), field="split")
    assert read_manifest(store, name).inputs["train_split"] == train.digest
    labels = read_index(store, read_manifest(store, name), ["label"])["label"].to_pylist()
    assert labels == [train.classes[label] for label in train.labels]


def test_samples_hold_as_many_of_each_class_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [0] * 9 + [1] * 4 + [2]
    rows = balanced_rows(labels, np.array([0, 1]))
    assert np.bincount(np.array(labels)[rows]).tolist() == [4, 4] and rows.tolist() == sorted(rows)
    assert len(balanced_rows(labels, np.array([0, 1, 2]))) == 3
    monkeypatch.setattr(distances, "MOST_IMAGES", 5)
    assert len(balanced_rows(labels, np.array([0, 1]))) == 4
