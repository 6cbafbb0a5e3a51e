"""The base model's own recipe: what it may see, that it resumes to the same bytes, and how its latents are scaled."""

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from pretraining import autoencoder as recipe
from pretraining import pipeline
from pretraining import unet as unet_recipe
from pretraining.__main__ import main as pretraining_main
from pretraining.corpus import (
    MITOCHECK_HELD_OUT,
    Corpus,
    build_corpus,
    draw_simulated,
    draw_texture,
    load_corpus,
    resized,
    save_corpus,
)
from pretraining.decoder import DecoderSettings, train_decoder
from pretraining.text import (
    MAX_TOKENS,
    TextSettings,
    build_text_encoder,
    build_tokenizer,
    encode_captions,
    token_ids,
    train_text_encoder,
)
from pretraining.training_state import ProgressLog, warp
from real_images import real_images

SETTINGS = recipe.AutoencoderSettings(steps=4, batch_size=2, warmup_steps=2, checkpoint_every_steps=2, scaled_on=64)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def killed_at_the_last_step(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    class Killed(Exception):
        pass

    def die(self: object, step: int, figures: object) -> None:
        if step == steps - 1:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ProgressLog, "record", die)
        yield


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build_corpus(real_images("mitocheck"), simulated=range(6), texture_count=3, seed=5)


def test_the_withheld_phenotypes_are_not_in_the_corpus(corpus: Corpus) -> None:
    withheld = set()
    for label in MITOCHECK_HELD_OUT:
        for path in (real_images("mitocheck") / label).glob("*.png"):
            with Image.open(path) as image:
                withheld.add(np.asarray(image.convert("L")).tobytes())
    assert len(withheld) > 2000
    assert not withheld & {image.tobytes() for image in corpus.images}
    assert not {word for caption in corpus.captions for word in caption.split()} & MITOCHECK_HELD_OUT


def test_a_corpus_is_kept_whole(corpus: Corpus, tmp_path: Path) -> None:
    save_corpus(tmp_path / "corpus.npz", corpus)
    found = load_corpus(tmp_path / "corpus.npz")
    assert (found.images == corpus.images).all()
    assert (found.captions == corpus.captions).all()
    assert (found.textures == corpus.textures).all()
    assert corpus.weights.sum() == pytest.approx(1.0)
    assert corpus.weights[:-6].sum() == pytest.approx(0.4)


def test_a_folder_without_phenotypes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Interphase").mkdir()
    with pytest.raises(ValueError, match="--mitocheck is"):
        build_corpus(tmp_path, simulated=range(1), texture_count=1, seed=0)


def test_pictures_depend_on_seed_and_index_alone() -> None:
    assert (draw_texture(1, 7) == draw_texture(1, 7)).all()
    assert (draw_texture(1, 7) != draw_texture(1, 8)).any()
    first, second = draw_simulated(1, 7), draw_simulated(1, 7)
    assert (first[0] == second[0]).all()
    assert first[1] == second[1]
    assert (draw_simulated(2, 7)[0] != first[0]).any()


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> AutoencoderKL:
    torch.set_num_threads(1)
    return recipe.train_autoencoder(corpus, tmp_path_factory.mktemp("whole"), SETTINGS)


def test_an_interrupted_autoencoder_training_ends_with_the_same_bytes(
    corpus: Corpus, trained: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at_the_last_step(monkeypatch, SETTINGS.steps):
        recipe.train_autoencoder(corpus, tmp_path, SETTINGS)
    assert (tmp_path / "autoencoder.safetensors").exists()
    resumed = recipe.train_autoencoder(corpus, tmp_path, SETTINGS).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in trained.state_dict().items())


def test_the_decoder_learns_on_alone_and_ends_with_the_same_bytes_if_interrupted(
    corpus: Corpus, trained: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DecoderSettings(steps=4, batch_size=2, warmup_steps=2, checkpoint_every_steps=2)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    expected, killed, resumed = (copy.deepcopy(trained) for _ in range(3))
    train_decoder(expected, corpus, whole, settings)
    with killed_at_the_last_step(monkeypatch, settings.steps):
        train_decoder(killed, corpus, parted, settings)
    train_decoder(resumed, corpus, parted, settings)
    state, before = resumed.state_dict(), trained.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())
    changed = {name.split(".")[0] for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    files = (out / "decoder.safetensors" for out in (whole, parted))
    one, other = (load_file(path) for path in files)
    assert all(torch.equal(other[name], value) for name, value in one.items())  # of the discriminator, too


def test_a_discriminator_is_taught_to_tell_the_decoders_pictures_from_real_ones(
    corpus: Corpus, trained: AutoencoderKL, tmp_path: Path
) -> None:
    settings = DecoderSettings(steps=20, batch_size=4, peak_learning_rate=2e-3, warmup_steps=5)
    train_decoder(copy.deepcopy(trained), corpus, tmp_path, replace(settings, adversarial_weight=0.0))
    history = json.loads((tmp_path / "decoder.json").read_text())["history"]
    assert history[-1]["discriminator"] < 1.9  # a running mean; 2 is where it can't tell


def test_latents_have_mean_0_and_deviation_1_and_less_noise(corpus: Corpus, trained: AutoencoderKL) -> None:
    views = corpus.images[-64:].astype(np.float32) / 127.5 - 1.0
    latents = recipe.encode(trained, views)
    assert latents.shape == (64, recipe.LATENT_CHANNELS, 16, 16)
    assert latents.mean().abs() < 0.5
    assert 0.5 < latents.std() < 2.0
    assert trained.encode(recipe.as_rgb(views)).latent_dist.std.mean() < 0.7 * latents.std()


def test_an_autoencoder_begins_as_a_linear_map(corpus: Corpus) -> None:
    autoencoder = recipe.build_autoencoder(seed=1)
    pictures = recipe.as_rgb(corpus.images[-6:].astype(np.float32) / 127.5 - 1.0)
    with torch.no_grad():
        for half, inputs in ((autoencoder.encoder, pictures), (autoencoder.decoder, torch.randn(6, 8, 16, 16))):
            none, some, whole = half(0.0 * inputs), half(0.5 * inputs), half(inputs)
            assert (some - none - 0.5 * (whole - none)).std() < 0.05 * (whole - none).std()


def test_a_larger_corpus_has_the_same_real_pictures_and_other_simulated_ones(corpus: Corpus) -> None:
    larger = build_corpus(real_images("mitocheck"), range(6, 8), texture_count=0, seed=5, size_px=128)
    real = len(corpus.images) - 6
    assert larger.images.shape == (real + 2, 128, 128)
    assert larger.captions[:real].tolist() == corpus.captions[:real].tolist()
    assert larger.weights.sum() == pytest.approx(1.0)
    again = resized(larger, 64).images[:real].astype(float)
    assert np.abs(again - corpus.images[:real]).mean() < 1.0
    assert all("simulated" in caption or "sim-" in caption for caption in larger.captions[real:])


def test_an_interrupted_unet_training_ends_with_the_same_bytes(
    corpus: Corpus, trained: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(corpus, images=corpus.images[-6:], captions=corpus.captions[-6:], weights=np.full(6, 1 / 6))
    corpora = [few, resized(few, 96)]
    tokenizer = build_tokenizer(corpus.captions.tolist(), 20, tmp_path / "tokenizer")
    text_encoder = build_text_encoder(tokenizer, seed=0)
    cpu = torch.device("cpu")
    settings = unet_recipe.UnetSettings(
        steps=3, batch_size=4, larger_share=0.5, warmup_steps=1, checkpoint_every_steps=2, grid_columns=1
    )
    monkeypatch.setattr(unet_recipe, "GRID_PROMPTS", unet_recipe.GRID_PROMPTS[:1])
    monkeypatch.setattr(pipeline, "GRID_STEPS", 1)

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    expected = unet_recipe.train_unet(corpora, trained, tokenizer, text_encoder, whole, settings, cpu)
    with killed_at_the_last_step(monkeypatch, settings.steps):
        unet_recipe.train_unet(corpora, trained, tokenizer, text_encoder, parted, settings, cpu)
    resumed = unet_recipe.train_unet(corpora, trained, tokenizer, text_encoder, parted, settings, cpu)
    state = resumed.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())


def test_latents_are_kept_of_warped_views_too(corpus: Corpus, trained: AutoencoderKL) -> None:
    few = replace(corpus, images=corpus.images[-6:], captions=corpus.captions[-6:], weights=np.full(6, 1 / 6))
    captions = sorted(set(few.captions.tolist()))
    plain, warped = (
        unet_recipe._cache_latents(
            few, trained, captions, unet_recipe.UnetSettings(steps=1, views=3, warped_share=share)
        )
        for share in (0.0, 1.0)
    )
    assert plain.latents.shape == warped.latents.shape == (18, recipe.LATENT_CHANNELS, 16, 16)
    assert (plain.latents != warped.latents).flatten(1).any(dim=1).all()
    assert warped.chances.sum() == pytest.approx(1.0)
    assert set(warped.prompt_of) == set(range(1, 1 + len(captions)))


def test_warping_turns_and_bends_pictures_and_keeps_what_they_show() -> None:
    rows, columns = np.mgrid[-32:32, -32:32] + 0.5
    inside = ((rows / 10) ** 2 + (columns / 20) ** 2 < 1).astype(np.float32)
    views = np.stack([2 * inside - 1] * 40)
    warped = warp(views, np.random.default_rng(3))
    assert warped.shape == views.shape
    assert warped.dtype == np.float32
    assert -1 <= warped.min() < warped.max() <= 1
    bright = (warped > 0).mean(axis=(1, 2)) / inside.mean()
    assert (np.abs(np.log(bright)) < 0.5).all()  # stretched by a few per cent a side
    assert np.log(bright).std() > 0.03
    upright = [(view > 0).any(axis=1).sum() for view in warped]
    assert min(upright) < 26  # 20 rows high at first, 40 once turned by a quarter
    assert max(upright) > 34
    assert (warp(views, np.random.default_rng(3)) == warped).all()


def test_the_gpu_recipe_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images, out = real_images("mitocheck"), tmp_path / "out"
    given = ["--mitocheck", str(images), "--out", str(out), "--minutes", "1", "--unet", "gpu"]
    monkeypatch.setattr(sys, "argv", ["pretraining", *given])
    with pytest.raises(SystemExit):
        pretraining_main()
    assert "--unet gpu: torch finds no CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_learns_and_is_read_again(corpus: Corpus, tmp_path: Path) -> None:
    captions = corpus.captions.tolist()
    tokenizer = build_tokenizer(captions, 20, tmp_path / "tokenizer")
    settings = TextSettings(steps=20, batch_size=8, warmup_steps=5)
    text_encoder = train_text_encoder(captions, tokenizer, tmp_path, settings)
    history = json.loads((tmp_path / "text.json").read_text())["history"]
    assert history[-1]["loss"] < 0.66  # a running mean; untrained it is 0.70
    states = encode_captions(text_encoder, tokenizer, captions[:2])
    assert states.shape == (2, MAX_TOKENS, 128)
    again = train_text_encoder(captions, tokenizer, tmp_path, settings)
    assert torch.equal(encode_captions(again, tokenizer, captions[:2]), states)


def test_words_never_seen_are_spelled_from_pieces(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["a fluorescence image of a Metaphase nucleus"] * 3, 40, tmp_path)
    ids = token_ids(tokenizer, ["a fluorescence image of a Metaphase nucleus", "an image of a Prometaphase nucleus"])
    assert ids.shape == (2, MAX_TOKENS)
    assert tokenizer.decode(ids[1], skip_special_tokens=True) == "an image of a prometaphase nucleus"
