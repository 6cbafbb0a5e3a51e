"""Image sets of another program are evaluated and scored as those that are made here, beside which they may stand."""

from pathlib import Path

import pytest
from google.protobuf import json_format

from image_archives import encoded
from imported_image_sets import Files, done, import_here, imported, request_of, saw
from in_process_study import workers_open
from memory_object_store import MemoryObjectStore
from striped_study import CLASSES, IMAGE_SET, evaluate, split_of, striped_store, stripes
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1.image_sets_pb2 import SeenImages
from synthmix.classifier_evaluation import image_set_score, planning, score_planning
from synthmix.classifier_evaluation.evaluation_operation import FIDELITY, TRIAL
from synthmix.image_data.decoder_process import DecoderProcess
from synthmix.image_data.split_parts import open_split
from synthmix.image_synthesis import import_task, importing
from synthmix.service_kit.errors import FailedPrecondition

STRIPES: Files = {
    f"{name}/{number}.png": encoded(stripes(label, 7000 + 100 * label + number))
    for label, name in enumerate(CLASSES)
    for number in range(20)
}


@pytest.fixture
def store(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = striped_store(tmp_path)
    workers_open(store, monkeypatch)
    import_here(store, monkeypatch)
    return store


def test_an_evaluation_trains_with_imported_images(store: MemoryObjectStore) -> None:
    train, _, _ = open_split(store, split_of(store), field="split")
    seen = SeenImages(all_of=[str(train.name)])
    image_set = imported(store, STRIPES, seen)
    alone, ran = evaluate(store, image_sets=[image_set.name.id], ratios=[0.5])
    assert sorted(set(ran.tasks_run)) == sorted({FIDELITY, TRIAL})
    fidelity = json_format.ParseDict(alone.summary["fidelity"], evaluations_pb2.Fidelity(), ignore_unknown_fields=True)
    assert fidelity.image_size == 32
    assert [source.image_set for source in fidelity.sources] == ["", str(image_set.name)], "and no autoencoder"
    assert all(source.images for source in fidelity.sources)

    beside, _ = evaluate(store, image_sets=[IMAGE_SET, image_set.name.id], ratios=[0.5])
    compared = str(beside.summary["comparison"])
    assert "with stylegan" in compared and "with synthetic images" in compared


def test_a_trial_looks_at_what_was_seen_once_more(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if whoever asked for it did not, as a version that knows of no imports."""
    _, _, test = open_split(store, split_of(store), field="split")
    image_set = imported(store, STRIPES, saw(store, test.sha256s[0]))
    monkeypatch.setattr(planning, "check_generator", lambda *arguments, **options: None)
    with pytest.raises(FailedPrecondition, match="saw 1 of the") as caught:
        evaluate(store, image_sets=[image_set.name.id], ratios=[0.5])
    assert caught.value.reason == "HELD_OUT_IMAGES_SEEN"


def test_imported_images_are_scored(store: MemoryObjectStore) -> None:
    train, validation, _ = open_split(store, split_of(store), field="split")
    image_set = imported(store, STRIPES, saw(store, *train.sha256s))
    score = image_set_score.score_images(store, split_of(store), image_set.name.id)
    assert score.images == 40 and score.class_consistency > 0.8
    asked = evaluations_pb2.ImageSetScore(split=split_of(store), image_set=str(image_set.name))
    assert score_planning.plan(store, asked, validate_only=False).plan.predicted_seconds > 0
    asked.image_set = str(imported(store, STRIPES, saw(store, validation.sha256s[0])).name)
    with pytest.raises(FailedPrecondition) as caught:
        score_planning.plan(store, asked, validate_only=False)
    assert caught.value.reason == "HELD_OUT_IMAGES_SEEN"
    assert caught.value.violations[0].field == "image_set_score.image_set"


def test_an_import_in_a_process_of_its_own_is_the_same(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = imported(store, STRIPES)
    other = MemoryObjectStore.created()
    import_here(other, monkeypatch)
    monkeypatch.setattr(import_task, "DecoderProcess", DecoderProcess)
    apart = done(other, importing.plan(other, request_of(other, STRIPES)))
    assert (apart.name, apart.payloads, apart.summary) == (here.name, here.payloads, here.summary)
