"""Scores of image sets: what they tell apart, what is refused, and that nothing of the test part is opened."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_archives import encoded, noise
from in_process_study import InProcessContext, context_of, workers_open
from memory_object_store import MemoryObjectStore
from striped_study import CLASSES, IMAGE_SET, split_of, striped_store, stripes, write_image_set
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation import front_end, score_operation, score_planning
from synthmix.image_data.split_parts import TestPart
from synthmix.image_features.judges import class_consistency, train_judge
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import IMPORTED, list_artifacts, read_manifest
from synthmix.service_kit.deletion import delete
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from synthmix.service_kit.owners import Caller
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName, OperationName
from tampering import replace_manifest

OTHER_SET = "9" * 32


@pytest.fixture
def store(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = striped_store(tmp_path)
    workers_open(store, monkeypatch)
    return store


def planned(store: MemoryObjectStore, image_set: str = IMAGE_SET, *, validate_only: bool = False) -> Planned:
    asked = evaluations_pb2.ImageSetScore(split=split_of(store), image_set=f"image-sets/{image_set}")
    return score_planning.plan(store, asked, validate_only=validate_only)


def done(
    store: MemoryObjectStore, image_set: str = IMAGE_SET
) -> tuple[evaluations_pb2.ImageSetScore, InProcessContext]:
    """The score of an image set, by its whole operation, and what that did."""
    plan = planned(store, image_set)
    context = context_of(
        store,
        OperationName(CLASSIFIER_EVALUATION, plan.id),
        plan.plan.target,
        {"request": plan.request, "names": plan.names},
    )
    name = score_operation.run(context)
    records.write_success(store, context.record, str(name))
    return front_end.score_message(store, read_manifest(store, name)), context


def score(store: MemoryObjectStore, image_set: str = IMAGE_SET) -> evaluations_pb2.ImageSetScore:
    return done(store, image_set)[0]


def test_a_score_tells_images_of_their_class_from_others(store: MemoryObjectStore) -> None:
    good = score(store)
    assert good.split == split_of(store) and good.image_set == f"image-sets/{IMAGE_SET}"
    assert (good.images, good.image_size, good.chance_level) == (40, 32, 0.5)
    assert good.class_consistency > 0.8 and good.real_class_consistency > 0.8
    assert "ImageNet" in good.feature_network

    swapped = [
        (CLASSES[1 - label], encoded(stripes(label, 5000 + 100 * label + number)))
        for label in (0, 1)
        for number in range(20)
    ]
    write_image_set(store, swapped, OTHER_SET)
    wrong = score(store, OTHER_SET)
    assert wrong.class_consistency == pytest.approx(1 - good.class_consistency), "the same images"
    assert wrong.real_class_consistency == good.real_class_consistency
    strange = [(label, encoded(noise(number, 32, 32))) for label in CLASSES for number in range(10)]
    write_image_set(store, strange, "8" * 32)
    assert score(store, "8" * 32).kernel_inception_distance > 3 * abs(good.kernel_inception_distance)


def test_a_score_is_measured_once_and_is_the_same_each_time(store: MemoryObjectStore) -> None:
    first, ran = done(store)
    assert [function for function, _ in ran.ran] == [score_operation.TASK]
    assert ran.makes == [f"features of {split_of(store)}"]
    again, ran = done(store)
    assert (again, ran.ran) == (first, [])
    assert planned(store).plan.done == 1
    for key in store.keys:
        if key.startswith(("image-set-scores/", "features/")):
            store.delete(key)
    anew, _ = done(store)
    for made in (first, anew):
        made.ClearField("create_time")
    assert anew == first


def test_nothing_of_the_test_part_is_opened(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leakage rule 6: what is chosen by a score is chosen without it."""
    split = read_manifest(store, ArtifactName.parse(split_of(store), field="split"))
    test_digest = split.summary["parts"]["test"]["digest"]
    store.delete(f"{split.name}/{split.payload('test.parquet').sha256}")
    monkeypatch.setattr(TestPart, "__post_init__", lambda part: pytest.fail("a test part was made"))
    made = score(store)
    manifest = read_manifest(store, ArtifactName.parse(made.name, field="name"))
    assert test_digest not in f"{planned(store).request}{manifest.inputs}{manifest.request}"
    assert set(manifest.inputs) == {"train_split", "validation_split", "image_set"}


def test_classes_that_an_image_set_leaves_out_do_not_count(store: MemoryObjectStore) -> None:
    write_image_set(store, [(CLASSES[0], encoded(stripes(0, number))) for number in range(8)], OTHER_SET)
    made = score(store, OTHER_SET)
    assert made.images == 8 and made.class_consistency > 0.8
    assert made.chance_level == 0.5, "the judge knows both"


def test_a_judge_weighs_classes_alike_and_measures_the_mean_over_them() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 2, 5], [90, 6, 6])
    features = random.normal(size=(len(labels), 40)).astype(np.float32) * np.logspace(-3, 3, 40, dtype=np.float32)
    features[:, 0] += 0.004 * (labels == 2)
    features[:, -1] -= 4000 * (labels == 5)
    judge = train_judge(features, labels)
    assert judge.classes_.tolist() == [0, 2, 5]
    assert class_consistency(judge, features, labels) > 0.95
    # Two thirds of one class and all of the others, where seven ninths of the images are right.
    asked = np.array([2, 2, 0, 0, 0, 0, 0, 0, 5])
    rows = np.array([90, 91, 0, 1, 2, 3, 91, 92, 96])
    assert judge.predict(features[rows].astype(float)).tolist() == [2, 2, 0, 0, 0, 0, 2, 2, 5]
    assert class_consistency(judge, features[rows], asked) == pytest.approx((1 + 4 / 6 + 1) / 3)


def change(collection: str, id_: str, **changes: Any) -> Callable[[MemoryObjectStore], None]:
    def apply(store: MemoryObjectStore) -> None:
        manifest = read_manifest(store, ArtifactName(collection, id_))
        merged = {name: {**getattr(manifest, name), **value} for name, value in changes.items()}
        replace_manifest(store, dataclasses.replace(manifest, **merged))

    return apply


def change_split(part: str, class_counts: dict[str, Any]) -> Callable[[MemoryObjectStore], None]:
    def apply(store: MemoryObjectStore) -> None:
        split = read_manifest(store, ArtifactName.parse(split_of(store), field="split"))
        parts = {**split.summary["parts"], part: {**split.summary["parts"][part], "class_counts": class_counts}}
        replace_manifest(store, dataclasses.replace(split, summary={**split.summary, "parts": parts}))

    return apply


ADAPTER = "e" * 32
REFUSALS = [
    (change(ADAPTERS, ADAPTER, inputs={"train_split": "7" * 32}), "TRAIN_SPLITS_DIFFER", "on another train split"),
    (change(ADAPTERS, ADAPTER, request={IMPORTED: {}}), "TRAINING_DATA_UNKNOWN", "which was imported"),
    (
        change(IMAGE_SETS, IMAGE_SET, request={"class_images": {"narrow": 2, "oval": 2}}),
        "CLASSES_DIFFER",
        "holds class 'oval', of which the train part has no images .it has some of narrow, wide.; use an image set",
    ),
    (
        change(IMAGE_SETS, IMAGE_SET, request={"class_images": {}}),
        "TOO_FEW_IMAGES",
        "holds 0 images, and 0 of them can be compared .* make an image set with more images",
    ),
    (
        change(IMAGE_SETS, IMAGE_SET, request={"class_images": {"narrow": 1}}),
        "TOO_FEW_IMAGES",
        "holds 1 images, and 1 of them can be compared",
    ),
    (
        change_split("validation", {"narrow": {"images": 0}, "wide": {"images": 0}}),
        "TOO_FEW_IMAGES",
        "holds 40 images, and 0 of them can be compared",
    ),
    (
        change_split("train", {"narrow": {"images": 9}, "wide": {"images": 0}}),
        "CLASSES_DIFFER",
        "holds class 'wide', of which the train part has no images",
    ),
]


@pytest.mark.parametrize(("change", "reason", "message"), REFUSALS)
def test_what_cannot_be_judged_is_refused(
    store: MemoryObjectStore, change: Callable[[MemoryObjectStore], None], reason: str, message: str
) -> None:
    change(store)
    for validate_only in (False, True):
        with pytest.raises(FailedPrecondition, match=message) as raised:
            planned(store, validate_only=validate_only)
        assert raised.value.reason == reason
        assert [item.field for item in raised.value.violations] == ["image_set_score.image_set"]


def test_images_of_one_class_alone_are_refused(store: MemoryObjectStore) -> None:
    change_split("train", {"narrow": {"images": 9}})(store)
    change(IMAGE_SETS, IMAGE_SET, request={"class_images": {"narrow": 9}})(store)
    with pytest.raises(FailedPrecondition, match="are of one class, so that no image can show another") as raised:
        planned(store)
    assert raised.value.reason == "ONE_CLASS"
    assert [item.field for item in raised.value.violations] == ["image_set_score.split"]


def test_what_is_not_there_or_not_named(store: MemoryObjectStore) -> None:
    with pytest.raises(NotFound, match=f"image-sets/{OTHER_SET}"):
        planned(store, OTHER_SET)
    plan = planned(store, OTHER_SET, validate_only=True).plan
    assert (plan.total, plan.done, plan.tasks, plan.unit) == (1, 0, 1, "image sets")
    assert 0 < plan.predicted_seconds < planned(store).plan.predicted_seconds
    for given, field in (
        ({"image_set": f"image-sets/{IMAGE_SET}"}, "split"),
        ({"split": split_of(store)}, "image_set"),
        ({"split": f"image-sets/{IMAGE_SET}", "image_set": f"image-sets/{IMAGE_SET}"}, "split"),
        ({"split": split_of(store), "image_set": split_of(store)}, "image_set"),
    ):
        with pytest.raises(InvalidArgument) as raised:
            score_planning.plan(store, evaluations_pb2.ImageSetScore(**given), validate_only=False)
        assert [item.field for item in raised.value.violations] == [f"image_set_score.{field}"]


def test_a_score_goes_with_its_image_set(store: MemoryObjectStore) -> None:
    made = score(store)
    deletion = delete(
        store, ArtifactName(IMAGE_SETS, IMAGE_SET), caller=Caller(LOCAL), force=False, validate_only=False
    )
    assert str(deletion.names[0]) == made.name
    assert not list_artifacts(store, "image-set-scores")
