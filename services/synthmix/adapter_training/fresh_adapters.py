"""An adapter as its training begins: PEFT's layers of the method in a base model, whose answers stay what they were."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft import PeftConfig

from synthmix.adapter_training.methods import METHODS, WITHOUT_ADAPTER, scale
from synthmix.adapter_training.targets import TEXT_TARGETS, adapted_layers, adapted_text_layers, module_names
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.adapters import NAME, PARTS, adapter_layers, part_of
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET, Layer, PartLayers, layers_of
from synthmix.service_kit.adapter_payloads import FULL


@dataclass(frozen=True)
class _Place:
    """A part of the base model that gets an adapter.

    Attributes:
        names: Of its modules that are adapted, as PEFT is given them.
        layers: What these are.
    """

    module: Any
    names: list[str]
    layers: tuple[Layer, ...]


def add_fresh_adapter(
    model: LatentDiffusion, settings: AdapterSettings, first_factors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Adds an adapter to a UNet, and to a text encoder if that is asked for, drawn from torch's generator.

    If the UNet is to be trained itself, it gets weights of its own.

    Args:
        settings: Filled.
        first_factors: Of a training that goes on, those that this function returned when it began; else none.

    Returns:
        Copies of the first factors, by the names that `trained_parameters` has for them, of a method that begins from
        the base model's weights and takes them off these; else none.
    """
    if settings.method == FULL:
        for value in model.unet.parameters():
            value.data = value.data.float().clone()  # it is the kept base model's
            value.requires_grad_(True)
    begun: dict[str, torch.Tensor] = {}
    for part, place in _places(model, settings).items():
        own = part_of(first_factors, part)
        begun |= {f"{PARTS[part]}{name}": value for name, value in _added(place, settings, own).items()}
    return begun


def trained_parameters(model: LatentDiffusion) -> dict[str, torch.nn.Parameter]:
    """The adapter's, by the names of the UNet's parameters, and by those of other parts after the part's name."""
    return {
        f"{prefix}{name}": value
        for part, prefix in PARTS.items()
        for name, value in getattr(model, part).named_parameters()
        if value.requires_grad
    }


def _places(model: LatentDiffusion, settings: AdapterSettings) -> dict[str, _Place]:
    """The parts that get an adapter, in the order in which it is drawn."""
    if settings.method in WITHOUT_ADAPTER:
        return {}
    of_unet = _layers(model.unet)
    layers = adapted_layers(settings.targets, of_unet)
    places = {UNET: _Place(model.unet, module_names(settings.targets, of_unet), layers)}
    if settings.text_encoder_targets:
        targets, encoder = settings.text_encoder_targets, model.text_encoder
        layers = adapted_text_layers(targets, _layers(encoder))
        places[TEXT_ENCODER] = _Place(encoder, list(TEXT_TARGETS[targets]), layers)
    return places


def _layers(module: Any) -> PartLayers:
    return layers_of({key: value.shape for key, value in module.named_parameters()})


def _added(
    place: _Place, settings: AdapterSettings, first_factors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Adds an adapter to one part, and returns its first factors if they are taken off the weights."""
    module = place.module
    if not METHODS[settings.method].begins_from_weights:
        _add(place, settings)
        return {}
    before = _unshared(place)
    if first_factors:
        # Factoring the weights anew may give other signs on another processor.
        _add(place, settings, init_lora_weights=False)
        first_factors = dict(first_factors)
    else:
        _add(place, settings)
        first_factors = {
            name: value.detach().float().clone() for name, value in module.named_parameters() if value.requires_grad
        }
    _take_off(module, settings, first_factors, before)
    return first_factors


def _add(place: _Place, settings: AdapterSettings, **others: Any) -> None:
    method = METHODS[settings.method]
    config: PeftConfig = getattr(peft, method.config)(target_modules=place.names, **method.options(settings) | others)
    place.module.add_adapter(config)
    # transformers writes the base model's folder there, and an adapter's bytes are the same on every machine.
    config.base_model_name_or_path = None


def _unshared(place: _Place) -> dict[str, torch.Tensor]:
    """Gives the adapted layers weights of their own, and returns those that they had, which are the base model's.

    PEFT's OLoRA changes weights in place.
    """
    before = {}
    for layer in place.layers:
        weight = place.module.get_submodule(layer.name).weight
        before[layer.name] = weight.data
        weight.data = weight.data.clone()
    return before


def _take_off(
    module: Any,
    settings: AdapterSettings,
    first_factors: Mapping[str, torch.Tensor],
    before: Mapping[str, torch.Tensor],
) -> None:
    """Takes the first factors off the weights that were there before.

    PEFT does so too, but in another order of operations than a training that goes on could, and in bfloat16 before it
    rounds the factors.
    """
    for name, layer in adapter_layers(module).items():
        weight = before[name]
        down, up = (first_factors[f"{name}.lora_{side}.{NAME}.weight"].to(weight.device) for side in "AB")
        layer.get_base_layer().weight.data = (weight.float() - scale(settings) * (up @ down)).to(weight.dtype)
