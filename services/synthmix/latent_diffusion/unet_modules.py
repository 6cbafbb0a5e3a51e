"""Modules of a UNet that give the same numbers in less time, and which ones they may stand for.

Each is the same function in exact arithmetic; in floats the last bits differ. Gradients go through them.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional as F


def multiplies_in_bfloat16() -> bool:
    """Whether oneDNN has products in bfloat16 on this processor; torch has them on any, if slowly.

    It has none where there is AVX2 alone, as on AMD's processors before 2022.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def is_plain(attention: Attention) -> bool:
    """Whether it is Stable Diffusion's, of all the kinds that the class stands for."""
    return (
        type(attention.processor) is AttnProcessor2_0
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and all(
            getattr(attention, name) is None
            for name in ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
        )
    )


def heads(attention: Attention, values: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, width) as scaled_dot_product_attention takes it: (batch, heads, tokens, width / heads)."""
    return values.view(*values.shape[:2], attention.heads, -1).transpose(1, 2)


def repeats_and_convolves(module: Any) -> bool:
    """Whether FoldedUpsampling may take a module's place."""
    convolution = getattr(module, "conv", None)
    return (
        type(module) is Upsample2D
        and module.interpolate
        and module.norm is None
        and type(convolution) is torch.nn.Conv2d
        and (convolution.kernel_size, convolution.stride) == ((3, 3), (1, 1))
        and (convolution.padding, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
        and convolution.padding_mode == "zeros"
    )


class FoldedUpsampling(torch.nn.Module):
    """Pixels repeated two times two and convolved three by three, without repeating them.

    Of the nine pixels that a kernel sees, some are the same one repeated. Which ones depends on the row and the column
    of the output being even or odd, so that it is four kernels of two by two: four ninths of the multiplications.
    """

    # How much of a kernel's row falls on which pixel: [odd or even output, input, row of the kernel].
    FOLDS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))

    def __init__(self, upsampling: Upsample2D) -> None:
        super().__init__()
        self.whole = upsampling
        weight = upsampling.conv.weight
        folds = torch.tensor(self.FOLDS, dtype=torch.float32, device=weight.device)
        folded = torch.einsum("oiyx,apy,bqx->oabipq", weight.float(), folds, folds)
        self.weight = frozen(folded.reshape(-1, *folded.shape[3:]).to(weight.dtype))
        bias = upsampling.conv.bias
        self.bias = None if bias is None else frozen(bias.repeat_interleave(4))

    def forward(self, values: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        if output_size is not None:  # not twice the size
            whole: torch.Tensor = self.whole(values, output_size)
            return whole
        answer: torch.Tensor = _Interleaved.apply(F.conv2d(values, self.weight, self.bias, padding=1))
        return answer


class _Interleaved(torch.autograd.Function):
    """The answers of the four kernels, (batch, 4 x channels, height + 1, width + 1), each in its rows and columns."""

    @staticmethod
    def forward(context: Any, folded: torch.Tensor) -> torch.Tensor:
        parts = folded.unflatten(1, (-1, 2, 2))
        batch, channels, _, _, height, width = parts.shape
        answer = parts.new_empty(batch, channels, height - 1, 2, width - 1, 2)
        for row, column in _CORNERS:
            answer[:, :, :, row, :, column] = _seen(parts, row, column)
        together: torch.Tensor = answer.view(batch, channels, 2 * height - 2, 2 * width - 2)
        return together

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        of_answer = gradients[0].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        batch, channels, height, _, width, _ = of_answer.shape
        parts = of_answer.new_zeros(batch, channels, 2, 2, height + 1, width + 1)
        for row, column in _CORNERS:
            _seen(parts, row, column).copy_(of_answer[:, :, :, row, :, column])
        of_folded: torch.Tensor = parts.flatten(1, 3)
        return of_folded


_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _seen(parts: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """What the answer takes of one kernel's."""
    height, width = parts.shape[-2:]
    return parts[:, :, row, column, row : row + height - 1, column : column + width - 1]


def frozen(values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values.detach(), requires_grad=False)
