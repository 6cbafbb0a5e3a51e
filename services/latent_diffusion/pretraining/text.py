"""The base model's tokenizer and text encoder, both of its own making.

The tokenizer is CLIP's byte-level byte-pair encoding (Sennrich et al., 2016) with a vocabulary of every byte
plus merges learned on the corpus's captions. Few merges, so that a word which the corpus never held is
spelled from pieces that it did.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 48
"""Length that every prompt is padded or cut to."""

_WORD_END = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"


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


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Returns the padded ids of captions, int64 of shape (N, MAX_TOKENS)."""
    ids: torch.Tensor = tokenizer(
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
