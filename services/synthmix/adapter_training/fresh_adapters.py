"""An adapter as its training begins: PEFT's layers of the method in a UNet, whose answers are the base model's."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft import PeftConfig

from synthmix.adapter_training.methods import METHODS, scale
from synthmix.adapter_training.targets import module_names
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.adapters import adapter_layers
from synthmix.latent_diffusion.unet_layers import layers_of

# The one adapter of a training, by PEFT's default name.
NAME = "default"


def add_fresh_adapter(
    unet: Any, settings: AdapterSettings, first_factors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Adds an adapter to a UNet, drawn from torch's generator.

    Args:
        settings: Filled.
        first_factors: Of a training that goes on, those that this function returned when it began; else none.

    Returns:
        Copies of the first factors, by the names of their parameters, of a method that begins from the base model's
        weights and takes them off these; else none.
    """
    method = METHODS[settings.method]
    if not method.begins_from_weights:
        unet.add_adapter(_config(unet, settings))
        return {}
    if first_factors:
        # Factoring the weights anew may give other signs on another processor.
        unet.add_adapter(_config(unet, settings, init_lora_weights=False))
        _take_off(unet, settings, first_factors)
        return dict(first_factors)
    _unshare(unet, settings)
    unet.add_adapter(_config(unet, settings))
    return {name: value.detach().clone() for name, value in unet.named_parameters() if value.requires_grad}


def _config(unet: Any, settings: AdapterSettings, **others: Any) -> PeftConfig:
    method = METHODS[settings.method]
    names = module_names(settings.targets, layers_of({key: value.shape for key, value in unet.named_parameters()}))
    config: PeftConfig = getattr(peft, method.config)(target_modules=names, **method.options(settings) | others)
    return config


def _unshare(unet: Any, settings: AdapterSettings) -> None:
    """Gives the adapted layers weights of their own: PEFT's OLoRA changes them in place, which are the base model's."""
    names = set(_config(unet, settings).target_modules or ())
    for name, module in unet.named_modules():
        if any(name == end or name.endswith(f".{end}") for end in names):
            module.weight.data = module.weight.data.clone()


def _take_off(unet: Any, settings: AdapterSettings, first_factors: Mapping[str, torch.Tensor]) -> None:
    """Takes the first factors off the weights, as PEFT does when it makes them."""
    for name, layer in adapter_layers(unet).items():
        down, up = (first_factors[f"{name}.lora_{side}.{NAME}.weight"] for side in "AB")
        weight = layer.get_base_layer().weight
        with torch.no_grad():
            rest = weight.float() - scale(settings) * (up.to(weight.device) @ down.to(weight.device))
        weight.data = rest.to(weight.dtype)
