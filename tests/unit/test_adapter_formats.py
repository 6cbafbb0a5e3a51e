"""Exported adapters: names, shapes, alpha and metadata, of files that are written by hand."""

import json
import re
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.client import adapter_formats
from synthmix.client.adapter_formats import ADAPTER_FORMATS, FORMATS, check_export, write_adapter
from synthmix.client.safetensors_files import read_bytes, read_tensors
from synthmix.service_kit.adapter_payloads import (
    CLASS_TOKENS,
    LORA_CONFIG,
    LORA_WEIGHTS,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    TEXT_FOLDER,
    UNET_CONFIG,
    UNET_WEIGHTS,
)
from synthmix.service_kit.errors import AlreadyExists, InvalidArgument

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TO_OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"

Shapes = Mapping[str, tuple[int, ...]]


def values_of(shape: tuple[int, ...], start: float) -> list[float]:
    return [start + number for number in range(prod(shape))]


def file_of(shapes: Shapes, metadata: Mapping[str, str] | None = None, dtype: str = "F32") -> bytes:
    """A safetensors file of float32 numbers that count on from tensor to tensor."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for number, (name, shape) in enumerate(shapes.items()):
        begin = len(data)
        data += struct.pack(f"<{prod(shape)}f", *values_of(shape, 100.0 * number))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lora(
    folder: Path, shapes: Shapes, *, rank: int = 4, alpha: float = 4.0, text: bool = False, **options: Any
) -> Path:
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "init_lora_weights": "gaussian", **options}
    parts = ("unet", "text_encoder") if text else ("unet",)
    said = json.dumps(
        {f"{part}.{key}": value for part in parts for key, value in config.items()}, indent=2, sort_keys=True
    )
    folder.mkdir()
    (folder / LORA_WEIGHTS).write_bytes(file_of(shapes, {"format": "pt", "lora_adapter_metadata": said}))
    return folder


def other(folder: Path, kind: str, shapes: Shapes, *, dtype: str = "F32", **config: Any) -> Path:
    folder.mkdir()
    (folder / PEFT_WEIGHTS).write_bytes(
        file_of({f"base_model.model.{name}": shape for name, shape in shapes.items()}, {"format": "pt"}, dtype)
    )
    (folder / PEFT_CONFIG).write_text(json.dumps({"peft_type": kind, "r": 4, "alpha": 2.0, **config}))
    return folder


def linear(layer: str, inputs: int = 768, outputs: int = 8, rank: int = 4) -> Shapes:
    return {f"unet.{layer}.lora_A.weight": (rank, inputs), f"unet.{layer}.lora_B.weight": (outputs, rank)}


def convolution(layer: str) -> Shapes:
    return {f"unet.{layer}.lora_A.weight": (4, 6, 3, 3), f"unet.{layer}.lora_B.weight": (8, 4, 1, 1)}


def read(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, list[float]], dict[str, str]]:
    """Shapes and numbers of a file, and its metadata."""
    tensors, metadata = read_tensors(path)
    numbers = {
        tensor.name: list(struct.unpack(f"<{prod(tensor.shape)}f", read_bytes(tensor, path))) for tensor in tensors
    }
    return {tensor.name: tensor.shape for tensor in tensors}, numbers, metadata


def exported(form: str, stored: Path, base_model: str = "sd/one") -> tuple[Path, tuple[str, ...]]:
    out = stored.with_name(f"out-{form}" + (".safetensors" if FORMATS[form].is_file else ""))
    return out, write_adapter(form, stored, out, base_model).notes


def test_kohyas_names_and_alpha(tmp_path: Path) -> None:
    shapes = {**linear(TO_K), **linear(TO_OUT, 8), **convolution(CONVOLUTION)}
    out, notes = exported("kohya", lora(tmp_path / "a", shapes, alpha=1.5))
    shapes_found, numbers, metadata = read(out)
    attention = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    assert shapes_found == {
        f"{attention}_attn2_to_k.lora_down.weight": (4, 768),
        f"{attention}_attn2_to_k.lora_up.weight": (8, 4),
        f"{attention}_attn2_to_k.alpha": (),
        f"{attention}_attn1_to_out_0.lora_down.weight": (4, 8),
        f"{attention}_attn1_to_out_0.lora_up.weight": (8, 4),
        f"{attention}_attn1_to_out_0.alpha": (),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (4, 6, 3, 3),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": (8, 4, 1, 1),
        "lora_unet_down_blocks_0_resnets_0_conv1.alpha": (),
    }
    assert numbers[f"{attention}_attn1_to_out_0.lora_up.weight"] == values_of((8, 4), 300.0)
    assert [value for name, value in numbers.items() if name.endswith(".alpha")] == [[1.5]] * 3
    assert metadata == {
        "ss_base_model_version": "sd_v1",
        "ss_network_alpha": "1.5",
        "ss_network_args": '{"conv_alpha": "1.5", "conv_dim": "4"}',
        "ss_network_dim": "4",
        "ss_network_module": "networks.lora",
        "ss_sd_model_name": "sd/one",
        "ss_v2": "False",
    }
    assert notes == ()


TEXT_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def with_text_encoder(folder: Path) -> Path:
    """A DoRA in the UNet and in the text encoder, and tokens of two classes."""
    shapes = {
        **linear(TO_K),
        f"unet.{TO_K}.lora_magnitude_vector": (8,),
        f"{TEXT_LAYER}.lora_A.weight": (4, 6),
        f"{TEXT_LAYER}.lora_B.weight": (6, 4),
        f"{TEXT_LAYER}.lora_magnitude_vector.weight": (6,),
    }
    stored = lora(folder, shapes, alpha=1.5, text=True)
    (stored / CLASS_TOKENS).write_bytes(file_of({"<flat>": (2, 6), "<round>": (2, 6)}))
    return stored


def test_the_text_encoders_adapter_in_every_form(tmp_path: Path) -> None:
    stored = with_text_encoder(tmp_path / "a")
    tokens_are_apart = "prompts name classes by learned tokens, .*, in the format textual-inversion"
    kohya, notes = exported("kohya", stored)
    shapes, numbers, _ = read(kohya)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert {key: shape for key, shape in shapes.items() if key.startswith("lora_te")} == {
        f"{name}.lora_down.weight": (4, 6),
        f"{name}.lora_up.weight": (6, 4),
        f"{name}.alpha": (),
        f"{name}.dora_scale": (6, 1),
    }
    assert numbers[f"{name}.alpha"] == [1.5]
    assert re.fullmatch(tokens_are_apart, notes[-1])

    diffusers, _ = exported("diffusers", stored)
    assert read(diffusers)[:2] == read(stored / LORA_WEIGHTS)[:2]
    assert json.loads(read(diffusers)[2][LORA_CONFIG])["text_encoder.lora_alpha"] == 1.5

    peft, notes = exported("peft", stored)
    own, _, _ = read(peft / TEXT_FOLDER / PEFT_WEIGHTS)
    layer = "base_model.model.encoder.layers.0.self_attn.q_proj"
    assert own == {
        f"{layer}.lora_A.weight": (4, 6),
        f"{layer}.lora_B.weight": (6, 4),
        f"{layer}.lora_magnitude_vector": (6,),
    }
    assert not any("encoder" in key for key in read(peft / PEFT_WEIGHTS)[0])
    assert json.loads((peft / TEXT_FOLDER / PEFT_CONFIG).read_text())["lora_alpha"] == 1.5
    assert re.fullmatch(tokens_are_apart, notes[-1])


def test_a_text_encoders_file_of_its_own_is_in_kohyas_file_too(tmp_path: Path) -> None:
    """Methods that are not of LoRA's kind are stored as a folder for each model."""
    stored = tmp_path / "a"
    for folder, layer in ((stored, TO_K), (stored / TEXT_FOLDER, "encoder.layers.0.mlp.fc1")):
        parts = {"hada_w1_a": (8, 4), "hada_w1_b": (4, 768), "hada_w2_a": (8, 4), "hada_w2_b": (4, 768)}
        other(folder, "LOHA", {f"{layer}.{part}": shape for part, shape in parts.items()})
    out, _ = exported("kohya", stored)
    shapes, numbers, _ = read(out)
    assert shapes["lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_b"] == (4, 768)
    assert numbers["lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"] == list(map(float, range(32)))
    assert len(shapes) == 10
    peft, _ = exported("peft", stored)
    assert (peft / TEXT_FOLDER / PEFT_WEIGHTS).read_bytes() == (stored / TEXT_FOLDER / PEFT_WEIGHTS).read_bytes()


def test_tokens_of_classes_are_a_file_each(tmp_path: Path) -> None:
    out, notes = exported("textual-inversion", with_text_encoder(tmp_path / "a"))
    found = [read(path) for path in sorted(out.iterdir())]
    assert [numbers for _, numbers, _ in found] == [
        {"<flat>": values_of((2, 6), 0.0)},
        {"<round>": values_of((2, 6), 100.0)},
    ]
    assert notes[0].startswith("the classes' tokens are <flat>, <round>: write them in prompts")


def test_a_unet_that_was_trained_itself_is_exported_as_diffusers_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "unet").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no unet/diffusion_pytorch_model"):
        exported("unet", tmp_path / "a")
    for name in (UNET_WEIGHTS, UNET_CONFIG):
        (tmp_path / "a" / name).write_text(name)
    out, notes = exported("unet", tmp_path / "a")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "diffusion_pytorch_model.safetensors": UNET_WEIGHTS,
        "config.json": UNET_CONFIG,
    }
    assert notes == ()


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", {**linear(TO_K), **convolution(CONVOLUTION)})
    for form in ("diffusers", "kohya"):
        one, other_one = tmp_path / f"{form}-1.safetensors", tmp_path / f"{form}-2.safetensors"
        for out in (one, other_one):
            write_adapter(form, stored, out, "sd/one")
        assert one.read_bytes() == other_one.read_bytes()
        start = 8 + int.from_bytes(one.read_bytes()[:8], "little")
        assert start % 8 == 0


@pytest.mark.parametrize(
    ("inputs", "version", "second"), [(768, "sd_v1", "False"), (1024, "sd_v2", "True"), (128, "builtin", "False")]
)
def test_kohyas_base_model_version_is_known_by_the_width_of_prompts(
    inputs: int, version: str, second: str, tmp_path: Path
) -> None:
    out, notes = exported("kohya", lora(tmp_path / "a", linear(TO_K, inputs)), "builtin")
    metadata = read(out)[2]
    assert (metadata["ss_base_model_version"], metadata["ss_v2"]) == (version, second)
    assert [note[:65] for note in notes] == (
        ["the base model builtin reads prompts of 128 numbers a token, whic"] if inputs == 128 else []
    )


@pytest.mark.parametrize(("layer", "inputs"), [(TO_K, 2048), (TO_OUT, 8)])
def test_kohyas_base_model_version_of_sdxl_is_known_without_prompts(layer: str, inputs: int, tmp_path: Path) -> None:
    sdxl = layer.replace("down_blocks.0", "down_blocks.1")  # whose first level has no attention
    out = tmp_path / "out.safetensors"
    export = write_adapter("kohya", lora(tmp_path / "a", linear(sdxl, inputs)), out, "sd/xl", is_sdxl=True)
    shapes, _, metadata = read(out)
    assert (metadata["ss_base_model_version"], metadata["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert all(name.startswith("lora_unet_input_blocks_4_1_transformer_blocks_0_") for name in shapes)
    assert export.notes == ()


def test_who_samples_with_an_adapter_of_sdxl_is_told_the_size_that_it_was_trained_with(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    folder = lora(tmp_path / "a", linear(TO_OUT, 8))
    [note] = write_adapter("diffusers", folder, out, "sd/xl", is_sdxl=True, original_px=96).notes
    assert "diffusers: original_size=(96, 96)" in note


def test_kohyas_base_model_version_is_left_out_where_it_is_not_known(tmp_path: Path) -> None:
    out, notes = exported("kohya", lora(tmp_path / "a", linear(TO_OUT, 8)))
    assert not {"ss_base_model_version", "ss_v2"} & read(out)[2].keys()
    assert notes == ()


def test_lengths_of_dora_are_columns_in_kohyas_form(tmp_path: Path) -> None:
    shapes = {
        **linear(TO_K),
        f"unet.{TO_K}.lora_magnitude_vector": (8,),
        **convolution(CONVOLUTION),
        f"unet.{CONVOLUTION}.lora_magnitude_vector": (1, 8, 1, 1),
    }
    out, notes = exported("kohya", lora(tmp_path / "a", shapes, use_dora=True))
    found, numbers, metadata = read(out)
    scales = {name: shape for name, shape in found.items() if name.endswith(".dora_scale")}
    assert list(scales.values()) == [(8, 1), (8, 1, 1, 1)]
    assert [numbers[name] for name in scales] == [values_of((8,), 200.0), values_of((8,), 500.0)]
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"]) == {
        "algo": "lora",
        "conv_alpha": "4",
        "conv_dim": "4",
        "dora_wd": "True",
    }
    assert [note[:34] for note in notes] == ["diffusers leaves out dora_scale, a"]


def test_loha_has_lycoris_names(tmp_path: Path) -> None:
    shapes = {
        **{f"{TO_K}.hada_w{number}_a": (8, 4) for number in (1, 2)},
        **{f"{TO_K}.hada_w{number}_b": (4, 1024) for number in (1, 2)},
        **{f"{CONVOLUTION}.hada_w{number}_a": (4, 8) for number in (1, 2)},
        **{f"{CONVOLUTION}.hada_w{number}_b": (4, 6) for number in (1, 2)},
        **{f"{CONVOLUTION}.hada_t{number}": (4, 4, 3, 3) for number in (1, 2)},
    }
    out, notes = exported("kohya", other(tmp_path / "a", "LOHA", shapes))
    found, numbers, metadata = read(out)
    names = {f"lora_unet_{name.rpartition('.')[0].replace('.', '_')}.{name.rpartition('.')[2]}" for name in shapes}
    alphas = {name for name in found if name.endswith(".alpha")}
    assert found.keys() == names | alphas
    assert len(alphas) == 2 and all(numbers[name] == [2.0] for name in alphas)
    assert {found[name] for name in names} == {(8, 4), (4, 1024), (4, 8), (4, 6), (4, 4, 3, 3)}
    assert (metadata["ss_network_module"], metadata["ss_v2"]) == ("lycoris.kohya", "True")
    assert json.loads(metadata["ss_network_args"]) == {
        "algo": "loha",
        "conv_alpha": "2",
        "conv_dim": "4",
        "use_tucker": "True",
    }
    assert notes == ("diffusers does not read loha in this format; PEFT does in the format peft",)


def test_lokrs_scale_is_in_the_small_factor_where_lycoris_has_no_alpha(tmp_path: Path) -> None:
    """A product of two full factors is scaled by 1 there. PEFT scales every product by alpha / rank."""
    shapes: Shapes = {
        f"{TO_K}.lokr_w1": (2, 2),
        f"{TO_K}.lokr_w2_a": (4, 4),
        f"{TO_K}.lokr_w2_b": (4, 384),
        f"{TO_OUT}.lokr_w1": (2, 2),
        f"{TO_OUT}.lokr_w2": (4, 4),
    }
    out, _ = exported("kohya", other(tmp_path / "a", "LOKR", shapes, decompose_factor=2))
    found, numbers, metadata = read(out)
    low_rank, full = ("lora_unet_" + layer.replace(".", "_") for layer in (TO_K, TO_OUT))
    assert numbers[f"{low_rank}.lokr_w1"] == values_of((2, 2), 0.0)
    assert numbers[f"{low_rank}.alpha"] == [2.0]
    assert numbers[f"{full}.lokr_w1"] == [0.5 * value for value in values_of((2, 2), 300.0)]
    assert numbers[f"{full}.lokr_w2"] == values_of((4, 4), 400.0)
    assert numbers[f"{full}.alpha"] == [4.0], "the rank"
    assert found[f"{low_rank}.lokr_w2_b"] == (4, 384)
    assert json.loads(metadata["ss_network_args"]) == {"algo": "lokr", "factor": "2"}
    assert metadata["ss_base_model_version"] == "sd_v1", "two times 384"


def test_a_kernel_of_low_rank_has_a_core_in_lokr(tmp_path: Path) -> None:
    shapes: Shapes = {
        f"{CONVOLUTION}.lokr_w1": (2, 2),
        f"{CONVOLUTION}.lokr_w2_a": (4, 16),
        f"{CONVOLUTION}.lokr_w2_b": (4, 12),
        f"{CONVOLUTION}.lokr_t2": (4, 4, 3, 3),
    }
    out, notes = exported("kohya", other(tmp_path / "a", "LOKR", shapes, decompose_factor=2))
    found, _, metadata = read(out)
    layer = "lora_unet_" + CONVOLUTION.replace(".", "_")
    assert found == {name.replace(CONVOLUTION, layer): shape for name, shape in shapes.items()} | {f"{layer}.alpha": ()}
    assert json.loads(metadata["ss_network_args"])["use_tucker"] == "True"
    assert [note[:42] for note in notes] == [
        "LyCORIS's own loader fails on lokr_t2, the",
        "diffusers does not read lokr in this forma",
    ]


def test_pefts_folder_is_made_of_a_lora_file(tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", {**linear(TO_K), **convolution(CONVOLUTION)}, alpha=1.5, target_modules=[TO_K])
    out, notes = exported("peft", stored)
    assert sorted(path.name for path in out.iterdir()) == [PEFT_CONFIG, PEFT_WEIGHTS]
    found, numbers, metadata = read(out / PEFT_WEIGHTS)
    assert found[f"base_model.model.{CONVOLUTION}.lora_A.weight"] == (4, 6, 3, 3)
    assert numbers[f"base_model.model.{TO_K}.lora_B.weight"] == values_of((8, 4), 100.0)
    assert len(found) == 4
    assert metadata == {"format": "pt"}
    assert json.loads((out / PEFT_CONFIG).read_text()) == {
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 1.5,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": [TO_K],
    }
    assert notes == ()


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("OFT", {f"{TO_K}.oft_R.weight": (2, 6)}),
        ("BOFT", {f"{TO_K}.boft_R": (1, 2, 4, 4), f"{TO_K}.boft_s": (8, 1)}),
        ("LOKR", {f"{TO_K}.lokr_w1": (2, 2), f"{TO_K}.lokr_w2": (4, 4)}),
    ],
)
def test_pefts_folder_is_copied_as_it_is(kind: str, shapes: Shapes, tmp_path: Path) -> None:
    stored = other(tmp_path / "a", kind, shapes)
    out, _ = exported("peft", stored)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in stored.iterdir()
    }


def test_an_export_for_diffusers_says_where_its_scale_is(tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", linear(TO_K), alpha=1.0)
    out, notes = exported("diffusers", stored)
    assert read(out)[2] == read_tensors(stored / LORA_WEIGHTS)[1]
    assert [note[:56] for note in notes] == ["that the update is scaled by 0.25 (alpha / rank) is in t"]


def test_files_of_earlier_versions_get_one_kind_of_names(tmp_path: Path) -> None:
    """Up to recipe version 2 two kinds stood side by side, of which diffusers reads one."""
    old = {
        name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): shape for name, shape in linear(TO_K).items()
    }
    stored = lora(tmp_path / "a", {**old, **convolution(CONVOLUTION)})
    out, _ = exported("diffusers", stored)
    assert read(out)[0] == {**linear(TO_K), **convolution(CONVOLUTION)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-4], "and its header speaks of"),
        (lambda data: data + b"\0", "and its header speaks of"),
        (lambda data: data[:4], "it ends within the 8 bytes"),
        (lambda data: data.replace(b'"F32"', b'"X32"', 1), "whose type, shape or place is not one"),
        (lambda data: data.replace(b"[4, 768]", b"[4, 767]", 1), "of 12288 bytes, whose shape takes 12272"),
        (lambda data: data.replace(b"[4, 768]", b"[4,-768]", 1), "whose type, shape or place is not one"),
        (lambda data: data.replace(b"[4, 768]", b"[true,1]", 1), "whose type, shape or place is not one"),
        (lambda data: data.replace(b"[0, 12288]", b"[1, 12289]", 1), "a gap or an overlap before"),
        (lambda data: data.replace(b"lora_A", b"lora_X", 1), "lora_X.weight, which is no adapter's"),
        (lambda data: data.replace(b"unet.down", b"unit.down", 1), "which is no adapter's"),
        (lambda data: data.replace(b"LORA", b"VERA", 1), "of a kind 'VERA', which is none of LORA"),
        (lambda data: data.replace(b"lora_adapter_metadata", b"lora_adapter_metadaty", 1), "is not valid JSON"),
    ],
)
def test_files_that_are_not_an_adapter(change: Any, said: str, tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", linear(TO_K))
    path = stored / LORA_WEIGHTS
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=said):
        exported("kohya", stored)


def test_a_layer_that_lacks_a_factor(tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", {f"unet.{TO_K}.lora_A.weight": (4, 768)})
    with pytest.raises(ValueError, match=f"it lacks lora_B.weight of {TO_K}"):
        exported("kohya", stored)
    stored = other(tmp_path / "b", "LOKR", {f"{TO_K}.lokr_w1": (2, 2), f"{TO_K}.lokr_w2_a": (4, 4)})
    with pytest.raises(ValueError, match=f"it lacks lokr_w2 of {TO_K}"):
        exported("kohya", stored)


def test_two_layers_of_one_name_in_kohyas_form(tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", {**linear("mid.to_q"), **linear("mid_to.q")})
    with pytest.raises(ValueError, match=r"two tensors of the name lora_unet_mid_to_q\.lora_down\.weight"):
        exported("kohya", stored)


def test_lengths_that_are_not_one_for_each_output(tmp_path: Path) -> None:
    stored = lora(tmp_path / "a", {**linear(TO_K), f"unet.{TO_K}.lora_magnitude_vector": (7,)}, use_dora=True)
    with pytest.raises(ValueError, match=r"dora_scale would be of 28 bytes and the shape \(8, 1\)"):
        exported("kohya", stored)


def test_an_empty_folder_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"neither {LORA_WEIGHTS} nor {PEFT_WEIGHTS} with {PEFT_CONFIG}"):
        exported("peft", tmp_path)


def test_a_large_tensor_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmix.client.safetensors_files.COPIED_BYTES", 1000)
    stored = lora(tmp_path / "a", linear(TO_K))
    out, _ = exported("diffusers", stored)
    assert list(read(out)[1].values()) == list(read(stored / LORA_WEIGHTS)[1].values())


@pytest.mark.parametrize(
    ("form", "method", "out", "said"),
    [
        ("kohia", "lora", "a.safetensors", "format: 'kohia' is not one of the choices; did you mean 'kohya'"),
        (
            "kohya",
            "oft",
            "a.safetensors",
            "format: 'kohya' cannot hold an adapter of the method oft, only of lora, .*; use one of: peft",
        ),
        ("kohya", "boft", "a.safetensors", "the method boft, .*; use one of: peft"),
        ("diffusers", "lokr", "a.safetensors", "the method lokr, .*; use one of: peft, kohya"),
        ("diffusers", "lora", "a", "out: 'a' is not named as a safetensors file, .*; use a.safetensors"),
        ("peft", "lora", "a.safetensors", "out: 'a.safetensors' is named as a file, and peft is a folder; use a"),
        ("kohya", "full", "a.safetensors", "the method full, .*; use one of: unet"),
        ("unet", "lora", "a", "the method lora, only of full; use one of: diffusers, peft, kohya"),
        (
            "textual-inversion",
            "lora",
            "a",
            "learned tokens of classes, and this adapter has none; use one of: diffusers",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_before_it_is_fetched(form: str, method: str, out: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check_export(form, AdapterSettings(method=method), Path(out))


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_is_there_is_not_overwritten(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "a"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nothing")
    with pytest.raises(AlreadyExists, match=r"out: '.*' exists; give another path, or move what is there"):
        check_export("peft", AdapterSettings(method="lora"), out)


def test_every_format_says_what_it_is() -> None:
    assert set(FORMATS) == {*ADAPTER_FORMATS, "unet", "textual-inversion"}
    assert set(ADAPTER_FORMATS) == {"diffusers", "peft", "kohya"}
    assert all(entry.sentence and entry.methods for entry in FORMATS.values())
    assert set(adapter_formats.ROTATIONS) == set(FORMATS["peft"].methods) - set(FORMATS["kohya"].methods)
