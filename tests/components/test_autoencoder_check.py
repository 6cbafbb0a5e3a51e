"""Whether a base model can show a user's images at all: measured before a training, and told wherever one looks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from image_archives import dataset, encoded
from in_process_study import InProcessServices, run_study, workers_open
from memory_object_store import MemoryObjectStore
from stained_cells import SLIDE, TYPES, draw_stained_cell
from synthmix.adapter_training.autoencoder_check import measure
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.image_data.autoencoder_checks import CheckRequest, find_check
from synthmix.image_data.reconstruction_quality import ReconstructionQuality
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion.base_model import resolve
from synthmix.service_kit.artifacts import list_artifacts, read_manifest, read_payload
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.reporting import autoencoder_checks
from synthmix.study_control.split import create_split
from tiny_base_model import write_tiny_base_model

pytestmark = pytest.mark.usefixtures("any_base_model", "own_cache", "nothing_kept")

CHECK, TRAIN = "synthmix.adapter_training.autoencoder_check:measure", "synthmix.adapter_training.task:train"
STUDY = """
name: stained
dataset: cells
split: {test: 0.3, validation: 0.2, seed: 1}
adapters: {images_seen: 16, batch_size: 8, rank: 2}
synthesis: {steps: 2}
mixtures: {ratios: [0.5], synthetic_only: false}
classifier: {architecture: test_efficientnet, pretrained: false, image_size: 32, epochs: 1}
seeds: 1
"""


@pytest.fixture(scope="module")
def cells() -> dict[str, np.ndarray]:
    """Stained cells of two types on eight slides, by their files' names."""
    types = list(TYPES.items())[:2]
    return {
        f"{name}/slide-{slide:02d}_{number}.png": draw_stained_cell(name, kind, slide, 10 * slide + number, 64, seed=0)
        for name, kind in types
        for slide in range(8)
        for number in range(4)
    }


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    workers_open(store, monkeypatch)
    return store


def imported(
    store: MemoryObjectStore,
    folder: Path,
    cells: dict[str, np.ndarray],
    look: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> str:
    """A dataset called `cells`, and the name of the train part of a split of it."""
    files = {name: encoded(look(image)) for name, image in cells.items()}
    manifest = dataset(store, folder, files, group_rule=datasets_pb2.GroupRule(pattern=SLIDE))
    claim_name(store, LOCAL, "cells", manifest.name, account=None, replace=False)
    return f"{create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=1))}/parts/train"


def grey(image: np.ndarray) -> np.ndarray:
    """Without its colour, stored as colour files store it."""
    levels: np.ndarray = image.mean(axis=-1, keepdims=True).round().astype(np.uint8).repeat(3, axis=-1)
    return levels


def adapter(train_part: str, **settings: Any) -> adapters_pb2.Adapter:
    values: dict[str, Any] = {"images_seen": 8, "batch_size": 4, "rank": 2}
    return adapters_pb2.Adapter(train_split=train_part, settings=adapters_pb2.AdapterSettings(**(values | settings)))


def request_of(store: MemoryObjectStore, train_part: str, base_model: str, image_size: int) -> CheckRequest:
    train = open_train_part(store, train_part, field="x")
    return CheckRequest(resolve(base_model, field="x").digest, train.digest, image_size)


def figures(
    store: MemoryObjectStore, train_part: str, base_model: str = "builtin", image_size: int = 64
) -> ReconstructionQuality:
    found = find_check(store, request_of(store, train_part, base_model, image_size))
    assert found is not None
    return found


def test_a_study_of_stained_cells_is_told_that_the_built_in_model_has_no_colour(
    store: MemoryObjectStore, tmp_path: Path, cells: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_part = imported(store, tmp_path, cells)
    services = InProcessServices(store)
    [doubt] = services.plan(ADAPTER_TRAINING, adapter(train_part)).warnings
    assert "32 of 32 train images are stored in colour" in doubt and "is not known yet" in doubt

    study, context = run_study(
        store, services, parse_document(STUDY, studies_pb2.StudySpec, "study.yaml").message, monkeypatch
    )
    quality = figures(store, train_part)
    assert quality.images == 32 and quality.psnr_db > 20, "the shapes come back"
    assert quality.chroma > 10 and quality.chroma_kept < 0.1, "the colour does not"
    assert quality.kid is not None and quality.kid_low is not None and quality.kid_by_chance is not None
    assert quality.kid > quality.kid_low > quality.kid_by_chance, "which the features tell"
    assert "EfficientNet-Lite0" in quality.feature_network

    trained = services.contexts[0]
    [(first, before), (second, known)] = trained.ran
    assert (first, before, second) == (CHECK, [], TRAIN)
    [lost] = known
    assert lost.startswith("the base model builtin cannot show the colour of these images: of 32 train images of 64 ")
    assert f"{quality.chroma:.1f} before and {quality.reconstructed_chroma:.1f} after" in lost
    assert context.warnings() == [lost], "the study says what its steps found"
    assert list(services.plan(ADAPTER_TRAINING, adapter(train_part)).warnings) == [lost]

    html = read_payload(store, study, "report.html").decode()
    banner = html.index("<strong>THE BASE MODEL IS NOT FIT FOR THESE IMAGES.</strong>")
    assert banner < html.index("<h1>")
    assert "base model builtin cannot show the colour of these images" in html[banner : html.index("<h1>")]
    [told] = json.loads(read_payload(store, study, "report.json"))["autoencoder_checks"]
    assert told["warnings"] == [lost] and told["quality"]["psnr_db"] == quality.psnr_db


def test_of_the_same_cells_in_grey_nothing_is_said(
    store: MemoryObjectStore, tmp_path: Path, cells: dict[str, np.ndarray]
) -> None:
    train_part = imported(store, tmp_path, cells, grey)
    services = InProcessServices(store)
    services.create(ADAPTER_TRAINING, adapter(train_part))
    [done] = services.contexts
    assert [function for function, _ in done.ran] == [CHECK, TRAIN]
    assert done.warnings() == []
    quality = figures(store, train_part)
    assert (quality.chroma, quality.chroma_kept) == (0.0, 1.0)
    assert quality.psnr_db > quality.mean_colour_psnr_db + 6
    assert quality.kid is not None and quality.kid_high is not None and quality.kid < quality.kid_high
    assert list(services.plan(ADAPTER_TRAINING, adapter(train_part, rank=4)).warnings) == []
    [told] = autoencoder_checks(store, [read_manifest(store, ArtifactName.parse(done.record.target, field="x"))])
    assert (told.base_model, told.image_size, told.quality, told.warnings) == ("builtin", 64, quality, ())


def test_a_base_model_of_random_weights_cannot_show_anything_and_is_used_all_the_same(
    store: MemoryObjectStore, tmp_path: Path, cells: dict[str, np.ndarray]
) -> None:
    train_part = imported(store, tmp_path, cells)
    tiny = str(write_tiny_base_model(tmp_path / "tiny"))
    services = InProcessServices(store)
    for rank in (2, 3):
        services.create(ADAPTER_TRAINING, adapter(train_part, base_model=tiny, image_size=32, rank=rank))
    first, second = services.contexts
    [lost] = first.warnings()
    assert "cannot show these images" in lost and "with a mean PSNR of " in lost
    quality = figures(store, train_part, tiny, 32)
    assert quality.psnr_db < quality.mean_colour_psnr_db, "worse than nothing"
    assert f"and with a kernel inception distance of {quality.kid:.2f} (95 % interval" in lost
    assert [function for function, _ in first.ran] == [CHECK, TRAIN]
    assert first.makes == [str(request_of(store, train_part, tiny, 32).name)], "so that others wait for it"
    assert second.ran == [(TRAIN, [lost])], "the next adapter finds it measured"
    assert len(list_artifacts(store, "autoencoder-checks")) == 1
    assert len(list_artifacts(store, "adapters")) == 2, "it stops nothing"


def test_it_is_measured_on_train_images_and_on_what_was_asked_for_alone(
    store: MemoryObjectStore, tmp_path: Path, cells: dict[str, np.ndarray]
) -> None:
    train_part = imported(store, tmp_path, cells)
    tiny = str(write_tiny_base_model(tmp_path / "tiny"))
    asked = request_of(store, train_part, tiny, 32)

    def measured(train_split: str = train_part, base_model: str = tiny) -> None:
        names = {"train_split": train_split, "base_model": base_model}
        measure(asked.__dict__, names, report=lambda done: None, threads=1)

    with pytest.raises(InvalidArgument, match="is held out"):
        measured(train_split=train_part.replace("/train", "/test"))
    with pytest.raises(FailedPrecondition, match="its files differ"):
        measured(base_model=str(write_tiny_base_model(tmp_path / "other", "v_prediction")))
    other = create_split(
        store, read_manifest(store, list_artifacts(store, "datasets")[0]), SplitSettings(test=0.5, seed=2)
    )
    with pytest.raises(FailedPrecondition, match="is not the train split that was asked for"):
        measured(train_split=f"{other}/parts/train")
    assert find_check(store, asked) is None
    measured()
    first = find_check(store, asked)
    store.delete(f"{asked.name}/manifest.json")
    measured()
    assert first is not None and find_check(store, asked) == first, "always of the same images"


def test_a_base_model_that_gives_no_numbers_is_refused_as_the_training_would(
    store: MemoryObjectStore, tmp_path: Path, cells: dict[str, np.ndarray]
) -> None:
    train_part = imported(store, tmp_path, cells)
    broken = write_tiny_base_model(tmp_path / "broken")
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["encoder.conv_in.weight"].fill_(float("nan"))
    save_file(tensors, weights)
    services = InProcessServices(store)
    with pytest.raises(InvalidArgument, match="its autoencoder answers with what are no numbers") as refused:
        services.create(ADAPTER_TRAINING, adapter(train_part, base_model=str(broken), image_size=32))
    assert [item.field for item in refused.value.violations] == ["adapter.settings.base_model"]
    assert not list_artifacts(store, "autoencoder-checks")
