"""Prompts: one for all classes, with {label} where the class is named, and what the text encoder sees of them.

Where images have captions, {caption} is where an image's stands.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from synthmix.latent_diffusion.tokens import PromptTokenizer, Tokens
from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.quantities import listed, shortened

LONGEST_PROMPT_CHARACTERS = 1000
LONGEST_SHOWN = 80
MOST_NAMED = 4


def check_prompt(field: str, prompt: str, *, captions: bool = False) -> None:
    """A prompt without {label} would ask for every class in the same words.

    Args:
        captions: Whether there are captions, which may tell the classes apart.
    """
    if "{caption}" in prompt and not captions:
        raise invalid_field(
            field,
            prompt,
            "has {caption}, and there are no captions",
            "set the adapter's caption_column to a caption column of the dataset, or leave {caption} out",
            reason="PROMPT_WITHOUT_CAPTIONS",
        )
    if "{label}" not in prompt and "{caption}" not in prompt:
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


def prompt_for(prompt: str, label: str, caption: str = "") -> str:
    """The prompt of one class, or of an image of it with its caption, in which {label} names the class as well."""
    return prompt.replace("{caption}", caption).replace("{label}", label)


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


def check_negative(prompt: str, labels: Sequence[str], tokenizers: Sequence[PromptTokenizer]) -> list[str]:
    """Warnings of a negative prompt, which may name the class and need not: that it is cut, or not known."""
    named = labels if "{label}" in prompt else [""]
    warnings = []
    for tokenizer in tokenizers:
        found = [tokenizer(prompt_for(prompt, label)) for label in named]
        if any(tokens.cut for tokens in found):
            warnings.append(
                f"the negative prompt has {max(len(tokens.whole) for tokens in found)} tokens and the text encoder "
                f"gets {tokenizer.longest}: its rest is cut off; shorten it"
            )
        if any(tokens.unknown for tokens in found):
            warnings.append(
                "the negative prompt has characters that the base model's tokenizer does not know; they are the same "
                "to it as any others that it does not know"
            )
    return list(dict.fromkeys(warnings))


def check_captioned(
    field: str,
    prompt: str,
    images: Sequence[tuple[str, str]],
    classes: Sequence[str],
    tokenizers: Sequence[PromptTokenizer],
    *,
    class_tokens: int = 0,
) -> list[str]:
    """As `check_tokens`, of a prompt with {caption}, which is another one for each image.

    Args:
        images: The class and the caption of each.
        classes: All of them, in the order of their learned tokens.

    Returns:
        Warnings: how many images' prompts are cut, or hold what a tokenizer doesn't know.

    Raises:
        InvalidArgument: Images of two classes have the same tokens, or an image has none, by one of the tokenizers.
    """
    warnings = [
        warning
        for tokenizer in tokenizers
        for warning in _checked_captions(field, prompt, Counter(images), classes, tokenizer, class_tokens)
    ]
    return list(dict.fromkeys(warnings))


def _checked_captions(
    field: str,
    prompt: str,
    images: Mapping[tuple[str, str], int],
    classes: Sequence[str],
    tokenizer: PromptTokenizer,
    class_tokens: int,
) -> list[str]:
    """As `check_captioned`, of one text encoder, and of how many images have each caption."""
    names = dict(zip(classes, classes, strict=True))
    if class_tokens:
        tokenizer = tokenizer.with_tokens(class_token_names(len(classes), class_tokens))
        names = {label: class_token_text(number, class_tokens) for number, label in enumerate(classes)}
    empty = tokenizer("")
    alike: dict[tuple[int, ...], tuple[str, str]] = {}
    cut, unknown = Counter[str](), Counter[str]()
    longest = 0
    for (label, caption), count in images.items():
        found = tokenizer(prompt_for(prompt, names[label], caption))
        if found.ids == empty.ids:
            raise invalid_field(
                field,
                prompt,
                f"gives the text encoder nothing for an image of the class {_shown(label)} with the caption "
                f"{_shown(caption)}: no character of it makes a token",
                "write captions of words",
                reason="PROMPT_EMPTY",
            )
        other, others_caption = alike.setdefault(found.ids, (label, caption))
        if other != label:
            what = (
                f"the caption {_shown(caption)}"
                if caption == others_caption
                else f"the captions {_shown(others_caption)} and {_shown(caption)}"
            )
            raise invalid_field(
                field,
                prompt,
                f"gives the text encoder the same tokens for images of the classes {_shown(other)} and "
                f"{_shown(label)}, of {what}" + (", whose rest is cut off" if found.cut else ""),
                "put {label} before {caption}, such as '{label}, {caption}'",
                reason="PROMPTS_EQUAL",
            )
        if found.cut:
            cut[found.cut] += count
            longest = max(longest, len(found.whole))
        if found.unknown:
            unknown[caption] += count
    total = sum(images.values())
    warnings = []
    if cut:
        warnings.append(
            f"the prompts of {cut.total():,} of {total:,} train images have more than the {tokenizer.longest} tokens "
            f"that the text encoder gets (the longest has {longest}), and the rest is cut off, such as "
            f"{_shown(next(iter(cut)))}; shorten the captions"
        )
    if unknown:
        warnings.append(
            f"the captions of {unknown.total():,} of {total:,} train images have characters that the base model's "
            f"tokenizer does not know, such as {_shown(next(iter(unknown)))}; they are the same to it as any others "
            "that it does not know"
        )
    return warnings


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
