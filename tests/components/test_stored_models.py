"""Base models in object storage: the folder's digest, fetched once a node, verified, and gone when they are deleted."""

import shutil
from pathlib import Path

import pytest
import torch

from image_archives import dataset
from in_process_study import InProcessServices, workers_open
from memory_object_store import MemoryObjectStore
from stored_models import files_of, store_model
from synthmix.adapter_training.inputs import open_inputs
from synthmix.api.adapters.v1.adapters_pb2 import Adapter, AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import ImageSet, SynthesisSettings
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion.base_model import BaseModel, resolve, resolve_again
from synthmix.latent_diffusion.loading import load
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET, part_layers
from synthmix.latent_diffusion.tokens import prompt_tokenizer
from synthmix.service_kit import model_names, node_cache
from synthmix.service_kit.artifacts import MANIFEST, list_artifacts, read_manifest
from synthmix.service_kit.deletion import delete
from synthmix.service_kit.digests import sha256_of_file
from synthmix.service_kit.environment import ADAPTER_TRAINING, IMAGE_SYNTHESIS, cache_folder
from synthmix.service_kit.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted
from synthmix.service_kit.node_cache import room
from synthmix.service_kit.owners import Caller
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.study_control.split import create_split

pytestmark = pytest.mark.usefixtures("own_cache", "any_base_model")

FIELD = "adapter.settings.base_model"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class CountingStore(MemoryObjectStore):
    """Remembers what was downloaded as files."""

    def __init__(self) -> None:
        super().__init__()
        self.create_bucket()
        self.fetched: list[str] = []

    def get_file(self, key: str, path: Path) -> None:
        self.fetched.append(key)
        super().get_file(key, path)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def stored(store: CountingStore, folder: Path) -> ArtifactName:
    return store_model(store, folder)


def of_store(store: MemoryObjectStore, model: ArtifactName | str, *, weights: bool = True) -> BaseModel:
    return resolve(str(model), field=FIELD, weights=weights, store=store)


def test_a_model_is_the_same_by_whichever_way_it_comes(
    store: CountingStore, stored: ArtifactName, found: BaseModel
) -> None:
    whole, planned = of_store(store, stored), of_store(store, stored, weights=False)
    assert whole.digest == planned.digest == found.digest == stored.id
    assert whole.reference == str(stored)
    sizes = [
        (item.image_size_px, item.latent_factor, item.schedule.train_timesteps) for item in (whole, planned, found)
    ]
    assert len(set(sizes)) == 1


def test_a_fetched_model_is_loaded_as_the_folder_is(
    store: CountingStore, stored: ArtifactName, found: BaseModel
) -> None:
    model = of_store(store, stored)
    loaded, expected = (load(item.folder, torch.device("cpu")).pipeline.unet for item in (model, found))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), expected.parameters(), strict=True))


def test_a_stored_model_is_trained_on_and_sampled_from(
    store: CountingStore, stored: ArtifactName, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the adapter is the folder's."""
    workers_open(store, monkeypatch)
    split = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.25, validation=0.25, seed=0))
    model_names.claim(store, LOCAL, "tiny", stored, replace=False, field="display_name")
    services = InProcessServices(store)

    def adapter_of(reference: str) -> Adapter:
        settings = AdapterSettings(base_model=reference, rank=2, images_seen=4, batch_size=2, prompt="a {label} cell")
        return Adapter(train_split=f"{split}/parts/train", settings=settings)

    services.create(ADAPTER_TRAINING, adapter_of("models/tiny"))
    [adapter] = list_artifacts(store, ADAPTERS)
    assert read_manifest(store, adapter).summary["base_model"] == str(stored)
    of_folder = services.plan(ADAPTER_TRAINING, adapter_of(str(folder)))
    assert (of_folder.target, of_folder.done) == (str(adapter), 4)
    services.create(IMAGE_SYNTHESIS, ImageSet(adapter=str(adapter), settings=SynthesisSettings(steps=2, per_class=1)))
    assert len(list_artifacts(store, IMAGE_SETS)) == 1
    with pytest.raises(FailedPrecondition) as raised:
        delete(store, stored, caller=Caller(LOCAL), force=False, validate_only=False)
    assert raised.value.reason == "STILL_REFERENCED"
    assert f"\n  {adapter}" in raised.value.message


def test_a_name_means_what_its_owner_imported(store: CountingStore, stored: ArtifactName) -> None:
    model_names.claim(store, LOCAL, "tiny", stored, replace=False, field="display_name")
    assert of_store(store, "models/tiny", weights=False).reference == str(stored)
    with pytest.raises(InvalidArgument, match=r"'models/tinny' is not among .*; did you mean 'tiny'\?") as raised:
        of_store(store, "models/tinny")
    assert raised.value.reason == "BASE_MODEL_NOT_FOUND"
    assert [item.field for item in raised.value.violations] == [FIELD]


def test_who_plans_fetches_no_weights_and_knows_their_layers(
    store: CountingStore, stored: ArtifactName, found: BaseModel
) -> None:
    planned = of_store(store, stored, weights=False)
    weights = {
        f"{stored}/{sha256_of_file(path)}" for name, path in files_of(found.folder).items() if name.endswith("rs")
    }
    assert len(weights) == 3
    assert not weights & set(store.fetched)
    for part in (UNET, TEXT_ENCODER):
        assert part_layers(planned, part, field=FIELD) == part_layers(found, part, field=FIELD)
    tokens = [prompt_tokenizer(item.folder, item.digest)("a round cell") for item in (planned, found)]
    assert tokens[0] == tokens[1]


def test_a_node_fetches_each_file_once(store: CountingStore, stored: ArtifactName) -> None:
    first = of_store(store, stored)
    fetched = list(store.fetched)
    assert len(fetched) == len(set(fetched)) > 3
    second = of_store(store, stored)
    assert store.fetched == fetched
    assert first.folder != second.folder


def test_plans_of_a_grid_read_a_model_once_and_again_if_the_cache_was_emptied(
    store: CountingStore, stored: ArtifactName, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed: list[str] = []
    stream = store.stream
    monkeypatch.setattr(store, "stream", lambda key: streamed.append(key) or stream(key))
    folders = {of_store(store, stored, weights=False).folder for _ in range(3)}
    assert (len(folders), len(streamed)) == (1, 3), "the header of each of the weights"
    shutil.rmtree(cache_folder())
    again = of_store(store, stored, weights=False)
    assert again.digest == stored.id
    assert part_layers(again, UNET, field=FIELD).adaptable
    assert len(streamed) == 6


def test_a_folder_is_there_for_as_long_as_its_model_is_used(store: CountingStore, stored: ArtifactName) -> None:
    model = of_store(store, stored)
    folder = model.folder
    assert (folder / UNET_WEIGHTS).is_file()
    del model
    assert not folder.exists()


def test_a_model_in_use_stays_and_goes_from_the_cache_when_something_needs_its_room(
    store: CountingStore, stored: ArtifactName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "PATIENCE_SECONDS", 0.0)
    model = of_store(store, stored)
    size_bytes = sum(path.stat().st_size for path in (cache_folder() / "payloads").iterdir())
    monkeypatch.setenv("SYNTHMIX_CACHE_MOST_BYTES", str(size_bytes + 100))
    fetched = len(store.fetched)
    with pytest.raises(ResourceExhausted), room(size_bytes):
        pass
    assert sha256_of_file(model.folder / UNET_WEIGHTS)
    of_store(store, stored)
    assert len(store.fetched) == fetched, "it was in use, and is there still"
    del model
    with room(size_bytes):
        assert not any((cache_folder() / "payloads").iterdir())
    of_store(store, stored)
    assert len(store.fetched) == 2 * fetched, "it is fetched again"


def test_a_model_larger_than_the_cache_is_refused_before_it_is_fetched(
    store: CountingStore, stored: ArtifactName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHMIX_CACHE_MOST_BYTES", "1000")
    with pytest.raises(InvalidArgument, match="SYNTHMIX_CACHE_MOST_BYTES") as raised:
        of_store(store, stored)
    assert raised.value.reason == "BASE_MODEL_TOO_LARGE"
    assert store.fetched == []


@pytest.mark.parametrize("name", [UNET_WEIGHTS, "unet/config.json"])
def test_a_tampered_object_is_refused(store: CountingStore, stored: ArtifactName, folder: Path, name: str) -> None:
    key = f"{stored}/{sha256_of_file(folder / name)}"
    data = bytearray(store.get_bytes(key))
    data[-1] ^= 1
    store.put_bytes(key, bytes(data))
    with pytest.raises(DataLoss, match=f"{stored}/{name} in object storage is not what was written"):
        of_store(store, stored)
    assert not list((cache_folder() / "writing").glob("*/model")), "nothing is left of what was fetched"


def test_a_deleted_model_is_no_longer_there(store: CountingStore, stored: ArtifactName) -> None:
    of_store(store, stored)
    store.delete(f"{stored}/{MANIFEST}")
    with pytest.raises(InvalidArgument, match="is not among the models in object storage"):
        of_store(store, stored)


def test_what_was_asked_for_by_a_folder_comes_from_object_storage_where_the_folder_is_not(
    store: CountingStore, folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    model = resolve(str(moved), field=FIELD)
    assert resolve_again(str(moved), model.digest, field=FIELD, store=store).reference == str(moved)
    shutil.rmtree(moved)
    with pytest.raises(InvalidArgument, match="neither a folder"):
        resolve_again(str(moved), model.digest, field=FIELD, store=store)
    stored = store_model(store, folder)
    again = resolve_again(str(moved), model.digest, field=FIELD, store=store)
    assert (again.reference, again.digest) == (str(stored), model.digest)


def test_a_training_finds_its_model_in_object_storage_where_the_folder_is_not(
    store: CountingStore, folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    digest = resolve(str(moved), field=FIELD).digest
    split = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.3, validation=0.2, seed=1))
    names = {"train_split": f"{split}/parts/train", "base_model": str(moved)}
    part = open_train_part(store, names["train_split"], field="x")
    shutil.rmtree(moved)
    with pytest.raises(InvalidArgument, match="neither a folder"):
        open_inputs(store, names, train_split=part.digest, base_model_digest=digest)
    stored = store_model(store, folder)
    _, found = open_inputs(store, names, train_split=part.digest, base_model_digest=digest)
    assert (found.reference, found.digest) == (str(stored), digest)
