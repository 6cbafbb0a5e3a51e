"""Learned tokens of classes: alone, before and beside an adapter, and nothing else of the text encoder changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from synthmix.adapter_training import planning, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.portions import Portion
from synthmix.image_synthesis.adapted_models import check_adapter_has_effect, make_ready
from synthmix.latent_diffusion.adapters import load_adapter
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.class_tokens import add_class_tokens, class_tokens, first_vectors, model_prompt
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, answers, encode_prompts, prompt_tokens
from synthmix.latent_diffusion.prompts import class_token_names, class_token_text, prompt_for
from synthmix.latent_diffusion.tokens import prompt_tokenizer
from synthmix.service_kit.adapter_payloads import CLASS_TOKENS, LORA_WEIGHTS
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.resource_names import ArtifactName
from tiny_adapters import resumed, settings_of, trained, written

pytestmark = pytest.mark.usefixtures("one_thread")

MANIFEST = Manifest(ArtifactName("adapters", "0" * 32), {}, {}, 1, ())
CLASSES = ("round", "flat")
PROMPT = "a {label} cell"
RATE = {"class_token_learning_rate": 1e-2}
MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "alone": ("none", {"class_tokens": 2}),
    "jointly": ("lora", {"class_tokens": 1}),
    "before": ("lora", {"class_tokens": 2, "class_token_images_seen": 5}),
    "with the text encoder": ("lora", {"class_tokens": 1, "text_encoder_targets": "attention"}),
    "beside another method": ("lokr", {"class_tokens": 1}),
}


def prompts_of(model: LatentDiffusion) -> torch.Tensor:
    return encode_prompts(model, [model_prompt(model, PROMPT, label) for label in CLASSES]).embeddings


@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_learned_and_resume_and_are_read_back(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, mode: str
) -> None:
    method, options = MODES[mode]
    settings = settings_of(found, method, "attention", **options, **RATE)
    before = {name: value.clone() for name, value in base.text_encoder.named_parameters()}
    without = answers(base)
    model, state = trained(base, settings)
    for stop_after in (1, 2):
        resumed_model, again = resumed(base, settings, stop_after)
        assert again.losses == state.losses
        assert adapter_files(resumed_model) == adapter_files(model), "resumed to the same bytes"

    files = adapter_files(model)
    vectors = load_tensors(files[CLASS_TOKENS])
    assert {name: tuple(value.shape) for name, value in vectors.items()} == {
        f"<{label}>": (settings.class_tokens, 16) for label in CLASSES
    }
    assert (method == "none") == (files.keys() == {CLASS_TOKENS})
    first = first_vectors(base, CLASSES, settings.class_tokens)
    for number, label in enumerate(CLASSES):
        begun = first[number * settings.class_tokens : (number + 1) * settings.class_tokens]
        assert (vectors[f"<{label}>"] - begun).abs().max() > 1e-3, "every class's are learned"

    loaded = shared_copy(base)
    load_adapter(loaded, written(files, tmp_path / "files"))
    check_adapter_has_effect(loaded, without, MANIFEST)
    torch.testing.assert_close(prompts_of(loaded), prompts_of(model), rtol=0, atol=2e-6)
    make_ready(loaded, "automatic")
    torch.testing.assert_close(prompts_of(loaded), prompts_of(model), rtol=0, atol=5e-6)
    torch.testing.assert_close(answers(loaded)["unet"], answers(model)["unet"], rtol=0, atol=5e-6)
    expected = encode_prompts(base, [prompt_for(PROMPT, label) for label in CLASSES]).embeddings
    assert (prompts_of(model) - expected).abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in base.text_encoder.named_parameters())
    if "text_encoder_targets" not in options:
        rows = model.text_encoder.embeddings.token_embedding.embedding.weight
        assert torch.equal(rows, before["embeddings.token_embedding.weight"])


def test_the_adapter_waits_for_tokens_that_come_first(base: LatentDiffusion, found: BaseModel) -> None:
    settings = settings_of(found, "lora", "attention", class_tokens=1, class_token_images_seen=8, **RATE)
    course: list[dict[str, torch.Tensor]] = []
    for stop_after in (1, 2, 3):
        _, state = trained(base, settings, stop_after=stop_after)
        course.append({name: value.detach().clone() for name, value in state.parameters.items()})
    one, two, three = course
    adapters = [name for name in one if name != recipe.VECTORS]
    assert not torch.equal(one[recipe.VECTORS], two[recipe.VECTORS])
    assert torch.equal(two[recipe.VECTORS], three[recipe.VECTORS])
    assert all(torch.equal(one[name], two[name]) for name in adapters)
    assert any(not torch.equal(two[name], three[name]) for name in adapters)


def test_a_word_is_where_all_classes_begin(base: LatentDiffusion, found: BaseModel) -> None:
    settings = settings_of(found, "none", "attention", class_tokens=3, class_token_word="cell", **RATE)
    model = shared_copy(base)
    recipe.set_up(model, settings, classes=CLASSES)
    learned = class_tokens(model)
    assert learned is not None
    ids = base.pipeline.tokenizer("cell", add_special_tokens=False).input_ids
    mean = base.text_encoder.embeddings.token_embedding.weight[ids].mean(dim=0)
    assert learned.vectors.shape == (6, 16)
    torch.testing.assert_close(learned.vectors.data, mean.expand(6, 16))


def test_one_token_of_a_class_that_has_one_begins_as_its_name(base: LatentDiffusion) -> None:
    """Nothing changes before anything is learned."""
    tokenizer = base.pipeline.tokenizer
    [word] = [word for word in ("a", "cell") if len(tokenizer(word, add_special_tokens=False).input_ids) == 1][:1]
    model = shared_copy(base)
    add_class_tokens(model, [word], first_vectors(base, [word], 1))
    text = f"an image of {word} there"
    expected = encode_prompts(base, [text]).embeddings
    torch.testing.assert_close(
        encode_prompts(model, [model_prompt(model, "an image of {label} there", word)]).embeddings, expected
    )
    torch.testing.assert_close(encode_prompts(model, [text]).embeddings, expected, rtol=0, atol=0)


def test_front_ends_see_the_tokens_that_workers_give_the_text_encoder(base: LatentDiffusion, found: BaseModel) -> None:
    names = class_token_names(2, 3)
    model = shared_copy(base)
    add_class_tokens(model, CLASSES, torch.zeros(6, 16))
    tokenizer = prompt_tokenizer(found.folder, found.digest).with_tokens(names)
    for prompt in ("a {label} cell", "{label}", "cell{label}cell", "{label} and {label}", "a " * 60 + "{label}"):
        for number, label in enumerate(CLASSES):
            text = prompt_for(prompt, class_token_text(number, 3))
            assert model_prompt(model, prompt, label) == text
            assert [[list(tokenizer(text).ids)]] == [tokens.tolist() for tokens in prompt_tokens(model, [text])]


def test_diffusers_reads_the_vectors_of_a_class(
    base: LatentDiffusion, found: BaseModel, folder: Path, tmp_path: Path
) -> None:
    """Textual inversion's own form: one file a class."""
    model, _ = trained(base, settings_of(found, "lora", "attention", class_tokens=2, **RATE), stop_after=2)
    files = written(adapter_files(model), tmp_path / "files")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(str(files), weight_name=LORA_WEIGHTS)
    for number, (name, vectors) in enumerate(load_tensors((files / CLASS_TOKENS).read_bytes()).items()):
        save_file({name: vectors}, tmp_path / f"{number}.safetensors")
        pipeline.load_textual_inversion(str(tmp_path / f"{number}.safetensors"))
    for label in CLASSES:
        text = pipeline.maybe_convert_prompt(prompt_for(PROMPT, f"<{label}>"), pipeline.tokenizer)
        theirs = encode_prompts(LatentDiffusion(pipeline, base.device, base.dtype), [text]).embeddings
        torch.testing.assert_close(theirs, prompts_of(model)[[CLASSES.index(label)]], rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    "stored",
    [{}, {"<a>": torch.zeros(1, 8)}, {"<a>": torch.zeros(1, 16), "<b>": torch.zeros(2, 16)}, {"<a>": torch.zeros(16)}],
)
def test_vectors_that_do_not_fit_are_refused(
    base: LatentDiffusion, tmp_path: Path, stored: dict[str, torch.Tensor]
) -> None:
    save_file(stored, tmp_path / CLASS_TOKENS)
    with pytest.raises(ValueError, match="class tokens"):
        load_adapter(shared_copy(base), tmp_path)


def test_the_plan_counts_the_vectors(found: BaseModel) -> None:
    settings = settings_of(found, "none", "attention", class_tokens=2)
    portion = Portion("", "", (0, 1), (), 12)
    counted = planning.quantities(settings, found, [portion] * 2, CLASSES)
    values = {item.name: item.value for item in counted}
    assert (values["parameters"], values["class tokens"], values["adapted layers"]) == (128, 4, 0)
    assert settings.class_token_learning_rate == 5e-4
