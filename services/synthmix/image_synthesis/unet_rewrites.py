"""A UNet's modules replaced by others that give the same numbers in less time, for sampling alone: without gradients.

Each replacement is the same function in exact arithmetic; in floats the last bits differ. What each buys is in
deploy/decisions/0029-images-are-sampled-by-a-loop-of-our-own.md.
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

from synthmix.latent_diffusion.unet_modules import FoldedUpsampling, frozen, heads, is_plain, repeats_and_convolves


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
            f"{name}.processor": PromptAttention() if is_plain(module) else module.processor
            for name, module in unet.named_modules()
            if isinstance(module, Attention)
        }
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
        if encoder_hidden_states is None:
            keys, values = (heads(attention, layer(hidden_states)) for layer in (attention.to_k, attention.to_v))
        else:
            if self._keys_and_values is None or self._prompts is not encoder_hidden_states:
                self._prompts = encoder_hidden_states
                self._keys_and_values = (
                    heads(attention, attention.to_k(encoder_hidden_states)).contiguous(),
                    heads(attention, attention.to_v(encoder_hidden_states)).contiguous(),
                )
            keys, values = self._keys_and_values
        answers = F.scaled_dot_product_attention(
            heads(attention, attention.to_q(hidden_states)), keys, values, attn_mask=attention_mask
        )
        answer: torch.Tensor = attention.to_out[0](answers.transpose(1, 2).flatten(2))
        return answer


def _replacement(module: Any) -> torch.nn.Module | None:
    if type(module) is GEGLU:
        return GatedLinear(module.proj)
    if type(module) is torch.nn.Linear:
        return OneDnnLinear(module)
    if repeats_and_convolves(module):
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
        self.weight, self.gate_weight = (frozen(part) for part in linear.weight.chunk(2))
        self.bias, self.gate_bias = (
            (None, None) if linear.bias is None else (frozen(part) for part in linear.bias.chunk(2))
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        gate = product(values, self.gate_weight, self.gate_bias, "gelu", [], "none")
        answer: torch.Tensor = product.binary(values, gate, self.weight, self.bias, "mul")
        return answer
