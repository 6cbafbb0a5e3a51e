"""A training's prompts as its UNet gets them: encoded once, or in each step, if what encodes them is trained as well.

They have numbers: the empty prompt, for classifier-free guidance, is the first, then come each prompt's subjects: the
classes or, where images have captions, each class with each of the captions that its images have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from synthmix.adapter_training.prior_options import all_prompts
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.split_parts import TrainPart
from synthmix.latent_diffusion.class_tokens import model_prompt
from synthmix.latent_diffusion.conditions import Conditions, joined
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts, encode_tokens, prompt_tokens
from synthmix.latent_diffusion.prompts import prompt_for


@dataclass(frozen=True)
class Subjects:
    """What an artifact's prompts are of.

    Attributes:
        labels, captions: Of each subject. The classes in their order with "" where images have no captions.
        of_images: The subject of each image of the train part.
    """

    labels: tuple[str, ...]
    captions: tuple[str, ...]
    of_images: tuple[int, ...]

    def first_of(self, label: str) -> int:
        """One that stands for a class, in a prompt without {caption}."""
        return self.labels.index(label)


def subjects(part: TrainPart, captions: Sequence[str] | None) -> Subjects:
    """The subjects of a train part's images, whose captions are given if they have any."""
    if captions is None:
        return Subjects(part.classes, ("",) * len(part.classes), part.labels)
    pairs = list(zip(part.class_names, captions, strict=True))
    positions = {pair: position for position, pair in enumerate(sorted(set(pairs)))}
    return Subjects(
        tuple(label for label, _ in positions),
        tuple(caption for _, caption in positions),
        tuple(positions[pair] for pair in pairs),
    )


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


def encoded_as_they_come(model: LatentDiffusion, settings: AdapterSettings, of: Subjects) -> TrainingPrompts:
    """Prompts whose embeddings stay as they are, and are too many to be kept: a caption is an image's own."""
    pairs = list(zip(of.labels, of.captions, strict=True))
    texts = ["", *(prompt_for(prompt, *pair) for prompt in all_prompts(settings) for pair in pairs)]

    def encode(numbers: torch.Tensor) -> Conditions:
        # What is not trained answers as it does when images are sampled.
        for encoder in model.text_encoders:
            encoder.eval()
        with torch.autocast(model.device.type, enabled=False):
            return encode_prompts(model, [texts[number] for number in numbers.tolist()])

    return TrainingPrompts(len(texts), encode)


def encoded_in_each_step(
    model: LatentDiffusion, settings: AdapterSettings, classes: Sequence[str], captions: Sequence[str] = ()
) -> TrainingPrompts:
    """Prompts whose embeddings change with the text encoder, or with tokens of classes; gradients reach both.

    Of models with one text encoder. The prior's, which keep what the base model knows, have the classes' own names.

    Args:
        classes: Of each subject.
        captions: Of each subject, where there are captions.
    """
    prompts = all_prompts(settings)
    own = 1 + len(settings.more_prompts)  # the prior's comes behind them
    pairs = list(zip(classes, captions or [""] * len(classes), strict=True))
    texts = ["", *(model_prompt(model, prompt, *pair) for prompt in prompts[:own] for pair in pairs)]
    texts += [prompt_for(prompt, *pair) for prompt in prompts[own:] for pair in pairs]
    [tokens] = prompt_tokens(model, texts)
    tokens = tokens.to(model.device)
    return TrainingPrompts(len(tokens), lambda numbers: encode_tokens(model, [tokens[numbers.to(model.device)]]))
