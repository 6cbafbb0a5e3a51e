"""Adapters of every method, exported in every form and imported again, are to the UNet what they were when trained."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exported_adapters import CLOSE, SMALLEST_AND_LARGEST, Case, answer_of, inputs_of, read_elsewhere
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import adapter_operation, import_task, importing
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.front_end import adapter_message
from synthmix.adapter_training.imported_files import read_imported
from synthmix.api.adapters.v1.adapters_pb2 import Adapter, AdapterSettings, ImportedAdapter
from synthmix.api.image_sets.v1.image_sets_pb2 import ImageSet, SynthesisSettings
from synthmix.api.operations.v1.operations_pb2 import Plan
from synthmix.classifier_evaluation.trial_requests import check_generator
from synthmix.client.adapter_formats import ADAPTER_FORMATS, FORMATS, Stored, write_adapter
from synthmix.client.adapter_imports import layer_of, read_adapter, write_upload
from synthmix.client.adapter_merges import merge_adapters
from synthmix.image_synthesis import adapted_models, image_set_operation, planning, sampling
from synthmix.image_synthesis.front_end import image_set_message
from synthmix.latent_diffusion.adapters import load_adapter
from synthmix.latent_diffusion.base_model import BaseModel, resolve
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, load, probe
from synthmix.latent_diffusion.model_kinds import SDXL
from synthmix.latent_diffusion.part_layers import UNET, part_layers
from synthmix.service_kit.adapter_payloads import PEFT_CONFIG
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.digests import sha256_of_file
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from synthmix.service_kit.resource_names import OperationName
from tiny_adapters import settings_of, trained, written
from tiny_base_model import write_tiny_base_model, write_tiny_sdxl

CPU = torch.device("cpu")
FIELD = "adapter.settings.base_model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder: Path) -> LatentDiffusion:
    torch.set_num_threads(1)
    return load(folder, CPU)


@pytest.fixture
def found(any_base_model: None, folder: Path) -> BaseModel:
    return resolve(str(folder), field=FIELD)


def imported(path: Path, found: BaseModel, base: LatentDiffusion, work: Path) -> torch.Tensor:
    """What the UNet answers with an adapter that went from a user's path to a worker's folder."""
    upload = work / "upload.safetensors"
    write_upload(read_adapter(path), upload)
    read = read_imported(upload, part_layers(found, UNET, field=FIELD))
    files = {read.weights: upload.read_bytes()} | ({PEFT_CONFIG: read.config_file} if read.config_file else {})
    model = shared_copy(base)
    load_adapter(model, written(files, work / "stored"))
    return probe(model)


@pytest.mark.parametrize("case", SMALLEST_AND_LARGEST, ids=lambda case: case.name)
def test_what_is_exported_is_imported_again(
    case: Case, found: BaseModel, base: LatentDiffusion, tmp_path: Path
) -> None:
    check_imported_again(case, found, base, tmp_path)


SDXL_CASES = [
    Case("lora", "all", (("alpha", 1.5),)),
    Case("dora", "all"),
    Case("loha", "all", (("alpha", 1.5),)),
    Case("lokr", "all", (("factor", 2),)),
    Case("oft", "attention"),
]


@pytest.mark.parametrize("case", SDXL_CASES, ids=lambda case: case.name)
def test_what_is_exported_of_sdxl_is_imported_again(case: Case, any_base_model: None, tmp_path: Path) -> None:
    folder = write_tiny_sdxl(tmp_path / "sdxl")
    check_imported_again(case, resolve(str(folder), field=FIELD), load(folder, CPU), tmp_path)


def check_imported_again(case: Case, found: BaseModel, base: LatentDiffusion, tmp_path: Path) -> None:
    """Exports an adapter in every form that takes its method, and imports it again."""
    model, state = trained(base, settings_of(found, case.method, case.targets, **dict(case.options)), stop_after=2)
    stored = written(adapter_files(model, state.first_factors), tmp_path / "trained")
    answer, without = probe(model), probe(base)
    for form in ADAPTER_FORMATS:
        entry = FORMATS[form]
        if case.method in entry.methods:
            out = tmp_path / form / ("out.safetensors" if entry.is_file else "out")
            out.parent.mkdir()
            write_adapter(form, stored, out, "tiny", is_sdxl=found.kind is SDXL)
            again = imported(out, found, base, out.parent)
            torch.testing.assert_close(again, answer, rtol=0, atol=CLOSE)
            assert (again - without).abs().max() > 1e-4


def test_the_names_of_every_layer_are_found_again(found: BaseModel) -> None:
    for model in (found, resolve("builtin", field=FIELD)):
        for layer in part_layers(model, UNET, field=FIELD).adaptable:
            assert layer_of(layer.name.replace(".", "_")) == layer.name


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    for module in (import_task, sampling):
        monkeypatch.setattr(module, "open_object_store", lambda: store)
    return store


@pytest.fixture(scope="module")
def kohya_file(base: LatentDiffusion, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An adapter under kohya's names, and what the UNet with it answers. Each layer has a rank and alpha of its own."""
    path = tmp_path_factory.mktemp("kohya") / "a.safetensors"
    return path, probe(with_kohyas(base, path, seed=0))


def with_kohyas(base: LatentDiffusion, path: Path, seed: int, weight: float = 1.0) -> LatentDiffusion:
    """Writes an adapter of random numbers under kohya's names, and adds a multiple of it to a copy of a base model."""
    random = torch.Generator().manual_seed(seed)
    model = shared_copy(base)
    tensors: dict[str, torch.Tensor] = {}
    layers = [name for name, _ in model.unet.named_modules() if name.endswith((".attn2.to_k", ".conv1"))]
    for number, name in enumerate(layers):
        layer, rank, alpha = model.unet.get_submodule(name), 1 + (number + seed) % 3, 0.5 * (1 + number % 2)
        outputs, inputs, *kernel = layer.weight.shape
        down = 0.1 * torch.randn(rank, inputs, *kernel, generator=random).half()
        up = 0.1 * torch.randn(outputs, rank, *(1 for _ in kernel), generator=random).half()
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        update = weight * alpha / rank * up.float().flatten(1) @ down.float().flatten(1)
        layer.weight.data = layer.weight.data + update.reshape(layer.weight.shape)
    save_file(tensors, path)
    return model


def test_others_read_layers_of_several_ranks_as_they_are(
    base: LatentDiffusion, folder: Path, found: BaseModel, tmp_path: Path
) -> None:
    """Also of a merge: of two adapters, in the weights 0.5 and -2."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    of_one = answer_of(with_kohyas(base, one, seed=0))
    of_both = answer_of(with_kohyas(with_kohyas(base, one, seed=0, weight=0.5), two, seed=1, weight=-2.0))
    readings = []
    for form, reader in (("diffusers", "diffusers"), ("peft", "peft"), ("kohya", "formula")):
        ending = ".safetensors" if FORMATS[form].is_file else ""
        out, merged = tmp_path / f"{form} for {reader}{ending}", tmp_path / f"merged {form} for {reader}{ending}"
        FORMATS[form].write(read_adapter(one), out)
        merge_adapters([one, two], [0.5, -2.0], merged, rank=None, format_name=form, fetch=_nothing)
        readings += [(reader, out), (reader, merged)]
    read = read_elsewhere(readings, folder, tmp_path, inputs_of(base))
    for (_, path), answer in zip(readings, read, strict=True):
        assert not isinstance(answer, str), f"{path.name}: {answer}"
        expected = of_both if path.name.startswith("merged") else of_one
        assert (answer - expected).abs().max() < 2e-5, path.name
    assert (of_both - of_one).abs().max() > 1e-2


def _nothing(name: str, folder: Path) -> Stored:
    raise AssertionError


def uploaded(store: MemoryObjectStore, path: Path, work: Path) -> str:
    """The name of an upload, as the client makes it of a user's file."""
    packed = work / "packed"
    write_upload(read_adapter(path), packed)
    name = f"uploads/{sha256_of_file(packed)}"
    store.put_file(name, packed)
    return name


def request_of(upload: str, folder: Path, **changes: Any) -> Adapter:
    settings = AdapterSettings(base_model=str(folder), prompt="a {label} cell")
    return Adapter(settings=settings, imported=ImportedAdapter(upload=upload, classes=["round", "flat"], **changes))


class Context(SimpleNamespace):
    """Of an operation whose tasks run here."""

    def update(self, **fields: Any) -> None:
        pass

    def note_reused(self, units: int) -> None:
        pass

    def run_tasks(self, function: str, calls: Sequence[dict[str, Any]], done: Any = None) -> list[Any]:
        module, _, name = function.partition(":")
        task = getattr(importlib.import_module(module), name)
        return [task(**call, report=lambda *_: None, threads=1) for call in calls]


def made_by(operation: Any, store: MemoryObjectStore, planned: Planned, service: str, collection: str) -> Manifest:
    """The artifact of a request that was found valid."""
    record = SimpleNamespace(
        name=OperationName(service, planned.id),
        target=f"{collection}/{planned.id}",
        request={"request": planned.request, "names": planned.names},
    )
    context: Any = Context(store=store, record=record, worker_seconds=1.0, gpu_seconds=0.0)
    return read_manifest(store, operation.run(context))


def made_by_the_operation(store: MemoryObjectStore, adapter: Adapter) -> Manifest:
    return made_by(adapter_operation, store, importing.plan(store, adapter), "adapter-training", "adapters")


@pytest.mark.usefixtures("own_cache", "nothing_kept")
def test_an_imported_adapter_makes_images_as_one_that_was_trained_here(
    store: MemoryObjectStore, kohya_file: tuple[Path, torch.Tensor], folder: Path, found: BaseModel, tmp_path: Path
) -> None:
    path, answer = kohya_file
    manifest = made_by_the_operation(store, request_of(uploaded(store, path, tmp_path), folder, grey=True))
    message = adapter_message(store, manifest)
    assert message.train_split == ""
    assert (message.settings.method, message.settings.rank, message.settings.image_size) == ("lora", 1, 32)
    assert not message.settings.HasField("targets")
    assert (message.imported.grey, list(message.imported.classes)) == (True, ["flat", "round"])
    assert message.parameter_count == sum(
        tensor.numel() for name, tensor in load_file(path).items() if ".lora_" in name
    )

    torch.testing.assert_close(
        probe(adapted_models.adapted_model(store, manifest.name, "automatic")), answer, rtol=0, atol=1e-5
    )
    image_set = ImageSet(adapter=str(manifest.name), settings=SynthesisSettings(steps=2, per_class=1))
    planned = planning.plan(store, image_set, validate_only=False)
    assert isinstance(planned.plan, Plan)
    assert "it is not known on which images it was trained" in planned.plan.warnings[-1]
    assert planning.filled(image_set.settings, manifest).prompt == "a {label} cell"
    made = made_by(image_set_operation, store, planned, "image-synthesis", "image-sets")
    shown = image_set_message(store, made)
    assert (shown.image_count, shown.imported_adapter) == (2, True)

    with pytest.raises(FailedPrecondition, match="it is not known on which images it was trained") as caught:
        check_generator(store, made, f"splits/{32 * '0'}", "0" * 32, field="evaluation.image_sets[0]")
    assert caught.value.reason == "TRAINING_DATA_UNKNOWN"


@pytest.mark.usefixtures("own_cache", "nothing_kept", "any_base_model")
def test_kohyas_file_of_sdxl_becomes_an_adapter_of_sdxl_alone(
    store: MemoryObjectStore, folder: Path, tmp_path: Path
) -> None:
    sdxl = write_tiny_sdxl(tmp_path / "sdxl")
    name = "lora_unet_output_blocks_2_1_transformer_blocks_1_attn2_to_k"
    random, path = torch.Generator().manual_seed(0), tmp_path / "a.safetensors"
    down, up = torch.randn(2, 40, generator=random), torch.randn(16, 2, generator=random)
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, path)
    upload = uploaded(store, path, tmp_path)
    manifest = made_by_the_operation(store, request_of(upload, sdxl))
    message = adapter_message(store, manifest)
    assert (message.base_model_kind, message.original_size) == ("SDXL", 0)
    changed = load(sdxl, CPU)
    weight = changed.unet.get_submodule("up_blocks.0.attentions.2.transformer_blocks.1.attn2.to_k").weight
    weight.data += up @ down
    answer = probe(adapted_models.adapted_model(store, manifest.name, "automatic"))
    torch.testing.assert_close(answer, probe(changed), rtol=0, atol=1e-5)
    with pytest.raises(InvalidArgument, match="layers that this base model has not"):
        made_by_the_operation(store, request_of(upload, folder))


@pytest.mark.usefixtures("own_cache", "nothing_kept")
def test_files_that_do_not_fit_the_base_model_or_change_nothing(
    store: MemoryObjectStore, kohya_file: tuple[Path, torch.Tensor], folder: Path, found: BaseModel, tmp_path: Path
) -> None:
    tensors = load_file(kohya_file[0])
    first = next(name for name in tensors if name.endswith("lora_down.weight"))
    changed = {
        "ADAPTER_WITHOUT_EFFECT": {key: 0 * value if "lora_up" in key else value for key, value in tensors.items()},
        "ADAPTER_NOT_FINITE": tensors | {first: float("nan") * tensors[first]},
        "of the shape": tensors | {first: torch.cat([tensors[first]] * 2, dim=1)},
        "layers that this base model has not: mid_block.attentions.9.proj": tensors
        | {
            "lora_unet_mid_block_attentions_9_proj_in.lora_down.weight": torch.ones(1, 8),
            "lora_unet_mid_block_attentions_9_proj_in.lora_up.weight": torch.ones(8, 1),
        },
    }
    for said, content in changed.items():
        save_file(content, tmp_path / "a.safetensors")
        with pytest.raises(InvalidArgument) as caught:
            made_by_the_operation(store, request_of(uploaded(store, tmp_path / "a.safetensors", tmp_path), folder))
        assert said in f"{caught.value.reason} {caught.value.message}"
        assert caught.value.violations[0].field == "adapter.imported.upload"
        assert "import the adapter that was trained on" in caught.value.message
    assert not [key for key in store.keys if key.startswith("adapters/")]


def test_a_request_to_import_is_checked_before_anything_is_read(
    store: MemoryObjectStore, folder: Path, found: BaseModel, tmp_path: Path
) -> None:
    name = f"uploads/{64 * '0'}"
    with pytest.raises(NotFound, match="send the file with UploadFile first"):
        importing.plan(store, request_of(name, folder))
    store.put_bytes(name, b"")
    for change, said in (
        (Adapter(train_split="splits/a/parts/train"), "adapter.train_split: 'splits/a/parts/train' is given beside"),
        (Adapter(settings=AdapterSettings(rank=4)), "adapter.settings.rank: 4 cannot be set of an imported adapter"),
        (
            Adapter(settings=AdapterSettings(prompt="a cell")),
            "adapter.settings.prompt: 'a cell' does not name the class",
        ),
        (Adapter(settings=AdapterSettings(image_size=36)), "adapter.settings.image_size: 36 is not a multiple of 8"),
        (Adapter(imported=ImportedAdapter(classes=["round"])), "adapter.imported.classes[2]: 'round' is there twice"),
        (Adapter(imported=ImportedAdapter(classes=[" "])), "adapter.imported.classes[2]: ' ' cannot be a label"),
        (
            Adapter(imported=ImportedAdapter(upload="uploads/x")),
            "adapter.imported.upload: 'uploads/x' is not an upload",
        ),
    ):
        request = request_of(name, folder)
        request.MergeFrom(change)
        with pytest.raises(InvalidArgument) as caught:
            importing.plan(store, request)
        assert said in caught.value.message
    for field in ("imported", "settings"):
        request = request_of(name, folder)
        getattr(request, field).ClearField({"imported": "classes", "settings": "base_model"}[field])
        with pytest.raises(InvalidArgument, match="is required"):
            importing.plan(store, request)
