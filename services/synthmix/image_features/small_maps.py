"""Depthwise convolutions over maps that are smaller than the kernel, on CPUs.

The last stages of a network see a 64-pixel image as a map of 4x4 or 2x2. There oneDNN's backward pass for
depthwise convolutions falls off a cliff: 5x5 kernels over 1,152 maps of 2x2, 32 images, take 22 ms forward
and back on one thread, where 3x3 kernels over maps of 3x3 take 1 ms. A convolution is a matrix for each
channel, and with so few pixels a small one: as a batched matrix product the same takes 2.4 ms, and a whole
training step of tf_efficientnet_lite0 takes about 30 % less.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SmallMapConv2d(nn.Conv2d):
    """A depthwise convolution that is a matrix product wherever the map is smaller than the kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        height, width, side = x.shape[2], x.shape[3], self.kernel_size[0]
        if x.device.type != "cpu" or max(height, width) >= side:
            return super().forward(x)
        matrices = self.weight.flatten(1) @ _placement(height, width, side)
        y: torch.Tensor = _ChannelProduct.apply(x, matrices.view(-1, height * width, height * width))
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


def use_small_map_convolutions(model: nn.Module) -> None:
    """Replaces, in place, the depthwise convolutions that keep a map's size. Parameters keep their names."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _replaceable(child):
                replacement = SmallMapConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size[0],
                    padding=child.kernel_size[0] // 2,
                    groups=child.groups,
                    bias=child.bias is not None,
                    device="meta",
                )
                replacement.weight, replacement.bias = child.weight, child.bias
                setattr(parent, name, replacement)


def _replaceable(layer: nn.Conv2d) -> bool:
    side = layer.kernel_size[0]
    return (
        layer.groups == layer.in_channels == layer.out_channels
        and layer.kernel_size == (side, side)
        and side % 2 == 1
        and layer.padding == (side // 2, side // 2)
        and layer.padding_mode == "zeros"
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
    )


@cache
def _placement(height: int, width: int, side: int) -> torch.Tensor:
    """Where each weight of a kernel stands in the convolution's matrix, (side^2, (H W)^2), of zeros and ones.

    The matrix takes input pixels, its rows, to output pixels: what each single weight makes of each pixel.
    """
    with torch.inference_mode(False):  # the first to ask may be a prediction, the next a training step
        pixels = torch.eye(height * width).view(-1, 1, height, width)
        weights = torch.eye(side * side).view(-1, 1, side, side)
        return functional.conv2d(pixels, weights, padding=side // 2).transpose(0, 1).reshape(side * side, -1)


class _ChannelProduct(torch.autograd.Function):
    """y[b, c] = x[b, c] M[c] over flattened maps. Written out as bmm copies strided operands one by one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        channels_first = x.transpose(0, 1).contiguous().flatten(2)
        ctx.save_for_backward(channels_first, matrices)
        return _channels_last(torch.bmm(channels_first, matrices), x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, matrices = ctx.saved_tensors
        channels_first = gradient.transpose(0, 1).contiguous().flatten(2)
        return (
            _channels_last(torch.bmm(channels_first, matrices.transpose(1, 2)), gradient.shape),
            torch.bmm(x.transpose(1, 2), channels_first),
        )


def _channels_last(product: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return product.view(shape[1], shape[0], *shape[2:]).transpose(0, 1).contiguous(memory_format=torch.channels_last)
