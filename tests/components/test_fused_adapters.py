"""Two adapters of one image each as one: the weighted sum of their updates, whatever makes the images and where."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_synthesis import adapted_models, image_set_operation, sampling, shard_ranges
from synthmix.image_synthesis.adapted_models import make_ready
from synthmix.image_synthesis.shards import finished_shards, image_count
from synthmix.latent_diffusion import kept_models
from synthmix.latent_diffusion.adapters import PARTS, adapter_layers, load_adapter, load_sum
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.class_tokens import class_tokens
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, answers, probe
from synthmix.service_kit.artifacts import Manifest, Payload, read_manifest, write_manifest, write_payload
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_records import OperationRecord, now
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName, OperationName
from tiny_adapters import pixels, settings_of, trained, written

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "nothing_kept")

WEIGHTS = (0.3, 0.7)
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("lora", "all", {"alpha": 2.0}),
    ("rslora", "attention", {}),
    ("pissa", "attention", {}),
    ("olora", "attention+feedforward", {"alpha": 1.0}),
    ("lora", "attention", {"text_encoder_targets": "attention", "class_tokens": 2, "class_token_learning_rate": 0.01}),
    ("none", "attention", {"class_tokens": 1, "class_token_learning_rate": 0.01}),
]


def two(base: LatentDiffusion, found: BaseModel, folder: Path, method: str, targets: str, **others: Any) -> list[Path]:
    """The folders of two adapters that were trained on images of their own."""
    settings = settings_of(found, method, targets, **others)
    folders: list[Path] = []
    for number, images in enumerate((pixels(10), 255 - pixels(10) // 2)):
        model, state = trained(base, settings, images=images)
        folders.append(written(adapter_files(model, state.first_factors), folder / f"{number}"))
    return folders


def updates(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """What an adapter adds to each layer's weights, and the vectors of classes."""
    found = {
        f"{part} {name}": layer.get_delta_weight("default")
        for part in PARTS
        for name, layer in adapter_layers(getattr(model, part)).items()
    }
    learned = class_tokens(model)
    return found if learned is None else found | {"tokens": learned.vectors.detach()}


@pytest.mark.parametrize(("method", "targets", "others"), CASES, ids=str)
def test_the_update_is_the_weighted_sum(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, method: str, targets: str, others: dict[str, Any]
) -> None:
    folders = two(base, found, tmp_path, method, targets, **others)
    alone = []
    for folder in folders:
        model = shared_copy(base)
        load_adapter(model, folder)
        alone.append(updates(model))
    fused = shared_copy(base)
    load_sum(fused, folders, WEIGHTS)
    of_both = updates(fused)
    assert of_both.keys() == alone[0].keys() and of_both
    for name, update in of_both.items():
        assert not torch.allclose(alone[0][name], alone[1][name]), name
        expected = WEIGHTS[0] * alone[0][name] + WEIGHTS[1] * alone[1][name]
        torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-7)
    beside = answers(fused)
    make_ready(fused, "automatic")
    for part, answer in answers(fused).items():
        torch.testing.assert_close(answer, beside[part], rtol=0, atol=1e-5, msg="merged into the weights")


@pytest.mark.parametrize("method", ["dora", "loha"])
def test_what_does_not_add_up_is_not_fused(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, method: str
) -> None:
    folders = two(base, found, tmp_path, method, "attention")
    with pytest.raises(ValueError, match="of a kind whose updates do not add up"):
        load_sum(shared_copy(base), folders, WEIGHTS)


def test_adapters_that_differ_in_their_ranks_are_not_fused(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path
) -> None:
    first, _ = two(base, found, tmp_path, "lora", "attention")
    (tmp_path / "other").mkdir()
    second, _ = two(base, found, tmp_path / "other", "lora", "attention", alpha=2.0)
    with pytest.raises(ValueError, match="differs in its layers or ranks"):
        load_sum(shared_copy(base), [first, second], WEIGHTS)


ADAPTER, IMAGE_SET = ArtifactName(ADAPTERS, "a" * 32), ArtifactName(IMAGE_SETS, "b" * 32)
LABELS = ("flat", "round")
OF_EACH = 3


@pytest.fixture
def store(base: LatentDiffusion, found: BaseModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    """With an adapter for each of three images of two classes."""
    store = MemoryObjectStore.created()
    monkeypatch.setattr(sampling, "open_object_store", lambda: store)
    settings = settings_of(found, "lora", "attention", image_size=32)
    settings.per = "image"
    parts: list[dict[str, str]] = []
    payloads: list[Payload] = []
    for number in range(OF_EACH * len(LABELS)):
        model, state = trained(base, settings, images=np.roll(pixels(10), 40 * number))
        label, part = LABELS[number // OF_EACH], f"image-{number:06d}"
        parts.append({"folder": part, "label": label, "image": f"{number:064x}"})
        for name, data in adapter_files(model, state.first_factors).items():
            payloads.append(write_payload(store, ADAPTER, f"{part}/{name}", data))
    request = planning.canonical_request(settings, train_digest="1" * 32, base_model_digest=found.digest)
    summary = {"grey": False, "base_model": str(folder), "classes": list(LABELS), "adapters": parts}
    inputs = {"base_model": found.digest}
    write_manifest(store, Manifest(ADAPTER, inputs, request, 3, tuple(payloads), summary))
    return store


def request_of(fused: int) -> dict[str, Any]:
    settings = {"prompt": "a {label} cell", "steps": 2}
    return {
        "settings": settings | ({"fused_adapters": 2, "fusion_weight": 0.25} if fused == 2 else {}),
        "adapter": ADAPTER.id,
        "class_images": dict.fromkeys(LABELS, 7),
        "recipe_version": 3,
    }


def image_set(store: MemoryObjectStore, fused: int) -> tuple[Manifest, np.ndarray]:
    """Makes one, shard by shard, and returns it with its pixels."""
    request = request_of(fused)
    name = OperationName("image-synthesis", IMAGE_SET.id)

    def make(function: str, arguments: Sequence[dict[str, Any]], on_result: Callable[[int, Any], None]) -> None:
        for shard in reversed(arguments):  # workers take them in any order
            sampling.synthesise_shard(**shard, report=lambda done: None, threads=1)

    record = OperationRecord(name, IMAGE_SETS, str(IMAGE_SET), {"request": request, "names": {}}, now())
    context = OperationContext(store, record)
    context.run_tasks = make  # type: ignore[assignment, method-assign]
    image_set_operation.run(context)
    manifest = read_manifest(store, IMAGE_SET)
    count = image_count(request)
    images = [np.asarray(Image.open(io.BytesIO(data))) for _, data in read_images(store, manifest, range(count))]
    assert not finished_shards(store, name, IMAGE_SET)
    return manifest, np.stack(images).astype(int)


@pytest.mark.parametrize("fused", [1, 2])
def test_images_do_not_depend_on_shards_and_batches_and_say_their_sources(
    store: MemoryObjectStore, fused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = set(store.keys)
    made: list[tuple[np.ndarray, list[dict[str, Any]]]] = []
    changes: list[tuple[str, ...]] = []
    original = adapted_models._adapted_model

    def noted(
        store: ObjectStore,
        name: ArtifactName,
        precision: str,
        folders: tuple[str, ...],
        shares: tuple[float, ...],
        scale: float,
    ) -> Any:
        changes.append(folders)
        assert (shares, scale) == ((1.0,) if fused == 1 else (0.25, 0.75), 1.0)
        return original(store, name, precision, folders, shares, scale)

    monkeypatch.setattr(adapted_models, "_adapted_model", noted)
    for shard_images, at_once in ((64, 16), (4, 3), (1, 1)):
        monkeypatch.setattr(shard_ranges, "SHARD_IMAGES", shard_images)
        monkeypatch.setattr(sampling, "images_at_once", lambda model, size_px, at_once=at_once: at_once)
        for key in set(store.keys) - given:
            store.delete(key)
        manifest, images = image_set(store, fused)
        columns = ["index", "label", "seed", "sources"]
        made.append((images, read_index(store, manifest, columns).to_pylist()))
        if shard_images == 64:
            assert len(changes) == len(set(changes)), "each adapter is put into the base model once"
            assert len(changes) == (OF_EACH * 2 if fused == 1 else 2 * 6)
        assert manifest.summary["sources"] is True
    for images, rows in made[1:]:
        assert rows == made[0][1]
        assert np.abs(images - made[0][0]).max() <= 1
    for row in made[0][1]:
        assert len(set(row["sources"])) == fused
        assert {int(source, 16) // OF_EACH for source in row["sources"]} == {LABELS.index(row["label"])}


def test_changing_adapters_loads_the_base_model_once(
    store: MemoryObjectStore, found: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_models.lend(found)
    monkeypatch.setattr(kept_models, "load", None)
    seen = [
        probe(adapted_models.adapted_model(store, ADAPTER, "automatic", folders, weights))
        for folders, weights in (
            (("image-000000",), (1.0,)),
            (("image-000001",), (1.0,)),
            (("image-000000", "image-000001"), (0.25, 0.75)),
            (("image-000000", "image-000001"), (0.75, 0.25)),
            (("image-000000",), (1.0,)),
        )
    ]
    assert torch.equal(seen[0], seen[4])
    for number, one in enumerate(seen[:4]):
        assert not any(torch.allclose(one, other, atol=1e-5) for other in seen[number + 1 : 4])
