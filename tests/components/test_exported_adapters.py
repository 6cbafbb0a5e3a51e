"""Exported adapters, as other libraries read them: their UNet answers as the trained one does."""

from pathlib import Path

import pytest
import torch

from exported_adapters import CLOSE, SMALLEST_AND_LARGEST, Case, read_exports
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.methods import METHODS, WITHOUT_ADAPTER
from synthmix.client.adapter_formats import ADAPTER_FORMATS, FORMATS, write_adapter
from synthmix.latent_diffusion.base_model import resolve
from synthmix.latent_diffusion.loading import load
from synthmix.service_kit.adapter_payloads import LORA_WEIGHTS
from tiny_adapters import settings_of, trained, written

EXPORTED = [
    *SMALLEST_AND_LARGEST[1::2],  # the largest sets; `make adapter-formats` reads both
    Case("lora", "attention"),  # with a scale of 1
    Case("lokr", "all", (("alpha", 1.5),)),  # with full factors, of kernels as well
]


def readers(form: str, method: str) -> list[str]:
    """Who is to read it. Of kohya's files diffusers reads those of LoRA's kind."""
    if form == "kohya":
        return ["formula", *(["diffusers"] if method in FORMATS["diffusers"].methods else [])]
    return [form]


def test_exported_adapters_are_read_as_they_were_trained(any_base_model: None, folder: Path, tmp_path: Path) -> None:
    readings = read_exports(EXPORTED, readers, folder, tmp_path)
    assert {item.form for item in readings} == set(ADAPTER_FORMATS)
    assert all(item.effect > 1e-3 for item in readings)
    # What the export says of it: when this fails, diffusers reads dora_scale, and the note can go.
    dropped = [
        item for item in readings if (item.case.method, item.form, item.reader) == ("dora", "kohya", "diffusers")
    ]
    assert len(dropped) == 1
    assert all(item.difference is not None and item.difference > 10 * CLOSE for item in dropped)
    assert [item for item in readings if not item.is_right and item not in dropped] == []


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_export_for_diffusers_has_the_stored_bytes(
    method: str, any_base_model: None, folder: Path, tmp_path: Path
) -> None:
    base = load(folder, torch.device("cpu"))
    found = resolve(str(folder), field="adapter.settings.base_model")
    model, _ = trained(base, settings_of(found, method, "all"), stop_after=1)
    [data] = adapter_files(model).values()
    stored = written({LORA_WEIGHTS: data}, tmp_path / "stored")
    write_adapter("diffusers", stored, tmp_path / "out.safetensors", "tiny")
    assert (tmp_path / "out.safetensors").read_bytes() == data


def test_the_client_knows_the_methods_of_what_is_stored() -> None:
    assert set(FORMATS["peft"].methods) == METHODS.keys()
    assert set(FORMATS["textual-inversion"].methods) == {*METHODS, *WITHOUT_ADAPTER}
    of_lora = {name for name, method in METHODS.items() if method.config == "LoraConfig"}
    assert set(FORMATS["diffusers"].methods) == of_lora
