"""A training's prompts as its UNet gets them: encoded once, or in each step, if what encodes them is trained as well.

They have numbers: the empty prompt, for classifier-free guidance, is the first, then come each prompt's classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from synthmix.adapter_training.prior_options import all_prompts
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.class_tokens import model_prompt
from synthmix.latent_diffusion.conditions import Conditions, joined
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts, encode_tokens, prompt_tokens
from synthmix.latent_diffusion.prompts import prompt_for


@dataclass(frozen=True)
class TrainingPrompts:
    """All of them.

    Attributes:
        count: How many.
        encode: What prompts are to the UNet, by their numbers, on the model's device.
    """

    count: int
    encode: Callable[[torch.Tensor], Conditions]


def prompt_embeddings(model: LatentDiffusion, prompts: Sequence[str], classes: Sequence[str]) -> Conditions:
    """What 1 + prompts x classes prompts are to the UNet, by their numbers."""
    # By groups, as they have always been encoded: how many are encoded together decides about last bits.
    groups = [[""], *([prompt_for(prompt, label) for label in classes] for prompt in prompts)]
    return joined([encode_prompts(model, group) for group in groups])


def encoded_once(model: LatentDiffusion, prompts: Conditions) -> TrainingPrompts:
    """Prompts whose embeddings stay as they are."""
    prompts = prompts.each(lambda value: value.to(model.device))
    return TrainingPrompts(len(prompts), lambda numbers: prompts.rows(numbers.to(model.device)))


def encoded_in_each_step(model: LatentDiffusion, settings: AdapterSettings, classes: Sequence[str]) -> TrainingPrompts:
    """Prompts whose embeddings change with the text encoder, or with tokens of classes; gradients reach both.

    Of models with one text encoder. The prior's, which keep what the base model knows, have the classes' own names.
    """
    prompts = all_prompts(settings)
    own = 1 + len(settings.more_prompts)  # the prior's comes behind them
    texts = ["", *(model_prompt(model, prompt, label) for prompt in prompts[:own] for label in classes)]
    texts += [prompt_for(prompt, label) for prompt in prompts[own:] for label in classes]
    [tokens] = prompt_tokens(model, texts)
    tokens = tokens.to(model.device)
    return TrainingPrompts(len(tokens), lambda numbers: encode_tokens(model, [tokens[numbers.to(model.device)]]))
