"""Exported adapters, as other libraries read them: their UNet answers as the trained one does."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from exported_adapters import CLOSE, SMALLEST_AND_LARGEST, Case, read_exports
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.methods import METHODS, WITHOUT_ADAPTER
from synthmix.client.adapter_formats import ADAPTER_FORMATS, FORMATS, kohya_name, write_adapter
from synthmix.client.adapter_imports import layer_of
from synthmix.client.sdxl_names import layer_of_own
from synthmix.latent_diffusion.base_model import resolve
from synthmix.latent_diffusion.loading import load
from synthmix.latent_diffusion.part_layers import layers_of
from synthmix.service_kit.adapter_payloads import LORA_WEIGHTS
from synthmix.service_kit.errors import InvalidArgument
from tiny_adapters import settings_of, trained, written
from tiny_base_model import write_tiny_sdxl

EXPORTED = [
    *SMALLEST_AND_LARGEST[1::2],  # the largest sets; `make adapter-formats` reads both
    Case("lora", "attention"),  # with a scale of 1
    Case("lokr", "all", (("alpha", 1.5),)),  # with full factors, of kernels as well
]

DROPPED = ("dora", "kohya", "diffusers")


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
    dropped = [item for item in readings if (item.case.method, item.form, item.reader) == DROPPED]
    assert len(dropped) == 1
    assert all(item.difference is not None and item.difference > 10 * CLOSE for item in dropped)
    assert [item for item in readings if not item.is_right and item not in dropped] == []


def test_exported_adapters_of_sdxl_are_read_as_they_were_trained(any_base_model: None, tmp_path: Path) -> None:
    """By diffusers' SDXL pipeline, and kohya's files by the names that SDXL's own code has for layers."""
    cases = [
        Case("lora", "all", (("alpha", 1.5),)),
        Case("dora", "all"),
        Case("pissa", "attention"),
        Case("loha", "all", (("alpha", 1.5),)),
        Case("lokr", "all", (("alpha", 1.5), ("factor", 2))),
        Case("oft", "attention"),
    ]
    readings = read_exports(cases, readers, write_tiny_sdxl(tmp_path / "sdxl"), tmp_path)
    assert {item.form for item in readings} == set(ADAPTER_FORMATS)
    assert all(item.effect > 1e-4 for item in readings)
    dropped = [item for item in readings if (item.case.method, item.form, item.reader) == DROPPED]
    assert len(dropped) == 1
    assert [item for item in readings if not item.is_right and item not in dropped] == []


def test_every_layer_of_sdxl_has_a_name_of_its_own_in_kohyas_files() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    layers = layers_of({key: tuple(value.shape) for key, value in unet.named_parameters()}).adaptable
    names = [kohya_name(layer.name, is_sdxl=True) for layer in layers]
    read = [layer_of_own(name.removeprefix("lora_unet_"), layer_of) for name in names]
    assert read == [layer.name for layer in layers], "and is found again by it"
    assert len(set(names)) == len(names) > 700
    # Of kohya's own files.
    assert {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_output_blocks_5_1_proj_in",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_input_blocks_3_0_op",
        "lora_unet_output_blocks_8_0_skip_connection",
        "lora_unet_middle_block_2_in_layers_2",
        "lora_unet_label_emb_0_2",
    } <= set(names)
    with pytest.raises(InvalidArgument, match=r"has no name for down_blocks\.3\.resnets\.0\.conv1"):
        kohya_name("down_blocks.3.resnets.0.conv1", is_sdxl=True)


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
