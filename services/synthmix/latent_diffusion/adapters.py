"""The files of an adapter, and putting them into a base model.

An adapter of LoRA's kind is one file, as diffusers' `load_lora_weights` and others read it; any other is a folder in
PEFT's layout, as `PeftModel.from_pretrained(unet, folder)` reads it. Here both are read the same way, since what a file
lacks, or has too much of, diffusers and PEFT leave out without an error.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.boft import layer as boft_layer
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file

from synthmix.latent_diffusion.class_tokens import load_class_tokens
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET
from synthmix.service_kit.adapter_payloads import (
    CLASS_TOKENS,
    CLIP_PREFIX,
    LENGTHS,
    LORA_CONFIG,
    LORA_PREFIX,
    LORA_WEIGHTS,
    PEFT_CONFIG,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    TEXT_FOLDER,
    TEXT_LENGTHS,
    TEXT_PREFIX,
    UNET_WEIGHTS,
)

Value = TypeVar("Value")

# The one adapter of a model, by PEFT's default name.
NAME = "default"
# The parts of a base model that an adapter may be in, with what stands before the names of a part's parameters.
PARTS: Mapping[str, str] = MappingProxyType({UNET: "", TEXT_ENCODER: TEXT_PREFIX})
SHOWN_NAMES = 3
# In files of recipe versions up to 2, where they stand beside PEFT's names for the factors of convolutions.
_OLD_NAMES = {".lora.down.": ".lora_A.", ".lora.up.": ".lora_B."}

# Otherwise PEFT compiles its extension for CUDA when the first layer of BOFT is made, or warns that it cannot. Without
# it there is one butterfly factor, as here.
boft_layer._FBD_CUDA = False


class _Stored(NamedTuple):
    """What the files say of the adapter in one part."""

    config: PeftConfig
    tensors: dict[str, torch.Tensor]


def adapter_layers(module: Any) -> dict[str, BaseTunerLayer]:
    """PEFT's layers in a part, by the names of the layers in whose places they are."""
    return {name: module for name, module in module.named_modules() if isinstance(module, BaseTunerLayer)}


def is_trained_itself(module: Any) -> bool:
    """Whether a part is trained without an adapter, or has been."""
    return not adapter_layers(module) and any(value.requires_grad for value in module.parameters())


def adapted_parts(model: LatentDiffusion) -> list[str]:
    """The parts that have an adapter."""
    return [part for part in PARTS if getattr(getattr(model, part), "peft_config", None)]


def part_of(values: Mapping[str, Value], part: str) -> dict[str, Value]:
    """What belongs to one part, by its own names, of values by the names of an adapter's parameters in all parts."""
    others = tuple(prefix for prefix in PARTS.values() if prefix)
    prefix = PARTS[part]
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if (name.startswith(prefix) if prefix else not name.startswith(others))
    }


def load_adapter(model: LatentDiffusion, folder: Path) -> None:
    """Puts the adapter whose files are in a folder into a base model: its UNet, its text encoder, tokens of classes.

    Raises:
        ValueError: It lacks weights of a layer that it names, or has others, or some of another shape.
    """
    if (folder / CLASS_TOKENS).is_file():
        load_class_tokens(model, load_file(folder / CLASS_TOKENS))
    if (folder / UNET_WEIGHTS).is_file():
        _replace_weights(model.unet, load_file(folder / UNET_WEIGHTS))
        return
    for part, stored in _stored(folder).items():
        _add(model, part, stored)


def load_sum(model: LatentDiffusion, folders: Sequence[Path], weights: Sequence[float]) -> None:
    """Puts the weighted sum of the updates of adapters of LoRA's kind into a base model, as one adapter.

    It is exact: w1 B1 A1 + w2 B2 A2 = [w1 B1 | w2 B2] [A1 ; A2]. Tokens of classes become their weighted mean: all
    were learned from the same first vectors, so that this is the weighted sum of what they have learned.

    Args:
        folders: Of adapters of one training each, with the same settings.
        weights: Of each; their sum is 1.

    Raises:
        ValueError: As `load_adapter`; or the adapters are of another kind, or differ in their layers or ranks.
    """
    of_tokens = [folder / CLASS_TOKENS for folder in folders if (folder / CLASS_TOKENS).is_file()]
    if of_tokens:
        vectors = _in_common([load_file(path) for path in of_tokens])
        means = {name: torch.stack(_times(values, weights)).sum(dim=0) for name, values in vectors.items()}
        load_class_tokens(model, means)
    stored = [_stored(folder) for folder in folders]
    if any(of_parts.keys() != stored[0].keys() for of_parts in stored):
        raise ValueError("it is in other parts of the base model than what it is to be added to")
    for part in stored[0]:
        _add(model, part, _summed([of_parts[part] for of_parts in stored], weights))


def weights(model: LatentDiffusion) -> dict[str, dict[str, torch.Tensor]]:
    """Those of each part that an adapter may be in, by their names; not copied."""
    return {part: {name: value.data for name, value in getattr(model, part).named_parameters()} for part in PARTS}


def add_up(layers: Sequence[BaseTunerLayer]) -> bool:
    """Whether there are layers, each of which adds to what its layer answers a product that can be multiplied."""
    return bool(layers) and all(
        isinstance(layer, LycorisLayer) or (isinstance(layer, LoraLayer) and not layer.lora_variant) for layer in layers
    )


def scale_layers(model: LatentDiffusion, scale: float) -> None:
    """Multiplies what an adapter's layers add. All of them `add_up`."""
    for part in PARTS:
        for layer in adapter_layers(getattr(model, part)).values():
            layer.scale_layer(scale)


def scale_weights(model: LatentDiffusion, before: Mapping[str, Mapping[str, torch.Tensor]], scale: float) -> None:
    """Multiplies by how much weights differ from what they were: an adapter's update of any method, once it is in them.

    W + scale (W' - W), in float32: of an update that is added it is what a factor beside the layer does, of one that
    turns or normalises weights it goes along the line between them (Wortsman et al. 2022, arXiv:2109.01903).

    Args:
        before: As `weights` returned them.
    """
    for part in PARTS:
        for name, value in getattr(model, part).named_parameters():
            earlier = before[part].get(name)
            if earlier is not None and earlier.data_ptr() != value.data_ptr():
                # Instead of writing into it: it may be another copy's.
                value.data = torch.lerp(earlier.float(), value.data.float(), scale).to(value.dtype)


def changes(
    model: LatentDiffusion, before: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, dict[str, torch.Tensor]]:
    """What adapters that are in the weights have changed in these: W' - W of each that differs, in float32.

    Args:
        before: As `weights` returned them.
    """
    return {
        part: {
            name: value.data.float() - earlier.float()
            for name, value in getattr(model, part).named_parameters()
            if (earlier := before[part].get(name)) is not None and earlier.data_ptr() != value.data_ptr()
        }
        for part in PARTS
    }


def add_changes(
    model: LatentDiffusion, changed: Sequence[Mapping[str, Mapping[str, torch.Tensor]]], factors: Sequence[float]
) -> None:
    """Adds what several adapters change, each multiplied by its factor: W + f1 (W1 - W) + f2 (W2 - W) + ...

    Of updates that are added it is their weighted sum, whatever their methods, layers and ranks (task arithmetic:
    Ilharco et al. 2023, arXiv:2212.04089).

    Args:
        changed: As `changes` returned them, of each adapter.
    """
    for part in PARTS:
        for name, value in getattr(model, part).named_parameters():
            added = [
                factor * item[part][name] for item, factor in zip(changed, factors, strict=True) if name in item[part]
            ]
            if added:
                # Instead of writing into it: it may be another copy's.
                value.data = (value.data.float() + torch.stack(added).sum(dim=0)).to(value.dtype)


def _summed(stored: Sequence[_Stored], weights: Sequence[float]) -> _Stored:
    config = copy.copy(stored[0].config)
    if not isinstance(config, LoraConfig) or config.use_dora:
        raise ValueError("it is of a kind whose updates do not add up")
    if any(other.config.to_dict() != config.to_dict() for other in stored[1:]):
        raise ValueError("it differs in its layers or ranks from what it is to be added to")
    config.r, config.lora_alpha = len(stored) * config.r, len(stored) * config.lora_alpha
    config.rank_pattern = {name: len(stored) * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: len(stored) * alpha for name, alpha in config.alpha_pattern.items()}
    tensors = {}
    for key, values in _in_common([adapter.tensors for adapter in stored]).items():
        if ".lora_A." in key:
            tensors[key] = torch.cat(values)
        else:
            tensors[key] = torch.cat(_times(values, weights), dim=1)
    return _Stored(config, tensors)


def _times(values: Sequence[torch.Tensor], weights: Sequence[float]) -> list[torch.Tensor]:
    return [weight * value for weight, value in zip(weights, values, strict=True)]


def _in_common(stored: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """The tensors of several adapters by their names. Raises ValueError unless all have the same, of one shape."""
    first = stored[0]
    for other in stored[1:]:
        _check_tensors(first, other)
    return {key: [tensors[key] for tensors in stored] for key in first}


def _add(model: LatentDiffusion, part: str, stored: _Stored) -> None:
    module = getattr(model, part)
    module.add_adapter(stored.config)
    _check_tensors(get_peft_model_state_dict(module), stored.tensors)
    set_peft_model_state_dict(module, stored.tensors)
    module.requires_grad_(False).eval()


def _replace_weights(module: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    _check_tensors(module.state_dict(), tensors)
    for name, value in module.named_parameters():
        # Instead of writing into it: it is the kept base model's.
        value.data = tensors[name].to(value.device, value.dtype)


def _stored(folder: Path) -> dict[str, _Stored]:
    if (folder / LORA_WEIGHTS).is_file():
        return _lora(folder / LORA_WEIGHTS)
    if (folder / CLASS_TOKENS).is_file() and not (folder / PEFT_WEIGHTS).is_file():
        return {}
    return _peft(folder)


def _lora(path: Path) -> dict[str, _Stored]:
    with safe_open(path, framework="pt") as file:
        said: dict[str, Any] = json.loads((file.metadata() or {})[LORA_CONFIG])
    # Without "unet.", as its parameters' names are.
    tensors = {_name(key): value for key, value in load_file(path).items()}
    stored = {}
    for part in PARTS:
        options = part_of({key.removeprefix(LORA_PREFIX): value for key, value in said.items()}, part)
        if options:
            # What the factors began with is of no use, and takes time.
            config = PeftConfig.from_peft_type(**options | {"init_lora_weights": True})
            named = {key.removeprefix(CLIP_PREFIX): value for key, value in part_of(tensors, part).items()}
            stored[part] = _Stored(config, {key.replace(TEXT_LENGTHS, LENGTHS): value for key, value in named.items()})
    return stored


def _peft(folder: Path) -> dict[str, _Stored]:
    stored = {}
    for part, place in ((UNET, folder), (TEXT_ENCODER, folder / TEXT_FOLDER)):
        if part == UNET or (place / PEFT_CONFIG).is_file():
            tensors = load_file(place / PEFT_WEIGHTS)
            named = {key.removeprefix(PEFT_PREFIX): value for key, value in tensors.items()}
            stored[part] = _Stored(PeftConfig.from_pretrained(str(place)), named)
    return stored


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
