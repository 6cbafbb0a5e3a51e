"""A selection's images, judged by the train part alone."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from image_archives import encoded
from in_process_study import context_of
from memory_object_store import MemoryObjectStore
from striped_study import ADAPTER, CLASSES, IMAGE_SET, split_of, striped_store, stripes, write_image_set
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.image_sets.v1.image_sets_pb2 import ClassImages, SelectionSettings
from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_data.pixel_cache import some_pixels
from synthmix.image_data.selection_rules import CANDIDATES, images_made
from synthmix.image_data.split_parts import TrainPart, open_split
from synthmix.image_features.judges import FoldJudges, train_judge
from synthmix.image_synthesis import image_set_operation, selected_images
from synthmix.image_synthesis.front_end import image_set_message
from synthmix.image_synthesis.selection_planning import plan_selection
from synthmix.service_kit.artifacts import Manifest, read_manifest, read_payload
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName, OperationName

WANTED = [ClassImages(label=label, images=6) for label in CLASSES]
TWELVE_EACH = [0] * 12 + [1] * 12


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = striped_store(tmp_path)
    monkeypatch.setattr(selected_images, "open_object_store", lambda: store)
    return store


def train_part(store: MemoryObjectStore) -> TrainPart:
    return open_split(store, split_of(store), field="x")[0]


def asked(store: MemoryObjectStore, **selection: Any) -> image_sets_pb2.ImageSet:
    return image_sets_pb2.ImageSet(
        candidates=f"image-sets/{IMAGE_SET}",
        train_split=f"{split_of(store)}/parts/train",
        selection=SelectionSettings(**selection),
        class_images=WANTED,
    )


def select(store: MemoryObjectStore, image_set: image_sets_pb2.ImageSet) -> tuple[Manifest, list[dict[str, Any]]]:
    """Makes a selection as its operation does, and returns it with what it says of each candidate."""
    planned = plan_selection(store, image_set, validate_only=False)
    request = {"request": planned.request, "names": planned.names}
    target = str(ArtifactName(IMAGE_SETS, planned.id))
    context = context_of(store, OperationName("image-synthesis", planned.id), target, request)
    manifest = read_manifest(store, image_set_operation.run(context))
    return manifest, pq.read_table(io.BytesIO(read_payload(store, manifest, CANDIDATES))).to_pylist()


def pictures(shown: list[int], asked_for: list[int]) -> list[tuple[str, bytes]]:
    """A picture of each of these classes, under the names of those that are asked for."""
    return [
        (CLASSES[name], encoded(stripes(label, 5000 + number)))
        for number, (label, name) in enumerate(zip(shown, asked_for, strict=True))
    ]


def test_images_of_other_classes_are_left_out(store: MemoryObjectStore) -> None:
    """A third of the labels is wrong."""
    shown = [0, 0, 1] * 4 + [1, 1, 0] * 4
    write_image_set(store, pictures(shown, TWELVE_EACH))
    manifest, candidates = select(store, asked(store, class_consistency=0.5))
    wrong = [row["label"] != CLASSES[label] for row, label in zip(candidates, shown, strict=True)]
    assert [row["rule"] == "class_consistency" for row in candidates] == wrong
    assert images_made(manifest) == {"narrow": 6, "wide": 6}
    assert all((row["score"] is None) == (row["rule"] == "") for row in candidates)
    index = read_index(store, manifest).to_pylist()
    kept = [row for row in candidates if not row["rule"]]
    assert [(row["sha256"], row["label"], row["index"]) for row in index] == [
        (row["sha256"], row["label"], row["index"]) for row in kept
    ]
    assert len(dict(read_images(store, manifest, range(len(index))))) == 12
    message = image_set_message(store, manifest)
    assert message.candidates == f"image-sets/{IMAGE_SET}" and message.adapter == f"adapters/{ADAPTER}"
    assert message.image_count == 12 and message.selected.candidates == 24
    assert sorted((item.label, item.rule, item.images) for item in message.selected.rejections) == [
        ("narrow", "class_consistency", 4),
        ("narrow", "keep", 2),
        ("wide", "class_consistency", 4),
        ("wide", "keep", 2),
    ]


def test_a_planted_copy_of_a_train_image_is_left_out(store: MemoryObjectStore) -> None:
    part = train_part(store)
    copied = part.class_names.index("wide")
    [pixels] = some_pixels(store, part, [copied], 32)
    made = [*pictures(TWELVE_EACH[:-1], TWELVE_EACH[:-1]), ("wide", encoded(np.asarray(pixels)[..., 0]))]
    write_image_set(store, made)
    _, candidates = select(store, asked(store, memorised=True))
    left_out = [row["index"] for row in candidates if row["rule"] == "memorised"]
    assert 23 in left_out and len(left_out) <= 2  # a picture that is as near by chance may be among them
    assert candidates[23]["train_distance"] == pytest.approx(0, abs=1e-2)
    # What it is a child of does not count, and is told apart.
    write_image_set(store, made, sources=[[part.sha256s[copied]]] * 24)
    _, candidates = select(store, asked(store, memorised=True, keep="random", oversample=2))
    assert candidates[23]["rule"] != "memorised"
    assert candidates[23]["source_distance"] == pytest.approx(0, abs=1e-2)


def test_near_duplicates_are_left_out(store: MemoryObjectStore) -> None:
    made = pictures(TWELVE_EACH, TWELVE_EACH)
    made[3] = made[1]
    write_image_set(store, made)
    _, candidates = select(store, asked(store, near_duplicates=True, keep="random"))
    assert candidates[3]["rule"] == "near_duplicates" and candidates[1]["rule"] == ""


def test_a_selection_that_finds_too_few_says_so(store: MemoryObjectStore) -> None:
    write_image_set(store, pictures([0] * 4 + [1] * 20, TWELVE_EACH))
    manifest, _ = select(store, asked(store, class_consistency=0.5))
    assert images_made(manifest) == {"narrow": 4, "wide": 6}
    selected = image_set_message(store, manifest).selected
    assert [(item.label, item.images) for item in selected.missing] == [("narrow", 2)]


def test_a_selection_that_nothing_passes_is_an_error(store: MemoryObjectStore) -> None:
    write_image_set(store, pictures([1] * 12 + [0] * 12, TWELVE_EACH))
    with pytest.raises(FailedPrecondition, match="none of 24 images") as caught:
        select(store, asked(store, class_consistency=0.9))
    assert caught.value.reason == "NOTHING_SELECTED"


def test_a_selection_chooses_among_the_first(store: MemoryObjectStore) -> None:
    """Candidates beyond its own oversample, which are made for another selection, change nothing."""
    write_image_set(store, pictures(TWELVE_EACH, TWELVE_EACH))
    _, candidates = select(store, asked(store, class_consistency=0.5, oversample=1.5))
    assert [row["index"] for row in candidates] == [*range(9), *range(12, 21)]


def test_no_judge_has_seen_a_parent_or_its_group() -> None:
    labels = np.repeat([0, 1], 20)
    features = np.random.default_rng(0).normal(size=(40, 8)) + 3 * labels[:, None]
    groups = [f"plate {row // 4}" for row in range(40)]
    judges = FoldJudges(features, labels, groups, 2)
    queries, parents = features[[0, 0, 25]] + 0.01, [[0], [0, 25], [25]]
    found = judges.probabilities(queries, parents)
    for row, own in enumerate(parents):
        seen = judges.seen_by_judge_of(own)
        assert len(seen) >= 20
        assert not {groups[parent] for parent in own} & {groups[other] for other in seen}
        judge = train_judge(features[seen], labels[seen])
        assert found[row] == pytest.approx(judge.predict_proba(queries[row : row + 1])[0])
    of_all = train_judge(features, labels).predict_proba(queries[:1])[0]
    assert judges.probabilities(queries, None)[0] == pytest.approx(of_all)


def test_an_image_with_parents_in_every_fold_is_judged_all_the_same() -> None:
    """And one whose judge has seen a single class."""
    labels = np.repeat([0, 1], 20)
    features = np.random.default_rng(0).normal(size=(40, 8)) + 3 * labels[:, None]
    judges = FoldJudges(features, labels, [f"plate {row // 4}" for row in range(40)], 2)
    of_all = judges.probabilities(features[:1], None)
    assert judges.probabilities(features[:1], [list(range(40))]) == pytest.approx(of_all)
    of_one = FoldJudges(features[:20], labels[:20], ["plate"] * 20, 2)
    assert of_one.probabilities(features[:1], [[0]]).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("groups", "parents"),
    [
        (["plate 1"] * 12, [0]),
        # A class of two plates, whose folds are both left out for parents on both.
        ([f"plate {row // 3}" for row in range(12)], [0, 3]),
        # Folds of groups that hold all of a class together.
        (["plate 1"] * 3 + ["plate 2"] * 3 + ["plate 3"] * 6, [0]),
    ],
)
def test_where_groups_are_few_no_judge_has_seen_a_parent(groups: list[str], parents: list[int]) -> None:
    labels = np.array([0] * 6 + [1] * 6)
    features = np.arange(12.0)[:, None] * np.ones(3)
    judges = FoldJudges(features, labels, groups, 2)
    seen = judges.seen_by_judge_of(parents)
    assert not set(parents) & set(seen) and set(labels[seen]) == {0, 1}
    assert judges.probabilities(features[:1], [parents])[0].min() > 0


def test_classes_of_one_image_are_judged_by_all() -> None:
    features = np.arange(3.0)[:, None] * np.ones(3)
    judges = FoldJudges(features, np.arange(3), ["a", "b", "c"], 3)
    assert judges.seen_by_judge_of([0]) == [0, 1, 2]
    assert judges.probabilities(features[:1], [[0]])[0].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("candidates", "", "name the image set to choose among"),
        ("train_split", "", "use splits/{id}/parts/train"),
        ("adapter", f"adapters/{ADAPTER}", "leave it out"),
        ("settings", image_sets_pb2.SynthesisSettings(steps=5), "leave them out"),
        ("selection", SelectionSettings(), "give one or more of"),
        ("selection", SelectionSettings(oversample=2, above_chance=False), "give one or more of"),
        ("selection.top_k", SelectionSettings(top_k=0), "use a value"),
        ("selection.keep", SelectionSettings(top_k=1, keep="most"), "use one of"),
        ("class_images[0].label", [ClassImages(label="round", images=3)], "use one of"),
        ("class_images", [], "how many images"),
    ],
)
def test_a_selection_is_refused(store: MemoryObjectStore, field: str, value: Any, said: str) -> None:
    changed = field.split(".")[0].split("[")[0]
    given = asked(store, class_consistency=0.5)
    fields = {item.name: content for item, content in given.ListFields()} | {changed: value}
    with pytest.raises(InvalidArgument, match=said) as caught:
        plan_selection(store, image_sets_pb2.ImageSet(**fields), validate_only=False)
    assert [violation.field for violation in caught.value.violations] == [f"image_set.{field}"]


def test_a_selection_of_a_selection_is_refused(store: MemoryObjectStore) -> None:
    write_image_set(store, pictures(TWELVE_EACH, TWELVE_EACH))
    manifest, _ = select(store, asked(store, class_consistency=0.5))
    request = asked(store, class_consistency=0.9)
    request.candidates = str(manifest.name)
    with pytest.raises(InvalidArgument, match="is a selection itself"):
        plan_selection(store, request, validate_only=False)
