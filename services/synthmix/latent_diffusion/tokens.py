"""Prompts as the text encoder gets them, without torch: CLIP's tokenizer, built as transformers builds it.

Training and sampling tokenise with transformers (loading.encode_prompts); front ends can't import that in seconds, and
its tokenizer is the library tokenizers with settings. A test compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthmix.latent_diffusion.model_folder import INCOMPLETE, LARGEST_VOCABULARY_BYTES, ModelFolder, is_whole, shown

FOLDER, ENCODER = "tokenizer", "text_encoder"
# As in CLIP (Radford et al. 2021, arXiv:2103.00020): contractions, words, single digits, runs of anything else.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPECIAL_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
FEWEST_TOKENS = 3  # the two that begin and end a prompt, and one of its own


@dataclass(frozen=True)
class Tokens:
    """A prompt in tokens.

    Attributes:
        ids: What the text encoder gets: cut or padded to the length that the tokenizer keeps.
        whole: All tokens of the prompt, with the two that begin and end it.
        cut: The text that is cut off, "" if none is.
        unknown: How many of the prompt's tokens the vocabulary doesn't have.
    """

    ids: tuple[int, ...]
    whole: tuple[int, ...]
    cut: str
    unknown: int


@dataclass(frozen=True)
class PromptTokenizer:
    """A base model's tokenizer, and how many tokens of a prompt it keeps.

    Attributes:
        longest: Tokens that it cuts and pads to, with the two that begin and end a prompt.
        truncation_side, padding_side: left or right.
    """

    tokenizer: Any
    longest: int
    unknown_id: int
    pad_id: int
    truncation_side: str
    padding_side: str

    def __call__(self, prompt: str) -> Tokens:
        encoding = self.tokenizer.encode(prompt)
        whole = tuple(encoding.ids)
        begin, *inner, end = whole
        surplus = len(whole) - self.longest
        cut = ""
        if surplus > 0 and self.truncation_side == "left":
            cut = prompt[: encoding.offsets[surplus][1]]
            inner = inner[surplus:]
        elif surplus > 0:
            cut = prompt[encoding.offsets[self.longest - 1][0] :]
            inner = inner[:-surplus]
        padding = (self.pad_id,) * max(0, -surplus)
        ids = (begin, *inner, end)
        ids = (*padding, *ids) if self.padding_side == "left" else (*ids, *padding)
        return Tokens(ids, whole, cut.strip(), whole[1:-1].count(self.unknown_id))

    def with_tokens(self, names: Sequence[str]) -> "PromptTokenizer":
        """One that knows further tokens by their names."""
        from tokenizers import AddedToken, Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
        return replace(self, tokenizer=tokenizer)


@dataclass(frozen=True)
class _Files:
    """Paths of a tokenizer's files in a model's folder."""

    folder: str

    @property
    def config(self) -> str:
        return f"{self.folder}/tokenizer_config.json"

    @property
    def whole(self) -> str:
        return f"{self.folder}/tokenizer.json"

    @property
    def vocabulary(self) -> str:
        return f"{self.folder}/vocab.json"

    @property
    def merges(self) -> str:
        return f"{self.folder}/merges.txt"

    @property
    def special(self) -> str:
        return f"{self.folder}/special_tokens_map.json"


def check_tokenizer(
    model: ModelFolder, *, vocabulary_size: int, positions: int, tokenizer: str = FOLDER, encoder: str = ENCODER
) -> int:
    """How many tokens of a prompt a tokenizer keeps.

    Args:
        vocabulary_size: Rows of the text encoder's embedding.
        positions: The most tokens that the text encoder takes.
        tokenizer, encoder: Names of the two components.

    Raises:
        InvalidArgument: The tokenizer can't be used, or doesn't fit its text encoder.
    """
    found = _read(model, _Files(tokenizer))
    if found.longest > positions:
        raise model.fault(
            f"has a tokenizer that keeps {found.longest} tokens ({tokenizer}/tokenizer_config.json, model_max_length) "
            f"and a text encoder that takes {positions} ({encoder}/config.json, max_position_embeddings)",
            f"write model_max_length {positions}",
        )
    largest = max(found.tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= vocabulary_size:
        raise model.fault(
            f"has a tokenizer with tokens up to {largest} and a text encoder that knows {vocabulary_size} "
            f"({encoder}/config.json, vocab_size)",
            "give the tokenizer that the text encoder was trained with",
        )
    return found.longest


@lru_cache(maxsize=4)  # CLIP's takes a fifth of a second to read
def prompt_tokenizer(folder: Path, digest: str, tokenizer: str = FOLDER) -> PromptTokenizer:
    """A tokenizer of a base model that was checked.

    Args:
        digest: The model's: a folder's files may change, and so its tokenizer.
        tokenizer: The component's name.
    """
    return _read(ModelFolder(folder, "base_model", str(folder)), _Files(tokenizer))


def _read(model: ModelFolder, files: _Files) -> PromptTokenizer:
    """Builds the tokenizer. Raises InvalidArgument for files that make none."""
    config = model.json(files.config)
    longest: Any = config.get("model_max_length")
    if not is_whole(longest, FEWEST_TOKENS, 1 << 16):
        raise model.fault(
            f"does not say how many tokens a prompt may have: {files.config} has "
            f"{'no model_max_length' if longest is None else f'model_max_length {shown(longest)}'}",
            "write the text encoder's max_position_embeddings there, 77 for CLIP",
        )
    vocabulary, merges, beside = _vocabulary(model, files)
    tokens, special = _added_tokens(model, files, config, beside)
    known = vocabulary.keys() | {token.content for token in tokens.values()}
    for key, token in special.items():
        if token.content not in known:
            raise model.fault(
                f"has a tokenizer whose vocabulary lacks its {key} {shown(token.content)}",
                "give the tokenizer that the text encoder was trained with",
            )
    names = {key: token.content for key, token in special.items()}
    tokenizer = _build(model, vocabulary, merges, names)
    # In transformers' order: one that comes later decides how a token of the same text is matched.
    tokenizer.add_tokens([token for _, token in sorted(tokens.items())])
    listed = {token.content for token in tokens.values()}
    tokenizer.add_special_tokens([token for token in special.values() if token.content not in listed])
    tokenizer.post_processor = _ends(tokenizer, names)
    sides = {key: config.get(key, "right") for key in ("truncation_side", "padding_side")}
    for key, side in sides.items():
        if side not in ("left", "right"):
            raise model.fault(f"says {key} {shown(side)} in its {files.config}", "it must be left or right")
    return PromptTokenizer(
        tokenizer,
        longest,
        tokenizer.token_to_id(names["unk_token"]),
        tokenizer.token_to_id(names["pad_token"]),
        **sides,
    )


def _vocabulary(model: ModelFolder, files: _Files) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, Any]]:
    """Tokens with their numbers, merges in order, and by number what tokenizer.json has beside the vocabulary."""
    beside: dict[str, Any] = {}
    if (model.path / files.whole).exists():
        source = files.whole
        value = model.json(files.whole, largest_bytes=LARGEST_VOCABULARY_BYTES)
        inner = value.get("model")
        if not isinstance(inner, dict) or inner.get("type", "BPE") != "BPE":
            raise model.fault(f"has no byte-pair vocabulary in its {files.whole}", "give CLIP's tokenizer", INCOMPLETE)
        vocabulary, raw = inner.get("vocab"), inner.get("merges")
        entries = value.get("added_tokens") or []
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            beside = {str(entry.get("id")): entry for entry in entries}
    else:
        source = files.vocabulary
        vocabulary = model.json(files.vocabulary, largest_bytes=LARGEST_VOCABULARY_BYTES)
        raw = _merge_lines(model, files)
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise model.fault(f"has an empty vocabulary in its {source}", "copy the tokenizer again", INCOMPLETE)
    if not all(is_whole(number, 0) for number in vocabulary.values()):
        raise model.fault(f"has a vocabulary without numbers in its {source}", "copy the tokenizer again", INCOMPLETE)
    pairs = [tuple(item.split(" ")) if isinstance(item, str) else tuple(item) for item in raw or []]
    if not isinstance(raw, list) or not all(len(pair) == 2 and all(map(_is_text, pair)) for pair in pairs):
        raise model.fault(
            f"has no list of merges, pairs of tokens, in its {source if source == files.whole else files.merges}",
            "copy the tokenizer again",
            INCOMPLETE,
        )
    return vocabulary, [(first, second) for first, second in pairs], beside


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _merge_lines(model: ModelFolder, files: _Files) -> list[str]:
    data = model.read(files.merges, largest_bytes=LARGEST_VOCABULARY_BYTES)
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise model.fault(
            f"has a {files.merges} that is not UTF-8 text", "copy the tokenizer again", INCOMPLETE
        ) from error
    return [line for line in lines if line.strip() and not line.startswith("#version")]


def _added_tokens(
    model: ModelFolder, files: _Files, config: dict[str, Any], beside: dict[str, Any]
) -> tuple[dict[int, Any], dict[str, Any]]:
    """Tokens beside the vocabulary by number, and the four special ones by their key, as tokenizers.AddedToken.

    tokenizer_config.json's table of added tokens, if there is one, stands for all other files.
    """
    from tokenizers import AddedToken

    def token(value: Any) -> Any:
        if isinstance(value, str):
            return AddedToken(value, special=True)
        fields = ("content", "single_word", "lstrip", "rstrip", "normalized")
        return AddedToken(**{key: value[key] for key in fields if key in value}, special=True)

    table = config.get("added_tokens_decoder", beside)
    sources = [dict(SPECIAL_TOKENS), config]
    if "added_tokens_decoder" not in config and (model.path / files.special).is_file():
        sources.append(model.json(files.special))
    raw = {key: [source[key] for source in sources if source.get(key)][-1] for key in SPECIAL_TOKENS}
    try:
        tokens = {int(number): token(value) for number, value in table.items()}
        by_text = {added.content: added for added in tokens.values()}
        special = {key: token(value) for key, value in raw.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise model.fault(
            f"has special tokens in its {files.config} or {files.special} that are no texts",
            "copy the tokenizer again",
            INCOMPLETE,
        ) from error
    return tokens, {key: by_text.get(value.content, value) for key, value in special.items()}


def _build(
    model: ModelFolder,
    vocabulary: dict[str, int],
    merges: Sequence[tuple[str, str]],
    special: dict[str, str],
) -> Any:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    try:
        tokenizer = Tokenizer(
            BPE(
                vocab=vocabulary,
                merges=list(merges),
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=special["unk_token"],
            )
        )
    except Exception as error:  # the library raises a bare Exception
        raise model.fault(
            f"has a tokenizer whose merges do not fit its vocabulary ({str(error)[:120]})",
            "copy the tokenizer again",
            INCOMPLETE,
        ) from error
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _ends(tokenizer: Any, special: dict[str, str]) -> Any:
    """What puts the tokens that begin and end a prompt around it."""
    from tokenizers import processors

    begin, end = special["bos_token"], special["eos_token"]
    return processors.RobertaProcessing(
        (end, tokenizer.token_to_id(end)), (begin, tokenizer.token_to_id(begin)), False, False
    )
