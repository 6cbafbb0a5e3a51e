"""The base model's tokenizer and text encoder, both of its own making.

The tokenizer is CLIP's byte-level byte-pair encoding (Sennrich et al., 2016) with a vocabulary of every byte
plus merges learned on the corpus's captions. Few merges, so that a word which the corpus never held is
spelled from pieces that it did.

The text encoder learns one thing before it is frozen: to know at every position which tokens it has read, also in
captions with words that the corpus lacks. Trained with the UNet instead, it told modalities apart and mapped all
classes of one to the same states within some hundred steps, and the UNet never saw the prompt's other words.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pretraining.training_state import (
    ProgressLog,
    cosine_rate,
    load_checkpoint,
    save_checkpoint,
    set_learning_rate,
    step_generators,
)

MAX_TOKENS = 48
"""Length that every prompt is padded or cut to."""

_WORD_END = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class TextSettings:
    """How the text encoder is trained."""

    steps: int
    seed: int = 0
    batch_size: int = 64
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 100
    replaced_share: float = 0.25
    """Share of the tokens for which random ones of the vocabulary stand in: names that are yet to come."""


def build_tokenizer(captions: list[str], merge_count: int, folder: Path) -> CLIPTokenizer:
    """Learns merges on captions and returns the tokenizer, written to `folder` as vocab.json and merges.txt.

    Args:
        captions: Text to learn from.
        merge_count: How many merges, the commonest pairs first.
        folder: Where to write; made if absent.
    """
    merges = _learn_merges(captions, merge_count)
    alphabet = sorted(ByteLevel.alphabet())
    entries = [
        *alphabet,
        *(letter + _WORD_END for letter in alphabet),
        *("".join(pair) for pair in merges),
        _START,
        _END,
    ]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """Returns an untrained CLIP text model of width 128 and three layers that fits the tokenizer."""
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=128,
        )
    )


def train_text_encoder(
    captions: list[str], tokenizer: CLIPTokenizer, out: Path, settings: TextSettings
) -> CLIPTextModel:
    """Trains the text encoder to remember what it reads, unless `out`/text.safetensors is there: that is it, trained.

    From each position's state, a linear map that is thrown away afterwards has to tell which tokens have been read so
    far (binary cross-entropy over the vocabulary). So a prompt's content can be read linearly from the states of its
    end and padding, which are most of what a UNet's cross-attention sees.

    Args:
        captions: Text to learn from.
        tokenizer: The base model's tokenizer.
        out: Folder for the checkpoint and text.json.
        settings: How.

    Returns:
        The text encoder, for inference.
    """
    every_ids = token_ids(tokenizer, sorted(set(captions)))
    words = (every_ids != tokenizer.bos_token_id) & (every_ids != tokenizer.eos_token_id)
    vocabulary = len(tokenizer)
    encoder = build_text_encoder(tokenizer, settings.seed)
    model = nn.ModuleDict({"text": encoder, "memory": nn.Linear(encoder.config.hidden_size, vocabulary)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.peak_learning_rate, weight_decay=1e-3)
    checkpoint = out / "text.safetensors"
    first_step = load_checkpoint(checkpoint, {"model": model}, optimizer)
    log = ProgressLog(out / "text.json", "text", settings.steps)
    for step in range(first_step, settings.steps):
        _, generator = step_generators(settings.seed, "text", step)
        chosen = torch.randint(len(every_ids), (settings.batch_size,), generator=generator)
        ids = every_ids[chosen]
        replaced = (torch.rand(ids.shape, generator=generator) < settings.replaced_share) & words[chosen]
        ids = torch.where(replaced, torch.randint(vocabulary, ids.shape, generator=generator), ids)
        has_read = F.one_hot(ids, vocabulary).cumsum(dim=1).clamp(max=1).float()
        told = model["memory"](encoder(ids).last_hidden_state)
        loss = F.binary_cross_entropy_with_logits(told, has_read)
        rate = cosine_rate(step, settings.steps, settings.peak_learning_rate, settings.warmup_steps)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        remembered = ((told > 0) & (has_read > 0)).sum() / has_read.sum()
        log.record(step, {"loss": loss.item(), "remembered": remembered.item()})
    save_checkpoint(checkpoint, {"model": model}, optimizer, settings.steps)  # once: it takes two minutes in all
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_captions(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Returns the states of captions, float32 of shape (N, MAX_TOKENS, 128)."""
    ids = token_ids(tokenizer, captions).to(encoder.device)
    return torch.cat([encoder(ids[start : start + 256]).last_hidden_state for start in range(0, len(ids), 256)])


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Returns the padded ids of captions, int64 of shape (N, MAX_TOKENS)."""
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def _learn_merges(captions: list[str], merge_count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding, Sennrich et al. (2016), algorithm 1; ties go to the pair that sorts first."""
    words = Counter(word for caption in captions for word in caption.lower().replace("-", " - ").split())
    spelled = {word: (*word[:-1], word[-1] + _WORD_END) for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < merge_count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {word: _merge(pieces, best) for word, pieces in spelled.items()}
    return merges


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Joins every occurrence of a pair of neighbours."""
    joined: list[str] = []
    index = 0
    while index < len(pieces):
        if pieces[index : index + 2] == pair:
            joined.append("".join(pair))
            index += 2
        else:
            joined.append(pieces[index])
            index += 1
    return tuple(joined)
