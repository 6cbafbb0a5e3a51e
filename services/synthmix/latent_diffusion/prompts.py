"""Prompts: one for all classes, with {label} where the class is named, and what the text encoder sees of them."""

import unicodedata
from collections.abc import Mapping, Sequence

from synthmix.latent_diffusion.tokens import PromptTokenizer, Tokens
from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.quantities import listed, shortened

LONGEST_PROMPT_CHARACTERS = 1000
LONGEST_SHOWN = 80
MOST_NAMED = 4


def check_prompt(field: str, prompt: str) -> None:
    """A prompt without {label} would ask for every class in the same words."""
    if "{label}" not in prompt:
        raise invalid_field(
            field,
            prompt,
            "does not name the class",
            "put {label} where the class belongs, such as 'a microscopy image of a {label} cell'",
            reason="PROMPT_WITHOUT_LABEL",
        )
    if len(prompt) > LONGEST_PROMPT_CHARACTERS:
        raise invalid_field(
            field,
            prompt,
            f"has {len(prompt)} characters",
            f"use at most {LONGEST_PROMPT_CHARACTERS}",
            reason="OUT_OF_RANGE",
        )


def prompt_for(prompt: str, label: str) -> str:
    """The prompt of one class."""
    return prompt.replace("{label}", label)


def class_token_names(classes: int, of_each: int) -> list[str]:
    """What a tokenizer knows learned tokens of classes by. Nobody sees it, and no prompt has it."""
    return [_class_token(number, vector) for number in range(classes) for vector in range(of_each)]


def class_token_text(number: int, of_each: int) -> str:
    """What stands in a prompt for the name of a class that has learned tokens."""
    return " ".join(_class_token(number, vector) for vector in range(of_each))


def _class_token(number: int, vector: int) -> str:
    return f"<|class {number} vector {vector}|>"


def check_class_words(field: str, words: Mapping[str, str], tokenizer: PromptTokenizer) -> None:
    """Raises InvalidArgument for a class whose tokens would begin from a word without any.

    Args:
        words: By class.
    """
    for label, word in words.items():
        if len(tokenizer(word).whole) == len(tokenizer("").whole):
            raise invalid_field(
                field,
                word,
                f"gives the class {_shown(label)} no tokens to begin from: no character of it makes one",
                "give a word that the text encoder knows, such as cell, or rename the class",
                reason="PROMPT_EMPTY",
            )


def check_tokens(
    field: str, prompt: str, labels: Sequence[str], tokenizers: Sequence[PromptTokenizer], *, class_tokens: int = 0
) -> list[str]:
    """Checks what the text encoders get of each class's prompt.

    Args:
        tokenizers: Of each text encoder.
        class_tokens: How many learned tokens each class has in the place of its name; 0 for none.

    Returns:
        Warnings: prompts that are cut, or that hold what a tokenizer doesn't know.

    Raises:
        InvalidArgument: Two classes have the same tokens, or one has none, by one of the tokenizers.
    """
    warnings = [
        warning for tokenizer in tokenizers for warning in _checked(field, prompt, labels, tokenizer, class_tokens)
    ]
    return list(dict.fromkeys(warnings))  # most models' tokenizers differ in nothing that counts here


def _checked(
    field: str, prompt: str, labels: Sequence[str], tokenizer: PromptTokenizer, class_tokens: int
) -> list[str]:
    """As `check_tokens`, of one text encoder."""
    names = list(labels)
    if class_tokens:
        tokenizer = tokenizer.with_tokens(class_token_names(len(labels), class_tokens))
        names = [class_token_text(number, class_tokens) for number in range(len(labels))]
    tokens = {label: tokenizer(prompt_for(prompt, name)) for label, name in zip(labels, names, strict=True)}
    empty = tokenizer("")
    alike: dict[tuple[int, ...], list[str]] = {}
    for label, found in tokens.items():
        if found.ids == empty.ids:
            raise invalid_field(
                field,
                prompt,
                f"gives the text encoder nothing for the class {_shown(label)}: no character of it makes a token",
                "write words into the prompt, and name the class with letters or digits",
                reason="PROMPT_EMPTY",
            )
        alike.setdefault(found.ids, []).append(label)
    for equal in alike.values():
        if len(equal) > 1:
            raise _same(field, prompt, equal, tokens, tokenizer.longest)
    return [*_cut(tokens, tokenizer.longest), *_unknown(tokens)]


def _same(field: str, prompt: str, labels: Sequence[str], tokens: dict[str, Tokens], longest: int) -> InvalidArgument:
    """The error for classes that the text encoder can't tell apart, with the reason that it can't."""
    first, second = labels[:2]
    names = listed([_shown(label) for label in labels], MOST_NAMED)
    whole = tokens[second].whole
    if whole != tokens[first].whole and (tokens[first].cut or tokens[second].cut):
        reason = (
            f"it has {len(whole)} tokens, of which the tokenizer keeps {longest}, and what tells the classes apart is "
            "cut off"
        )
        remedy = "shorten the prompt, or put {label} at its beginning"
    elif _folded(first) == _folded(second):
        reason = (
            "the tokenizer does not tell capitals from small letters, one blank from two, or composed from decomposed"
        )
        remedy = "rename one of the classes so that they differ in more than that"
    elif tokens[second].unknown:
        reason = "the tokenizer does not know their characters, and all that it does not know is one token"
        remedy = "rename the classes with letters and digits that the base model knows, or use another base model"
    else:
        reason = "the tokenizer leaves out what tells them apart"
        remedy = "rename one of the classes so that they differ in letters or digits"
    return invalid_field(
        field,
        prompt,
        f"gives the text encoder the same tokens for the classes {names}: {reason}",
        remedy,
        reason="PROMPTS_EQUAL",
    )


def _cut(tokens: dict[str, Tokens], longest: int) -> list[str]:
    cut = {label: found for label, found in tokens.items() if found.cut}
    if not cut:
        return []
    label, found = max(cut.items(), key=lambda item: len(item[1].whole))
    others = f" ({len(cut)} classes' prompts are cut)" if len(cut) > 1 else ""
    return [
        f"the prompt of the class {_shown(label)} has {len(found.whole)} tokens and the text encoder gets {longest}: "
        f"{_shown(found.cut)} is cut off{others}; shorten the prompt"
    ]


def _unknown(tokens: dict[str, Tokens]) -> list[str]:
    unknown = [_shown(label) for label, found in tokens.items() if found.unknown]
    if not unknown:
        return []
    return [
        f"the prompt of the class {listed(unknown, 1)} has characters that the base model's tokenizer does not "
        "know; they are the same to it as any others that it does not know"
    ]


def _folded(label: str) -> str:
    return " ".join(unicodedata.normalize("NFC", label).lower().split())


def _shown(text: str) -> str:
    return shortened(repr(text), LONGEST_SHOWN)
