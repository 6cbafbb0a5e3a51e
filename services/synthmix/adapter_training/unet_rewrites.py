"""A UNet with an adapter, rewritten for training: the same function and the same gradients in less time, on a CPU.

In exact arithmetic, that is; in floats the last bits differ. What each part buys is in
deploy/decisions/0033-adapters-are-trained-in-a-rewritten-unet.md, and of bfloat16 in
deploy/decisions/0051-bfloat16-on-a-cpu-has-an-attention-of-its-own.md.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn import functional as F

from synthmix.latent_diffusion.adapters import adapter_layers, is_trained_itself
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.unet_modules import (
    FoldedUpsampling,
    frozen,
    heads,
    is_plain,
    multiplies_in_bfloat16,
    repeats_and_convolves,
)

# Up to so many, attention by products of matrices is the faster one in bfloat16.
MOST_KEYS = 256

Denoiser = Callable[[torch.Tensor, torch.Tensor, Conditions, torch.Tensor], torch.Tensor]


def denoiser(unet: Any, *, bfloat16: bool = False) -> Denoiser:
    """What a UNet with an adapter predicts, as a function of latents, timesteps, prompts and prompt rows.

    The prompts are those that differ, and the rows say which of them each image has. Gradients reach the parameters of
    the UNet that is given, and in training mode it is as that says. On a CPU another UNet computes it where that is
    faster and can.

    Args:
        bfloat16: Whether products and convolutions are in bfloat16, as autocast has them, within which it is called.
    """
    # Other kinds of attention do not know what rows of prompts are.
    plain = all(is_plain(module) for module in unet.modules() if isinstance(module, Attention))
    # Other methods have no weights of their own that could be added up.
    of_lora = not is_trained_itself(unet) and all(map(_is_lora, adapter_layers(unet).values()))
    # On other devices nothing of this is measured.
    may_be = unet.device.type == "cpu" and (not bfloat16 or multiplies_in_bfloat16())
    if not may_be or not (of_lora or (bfloat16 and plain)):
        return lambda latents, timesteps, prompts, rows: _answer(unet, latents, timesteps, prompts.rows(rows))
    computing = _rewritten(unet, torch.bfloat16 if bfloat16 else torch.float32) if of_lora else _copied(unet)
    if plain:
        computing.set_attn_processor(AdaptedAttention() if of_lora else Bfloat16Attention())

    def denoise(
        latents: torch.Tensor, timesteps: torch.Tensor, prompts: Conditions, rows: torch.Tensor
    ) -> torch.Tensor:
        if computing.training != unet.training:  # a loss that is measured leaves nothing out
            computing.train(unet.training)
        of_images = prompts.rows(rows)
        if not (plain and of_lora):
            return _answer(computing, latents, timesteps, of_images)
        # Attention alone makes something of each prompt once; what else a UNet reads is of each image.
        once = Conditions(prompts.embeddings, of_images.pooled, of_images.time_ids)
        return _answer(computing, latents, timesteps, once, cross_attention_kwargs={"prompt_rows": rows})

    return denoise


def _answer(
    unet: Any, latents: torch.Tensor, timesteps: torch.Tensor, given: Conditions, **others: Any
) -> torch.Tensor:
    predicted: torch.Tensor = unet(latents, timesteps, given.embeddings, added_cond_kwargs=given.added, **others).sample
    return predicted


def _is_lora(layer: BaseTunerLayer) -> bool:
    """Whether it adds its low-rank factors' product to the answers of a layer, and nothing else."""
    if not isinstance(layer, LoraLayer):
        return False
    [name] = layer.active_adapters
    return name not in layer.lora_variant and isinstance(layer.lora_dropout[name], torch.nn.Identity)


def _copied(module: Any) -> Any:
    """Modules around the parameters of others, which stay as they are."""
    copied = copy.copy(module)  # a deep copy takes half a second for a UNet with an adapter
    copied._modules = {name: child and _copied(child) for name, child in module._modules.items()}
    return copied


def _rewritten(module: Any, dtype: torch.dtype) -> Any:
    """A module with modules of its own around the trained parameters of another, which stays as it is.

    Args:
        dtype: Of products. What is frozen is brought to it once, and not by autocast in each step.
    """
    if type(module) in (torch.nn.Linear, LoraLinear):
        return AdaptedLinear(module, dtype)
    if repeats_and_convolves(module):
        folded = FoldedUpsampling(module)
        folded.weight = frozen(folded.weight.to(dtype))
        return folded
    rewritten = copy.copy(module)
    rewritten._modules = {name: child and _rewritten(child, dtype) for name, child in module._modules.items()}
    if type(module) is torch.nn.Conv2d and not module.weight.requires_grad and dtype != module.weight.dtype:
        rewritten._parameters = module._parameters | {"weight": frozen(module.weight.to(dtype))}
    return rewritten


class AdaptedLinear(torch.nn.Module):
    """A linear layer, with an adapter or without one, whose parameters are another's.

    Low-rank factors beside a layer are two thin products and two passes over its answers, and as many again backwards.
    Here they are added to a copy of its weights in each step: as many numbers as a few rows of the batch have. What is
    added is in float32 until it is, and only the sum is rounded, as of weights that are all trained in mixed precision.

    Args:
        dtype: What its product is in.
    """

    def __init__(self, layer: torch.nn.Linear | LoraLinear, dtype: torch.dtype) -> None:
        super().__init__()
        base = layer
        self.down: torch.nn.Parameter | None = None
        self.up: torch.nn.Parameter | None = None
        if isinstance(layer, LoraLinear):
            [name] = layer.active_adapters
            base = layer.base_layer
            self.down, self.up, self.scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        # Where factors are added to it, it is in float32 until they are; a base model may be in bfloat16.
        self.base_weight = frozen(base.weight.to(dtype if self.down is None else torch.float32))
        self.bias = None if base.bias is None else frozen(base.bias.to(dtype))
        self.dtype = dtype

    @property
    def weight(self) -> torch.Tensor:
        """W + alpha / r x B A."""
        if self.down is None or self.up is None:
            return self.base_weight
        with torch.autocast("cpu", enabled=False):  # which would round what is added
            return torch.addmm(self.base_weight, self.up, self.down, alpha=self.scale).to(self.dtype)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return product(values.to(self.dtype), self.weight, self.bias)


class AdaptedAttention:
    """Attention with queries, keys and values in one product; a prompt's are made once for all of its images."""

    def __call__(
        self,
        attention: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        prompt_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if encoder_hidden_states is None:
            query, key, value = _together(hidden_states, [attention.to_q, attention.to_k, attention.to_v])
        else:
            query = attention.to_q(hidden_states)
            key, value = (
                each if prompt_rows is None else each.index_select(0, prompt_rows)
                for each in _together(encoder_hidden_states, [attention.to_k, attention.to_v])
            )
        return _attended(attention, query, key, value, attention_mask)


class Bfloat16Attention:
    """Attention as diffusers has it, but for how values are weighted."""

    def __call__(
        self,
        attention: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attention.to_q(hidden_states), attention.to_k(seen), attention.to_v(seen)
        return _attended(attention, query, key, value, attention_mask)


def _attended(
    attention: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """What comes of queries, keys and values, each (batch, tokens, width)."""
    query, key, value = (heads(attention, each) for each in (query, key, value))
    answers = _weighted(query, key, value, mask)
    project, drop_out = attention.to_out
    answer: torch.Tensor = drop_out(project(answers.transpose(1, 2).flatten(2)))
    return answer


def _weighted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Values weighted by how well keys fit queries, each (batch, heads, tokens, width / heads).

    torch's own attention on CPUs takes up to 12 times as long in bfloat16 as in float32, backwards above all. So
    products of matrices see few keys, and torch's own sees many, in float32.
    """
    if query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if mask is None and key.shape[2] <= MOST_KEYS:
        scaled = query * query.shape[-1] ** -0.5
        weights = (scaled.flatten(0, 1) @ key.flatten(0, 1).transpose(1, 2)).softmax(-1)
        answers: torch.Tensor = (weights @ value.flatten(0, 1)).unflatten(0, query.shape[:2])
        return answers
    with torch.autocast("cpu", enabled=False):
        answers = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    return answers.to(query.dtype)


def _together(values: torch.Tensor, layers: Sequence[AdaptedLinear]) -> tuple[torch.Tensor, ...]:
    """What layers of one width answer."""
    biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    weight = torch.cat([layer.weight for layer in layers])
    answers = product(values.to(weight.dtype), weight, torch.cat(biases) if biases else None)
    each: tuple[torch.Tensor, ...] = answers.unflatten(-1, (len(layers), -1)).unbind(-2)
    return each


def product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A linear layer by oneDNN. In float32 torch takes MKL, which is half as fast on AMD's processors."""
    answer: torch.Tensor = _Product.apply(values, weight, bias)
    return answer


class _Product(torch.autograd.Function):
    """The operator is the one that TorchInductor calls for a linear layer; it has no gradient of its own."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        context.save_for_backward(values if context.needs_input_grad[1] else None, weight)
        answer: torch.Tensor = _by_onednn(values, weight, bias)
        return answer

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight = context.saved_tensors
        [gradient] = gradients
        of_values = _by_onednn(gradient, weight.t(), None) if context.needs_input_grad[0] else None
        of_weight = None
        if context.needs_input_grad[1]:
            of_weight = gradient.flatten(0, -2).t() @ values.flatten(0, -2)
        return of_values, of_weight, None


def _by_onednn(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    answer: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return answer
