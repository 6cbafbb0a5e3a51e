"""How a network's weights expect pixels."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Preprocessing:
    """Mean and standard deviation of each channel's brightness, 0 to 1, that a network's weights expect."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 to float32 of the same shape, channels last."""
        mean = 255 * torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = 255 * torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)
