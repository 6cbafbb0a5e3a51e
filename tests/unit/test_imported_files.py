"""What a worker takes of an uploaded adapter: of all that PEFT would act on what is listed, for layers there are."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest

from synthmix.adapter_training.imported_files import read_imported
from synthmix.latent_diffusion.part_layers import layers_of

LAYERS = layers_of({"conv_in.weight": (4, 4, 3, 3), "mid_block.to_q.weight": (6, 8), "norm.weight": (6,)})
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 2.0, "target_modules": ["mid_block.to_q"]}
LOKR = {"peft_type": "LOKR", "r": 2, "alpha": 1.0, "decompose_factor": -1, "target_modules": ["mid_block.to_q"]}
OFT = {
    "peft_type": "OFT",
    "r": 0,
    "oft_block_size": 4,
    "use_cayley_neumann": True,
    "num_cayley_neumann_terms": 5,
    "target_modules": ["mid_block.to_q"],
}


def upload(
    path: Path, config: Any, *, prefix: str = "unet.", key: str = "lora_adapter_metadata", dtype: str = "F32"
) -> Path:
    shapes = {f"{prefix}mid_block.to_q.lora_A.weight": (4, 8), f"{prefix}mid_block.to_q.lora_B.weight": (6, 4)}
    header: dict[str, Any] = {"__metadata__": {key: config if isinstance(config, str) else json.dumps(config)}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


def peft(path: Path, config: Any) -> Path:
    return upload(path, config, prefix="base_model.model.", key="adapter_config.json")


def test_what_a_lora_is(tmp_path: Path) -> None:
    read = read_imported(upload(tmp_path / "a", {f"unet.{key}": value for key, value in LORA.items()}), LAYERS)
    assert read.config == LORA
    assert (read.weights, read.config_file) == ("pytorch_lora_weights.safetensors", None)
    assert read.form == {"method": "lora", "rank": 4, "alpha": 2.0}
    dora = read_imported(upload(tmp_path / "a", LORA | {"use_dora": True}), LAYERS)
    assert dora.form["method"] == "dora"


def test_what_pefts_kinds_are(tmp_path: Path) -> None:
    read = read_imported(peft(tmp_path / "a", LOKR), LAYERS)
    assert read.config_file is not None
    assert json.loads(read.config_file) == LOKR
    assert read.weights == "adapter_model.safetensors"
    assert read.form == {"method": "lokr", "rank": 2, "alpha": 1.0}
    assert read_imported(peft(tmp_path / "a", OFT), LAYERS).form == {"method": "oft", "block_size": 4}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LORA | {"modules_to_save": ["conv_in"]}, "its configuration has modules_to_save, which is not taken over"),
        (LORA | {"bias": "all"}, "its configuration has bias"),
        (LORA | {"init_lora_weights": "pissa"}, "its configuration has init_lora_weights"),
        (LORA | {"use_rslora": True}, "its configuration has use_rslora"),
        (LORA | {"r": 0}, "its configuration has r 0"),
        (LORA | {"r": True}, "its configuration has r True"),
        (LORA | {"r": 10**9}, "its configuration has r 1000000000"),
        (LORA | {"lora_alpha": "2"}, "its configuration has lora_alpha '2'"),
        (LORA | {"target_modules": ".*"}, "its configuration has target_modules '.*'"),
        (LORA | {"target_modules": []}, "its configuration has target_modules []"),
        (LORA | {"rank_pattern": {"mid_block.to_q": -1}}, "its configuration has rank_pattern"),
        (LORA | {"rank_pattern": {"(a*)*": 4}}, r"its rank_pattern is of layers that it does not adapt: (a*)*"),
        ({key: value for key, value in LORA.items() if key != "lora_alpha"}, "its configuration lacks lora_alpha"),
        (
            LORA | {"target_modules": ["mid_block.to_k"]},
            "it is for layers that this base model has not: mid_block.to_k",
        ),
        (LORA | {"target_modules": ["norm"]}, "it is for layers that this base model has not: norm (1 of 1)"),
        (LORA | {"r": 4096}, "it has mid_block.to_q in the rank 4, and its configuration says 4096"),
        (LORA | {"target_modules": ["mid_block.to_q", "conv_in"]}, "it lacks unet.conv_in.lora_A.weight"),
        (LORA | {"peft_type": "VERA"}, "it is of a kind 'VERA'"),
        (LORA | {"peft_type": ["LORA"]}, "it is of a kind ['LORA']"),
        (LOKR, "it is of PEFT's kind LOKR, whose configuration is not under this name"),
        ("[1]", "is not a JSON object"),
        ("{", "is not valid JSON"),
        ('{"r": ' + "[" * 100_000, "is not valid JSON"),
        ('{"peft_type": "LORA", "target_modules": ["mid_block.to_q"], "r": 4, "lora_alpha": NaN}', "lora_alpha nan"),
    ],
)
def test_what_is_not_taken(config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_imported(upload(tmp_path / "a", config), LAYERS)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LORA, "it is of PEFT's kind LORA"),
        (OFT | {"num_cayley_neumann_terms": 0}, "num_cayley_neumann_terms 0"),
        (
            {"peft_type": "BOFT", "boft_block_size": 4, "boft_n_butterfly_factor": 2, "target_modules": ["conv_in"]},
            "boft_n_butterfly_factor 2",
        ),
    ],
)
def test_what_is_not_taken_in_pefts_layout(config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read_imported(peft(tmp_path / "a", config), LAYERS)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = upload(tmp_path / "a", LORA)
    whole = path.read_bytes()
    for data, said in (
        (whole[:-1], "it is not a whole safetensors file"),
        (whole.replace(b"lora_adapter_metadata", b"lora_adapter_metadaty"), "its metadata have neither"),
        (whole[:5], "it ends within the 8 bytes"),
        (struct.pack("<Q", 1 << 40) + whole[8:], "more than"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=said):
            read_imported(path, LAYERS)
    with pytest.raises(ValueError, match=r"it has what is not the UNet's: text_encoder\.mid_block"):
        read_imported(upload(path, LORA, prefix="text_encoder."), LAYERS)
    with pytest.raises(ValueError, match=r"it has tensors of other types than F32, F16, BF16: .* \(I32\)"):
        read_imported(upload(path, LORA, dtype="I32"), LAYERS)
