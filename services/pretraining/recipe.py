"""The whole pretraining: corpora, autoencoder, decoder again, tokenizer, text encoder, UNet, assembled model.

Each part keeps its state in one folder and goes on from it, so that a run that was killed at any moment, and started
again, ends with the bytes of one that was not (on CPUs, with the same number of threads and the same version of torch).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from pretraining.autoencoder import AutoencoderSettings, train_autoencoder
from pretraining.corpus import Corpus, build_corpus, load_corpus, resized, save_corpus
from pretraining.decoder import DecoderSettings, train_decoder
from pretraining.pipeline import assemble, save_base_model
from pretraining.text import TextSettings, build_tokenizer, train_text_encoder
from pretraining.training_state import ProgressLog
from pretraining.unet import UnetSettings, train_unet


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and for how long."""

    autoencoder: AutoencoderSettings
    decoder: DecoderSettings
    text: TextSettings
    unet: UnetSettings
    seed: int = 0
    """Of the corpora; the parts have theirs in their settings."""
    simulated: int = 32_000
    textures: int = 6000
    large: int = 4000
    """Simulated pictures of the largest size."""
    middle_px: int = 96
    """Pictures of the largest size are seen at this one, too."""
    large_px: int = 128
    merges: int = 220
    """Of the tokenizer."""


def pretrain(recipe: Recipe, mitocheck: Path, out: Path, device: torch.device, processes: int) -> Path:
    """Runs the recipe, or what is left of it.

    Args:
        recipe: What to train.
        mitocheck: Folder with one sub-folder a phenotype.
        out: Folder for checkpoints, figures, sample grids and the model.
        device: Where the UNet is trained.
        processes: By so many are pictures drawn.

    Returns:
        The folder of the finished base model.

    Raises:
        ValueError: `out` holds the beginning of another recipe, or another process is at work in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _only_process(out / "pid"):
        _check_same_recipe(recipe, out / "recipe.json")
        corpus, large = build_corpora(recipe, mitocheck, out, processes)
        autoencoder = train_autoencoder(corpus, out, recipe.autoencoder)
        train_decoder(autoencoder, corpus, out, recipe.decoder)
        captions = corpus.captions.tolist()
        tokenizer = build_tokenizer(captions, recipe.merges, out / "tokenizer")
        text_encoder = train_text_encoder(captions, tokenizer, out, recipe.text)
        corpora = [corpus, resized(large, recipe.middle_px), large]
        unet = train_unet(corpora, autoencoder, tokenizer, text_encoder, out, recipe.unet, device)
        save_base_model(assemble(autoencoder, tokenizer, text_encoder, unet), out / "base_model")
    return out / "base_model"


def build_corpora(recipe: Recipe, mitocheck: Path, out: Path, processes: int) -> tuple[Corpus, Corpus]:
    """Draws the corpora of the native and of the largest size, or reads those that are there."""
    corpus = _kept(
        out / "corpus.npz",
        recipe.simulated + recipe.textures,
        lambda progress: build_corpus(
            mitocheck, range(recipe.simulated), recipe.textures, recipe.seed, processes=processes, progress=progress
        ),
    )
    large = _kept(
        out / f"corpus-{recipe.large_px}.npz",
        recipe.large,
        lambda progress: build_corpus(
            mitocheck,
            range(recipe.simulated, recipe.simulated + recipe.large),
            0,
            recipe.seed,
            size_px=recipe.large_px,
            processes=processes,
            progress=progress,
        ),
    )
    return corpus, large


def _kept(path: Path, count: int, build: Callable[[Callable[[int], None]], Corpus]) -> Corpus:
    """Reads a corpus, or builds and writes it if it isn't there; `build` is given what to tell its progress to."""
    if not path.exists():
        log = ProgressLog(path.with_suffix(".json"), path.stem, count)
        save_corpus(path, build(lambda drawn: log.record(drawn - 1, {})))
    corpus = load_corpus(path)
    print(f"{path.stem}: {len(corpus.images)} pictures", flush=True)
    return corpus


def _check_same_recipe(recipe: Recipe, path: Path) -> None:
    """Refuses to go on with what another recipe began; the UNet's steps may be changed (`train_unet` says how far)."""
    asked = json.loads(json.dumps(asdict(replace(recipe, unet=replace(recipe.unet, steps=0)))))
    if not path.exists():
        path.write_text(json.dumps(asked, indent=1))
    begun = json.loads(path.read_text())
    if begun != asked:
        differing = sorted(key for key in asked.keys() | begun.keys() if asked.get(key) != begun.get(key))
        raise ValueError(
            f"{path.parent} was begun by a recipe of other settings ({', '.join(differing)}): "
            "give another folder by --out, or delete this one to begin anew"
        )


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Writes this process's id to a file that is locked as long as it runs: two would spoil each other's state."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"process {file.read().strip()} is at work in {path.parent}: wait for it, or end it, and try again"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
