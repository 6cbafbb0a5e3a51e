"""What a trained adapter is stored as, for `load_adapter` here and for other libraries to read."""

import copy
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save

from synthmix.latent_diffusion.adapters import NAME, adapted_parts, is_trained_itself, part_of
from synthmix.latent_diffusion.class_tokens import stored_vectors
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET
from synthmix.service_kit.adapter_payloads import (
    CLASS_TOKENS,
    CLIP_PREFIX,
    LENGTHS,
    LORA_WEIGHTS,
    PEFT_CONFIG,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    TEXT_FOLDER,
    TEXT_LENGTHS,
    UNET_CONFIG,
    UNET_WEIGHTS,
)

NONE: Mapping[str, torch.Tensor] = MappingProxyType({})
Tensors = dict[str, torch.Tensor]


def adapter_files(model: LatentDiffusion, first_factors: Mapping[str, torch.Tensor] = NONE) -> dict[str, bytes]:
    """The files of the adapter in a base model, by name. They are the same bytes each time.

    Args:
        first_factors: What its training began with, if that was taken off the base model's weights.
    """
    files: dict[str, bytes] = {}
    of_lora: dict[str, tuple[LoraConfig, Tensors]] = {}
    for part in adapted_parts(model):
        module = getattr(model, part)
        tensors = {key: value.detach().cpu().float() for key, value in get_peft_model_state_dict(module).items()}
        config = module.peft_config[NAME]
        if isinstance(config, LoraConfig):
            of_lora[part] = _as_lora(config, tensors, part_of(first_factors, part))
        else:
            folder = "" if part == UNET else f"{TEXT_FOLDER}/"
            files[f"{folder}{PEFT_WEIGHTS}"] = with_sorted_header(
                save({f"{PEFT_PREFIX}{key}": value.contiguous() for key, value in tensors.items()})
            )
            files[f"{folder}{PEFT_CONFIG}"] = _peft_config(config)
    if is_trained_itself(model.unet):
        weights = {name: value.detach().cpu().float().contiguous() for name, value in model.unet.state_dict().items()}
        files[UNET_WEIGHTS] = with_sorted_header(save(weights, metadata={"format": "pt"}))
        files[UNET_CONFIG] = _unet_config(model)
    vectors = stored_vectors(model)
    if vectors:
        files[CLASS_TOKENS] = with_sorted_header(save(vectors))
    if of_lora:
        files[LORA_WEIGHTS] = _lora_file(of_lora)
    return files


def _unet_config(model: LatentDiffusion) -> bytes:
    said = {key: value for key, value in json.loads(model.unet.to_json_string()).items() if key != "_name_or_path"}
    return json.dumps(said, indent=2, sort_keys=True).encode()


def _as_lora(
    config: LoraConfig, tensors: Tensors, first_factors: Mapping[str, torch.Tensor]
) -> tuple[LoraConfig, Tensors]:
    """An adapter of LoRA's kind as plain LoRA on the base model as it is, with the base model's name for a layer."""
    config = copy.copy(config)
    if config.use_rslora:
        # A reader that does not know rsLoRA, or the file's metadata, takes alpha / rank for the scale.
        factor = config.lora_alpha / math.sqrt(config.r)
        tensors = {key: value * factor if ".lora_B." in key else value for key, value in tensors.items()}
        config.use_rslora, config.lora_alpha = False, config.r
    if first_factors:
        # B A - B0 A0 = [B | -B0] [A ; A0], Meng et al. 2024, appendix C.
        before = {key.replace(f".{NAME}.", "."): value.cpu().float() for key, value in first_factors.items()}
        tensors = {
            key: torch.cat([value, before[key]]) if ".lora_A." in key else torch.cat([value, -before[key]], dim=1)
            for key, value in tensors.items()
        }
        config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    return config, tensors


def _lora_file(of_lora: Mapping[str, tuple[LoraConfig, Tensors]]) -> bytes:
    """As diffusers' `load_lora_weights` reads it, with rank and alpha in the file's metadata.

    Factors have PEFT's names: diffusers' own (`lora.down`) are there for attention alone, and of a file with both it
    reads those whose kind comes first, without an error.
    """
    arguments: dict[str, Any] = {}
    for part, (config, tensors) in of_lora.items():
        if part == TEXT_ENCODER:
            tensors = {f"{CLIP_PREFIX}{key.replace(LENGTHS, TEXT_LENGTHS)}": value for key, value in tensors.items()}
        arguments[f"{part}_lora_layers"] = tensors
        arguments[f"{part}_lora_adapter_metadata"] = _plain(config.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(folder, **arguments)
        return with_sorted_header((Path(folder) / LORA_WEIGHTS).read_bytes())


def _peft_config(config: Any) -> bytes:
    config = copy.copy(config)
    config.inference_mode = True
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        said = json.loads((Path(folder) / PEFT_CONFIG).read_text())
    # PEFT writes the layers' names from a set, which has no order.
    said["target_modules"] = sorted(said["target_modules"])
    return json.dumps(said, indent=2, sort_keys=True).encode()


def with_sorted_header(data: bytes) -> bytes:
    """A safetensors file with its header's keys in order: safetensors writes metadata in a new order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned to eight bytes
    return len(header).to_bytes(8, "little") + header + data[end:]


def _plain(value: Any) -> Any:
    """Sets have no order, and the file's bytes must be the same every time."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
