"""A UNet's modules replaced by others that give the same numbers in less time, for sampling alone: without gradients.

Each replacement is the same function in exact arithmetic; in floats the last bits differ. What each buys is in
deploy/decisions/0029-images-are-sampled-by-a-loop-of-our-own.md.
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional as F


def rewrite_for_sampling(unet: Any) -> None:
    """Replaces modules of a UNet that shares none of them with another.

    Raises:
        ValueError: An adapter is in it: its layers would stand in the way, and go first.
    """
    if getattr(unet, "peft_config", None):
        raise ValueError("fuse the adapter and unload its layers first")
    keep_keys_and_values(unet)
    for parent in list(unet.modules()):
        for name, module in list(parent.named_children()):
            replacement = _replacement(module)
            if replacement is not None:
                setattr(parent, name, replacement)


def keep_keys_and_values(unet: Any) -> None:
    """Lets each cross-attention compute the keys and values of a batch's prompts once and not in every step."""
    unet.set_attn_processor(
        {
            f"{name}.processor": PromptAttention() if _is_plain(module) else module.processor
            for name, module in unet.named_modules()
            if isinstance(module, Attention)
        }
    )


def _is_plain(attention: Attention) -> bool:
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


class PromptAttention:
    """Attention whose keys and values are kept for as long as the prompts are the same tensor."""

    def __init__(self) -> None:
        self._prompts: torch.Tensor | None = None
        self._keys_and_values: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self,
        attention: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        def heads(values: torch.Tensor) -> torch.Tensor:
            return values.view(*values.shape[:2], attention.heads, -1).transpose(1, 2)

        if encoder_hidden_states is None:
            keys, values = heads(attention.to_k(hidden_states)), heads(attention.to_v(hidden_states))
        else:
            if self._keys_and_values is None or self._prompts is not encoder_hidden_states:
                self._prompts = encoder_hidden_states
                self._keys_and_values = (
                    heads(attention.to_k(encoder_hidden_states)).contiguous(),
                    heads(attention.to_v(encoder_hidden_states)).contiguous(),
                )
            keys, values = self._keys_and_values
        answers = F.scaled_dot_product_attention(
            heads(attention.to_q(hidden_states)), keys, values, attn_mask=attention_mask
        )
        answer: torch.Tensor = attention.to_out[0](answers.transpose(1, 2).flatten(2))
        return answer


def _replacement(module: Any) -> torch.nn.Module | None:
    if type(module) is GEGLU:
        return GatedLinear(module.proj)
    if type(module) is torch.nn.Linear:
        return OneDnnLinear(module)
    if type(module) is Upsample2D and _repeats_and_convolves(module):
        return FoldedUpsampling(module)
    return None


class OneDnnLinear(torch.nn.Module):
    """A linear layer by oneDNN, as torch has it in bfloat16. In float32 it takes MKL, half as fast on AMD's processors.

    The operator is the one that TorchInductor calls for a linear layer.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, self.weight, self.bias, "none", [], "")
        return answer


class GatedLinear(torch.nn.Module):
    """A gated linear unit (Shazeer 2020, arXiv:2002.05202) as two products, each with what follows it in one pass."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.gate_weight = (_frozen(part) for part in linear.weight.chunk(2))
        self.bias, self.gate_bias = (
            (None, None) if linear.bias is None else (_frozen(part) for part in linear.bias.chunk(2))
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        gate = product(values, self.gate_weight, self.gate_bias, "gelu", [], "none")
        answer: torch.Tensor = product.binary(values, gate, self.weight, self.bias, "mul")
        return answer


def _repeats_and_convolves(module: Upsample2D) -> bool:
    convolution = getattr(module, "conv", None)
    return (
        module.interpolate
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
        self.weight = _frozen(folded.reshape(-1, *folded.shape[3:]).to(weight.dtype))
        bias = upsampling.conv.bias
        self.bias = None if bias is None else _frozen(bias.repeat_interleave(4))

    def forward(self, values: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        if output_size is not None:  # not twice the size
            whole: torch.Tensor = self.whole(values, output_size)
            return whole
        height, width = values.shape[-2:]
        parts = F.conv2d(values, self.weight, self.bias, padding=1).unflatten(1, (-1, 2, 2))
        answer: torch.Tensor = parts.new_empty(*parts.shape[:2], height, 2, width, 2)
        for odd_row in (0, 1):
            for odd_column in (0, 1):
                part = parts[:, :, odd_row, odd_column]
                answer[:, :, :, odd_row, :, odd_column] = part[
                    ..., odd_row : odd_row + height, odd_column : odd_column + width
                ]
        return answer.view(*parts.shape[:2], 2 * height, 2 * width)


def _frozen(values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values.detach(), requires_grad=False)
