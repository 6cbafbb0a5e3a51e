"""Optimizers as they begin, what they are in training and in evaluation, and all of their state in a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings

BETAS = (0.9, 0.99)
# Names of tensors in a checkpoint: of a weight's state, of which some optimizers keep plain numbers, and of a group's.
STATE, NUMBER, GROUP = "optimizer", "optimizer number", "optimizer group"


def fresh_optimizer(
    settings: AdapterSettings, groups: Sequence[dict[str, Any]], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that settings name, in training.

    Args:
        settings: Filled, with an optimizer whose package is there (optimizers.require_package).
        groups: As torch takes them: "params", and what belongs to them.
    """
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": BETAS, "weight_decay": settings.weight_decay}
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer = AdamW8bit(groups, **options)
    elif settings.optimizer == "prodigy":
        from prodigyopt import Prodigy

        # Both are what its authors advise for diffusion models: its estimate has to survive the warm-up.
        options |= {"use_bias_correction": True, "safeguard_warmup": True}
        optimizer = Prodigy(groups, **options | {"weight_decay": 0.0})  # with another one it prints a line
        for group in optimizer.param_groups:
            group["weight_decay"] = settings.weight_decay
    elif settings.optimizer == "schedule_free":
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(groups, **options)
    else:
        optimizer = torch.optim.AdamW(groups, fused=device.type == "cpu", **options)
    for_training(optimizer)
    return optimizer


def for_training(optimizer: torch.optim.Optimizer) -> None:
    """Puts the weights where gradients are taken. Changes nothing where they are there already."""
    if hasattr(optimizer, "train"):
        optimizer.train()


def for_evaluation(optimizer: torch.optim.Optimizer) -> None:
    """Puts the weights that are kept in place of those that gradients are taken at: schedule_free has both.

    Going there and back changes last bits.
    """
    if hasattr(optimizer, "eval"):
        optimizer.eval()


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """All of an optimizer's state, for a checkpoint. A plain number is a tensor without dimensions."""
    tensors = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                # A copy of its own: bitsandbytes has tensors that all weights share, which safetensors refuses.
                tensors[f"{STATE}.{key}.{name}"] = value.detach().cpu().contiguous().clone()
            else:
                tensors[f"{NUMBER}.{key}.{name}"] = _as_tensor(value)
    for index, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if isinstance(value, (bool, int, float)) and value != optimizer.defaults.get(key):
                tensors[f"{GROUP}.{key}.{index}"] = _as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Puts the state of a checkpoint into a fresh optimizer. Raises KeyError for weights that it does not have."""
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition(".")
        key, _, name = rest.partition(".")
        if kind == STATE:
            parameter = parameters[name]
            # AdamW counts steps on the CPU, wherever the weights are.
            device = "cpu" if key == "step" else parameter.device
            optimizer.state[parameter][key] = tensor.to(device).clone()
        elif kind == NUMBER:
            optimizer.state[parameters[name]][key] = tensor.item()
        elif kind == GROUP:
            optimizer.param_groups[int(name)][key] = tensor.item()


def _as_tensor(number: bool | int | float) -> torch.Tensor:
    """In as many bits as Python has, so that no digit is lost."""
    return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)
