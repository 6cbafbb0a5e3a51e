"""What the text encoder gets of a prompt: our tokens are transformers', and equal ones are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.model_folder import ModelFolder
from synthmix.latent_diffusion.prompts import check_tokens
from synthmix.latent_diffusion.tokens import PromptTokenizer, check_tokenizer, prompt_tokenizer
from synthmix.service_kit.errors import InvalidArgument

FIELD = "adapter.prompt"
PROMPTS = (
    "",
    " ",
    "a",
    "a microscopy image of a round cell",
    "A MICROSCOPY IMAGE OF A ROUND CELL",
    "a  microscopy\timage\nof a round cell ",
    "HEK293T, 24 h, 0.5 µM (n=3)",
    "it's the cells' nuclei, they've we'll I'd don't",
    "Café Cafe\u0301",
    "ﬁbroblast ℌ Ⅳ ²",
    "細胞の画像 клетка κύτταρο خلية תא",
    "🧫🔬👩🏽\u200d🔬",
    "a\u200bb\u00a0c\ufeff",
    "\x00\x01\x7f",
    "__--..!!??##",
    "<|endoftext|> in the middle <|startoftext|>",
    "<|ENDOFTEXT|> <|endoftext|",
    "word " * 60,
    "é" * 200,
    "1234567890" * 12,
    "x" * 1000,
    "İstanbul ẞ ǅ",
)


def plain_layout(folder: Path, **config: Any) -> Path:
    """The built-in tokenizer as SD 1.5 and 2.1 have theirs on the hub: vocab.json, merges.txt, two small files."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    model = json.loads((BUILTIN_FOLDER / "tokenizer" / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [item if isinstance(item, str) else " ".join(item) for item in model["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    end = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    begin = end | {"content": "<|startoftext|>"}
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": "<|endoftext|>"}
    special |= {key: config.pop(key) for key in list(config) if key in special}
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(special))
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": 20, "do_lower_case": True, "errors": "replace"}
            | {key: value | {"__type": "AddedToken"} for key, value in (("bos_token", begin), ("eos_token", end))}
            | config
        )
    )
    return folder


def builtin_layout(folder: Path) -> Path:
    shutil.copytree(BUILTIN_FOLDER / "tokenizer", folder / "tokenizer")
    return folder


def table_of_added_tokens(folder: Path) -> Path:
    """As transformers 4.30 to 4.57 wrote it."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    texts = {"673": "<|startoftext|>", "674": "<|endoftext|>", "0": "!"}
    return plain_layout(
        folder, pad_token="!", added_tokens_decoder={key: flags | {"content": text} for key, text in texts.items()}
    )


LAYOUTS = {
    "table": table_of_added_tokens,
    "builtin": builtin_layout,
    "sd15": plain_layout,
    "sd21": lambda folder: plain_layout(folder, pad_token="!"),
    "left": lambda folder: plain_layout(folder, truncation_side="left", padding_side="left"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_are_those_of_transformers(layout: str, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    folder = LAYOUTS[layout](tmp_path)
    theirs = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    ours = prompt_tokenizer(folder, layout)
    assert ours.longest == theirs.model_max_length
    ids = theirs(list(PROMPTS), padding="max_length", max_length=theirs.model_max_length, truncation=True).input_ids
    whole = theirs(list(PROMPTS)).input_ids
    for prompt, expected, all_of_it in zip(PROMPTS, ids, whole, strict=True):
        found = ours(prompt)
        assert list(found.whole) == all_of_it, prompt
        assert list(found.ids) == expected, prompt
        assert bool(found.cut) == (len(all_of_it) > ours.longest), prompt


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return prompt_tokenizer(BUILTIN_FOLDER, "builtin")


def checked(tokenizer: PromptTokenizer, prompt: str, *labels: str) -> list[str]:
    return check_tokens(FIELD, prompt, labels, [tokenizer])


def test_a_prompt_that_fits_is_no_matter(tokenizer: PromptTokenizer) -> None:
    assert checked(tokenizer, "a microscopy image of a {label} cell", "round", "long", "A", "b 2") == []


def test_each_tokenizer_of_a_base_model_is_asked(tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    """The second keeps fewer tokens: what the first's text encoder can tell apart, the second's cannot."""
    short = prompt_tokenizer(plain_layout(tmp_path), "short")
    prompt = "a microscopy image of a cell, of an organ, of a chip, of a {label}"
    labels = ("round", "flat")
    assert check_tokens(FIELD, prompt, labels, [tokenizer]) == []
    with pytest.raises(InvalidArgument, match="of which the tokenizer keeps 20"):
        check_tokens(FIELD, prompt, labels, [tokenizer, short])
    # What both say is said once.
    [warning] = check_tokens(FIELD, "{label} " + LONG, labels, [tokenizer, tokenizer])
    assert "cut off" in warning


LONG = "an image " * 30


@pytest.mark.parametrize(
    ("prompt", "labels", "said"),
    [
        (LONG + "{label}", ("round", "long"), "cut off; shorten the prompt"),
        (LONG + "{label}", ("round", "long", "flat"), "'round', 'long', 'flat'"),
        (LONG + "of a {label}", ("a", "b"), "'a', 'b'"),
        ("{label}", ("x1" * 60 + "a", "x1" * 60 + "b"), "cut off"),
        ("a {label} cell", ("Alive", "alive"), "capitals"),
        ("a {label} cell", ("A B", "a  b"), "capitals"),
        ("a {label} cell", ("Caf\u00e9", "cafe\u0301"), "capitals"),
        ("a {label}cell", ("cell ", "cell\t"), "capitals"),
        ("{label}", ("\u2003", "round"), "nothing for the class"),
        ("{label}", ("", "round"), "nothing for the class ''"),
    ],
)
def test_classes_that_the_text_encoder_cannot_tell_apart_are_refused(
    tokenizer: PromptTokenizer, prompt: str, labels: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked(tokenizer, prompt, *labels)
    assert said in raised.value.message
    assert {item.field for item in raised.value.violations} == {FIELD}
    assert raised.value.reason in ("PROMPTS_EQUAL", "PROMPT_EMPTY")


def test_many_equal_classes_are_not_all_listed(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked(tokenizer, LONG + "{label}", *(f"class {number}" for number in range(100)))
    assert "'class 0', 'class 1', 'class 2', 'class 3' and 96 more" in raised.value.message


def test_a_vocabulary_that_lacks_characters_is_named(tmp_path: Path) -> None:
    folder = plain_layout(tmp_path)
    path = folder / "tokenizer" / "vocab.json"
    vocabulary = {token: number for token, number in json.loads(path.read_text()).items() if not token.startswith("7")}
    vocabulary |= {token: number for token, number in json.loads(path.read_text()).items() if token == "<|endoftext|>"}
    vocabulary.pop("8"), vocabulary.pop("8</w>")
    path.write_text(json.dumps(vocabulary))
    poor = prompt_tokenizer(folder, "poor")
    with pytest.raises(InvalidArgument, match="does not know their characters"):
        checked(poor, "stage {label}", "7", "8")
    [warning] = checked(poor, "stage {label}", "6", "7")
    assert "'7'" in warning and "does not know" in warning


@pytest.mark.parametrize(
    ("prompt", "labels", "count", "cut"),
    [
        ("a {label} cell in " + LONG, ("round", "long"), "(2 classes' prompts are cut)", "image an image"),
        ("{label}", ("round", "z9" * 40), "82 tokens and the text encoder gets 48", "z9z9"),
        (LONG + "{label}", ("only",), "the class 'only'", "only"),
    ],
)
def test_prompts_that_are_cut_are_warned_of(
    tokenizer: PromptTokenizer, prompt: str, labels: tuple[str, ...], count: str, cut: str
) -> None:
    [warning] = checked(tokenizer, prompt, *labels)
    assert count in warning
    assert cut in warning.partition(" is cut off")[0]
    assert len(warning) < 400


def vocabulary(value: object) -> Any:
    return lambda folder: (folder / "vocab.json").write_text(json.dumps(value))


def configured(**values: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (vocabulary({}), "empty vocabulary in its tokenizer/vocab.json"),
        (vocabulary([]), "holds a list"),
        (vocabulary({"a": "b"}), "vocabulary without numbers"),
        (vocabulary({"a": 0, "b": 1}), "lacks its bos_token '<|startoftext|>'"),
        (lambda folder: (folder / "merges.txt").unlink(), "has no tokenizer/merges.txt"),
        (lambda folder: (folder / "merges.txt").write_text("one\n"), "no list of merges"),
        (lambda folder: (folder / "merges.txt").write_text("qqq zzz\n"), "merges do not fit its vocabulary"),
        (lambda folder: (folder / "merges.txt").write_bytes(b"\xff\xfe a\n"), "is not UTF-8"),
        (lambda folder: (folder / "vocab.json").unlink(), "has no tokenizer/vocab.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no byte-pair vocabulary"),
        (
            lambda folder: (folder / "tokenizer.json").write_text(
                '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'
            ),
            "empty vocabulary in its tokenizer/tokenizer.json",
        ),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "has no tokenizer/tokenizer_config.json"),
        (configured(model_max_length=int(1e30)), "model_max_length 1000000000000000019884624838656"),
        (configured(model_max_length=None), "no model_max_length"),
        (configured(model_max_length=2), "model_max_length 2"),
        (configured(model_max_length=True), "model_max_length true"),
        (configured(model_max_length=21), "keeps 21 tokens"),
        (configured(padding_side="up"), "padding_side"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    folder = plain_layout(tmp_path)
    change(folder / "tokenizer")
    with pytest.raises(InvalidArgument) as raised:
        check_tokenizer(ModelFolder(folder, "adapter.base_model", "x"), vocabulary_size=675, positions=20)
    assert said.replace("'<", '"<').replace(">'", '>"') in raised.value.message


def test_a_vocabulary_larger_than_the_text_encoder_s_is_refused(tmp_path: Path) -> None:
    folder = ModelFolder(plain_layout(tmp_path), "adapter.base_model", "x")
    check_tokenizer(folder, vocabulary_size=675, positions=20)
    with pytest.raises(InvalidArgument, match="tokens up to 674 and a text encoder that knows 674"):
        check_tokenizer(folder, vocabulary_size=674, positions=20)
