"""What both pretraining recipes keep between steps, and how it survives an interruption."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from synthmix.service_kit.seeds import derived_rng
from synthmix.training.learning_rates import learning_rate_share
from synthmix.training.symmetries import symmetry


def save_checkpoint(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
    """Writes modules and optimizer moments; the old checkpoint stays whole until the new one is.

    Args:
        path: The checkpoint's file.
        modules: Modules by the prefix that their tensors get.
        optimizer: An optimizer whose state is tensors only, as AdamW's is.
        step: How many steps are done.
    """
    tensors = {
        f"{prefix}/{name}": value.contiguous().clone()
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value.contiguous() for name, value in moments.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    os.replace(partial, path)


def load_checkpoint(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Reads what `save_checkpoint` wrote into the same modules and optimizer.

    Returns:
        How many steps were done; 0 when there is no checkpoint.
    """
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as archive:
        step = int(archive.metadata()["step"])
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a mapping)
    for prefix, module in modules.items():
        start = f"{prefix}/"
        module.load_state_dict({n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, moment = name.split("/")
            state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def step_generators(
    seed: int, purpose: str, step: int, device: torch.device | str = "cpu"
) -> tuple[np.random.Generator, torch.Generator]:
    """Returns the generators of one step, which depend on nothing that came before it; torch's is the device's."""
    rng = derived_rng(seed, purpose, step)
    return rng, torch.Generator(device).manual_seed(int(rng.integers(2**62)))


def parameter_groups(module: nn.Module, names: Iterable[str], factor: float) -> list[dict[str, Any]]:
    """Returns an optimizer's groups: first the parameters that learn at the usual rate, then those that don't.

    Args:
        module: Whose parameters.
        names: Parts of dotted names, such as "attn2": parameters below any of these learn `factor` times as fast.
        factor: Of the learning rate, kept in the group for `set_learning_rate`.
    """
    apart = {name: not set(name.split(".")).isdisjoint(names) for name, _ in module.named_parameters()}
    usual = [parameter for name, parameter in module.named_parameters() if not apart[name]]
    others = [parameter for name, parameter in module.named_parameters() if apart[name]]
    return [{"params": usual, "factor": 1.0}, {"params": others, "factor": factor}]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group, times its factor for one of `parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("factor", 1.0) * rate


def cosine_rate(step: int, steps: int, peak: float, warmup_steps: int) -> float:
    """A linear warm-up, then a cosine to a hundredth of the peak."""
    return peak * learning_rate_share(
        step, steps, warmup_steps=warmup_steps, decline_from=warmup_steps, final_share=0.01
    )


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns and mirrors each picture at random and changes its levels, and colours that it has, a little.

    Args:
        images: uint8, shape (N, H, H, 3).
        rng: Source of randomness.

    Returns:
        float32 of the same shape, -1 to 1.
    """
    views = np.empty(images.shape, dtype=np.float32)
    for index, image in enumerate(images):
        quarters, mirrored = int(rng.integers(4)), rng.random() < 0.5
        seen = symmetry(image[None], quarters + 4 * mirrored)[0].astype(np.float32) / 255.0
        gain = rng.normal(0.0, 0.08) + (0.0 if is_grey(image) else rng.normal(0.0, 0.05, size=3))
        views[index] = np.clip(np.exp(gain) * seen, 0.0, 1.0) * 2.0 - 1.0
    return views


def is_grey(image: np.ndarray) -> bool:
    """Whether the channels of a picture (H, W, 3) are equal."""
    return bool((image == image[..., :1]).all())


def warp(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns each picture by any angle, stretches and bends it a little; what comes in at the rim is mirrored.

    Args:
        views: float32, shape (N, H, H, 3), -1 to 1.
        rng: Source of randomness.

    Returns:
        Of the same kind.
    """
    count, size_px = len(views), views.shape[1]
    angle = rng.uniform(0.0, 2.0 * np.pi, size=count)
    along, across = np.exp(rng.normal(0.0, 0.08, size=(2, count)))
    turn_and_stretch = np.zeros((count, 2, 3))
    turn_and_stretch[:, 0, 0], turn_and_stretch[:, 0, 1] = along * np.cos(angle), -along * np.sin(angle)
    turn_and_stretch[:, 1, 0], turn_and_stretch[:, 1, 1] = across * np.sin(angle), across * np.cos(angle)
    places = F.affine_grid(
        torch.from_numpy(turn_and_stretch).float(), [count, 1, size_px, size_px], align_corners=False
    )
    bends = torch.from_numpy(rng.normal(0.0, 0.04, size=(count, 2, 5, 5))).float()  # of half a picture's width
    places += F.interpolate(bends, size=(size_px, size_px), mode="bicubic").permute(0, 2, 3, 1)
    pictures = torch.from_numpy(views).permute(0, 3, 1, 2)
    warped = F.grid_sample(pictures, places, mode="bicubic", padding_mode="reflection", align_corners=False)
    return warped.clamp(-1.0, 1.0).permute(0, 2, 3, 1).numpy()


def write_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Writes images, -1 to 1 of shape (N, H, W, 3), N a multiple of `columns`, as one PNG."""
    levels = np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype(np.uint8)
    rows = [np.hstack(list(levels[start : start + columns])) for start in range(0, len(levels), columns)]
    Image.fromarray(np.vstack(rows)).save(path)


@dataclass
class ProgressLog:
    """Prints a line with rate and time left now and then, and keeps the figures in a JSON file over interruptions.

    Figures are running means of about fifty steps: those of a single batch say little.
    """

    path: Path
    name: str
    steps: int
    every_s: float = 60.0
    history: list[dict[str, float]] = field(default_factory=list)
    _first: tuple[int, float] | None = None
    _last_s: float = 0.0
    _recent: dict[str, float | Tensor] = field(default_factory=dict)

    def record(self, step: int, figures: Mapping[str, float | Tensor]) -> None:
        """Notes a step's figures; prints and writes them now and then, and at the last step.

        A figure that is a tensor is waited for only when it is written, so that a GPU isn't halted at every step.
        """
        now = time.monotonic()
        self._recent = {key: 0.98 * self._recent.get(key, value) + 0.02 * value for key, value in figures.items()}
        if self._first is None:
            self._first, self._last_s = (step, now), now
            if self.path.exists():  # what an interrupted run noted, but for what it did after its last checkpoint
                noted = json.loads(self.path.read_text())["history"]
                self.history = [figures for figures in noted if figures["step"] <= step]
        if now - self._last_s < self.every_s and step + 1 < self.steps:
            return
        self._last_s = now
        rate = (step - self._first[0]) / max(1e-9, now - self._first[1])
        left_s = (self.steps - step - 1) / rate if rate > 0 else float("nan")
        means = {key: float(value) for key, value in self._recent.items()}
        words = " ".join(f"{key} {value:.4f}" for key, value in means.items())
        at = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"{at} {self.name} {step + 1}/{self.steps} {words} {rate:.2f} step/s {left_s:.0f} s left", flush=True)
        self.history.append({"step": float(step + 1), **means})
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"steps_per_s": rate, "history": self.history}, indent=1))
        os.replace(partial, self.path)
