"""The files of an adapter, and putting them into a base model.

An adapter of LoRA's kind is one file, as diffusers' `load_lora_weights` and others read it; any other is a folder in
PEFT's layout, as `PeftModel.from_pretrained(unet, folder)` reads it. Here both are read the same way, since what a file
lacks, or has too much of, diffusers and PEFT leave out without an error.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.boft import layer as boft_layer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file

from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.adapter_payloads import LORA_CONFIG, LORA_PREFIX, LORA_WEIGHTS, PEFT_PREFIX, PEFT_WEIGHTS

SHOWN_NAMES = 3
# In files of recipe versions up to 2, where they stand beside PEFT's names for the factors of convolutions.
_OLD_NAMES = {".lora.down.": ".lora_A.", ".lora.up.": ".lora_B."}

# Otherwise PEFT compiles its extension for CUDA when the first layer of BOFT is made, or warns that it cannot. Without
# it there is one butterfly factor, as here.
boft_layer._FBD_CUDA = False


def adapter_layers(unet: Any) -> dict[str, BaseTunerLayer]:
    """PEFT's layers in a UNet, by the names of the layers in whose places they are."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, BaseTunerLayer)}


def load_adapter(model: LatentDiffusion, folder: Path) -> None:
    """Puts the adapter whose files are in a folder into a base model's UNet.

    Raises:
        ValueError: It lacks weights of a layer that it names, or has others, or some of another shape.
    """
    config, tensors = _lora(folder / LORA_WEIGHTS) if (folder / LORA_WEIGHTS).is_file() else _peft(folder)
    model.unet.add_adapter(config)
    _check_tensors(get_peft_model_state_dict(model.unet), tensors)
    set_peft_model_state_dict(model.unet, tensors)
    model.unet.requires_grad_(False).eval()


def _lora(path: Path) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        said: dict[str, Any] = json.loads((file.metadata() or {})[LORA_CONFIG])
    options = {key.removeprefix(LORA_PREFIX): value for key, value in said.items()}
    tensors = {_name(key): value for key, value in load_file(path).items()}
    # What the factors began with is of no use, and takes time.
    return PeftConfig.from_peft_type(**options | {"init_lora_weights": True}), tensors


def _peft(folder: Path) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    tensors = {key.removeprefix(PEFT_PREFIX): value for key, value in load_file(folder / PEFT_WEIGHTS).items()}
    return PeftConfig.from_pretrained(str(folder)), tensors


def _name(key: str) -> str:
    for old, new in _OLD_NAMES.items():
        key = key.replace(old, new)
    return key.removeprefix(LORA_PREFIX)


def _check_tensors(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """PEFT leaves what is missing as it began, and what it does not know unused."""
    missing, unknown = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    for names, problem in ((missing, "lacks"), (unknown, "has what no layer takes:")):
        if names:
            raise ValueError(f"it {problem} {', '.join(sorted(names)[:SHOWN_NAMES])} ({len(names)} in all)")
    other = [
        f"{name} of the shape {list(tensor.shape)}, where the layer takes {list(wanted[name].shape)}"
        for name, tensor in sorted(found.items())
        if tensor.shape != wanted[name].shape
    ]
    if other:
        raise ValueError(f"it has {'; '.join(other[:SHOWN_NAMES])} ({len(other)} in all)")
