"""The base model's own recipe: what it may see, that it resumes to the same bytes, and how its latents are scaled."""

import copy
import fcntl
import json
import os
import re
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
from scipy import ndimage

from pretraining import autoencoder as recipe
from pretraining import pipeline
from pretraining import unet as unet_recipe
from pretraining.__main__ import main as pretraining_main
from pretraining.cells import NUCLEI, draw_cells, draw_kind
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
from pretraining.looks import Palette, draw_staining, stained, transmitted
from pretraining.recipe import Recipe, pretrain
from pretraining.text import (
    MAX_TOKENS,
    TextSettings,
    build_text_encoder,
    build_tokenizer,
    encode_captions,
    token_ids,
    train_text_encoder,
)
from pretraining.training_state import ProgressLog, augment, is_grey, warp
from real_images import real_images
from stained_cells import SLIDE, SLIDES, TYPES, write_stained_cells
from synthmix.service_kit.seeds import derived_rng

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
                withheld.add(np.asarray(image.convert("L").convert("RGB")).tobytes())
    assert len(withheld) > 2000
    assert not withheld & {image.tobytes() for image in corpus.images}
    assert not {word for caption in corpus.captions for word in caption.split()} & MITOCHECK_HELD_OUT


def test_the_stained_cells_of_the_benchmark_are_types_by_slide_in_colours_and_names_that_the_corpus_lacks(
    tmp_path: Path,
) -> None:
    write_stained_cells(tmp_path / "stained", per_class=SLIDES + 1, size_px=32)
    images = {str(path.relative_to(tmp_path / "stained")): path for path in (tmp_path / "stained").glob("*/*.png")}
    assert len(images) == len(TYPES) * (SLIDES + 1)
    assert len({re.search(SLIDE, name)["group"] for name in images}) == SLIDES
    assert not any(is_grey(np.asarray(Image.open(path))) for path in images.values())
    named = {caption.split(" image of ")[1] for caption in (draw_simulated(0, index)[1] for index in range(200))}
    assert not [subject for subject in named if any(name in subject for name in TYPES)]


def test_a_corpus_is_kept_whole(corpus: Corpus, tmp_path: Path) -> None:
    save_corpus(tmp_path / "corpus.npz", corpus)
    found = load_corpus(tmp_path / "corpus.npz")
    assert (found.images == corpus.images).all()
    assert (found.captions == corpus.captions).all()
    assert (found.textures == corpus.textures).all()
    assert corpus.weights.sum() == pytest.approx(1.0)
    assert corpus.weights[:-6].sum() == pytest.approx(0.3)


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


def test_half_of_the_simulated_pictures_are_grey_and_the_others_have_colours() -> None:
    drawn = [draw_simulated(1, index) for index in range(120)]
    assert {image.shape for image, _ in drawn} == {(64, 64, 3)}
    grey = [is_grey(image) for image, _ in drawn]
    assert 0.3 < np.mean(grey) < 0.75
    by_kind: dict[str, list[bool]] = {}
    for (_, caption), without_colour in zip(drawn, grey, strict=True):
        by_kind.setdefault(caption.split(" image of ")[0], []).append(without_colour)
    assert all(by_kind["a fluorescence"])
    assert not any(by_kind["a multichannel fluorescence"])
    assert len(set(by_kind["a brightfield"])) == 2


def test_colours_are_varied_and_grey_stays_grey() -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(40, 200, size=(4, 64, 64, 1), dtype=np.uint8), 3, axis=-1)
    coloured = grey - np.array([0, 20, 40], dtype=np.uint8)
    views = augment(np.concatenate([grey, coloured]), rng)
    assert views.dtype == np.float32
    assert all(is_grey(view) for view in views[:4])
    shades = (views[4:] + 1).mean(axis=(1, 2))
    assert (shades / shades[:, :1]).std(axis=0)[1:].min() > 0.01


@pytest.mark.parametrize("nucleus", NUCLEI)
def test_a_cell_holds_its_nucleus_and_its_granules_lie_outside_it(nucleus: str) -> None:
    rng = derived_rng(0, nucleus)
    kind = replace(draw_kind(rng), radius_px=20.0, elongation=1.1, processes=0, nucleus=nucleus, nucleus_share=0.5)
    cells = draw_cells(replace(kind, granule_density=0.3), np.array([[64.0, 64.0]]), 128, rng, touching=False)
    nuclear = cells.nucleus > 0.5
    assert nuclear.any()
    assert (cells.body[nuclear] > 0).all()
    assert cells.granules[nuclear].mean() < 0.3 * cells.granules[(cells.body > 0.2) & ~nuclear].mean()
    assert cells.body[0].max() < 0.01  # the whole cell is in the picture
    assert cells.rim.max() > 0.9


def test_cells_that_touch_share_a_border_and_others_lie_over_each_other() -> None:
    kind = replace(draw_kind(derived_rng(0, "kind")), radius_px=20.0, elongation=1.0, processes=0, flatness=1.0)
    centres = np.array([[32.0, 20.0], [32.0, 44.0]])
    touching, over = (draw_cells(kind, centres, 64, derived_rng(0), touching=touching) for touching in (True, False))
    assert touching.body.max() <= 1.0
    assert over.body[32, 32] > 1.5
    assert touching.rim[32, 32] > 0.5


def test_a_stain_colours_what_takes_it() -> None:
    rng = derived_rng(0, "stain")
    kind = replace(draw_kind(rng), radius_px=20.0, nucleus="round", chromatin=0.0, granule_density=0.0)
    cells = draw_cells(kind, np.array([[32.0, 32.0]]), 64, rng, touching=False)
    red_goes, blue_goes = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    picture = stained(cells, Palette(red_goes, blue_goes, blue_goes), draw_staining(rng), np.zeros((64, 64)), rng)
    nucleus, elsewhere = picture[cells.nucleus > 0.9].mean(axis=0), picture[cells.body < 0.01].mean(axis=0)
    assert nucleus[0] < 0.6 * elsewhere[0]
    assert nucleus[1] > 0.8 * elsewhere[1]


def test_a_phase_ring_gives_halos_and_keeps_a_clear_field_even() -> None:
    kind = replace(draw_kind(derived_rng(1)), radius_px=12.0, nucleus="none", granule_density=0.0, vacuole_density=0.0)
    kind = replace(kind, processes=0, elongation=1.0, roughness=0.0)
    cells = draw_cells(kind, np.array([[32.0, 32.0]]), 64, derived_rng(2), touching=False)
    beside = (cells.body < 0.01) & (ndimage.gaussian_filter(cells.body, 3.0) > 0.05)
    far = ndimage.gaussian_filter(cells.body, 6.0) < 0.005
    halos = []
    for index in range(12):
        grey = transmitted(cells, derived_rng(index), phase_ring=True, grey_share=1.0)[..., 0]
        inside, halo = grey[cells.body > 0.5].mean() - grey[far].mean(), grey[beside].mean() - grey[far].mean()
        halos.append(halo * inside < 0)
    assert np.mean(halos) > 0.8


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
    assert trained.encode(recipe.as_tensor(views)).latent_dist.std.mean() < 0.7 * latents.std()


def test_an_autoencoder_begins_as_a_linear_map(corpus: Corpus) -> None:
    autoencoder = recipe.build_autoencoder(seed=1)
    pictures = recipe.as_tensor(corpus.images[-6:].astype(np.float32) / 127.5 - 1.0)
    with torch.no_grad():
        for half, inputs in (
            (autoencoder.encoder, pictures),
            (autoencoder.decoder, torch.randn(6, recipe.LATENT_CHANNELS, 16, 16)),
        ):
            none, some, whole = half(0.0 * inputs), half(0.5 * inputs), half(inputs)
            assert (some - none - 0.5 * (whole - none)).std() < 0.05 * (whole - none).std()


def test_a_larger_corpus_has_the_same_real_pictures_and_other_simulated_ones(corpus: Corpus) -> None:
    larger = build_corpus(real_images("mitocheck"), range(6, 8), texture_count=0, seed=5, size_px=128)
    real = len(corpus.images) - 6
    assert larger.images.shape == (real + 2, 128, 128, 3)
    assert larger.captions[:real].tolist() == corpus.captions[:real].tolist()
    assert larger.weights.sum() == pytest.approx(1.0)
    again = resized(larger, 64).images[:real].astype(float)
    assert np.abs(again - corpus.images[:real]).mean() < 1.0
    assert all("cell" in caption for caption in larger.captions[real:])


def test_an_interrupted_unet_training_ends_with_the_same_bytes(
    corpus: Corpus, trained: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(corpus, images=corpus.images[-6:], captions=corpus.captions[-6:], weights=np.full(6, 1 / 6))
    corpora = [few, resized(few, 96)]
    tokenizer = build_tokenizer(corpus.captions.tolist(), 20, tmp_path / "tokenizer")
    text_encoder = build_text_encoder(tokenizer, seed=0)
    cpu = torch.device("cpu")
    settings = unet_recipe.UnetSettings(
        steps=3,
        batch_size=4,
        larger_share=0.5,
        warmup_steps=1,
        checkpoint_every_steps=2,
        grid_every_steps=2,
        grid_columns=1,
    )
    monkeypatch.setattr(unet_recipe, "GRID_PROMPTS", pipeline.GRID_PROMPTS[:1])
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


def test_pictures_that_come_often_are_warped_at_times(corpus: Corpus) -> None:
    few = replace(corpus, images=corpus.images[-6:], weights=np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]))
    chosen = np.arange(6)
    plain, warped = (unet_recipe.draw_views(few, chosen, share, np.random.default_rng(3)) for share in (0.0, 1.0))
    assert plain.shape == warped.shape == (6, 64, 64, 3)
    assert (plain != warped).any(axis=(1, 2, 3)).tolist() == [True] + 5 * [False]


def test_a_unet_training_may_be_lengthened_until_its_rate_falls_to_the_end() -> None:
    settings = unet_recipe.UnetSettings(steps=1000, warmup_steps=10, constant_steps=100, cooldown_share=0.2)
    longer = replace(settings, steps=5000)
    shares = [unet_recipe._rate_share(step, settings) for step in range(1000)]
    assert shares[:800] == [unet_recipe._rate_share(step, longer) for step in range(800)]
    assert shares[4] == 0.5
    assert shares[10:100] == [1.0] * 90
    assert shares[399] == 0.5
    assert shares == sorted(shares[:10]) + sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 0.02 * shares[799]


def test_warping_turns_and_bends_pictures_and_keeps_what_they_show() -> None:
    rows, columns = np.mgrid[-32:32, -32:32] + 0.5
    inside = ((rows / 10) ** 2 + (columns / 20) ** 2 < 1).astype(np.float32)
    views = np.repeat(np.stack([2 * inside - 1] * 40)[..., None], 3, axis=-1)
    warped = warp(views, np.random.default_rng(3))
    assert warped.shape == views.shape
    assert warped.dtype == np.float32
    assert -1 <= warped.min() < warped.max() <= 1
    assert (warped == warped[..., :1]).all()  # grey stays grey
    bright = (warped > 0).mean(axis=(1, 2, 3)) / inside.mean()
    assert (np.abs(np.log(bright)) < 0.5).all()  # stretched by a few per cent a side
    assert np.log(bright).std() > 0.03
    upright = [(view[..., 0] > 0).any(axis=1).sum() for view in warped]
    assert min(upright) < 26  # 20 rows high at first, 40 once turned by a quarter
    assert max(upright) > 34
    assert (warp(views, np.random.default_rng(3)) == warped).all()


def test_the_gpu_recipe_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images, out = real_images("mitocheck"), tmp_path / "out"
    given = ["--mitocheck", str(images), "--out", str(out), "--on", "gpu"]
    monkeypatch.setattr(sys, "argv", ["pretraining", *given])
    with pytest.raises(SystemExit):
        pretraining_main()
    assert "--on gpu: torch finds no CUDA device here" in capsys.readouterr().err
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


TINY = Recipe(
    autoencoder=SETTINGS,
    decoder=DecoderSettings(steps=3, batch_size=2, warmup_steps=1, checkpoint_every_steps=2),
    text=TextSettings(steps=2, batch_size=4),
    unet=unet_recipe.UnetSettings(
        steps=3, batch_size=4, warmup_steps=1, checkpoint_every_steps=2, grid_every_steps=2, grid_columns=1
    ),
    simulated=6,
    textures=3,
    large=2,
    merges=20,
)


def test_a_pretraining_killed_in_every_part_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet_recipe, "GRID_PROMPTS", pipeline.GRID_PROMPTS[:1])
    monkeypatch.setattr(pipeline, "GRID_STEPS", 1)

    class Killed(Exception):
        pass

    record = ProgressLog.record

    def pretrained(folder: str, die_in: str = "", die_at: int = -1) -> dict[str, bytes]:
        def die(self: ProgressLog, step: int, figures: dict[str, float]) -> None:
            record(self, step, figures)
            if (self.name, step) == (die_in, die_at):
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(ProgressLog, "record", die)
            found = pretrain(TINY, real_images("mitocheck"), tmp_path / folder, torch.device("cpu"), processes=1)
        return {str(path.relative_to(found)): path.read_bytes() for path in found.rglob("*") if path.is_file()}

    expected = pretrained("whole")
    places = [
        ("corpus-128", 1),
        ("autoencoder", 3),
        ("decoder", 1),
        ("decoder", 2),
        ("text", 1),
        ("unet", 1),
        ("unet", 2),
    ]
    for part, step in places:
        with pytest.raises(Killed):
            pretrained("parted", part, step)
    assert pretrained("parted") == expected
    noted = json.loads((tmp_path / "parted" / "unet.json").read_text())["history"]
    assert [figures["step"] for figures in noted] == sorted({figures["step"] for figures in noted})


def test_a_folder_of_another_recipe_or_of_a_process_at_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--mitocheck is"):
        pretrain(TINY, tmp_path, tmp_path / "out", torch.device("cpu"), processes=1)
    other = replace(TINY, autoencoder=replace(SETTINGS, steps=5))
    with pytest.raises(ValueError, match=r"recipe of other settings \(autoencoder\): give another folder by --out"):
        pretrain(other, real_images("mitocheck"), tmp_path / "out", torch.device("cpu"), processes=1)
    with (tmp_path / "out" / "pid").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=f"process {os.getpid()} is at work in"):
            pretrain(TINY, real_images("mitocheck"), tmp_path / "out", torch.device("cpu"), processes=1)
