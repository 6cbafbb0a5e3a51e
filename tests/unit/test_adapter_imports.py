"""Adapters under other programs' names, read from files that are written by hand; and what is refused of them."""

import json
import struct
from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path
from typing import Any

import pytest

from synthmix.client.adapter_formats import FORMATS, Stored, written
from synthmix.client.adapter_imports import layer_of, read_adapter, write_upload
from synthmix.client.safetensors_files import numbers, read_tensors
from synthmix.service_kit.errors import InvalidArgument

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TO_OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONVOLUTION = "up_blocks.1.resnets.0.conv1"

# The shape of a tensor, or its shape and its numbers.
Content = Mapping[str, tuple[int, ...] | tuple[tuple[int, ...], list[float]]]


def file_of(content: Content, metadata: Mapping[str, str] | None = None, dtype: str = "F32") -> bytes:
    """A safetensors file; numbers that are not given count on from 1."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    form = {"F32": "f", "F16": "e", "F64": "d", "I32": "i"}[dtype]
    for name, said in content.items():
        shape, values = said if said and isinstance(said[0], tuple) else (said, None)
        values = [float(number + 1) for number in range(prod(shape))] if values is None else values
        begin = len(data)
        data += struct.pack(f"<{prod(shape)}{form}", *(int(value) if form == "i" else value for value in values))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def kohya(layer: str, **parts: Any) -> dict[str, Any]:
    return {f"lora_unet_{layer.replace('.', '_')}.{name.replace('__', '.')}": said for name, said in parts.items()}


def lora(layer: str, *, rank: int = 4, alpha: float | None = None, inputs: int = 8, **more: Any) -> dict[str, Any]:
    """A linear layer of 6 outputs under kohya's names."""
    parts: dict[str, Any] = {"lora_down__weight": (rank, inputs), "lora_up__weight": (6, rank), **more}
    return kohya(layer, **parts, **({} if alpha is None else {"alpha": ((), [alpha])}))


def read(tmp_path: Path, content: Content, metadata: Mapping[str, str] | None = None, dtype: str = "F32") -> Stored:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(content, metadata, dtype))
    return read_adapter(path)


def peft(folder: Path, content: Content, **config: Any) -> Path:
    folder.mkdir()
    named = {f"base_model.model.{name}": said for name, said in content.items()}
    (folder / "adapter_model.safetensors").write_bytes(file_of(named))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def linear(layer: str, rank: int = 4) -> dict[str, Any]:
    return {f"{layer}.lora_A.weight": (rank, 8), f"{layer}.lora_B.weight": (6, rank)}


def refused(path: Path, reason: str, *said: str) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        read_adapter(path)
    assert caught.value.reason == reason, caught.value.message
    assert caught.value.violations[0].field == "path"
    for part in (str(path), *said):
        assert part in caught.value.message
    assert "; " in caught.value.message  # the remedy
    return caught.value


@pytest.mark.parametrize(
    "layer", [TO_K, TO_OUT, CONVOLUTION, "conv_in", "time_embedding.linear_1", "mid_block.attentions.0.proj_in"]
)
def test_layers_are_named_as_diffusers_names_them(layer: str) -> None:
    assert layer_of(layer.replace(".", "_")) == layer


@pytest.mark.parametrize("name", ["", "Down_blocks", "down_blocks__0", "conv_in_", "a-b"])
def test_what_is_no_layers_name(name: str) -> None:
    assert layer_of(name) is None


def test_kohyas_layers_have_their_own_ranks_and_alphas(tmp_path: Path) -> None:
    stored = read(tmp_path, lora(TO_K, alpha=2) | lora(TO_OUT, rank=8, alpha=1) | lora("conv_in", alpha=2))
    assert stored.config == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 2.0,
        "rank_pattern": {TO_OUT: 8},
        "alpha_pattern": {TO_OUT: 1.0},
        "target_modules": sorted([TO_K, TO_OUT, "conv_in"]),
    }
    assert [stored.scale_of(layer) for layer in (TO_K, TO_OUT)] == [0.5, 0.125]


def test_sdxls_layers_have_the_names_of_its_own_code_in_kohyas_files(tmp_path: Path) -> None:
    kernel = {"lora_down__weight": (4, 5, 3, 3), "lora_up__weight": (6, 4, 1, 1)}
    stored = read(
        tmp_path,
        lora("input_blocks.4.1.transformer_blocks.0.attn2.to_k")
        | lora("middle_block.1.proj_in")
        | kohya("output_blocks.2.2.conv", **kernel)
        | kohya("input_blocks.3.0.op", **kernel)
        | lora("output_blocks.8.0.emb_layers.1")
        | lora("label_emb.0.2")
        | kohya("out.2", **kernel),
    )
    assert stored.is_sdxl
    assert list(stored.layers) == [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.proj_in",
        "up_blocks.0.upsamplers.0.conv",
        "down_blocks.0.downsamplers.0.conv",
        "up_blocks.2.resnets.2.time_emb_proj",
        "add_embedding.linear_2",
        "conv_out",
    ]


def test_sdxl_is_told_by_the_prompts_that_it_reads(tmp_path: Path) -> None:
    assert read(tmp_path, lora(TO_K, inputs=2048)).is_sdxl
    assert not read(tmp_path, lora(TO_K, inputs=768)).is_sdxl


def test_where_kohya_says_no_alpha_it_is_the_rank(tmp_path: Path) -> None:
    stored = read(tmp_path, lora(TO_K) | lora(TO_OUT, alpha=1))
    assert (stored.scale_of(TO_K), stored.scale_of(TO_OUT)) == (1.0, 0.25)


def test_tensors_keep_their_bytes_on_the_way_to_the_service(tmp_path: Path) -> None:
    stored = read(tmp_path, lora(TO_K, alpha=2), dtype="F16")
    write_upload(stored, tmp_path / "upload")
    tensors, metadata = read_tensors(tmp_path / "upload")
    assert [(item.name, item.dtype, item.shape) for item in tensors] == [
        (f"unet.{TO_K}.lora_A.weight", "F16", (4, 8)),
        (f"unet.{TO_K}.lora_B.weight", "F16", (6, 4)),
    ]
    assert numbers(tensors[1], tmp_path / "upload") == [float(number + 1) for number in range(24)]
    assert json.loads(metadata["lora_adapter_metadata"])["unet.lora_alpha"] == 2.0


def test_doras_lengths_are_as_peft_has_them(tmp_path: Path) -> None:
    kernel = kohya(CONVOLUTION, lora_down__weight=(4, 5, 3, 3), lora_up__weight=(6, 4, 1, 1), dora_scale=(6, 1, 1, 1))
    stored = read(tmp_path, lora(TO_K, dora_scale=(6, 1)) | kernel)
    assert stored.config["use_dora"] is True
    assert stored.layers[TO_K]["lora_magnitude_vector"].shape == (6,)
    assert stored.layers[CONVOLUTION]["lora_magnitude_vector"].shape == (1, 6, 1, 1)


def test_lohas_kernel_with_a_core(tmp_path: Path) -> None:
    parts = {f"hada_w{number}_{side}": (4, 6 if side == "a" else 5) for number in (1, 2) for side in "ab"}
    stored = read(tmp_path, kohya(CONVOLUTION, **parts, hada_t1=(4, 4, 3, 3), hada_t2=(4, 4, 3, 3), alpha=((), [1.0])))
    assert (stored.kind, stored.rank, stored.alpha) == ("LOHA", 4, 1.0)
    assert stored.config["use_effective_conv2d"] is True


def test_lokr_of_two_full_factors_has_no_alpha_in_lycoris(tmp_path: Path) -> None:
    # 12 x 16 as (2 x 2) and (6 x 8): LyCORIS scales them by 1, whatever alpha says. PEFT has them full from rank 4 on.
    stored = read(tmp_path, kohya(TO_K, lokr_w1=(2, 2), lokr_w2=(6, 8), alpha=((), [0.5])))
    assert (stored.rank, stored.scale_of(TO_K)) == (4, 1.0)
    assert (stored.config["decompose_factor"], stored.config["decompose_both"]) == (2, False)


def test_lokr_whose_factors_are_of_low_rank(tmp_path: Path) -> None:
    low = kohya(TO_K, lokr_w1=(2, 2), lokr_w2_a=(6, 3), lokr_w2_b=(3, 8), alpha=((), [1.5]))
    # Its outputs are odd: PEFT divides them by 1.
    other = kohya(TO_OUT, lokr_w1=(1, 2), lokr_w2_a=(7, 3), lokr_w2_b=(3, 8), alpha=((), [1.5]))
    stored = read(tmp_path, low | other)
    assert (stored.rank, stored.alpha, stored.config["decompose_factor"]) == (3, 1.5, 2)
    # As near to the root as can be: factor -1.
    square = kohya(TO_K, lokr_w1=(4, 4), lokr_w2_a=(4, 1), lokr_w2_b=(1, 4)) | kohya(
        TO_OUT, lokr_w1=(8, 8), lokr_w2_a=(8, 1), lokr_w2_b=(1, 8)
    )
    assert read(tmp_path, square).config["decompose_factor"] == -1


@pytest.mark.parametrize(
    "names",
    [
        ("lora_A.weight", "lora_B.weight"),
        ("lora.down.weight", "lora.up.weight"),
    ],
)
def test_diffusers_names_without_metadata_mean_a_scale_of_1(names: tuple[str, str], tmp_path: Path) -> None:
    down, up = names
    stored = read(tmp_path, {f"unet.{TO_K}.{down}": (4, 8), f"unet.{TO_K}.{up}": (6, 4)})
    assert (stored.rank, stored.alpha) == (4, 4.0)
    assert stored.layers[TO_K].keys() == {"lora_A.weight", "lora_B.weight"}


def test_diffusers_oldest_names_are_of_attention_processors(tmp_path: Path) -> None:
    processor = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor"
    content = {
        f"{processor}.{layer}_lora.{part}.weight": shape
        for layer in ("to_q", "to_out")
        for part, shape in (("down", (4, 8)), ("up", (6, 4)))
    }
    assert read(tmp_path, content).layers.keys() == {TO_OUT, TO_OUT.replace("to_out.0", "to_q")}


def test_diffusers_metadata_say_scale_and_patterns(tmp_path: Path) -> None:
    config = {"unet.r": 4, "unet.lora_alpha": 1, "unet.alpha_pattern": {"to_out.0": 8}, "text_encoder.r": 2}
    content = {f"unet.{name}": said for name, said in (linear(TO_K) | linear(TO_OUT)).items()}
    stored = read(tmp_path, content, {"lora_adapter_metadata": json.dumps(config)})
    assert (stored.scale_of(TO_K), stored.scale_of(TO_OUT)) == (0.25, 2.0)


def test_pefts_patterns_are_expressions_and_its_rslora_divides_by_the_root(tmp_path: Path) -> None:
    folder = peft(
        tmp_path / "a",
        linear(TO_K, rank=4) | linear(TO_OUT, rank=16),
        peft_type="LORA",
        r=4,
        lora_alpha=2,
        use_rslora=True,
        rank_pattern={r"attn1\.to_(out\.0|q)": 16},
        base_model_name_or_path="sd/one",
        lora_dropout=0.1,
        bias="none",
        init_lora_weights=True,
    )
    stored = read_adapter(folder)
    assert stored.scale_of(TO_K) == pytest.approx(2 / sqrt(4))
    assert stored.scale_of(TO_OUT) == pytest.approx(2 / sqrt(16))
    assert stored.base_model == "sd/one"


def test_a_folder_with_diffusers_file_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    content = {f"unet.{name}": said for name, said in linear(TO_K).items()}
    (folder / "pytorch_lora_weights.safetensors").write_bytes(file_of(content))
    assert read_adapter(folder).rank == 4


def test_what_is_read_is_exported_with_each_layers_own_alpha(tmp_path: Path) -> None:
    content = lora(TO_K, alpha=2) | lora(TO_OUT, rank=8, alpha=1)
    stored = read(tmp_path, content)
    out = tmp_path / "out.safetensors"
    [note, _] = written(FORMATS["kohya"], stored, out)
    assert "its layers have several alphas" in note
    tensors, _ = read_tensors(out)
    found = {item.name: item for item in tensors}
    assert found.keys() == content.keys()
    assert [numbers(found[name], out) for name in content if name.endswith(".alpha")] == [[2.0], [1.0]]
    [note] = written(FORMATS["diffusers"], stored, tmp_path / "other.safetensors")
    assert "0.125 to 0.5" in note


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.pth"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    refused(tmp_path / name, "ADAPTER_PICKLED", "never read here", "safetensors.torch.save_file")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused(folder, "ADAPTER_PICKLED", "adapter_model.bin")


def test_what_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "PATH_NOT_FOUND", "is not there")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "ADAPTER_UNREADABLE", "has neither adapter_model.safetensors nor")


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        (
            lora(TO_K) | {"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": ()},
            "ADAPTER_TEXT_ENCODER",
            "lora_te_text",
        ),
        (
            {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 8)},
            "ADAPTER_TEXT_ENCODER",
            "only the UNet's layers are taken",
        ),
        (
            lora(TO_K) | {"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": ()},
            "ADAPTER_TEXT_ENCODER",
            "lora_te2_text",
        ),
        (lora(TO_K, lora_mid__weight=(4, 4, 3, 3)), "ADAPTER_UNSUPPORTED", "Tucker"),
        (lora(TO_K, diff_b=(6,)), "ADAPTER_UNSUPPORTED", "a difference of biases"),
        (lora(TO_K, scalar=()), "ADAPTER_UNSUPPORTED", "use_scalar"),
        (kohya(TO_K, oft_blocks=(2, 4, 4)), "ADAPTER_UNSUPPORTED", "which are not PEFT's"),
        (lora(TO_K, something__else=(1,)), "ADAPTER_KEYS_UNKNOWN", "something.else (1 in all)"),
        (lora(TO_K) | {"model.diffusion_model.out.0.bias": (4,)}, "ADAPTER_KEYS_UNKNOWN", "diffusion_model.out.0.bias"),
        (lora(TO_K) | {"lora_unet_Unknown.alpha": ()}, "ADAPTER_KEYS_UNKNOWN", "lora_unet_Unknown.alpha"),
        ({"conv_in.weight": (4, 4)}, "ADAPTER_KEYS_UNKNOWN", "has no adapter under names that are known"),
        (kohya(TO_K, lora_down__weight=(4, 8)), "ADAPTER_KEYS_MISSING", f"lacks lora_B.weight of {TO_K}"),
        (lora(TO_K) | kohya(TO_OUT, alpha=()), "ADAPTER_KEYS_MISSING", f"nothing else of {TO_OUT}"),
        (lora(TO_K, dora_scale=(6, 1)) | lora(TO_OUT), "ADAPTER_KEYS_MISSING", f"dora_scale of {TO_OUT}"),
        (lora(TO_K, dora_scale=(1, 8)), "DORA_AXIS", "a length for each input"),
        (lora(TO_K, dora_scale=(5, 1)), "DORA_AXIS", "one for each of the 6 outputs"),
        (
            kohya(TO_K, hada_w1_a=(6, 4), hada_w1_b=(4, 8), hada_w2_a=(6, 4), hada_w2_b=(4, 8), dora_scale=(6, 1)),
            "ADAPTER_UNSUPPORTED",
            "PEFT has DoRA for LoRA alone",
        ),
        (
            lora(TO_K) | kohya(TO_OUT, lokr_w1=(2, 2), lokr_w2=(3, 4)),
            "ADAPTER_UNSUPPORTED",
            "has layers of several kinds: LORA",
        ),
        (kohya(TO_K, lokr_w1=(2, 2), lokr_w2_a=(6, 3)), "ADAPTER_KEYS_MISSING", "lokr_w2 or lokr_w2_b"),
        (
            kohya(TO_K, lokr_w1=(2, 2), lokr_w2=(6, 8), lokr_w2_a=(6, 3), lokr_w2_b=(3, 8)),
            "ADAPTER_KEYS_UNKNOWN",
            "whole and as a product",
        ),
        (
            kohya(TO_K, lokr_w1=(2, 2), lokr_w2_a=(6, 7), lokr_w2_b=(7, 8)),
            "ADAPTER_UNSUPPORTED",
            "as PEFT's LoKr does not",
        ),
        (
            kohya(TO_K, lokr_w1=(2, 3), lokr_w2=(6, 8)) | kohya(TO_OUT, lokr_w1=(5, 2), lokr_w2=(6, 6)),
            "ADAPTER_UNSUPPORTED",
            "for no one factor",
        ),
        (kohya(TO_K, lora_down__weight=(4, 8), lora_up__weight=(6, 3)), "ADAPTER_UNREADABLE", "several ranks"),
        (lora(TO_K, rank=0), "ADAPTER_UNREADABLE", "of no rank"),
        (lora(TO_K, alpha=float("nan")), "ADAPTER_UNREADABLE", "is no number"),
        (kohya(TO_K, lora_down__weight=(4, 8), lora_up__weight=(6, 4), alpha=(2,)), "ADAPTER_UNREADABLE", "one number"),
    ],
)
def test_what_is_refused(content: Content, reason: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(content))
    refused(path, reason, said)


def test_other_types_of_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(lora(TO_K), dtype="I32"))
    refused(path, "ADAPTER_UNSUPPORTED", "(I32)", "F32, F16, BF16")


def test_keys_that_are_listed_are_few(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(lora(TO_K) | {f"other.{number}": (1,) for number in range(1000)}))
    assert len(refused(path, "ADAPTER_KEYS_UNKNOWN", "(1000 in all)").message) < 1000


LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}


@pytest.mark.parametrize(
    ("config", "reason", "said"),
    [
        ({"peft_type": "VERA"}, "ADAPTER_UNSUPPORTED", "of PEFT's kind 'VERA'"),
        ({"peft_type": ["LORA"]}, "ADAPTER_UNSUPPORTED", "of PEFT's kind ['LORA']"),
        (LORA | {"r": 8}, "ADAPTER_UNREADABLE", "the rank 4, and its configuration says 8"),
        (LORA | {"lora_alpha": "4"}, "ADAPTER_UNREADABLE", "says '4' for alpha"),
        (LORA | {"alpha_pattern": {"(": 4}}, "ADAPTER_UNREADABLE", "alpha_pattern of '('"),
        (LORA | {"bias": "all"}, "ADAPTER_UNSUPPORTED", "bias 'all'"),
        (LORA | {"modules_to_save": ["conv_in"]}, "ADAPTER_UNSUPPORTED", "modules_to_save"),
        (LORA | {"lora_bias": True}, "ADAPTER_UNSUPPORTED", "lora_bias True"),
        (LORA | {"not_invented_yet": {"a": 1}}, "ADAPTER_UNSUPPORTED", "not_invented_yet"),
        (LORA | {"init_lora_weights": "pissa_niter_4"}, "ADAPTER_UNSUPPORTED", "from which they were taken off"),
        (LORA | {"use_dora": True}, "ADAPTER_KEYS_MISSING", "has no lengths of DoRA"),
        ({"peft_type": "LOHA", "r": 4, "alpha": 4}, "ADAPTER_KEYS_UNKNOWN", "lora_A.weight"),
    ],
)
def test_what_is_refused_of_pefts_configuration(config: dict[str, Any], reason: str, said: str, tmp_path: Path) -> None:
    refused(peft(tmp_path / "a", linear(TO_K), **config), reason, said)


@pytest.mark.parametrize("version", [None, "0.17.1", "0.9.0"])
def test_rotations_that_mean_something_else_since_are_refused(version: str | None, tmp_path: Path) -> None:
    content = {f"{TO_K}.oft_R.weight": (2, 6)}
    config = {"peft_type": "OFT", "r": 0, "oft_block_size": 4, "use_cayley_neumann": True, "peft_version": version}
    refused(peft(tmp_path / "a", content, **config), "ADAPTER_UNSUPPORTED", "since 0.18")
    stored = read_adapter(peft(tmp_path / "b", content, **config | {"peft_version": "0.18.0"}))
    assert stored.config["peft_version"] == "0.18.0"


def test_pefts_weights_without_their_configuration(tmp_path: Path) -> None:
    folder = peft(tmp_path / "a", linear(TO_K), **LORA)
    refused(folder / "adapter_model.safetensors", "ADAPTER_UNREADABLE", "give the folder that has adapter_config.json")
    (folder / "adapter_config.json").write_text("[1]")
    refused(folder, "ADAPTER_UNREADABLE", "is not a JSON object")
    (folder / "adapter_config.json").unlink()
    refused(folder, "ADAPTER_KEYS_MISSING", "lacks adapter_config.json")


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(lora(TO_K))[:-1])
    refused(path, "ADAPTER_UNREADABLE", "its header speaks of")
