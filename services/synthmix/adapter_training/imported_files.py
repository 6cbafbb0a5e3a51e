"""An uploaded adapter's file, taken apart before any library reads it: its configuration, and the layers it is for.

Nothing is taken over of what the file says of itself but the few options below, since PEFT would act on any other: it
adapts other modules, adds biases, or factors the base model's weights.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from synthmix.adapter_training.methods import BOFT_MOST_BYTES
from synthmix.latent_diffusion.part_layers import PartLayers
from synthmix.service_kit.adapter_payloads import (
    LORA_CONFIG,
    LORA_PREFIX,
    LORA_WEIGHTS,
    PEFT_CONFIG,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    json_object,
)
from synthmix.service_kit.quantities import byte_size, listed, shortened
from synthmix.service_kit.safetensors_header import read_header

SHOWN_LAYERS = 3
LARGEST_RANK = 4096
_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class ImportedFile:
    """What the file is.

    Attributes:
        config: PEFT's configuration: no other options than those below.
        weights: What the file is called as a payload.
    """

    config: dict[str, Any]
    weights: str

    @property
    def config_file(self) -> bytes | None:
        """The payload that says the configuration, where the weights do not."""
        return None if self.weights == LORA_WEIGHTS else json.dumps(self.config, indent=2, sort_keys=True).encode()

    @property
    def form(self) -> dict[str, Any]:
        """What it is, as settings of an adapter: method, and rank and alpha or a block size."""
        kind, config = self.config["peft_type"], self.config
        if kind == "LORA":
            method = "dora" if config.get("use_dora") else "lora"
            return {"method": method, "rank": config["r"], "alpha": float(config["lora_alpha"])}
        if kind in ("LOHA", "LOKR"):
            return {"method": kind.lower(), "rank": config["r"], "alpha": float(config["alpha"])}
        return {"method": kind.lower(), "block_size": config[f"{kind.lower()}_block_size"]}


def read_imported(path: Path, layers: PartLayers) -> ImportedFile:
    """The file of an adapter for a base model of these layers.

    The tensors' names and shapes are compared with the layers when these are made: `load_adapter`.

    Raises:
        ValueError: It is not an adapter's, or of another base model. It says what is wrong.
    """
    header, _ = read_header(path)
    metadata = header.get("__metadata__", {})
    try:
        with safe_open(path, framework="np") as file:  # whether header and length agree
            file.keys()
    except SafetensorError as error:
        raise ValueError(f"it is not a whole safetensors file ({shortened(str(error), 80)})") from error
    if not isinstance(metadata, dict):
        raise ValueError("it has metadata that are not text")
    if LORA_CONFIG in metadata:
        prefix, weights = LORA_PREFIX, LORA_WEIGHTS
        said = {
            key.removeprefix(prefix): value for key, value in json_object(metadata[LORA_CONFIG], LORA_CONFIG).items()
        }
    elif PEFT_CONFIG in metadata:
        prefix, weights = PEFT_PREFIX, PEFT_WEIGHTS
        said = json_object(metadata[PEFT_CONFIG], PEFT_CONFIG)
    else:
        raise ValueError(
            f"its metadata have neither {LORA_CONFIG} nor {PEFT_CONFIG}; `synthmix adapters import` writes them for "
            "files of other programs"
        )
    config = _config(said)
    if (config["peft_type"] == "LORA") != (weights == LORA_WEIGHTS):
        raise ValueError(f"it is of PEFT's kind {config['peft_type']}, whose configuration is not under this name")
    names = [name for name in header if name != "__metadata__"]
    _check_tensors(header, names, prefix)
    _check_layers(config, layers)
    _check_memory(config, header, prefix, layers)
    return ImportedFile(config, weights)


def _check_tensors(header: Mapping[str, Any], names: list[str], prefix: str) -> None:
    if not names:
        raise ValueError("it has no tensors")
    others = [name for name in names if not name.startswith(prefix)]
    if others:
        raise ValueError(f"it has what is not the UNet's: {listed(others, SHOWN_LAYERS)}")
    wrong = [f"{name} ({header[name]['dtype']})" for name in names if header[name]["dtype"] not in _DTYPES]
    if wrong:
        raise ValueError(f"it has tensors of other types than {', '.join(_DTYPES)}: {listed(wrong, SHOWN_LAYERS)}")


def _check_layers(config: Mapping[str, Any], layers: PartLayers) -> None:
    named = config["target_modules"]
    known = {layer.name for layer in layers.adaptable}
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ValueError(
            f"it is for layers that this base model has not: {listed(unknown, SHOWN_LAYERS)} ({len(unknown)} of "
            f"{len(named)})"
        )
    for pattern in ("rank_pattern", "alpha_pattern"):
        others = sorted(config.get(pattern, {}).keys() - set(named))
        if others:
            raise ValueError(f"its {pattern} is of layers that it does not adapt: {listed(others, SHOWN_LAYERS)}")


def _check_memory(config: Mapping[str, Any], header: Mapping[str, Any], prefix: str, layers: PartLayers) -> None:
    """PEFT makes its layers by the configuration, before it sees the tensors: a few bytes may say many gigabytes."""
    kind, named = config["peft_type"], set(config["target_modules"])
    if kind == "BOFT":
        memory_bytes = sum(4 * layer.inputs**2 for layer in layers.adaptable if layer.name in named)
        if memory_bytes > BOFT_MOST_BYTES:
            raise ValueError(
                f"it takes {byte_size(memory_bytes)} for its permutations, more than {byte_size(BOFT_MOST_BYTES)}"
            )
    factor = {"LORA": "lora_A.weight", "LOHA": "hada_w1_b"}.get(kind)
    if factor is None:  # their sides are those of the layers
        return
    for layer in sorted(named):
        rank = config.get("rank_pattern", {}).get(layer, config["r"])
        key = f"{prefix}{layer}.{factor}"
        shape = header[key]["shape"] if key in header else [0]
        if shape[0] != rank:
            raise ValueError(
                f"it has {layer} in the rank {shape[0]}, and its configuration says {rank}"
                if key in header
                else f"it lacks {key}"
            )


def _config(said: Mapping[str, Any]) -> dict[str, Any]:
    kind = said.get("peft_type")
    if not isinstance(kind, str) or kind not in _OPTIONS:
        raise ValueError(f"it is of a kind {shortened(repr(kind), 40)}, which is none of {', '.join(_OPTIONS)}")
    options = _OPTIONS[kind]
    unknown = sorted(said.keys() - options.keys())
    if unknown:
        raise ValueError(f"its configuration has {listed(unknown, SHOWN_LAYERS)}, which is not taken over")
    for name, (is_right, required) in options.items():
        if name not in said:
            if required:
                raise ValueError(f"its configuration lacks {name}")
        elif not is_right(said[name]):
            raise ValueError(f"its configuration has {name} {shortened(repr(said[name]), 60)}")
    return dict(said)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_RANK


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1 << 16


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _of_layers(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


_Options = dict[str, tuple[Callable[[Any], bool], bool]]
# How an option's value is told to be one, and whether it must be there.
_COMMON: _Options = {"peft_type": (lambda value: True, True), "target_modules": (_are_names, True)}
_PATTERNS: _Options = {"rank_pattern": (_of_layers(_is_rank), False), "alpha_pattern": (_of_layers(_is_number), False)}
_LYCORIS: _Options = {
    **_COMMON,
    **_PATTERNS,
    "r": (_is_rank, True),
    "alpha": (_is_number, True),
    "use_effective_conv2d": (_is_flag, False),
}
_OPTIONS: dict[str, _Options] = {
    "LORA": {
        **_COMMON,
        **_PATTERNS,
        "r": (_is_rank, True),
        "lora_alpha": (_is_number, True),
        "use_dora": (_is_flag, False),
    },
    "LOHA": _LYCORIS,
    "LOKR": {
        **_LYCORIS,
        "decompose_factor": (lambda value: value == -1 or _is_rank(value), True),
        "decompose_both": (_is_flag, False),
    },
    "OFT": {
        **_COMMON,
        "r": (_is_size, True),
        "oft_block_size": (_is_size, True),
        "coft": (_is_flag, False),
        "eps": (_is_number, False),
        "block_share": (_is_flag, False),
        "use_cayley_neumann": (_is_flag, True),
        "num_cayley_neumann_terms": (lambda value: _is_size(value) and value > 0, True),
        # By which its next reader knows what the rotations mean.
        "peft_version": (lambda value: isinstance(value, str) and len(value) < 50, False),
    },
    "BOFT": {
        **_COMMON,
        "boft_block_size": (_is_size, True),
        "boft_block_num": (_is_size, False),
        # Without PEFT's extension for CUDA, which workers have not, it would be 1 whatever is said.
        "boft_n_butterfly_factor": (lambda value: value == 1, False),
    },
}
