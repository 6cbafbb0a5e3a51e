"""Adapters of every method, exported in every form and imported again, are to the UNet what they were when trained."""

from pathlib import Path

import pytest
import torch

from exported_adapters import CLOSE, SMALLEST_AND_LARGEST, Case
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.imported_files import read_imported
from synthmix.client.adapter_formats import FORMATS, write_adapter
from synthmix.client.adapter_imports import layer_of, read_adapter, write_upload
from synthmix.latent_diffusion.adapters import load_adapter
from synthmix.latent_diffusion.base_model import BaseModel, resolve
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, load, probe
from synthmix.latent_diffusion.unet_layers import unet_layers
from synthmix.service_kit.adapter_payloads import PEFT_CONFIG
from tiny_adapters import settings_of, trained, written
from tiny_base_model import write_tiny_base_model

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
    read = read_imported(upload, unet_layers(found, field=FIELD))
    files = {read.weights: upload.read_bytes()} | ({PEFT_CONFIG: read.config_file} if read.config_file else {})
    model = shared_copy(base)
    load_adapter(model, written(files, work / "stored"))
    return probe(model)


@pytest.mark.parametrize("case", SMALLEST_AND_LARGEST, ids=lambda case: case.name)
def test_what_is_exported_is_imported_again(
    case: Case, found: BaseModel, base: LatentDiffusion, tmp_path: Path
) -> None:
    model, state = trained(base, settings_of(found, case.method, case.targets, **dict(case.options)), stop_after=2)
    stored = written(adapter_files(model.unet, state.first_factors), tmp_path / "trained")
    answer, without = probe(model), probe(base)
    for form, entry in FORMATS.items():
        if case.method in entry.methods:
            out = tmp_path / form / ("out.safetensors" if entry.is_file else "out")
            out.parent.mkdir()
            write_adapter(form, stored, out, "tiny")
            again = imported(out, found, base, out.parent)
            torch.testing.assert_close(again, answer, rtol=0, atol=CLOSE)
            assert (again - without).abs().max() > 1e-4


def test_the_names_of_every_layer_are_found_again(found: BaseModel) -> None:
    for model in (found, resolve("builtin", field=FIELD)):
        for layer in unet_layers(model, field=FIELD).adaptable:
            assert layer_of(layer.name.replace(".", "_")) == layer.name
