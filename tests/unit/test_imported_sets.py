"""Studies of image sets that were imported: what they may name, and what is planned then."""

from pathlib import Path

import pytest

from image_archives import BY_PLATE, dataset, plates
from imported_image_sets import import_here, imported, made_files, saw
from local_services import LocalServices
from memory_object_store import MemoryObjectStore
from synthmix.api.image_sets.v1.image_sets_pb2 import SeenImages
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.image_data.split_parts import open_split
from synthmix.service_kit.artifacts import Manifest, write_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control import planning
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.planning import StudySteps

NOWHERE = ArtifactName("image-sets", "0" * 32)


@pytest.fixture
def store(tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    cells = dataset(store, tmp_path, plates(plate_count=12), group_rule=BY_PLATE)
    claim_name(store, LOCAL, "cells", cells.name, account=None, replace=False)
    import_here(store, monkeypatch)
    return store


def lay_out(store: MemoryObjectStore, text: str) -> StudySteps:
    spec = parse_document(f"name: a\ndataset: cells\n{text}", studies_pb2.StudySpec, "study.yaml").message
    return planning.lay_out(store, LocalServices(store), spec, LOCAL)  # type: ignore[arg-type]


def enough(store: MemoryObjectStore, seen: SeenImages | None = None) -> Manifest:
    """As many as the default mixtures take."""
    return imported(store, made_files(80), seen)


def services_of(laid_out: StudySteps) -> list[str]:
    return [step.service for step in laid_out.steps]


def test_a_study_of_imported_images_alone_makes_none(store: MemoryObjectStore) -> None:
    image_set = enough(store)
    laid_out = lay_out(store, f"image_sets: {image_set.name}")
    assert services_of(laid_out) == [CLASSIFIER_EVALUATION]
    assert list(laid_out.steps[0].request.image_sets) == [str(image_set.name)]
    assert not laid_out.spec.adapters and not laid_out.spec.synthesis
    assert laid_out.record()["spec"]["image_sets"] == [str(image_set.name)]
    assert lay_out(store, "").name != laid_out.name


@pytest.mark.parametrize("beside", ["synthesis: {steps: 10}", "adapters: {rank: 4}", "preset: real-guidance"])
def test_imported_images_stand_beside_those_that_are_made(store: MemoryObjectStore, beside: str) -> None:
    image_set = enough(store)
    laid_out = lay_out(store, f"image_sets: [{image_set.name}]\n{beside}\nmixtures: {{ratios: [0.25]}}")
    *made, grid = laid_out.steps
    assert {step.service for step in made} == {ADAPTER_TRAINING, IMAGE_SYNTHESIS}
    assert list(grid.request.image_sets) == [made[-1].target, str(image_set.name)]


def test_a_control_of_an_autoencoder_wants_images_that_are_made(store: MemoryObjectStore) -> None:
    text = f"image_sets: [{enough(store).name}]\nmixtures: {{controls: [reconstructed_real]}}"
    assert services_of(lay_out(store, f"{text}\nadapters: {{rank: 4}}"))
    with pytest.raises(FailedPrecondition) as caught:
        lay_out(store, text)
    assert (caught.value.reason, caught.value.violations[0].field) == ("NO_BASE_MODEL", "image_sets[0]")


def test_a_generator_that_saw_the_test_part_is_refused(store: MemoryObjectStore) -> None:
    first = lay_out(store, f"image_sets: [{enough(store).name}]")
    train, _, test = open_split(store, first.split.name, field="split")
    honest, other = enough(store, saw(store, *train.sha256s)), enough(store, saw(store, test.sha256s[0]))
    assert lay_out(store, f"image_sets: [{honest.name}]").steps
    with pytest.raises(FailedPrecondition, match=r"image_sets\[1\]: the generator of .* saw 1 of the") as caught:
        lay_out(store, f"image_sets: [{honest.name}, {other.name}]")
    assert caught.value.reason == "HELD_OUT_IMAGES_SEEN"
    assert [item.field for item in caught.value.violations] == ["image_sets[1]"]


def test_too_few_images_are_told_of_the_image_set(store: MemoryObjectStore) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        lay_out(store, f"image_sets: [{imported(store, made_files(4)).name}]")
    assert [item.field for item in caught.value.violations] == ["image_sets[0]"]


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("image_sets: [datasets/x]", "image_sets[0]", "image-sets/"),
        ("image_sets: [{made}]", "image_sets[0]", "was made here, and not imported"),
        ("image_sets: [{set}, {set}]", "image_sets[1]", "is there twice"),
        ("image_sets: [{set}]\nmixtures: {{ratios: [0], synthetic_only: false}}", "image_sets", "no synthetic images"),
        ("image_sets: [{set}]\nselection: {{top_k: 1}}", "selection[0]", "beside image_sets it makes none"),
        (
            "image_sets: [{set}]\nmixtures: {{soft_label_gamma: 0.5}}",
            "mixtures.soft_label_gamma",
            "images of another class",
        ),
    ],
)
def test_what_cannot_be_named(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    made = ArtifactName("image-sets", "a" * 32)
    write_manifest(store, Manifest(made, {"adapter": "e" * 32}, {"class_images": {}}, 1, ()))
    with pytest.raises(InvalidArgument) as caught:
        lay_out(store, text.format(set=enough(store).name, made=made))
    assert [item.field for item in caught.value.violations] == [field]
    assert said in caught.value.message


def test_an_image_set_that_is_not_there(store: MemoryObjectStore) -> None:
    with pytest.raises(NotFound, match=r"image_sets\[0\]: image-sets/0+ does not exist; `synthmix images list`"):
        lay_out(store, f"image_sets: [{NOWHERE}]")
