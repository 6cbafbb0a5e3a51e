"""Tokens that a text encoder has learned for classes, beside those of its vocabulary, whose rows stay bit for bit.

Textual inversion: Gal et al. 2023 (arXiv:2208.01618), with some vectors a class.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from tokenizers import AddedToken
from torch.nn import functional as F

from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.prompts import class_token_names, class_token_text, prompt_for


class ClassTokens(torch.nn.Module):
    """In the place of a text encoder's embedding: its own rows, and behind them those of the classes.

    Attributes:
        classes: In the order of their vectors.
        first: The token of the first vector.
        vectors: (classes x vectors of a class, width), float32.
    """

    def __init__(
        self, embedding: torch.nn.Embedding, classes: Sequence[str], first: int, vectors: torch.Tensor
    ) -> None:
        super().__init__()
        self.embedding, self.first = embedding, first
        self.classes = tuple(classes)
        self.vectors = torch.nn.Parameter(vectors.to(embedding.weight.device, torch.float32))

    @property
    def of_each(self) -> int:
        """How many vectors a class has."""
        return len(self.vectors) // len(self.classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        is_learned = tokens >= self.first
        rows: torch.Tensor = self.embedding(tokens.masked_fill(is_learned, 0))
        learned = F.embedding((tokens - self.first).clamp(min=0), self.vectors).to(rows.dtype)
        return torch.where(is_learned[..., None], learned, rows)


def add_class_tokens(model: LatentDiffusion, classes: Sequence[str], vectors: torch.Tensor) -> None:
    """Gives a lent base model's tokenizer and text encoder tokens for classes.

    Args:
        vectors: (classes x vectors of a class, width).
    """
    # The base model's own is that of all its copies.
    tokenizer = copy.deepcopy(model.pipeline.tokenizer)
    names = class_token_names(len(classes), len(vectors) // len(classes))
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    model.pipeline.tokenizer = tokenizer
    embeddings, first = model.text_encoder.embeddings, tokenizer.convert_tokens_to_ids(names[0])
    embeddings.token_embedding = ClassTokens(embeddings.token_embedding, classes, first, vectors)


def class_tokens(model: LatentDiffusion) -> ClassTokens | None:
    """None if the model has none."""
    embedding = model.text_encoder.embeddings.token_embedding
    return embedding if isinstance(embedding, ClassTokens) else None


def model_prompt(model: LatentDiffusion, prompt: str, label: str, caption: str = "") -> str:
    """A prompt as the model's tokenizer has to get it: with learned tokens for the class's name, if it has any.

    Raises ValueError if it has tokens, but none for this class.
    """
    learned = class_tokens(model)
    if learned is None:
        return prompt_for(prompt, label, caption)
    return prompt_for(prompt, class_token_text(learned.classes.index(label), learned.of_each), caption)


def first_vectors(model: LatentDiffusion, words: Sequence[str], of_each: int) -> torch.Tensor:
    """What classes' vectors begin as, (words x of_each, width): the mean of the tokens of a word of each.

    Args:
        words: Of each class; each makes a token.
    """
    weights = model.text_encoder.embeddings.token_embedding.weight
    means = []
    for word in words:
        tokens = model.pipeline.tokenizer(word, add_special_tokens=False).input_ids
        means.append(weights[tokens].float().mean(dim=0))
    return torch.stack(means).repeat_interleave(of_each, dim=0)


def stored_vectors(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """A class's vectors (of_each, width), as textual inversion stores them: under its name in angle brackets."""
    learned = class_tokens(model)
    if learned is None:
        return {}
    of_classes = learned.vectors.detach().cpu().float().unflatten(0, (len(learned.classes), -1))
    return {f"<{label}>": of_class.contiguous() for label, of_class in zip(learned.classes, of_classes, strict=True)}


def load_class_tokens(model: LatentDiffusion, stored: Mapping[str, torch.Tensor]) -> None:
    """Adds what `stored_vectors` returned. Raises ValueError for what does not fit the text encoder."""
    width = model.text_encoder.config.hidden_size
    shapes = {tuple(value.shape) for value in stored.values()}
    if not stored or len(shapes) > 1 or [shape[1:] for shape in shapes] != [(width,)]:
        raise ValueError(f"its class tokens are of shapes {sorted(shapes)}, and the text encoder's of width {width}")
    if not all(torch.isfinite(value).all() for value in stored.values()):
        raise ValueError("its class tokens are no numbers (NaN or infinite)")
    add_class_tokens(model, [name[1:-1] for name in stored], torch.cat(list(stored.values())))
