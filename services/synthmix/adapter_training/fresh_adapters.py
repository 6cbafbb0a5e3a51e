"""An adapter as its training begins: PEFT's layers of the method in a UNet, whose answers are the base model's."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft import PeftConfig

from synthmix.adapter_training.methods import METHODS, scale
from synthmix.adapter_training.targets import adapted_layers, module_names
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.adapters import adapter_layers
from synthmix.latent_diffusion.unet_layers import UNetLayers, layers_of

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
    if not METHODS[settings.method].begins_from_weights:
        unet.add_adapter(_config(unet, settings))
        return {}
    before = _unshared(unet, settings)
    if first_factors:
        # Factoring the weights anew may give other signs on another processor.
        unet.add_adapter(_config(unet, settings, init_lora_weights=False))
        first_factors = dict(first_factors)
    else:
        unet.add_adapter(_config(unet, settings))
        first_factors = {
            name: value.detach().float().clone() for name, value in unet.named_parameters() if value.requires_grad
        }
    _take_off(unet, settings, first_factors, before)
    return first_factors


def _config(unet: Any, settings: AdapterSettings, **others: Any) -> PeftConfig:
    method = METHODS[settings.method]
    names = module_names(settings.targets, _layers(unet))
    config: PeftConfig = getattr(peft, method.config)(target_modules=names, **method.options(settings) | others)
    return config


def _layers(unet: Any) -> UNetLayers:
    return layers_of({key: value.shape for key, value in unet.named_parameters()})


def _unshared(unet: Any, settings: AdapterSettings) -> dict[str, torch.Tensor]:
    """Gives the adapted layers weights of their own, and returns those that they had, which are the base model's.

    PEFT's OLoRA changes weights in place.
    """
    before = {}
    for layer in adapted_layers(settings.targets, _layers(unet)):
        weight = unet.get_submodule(layer.name).weight
        before[layer.name] = weight.data
        weight.data = weight.data.clone()
    return before


def _take_off(
    unet: Any, settings: AdapterSettings, first_factors: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]
) -> None:
    """Takes the first factors off the weights that were there before.

    PEFT does so too, but in another order of operations than a training that goes on could, and in bfloat16 before it
    rounds the factors.
    """
    for name, layer in adapter_layers(unet).items():
        weight = before[name]
        down, up = (first_factors[f"{name}.lora_{side}.{NAME}.weight"].to(weight.device) for side in "AB")
        layer.get_base_layer().weight.data = (weight.float() - scale(settings) * (up @ down)).to(weight.dtype)
