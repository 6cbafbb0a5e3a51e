"""Retrains the built-in base model.

Usage: ``python -m pretraining --mitocheck FOLDER --out FOLDER --minutes N``.

Run again with the same arguments, it goes on from the last checkpoints in OUT; the finished model is
OUT/base_model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pretraining.autoencoder import AutoencoderSettings, train_autoencoder
from pretraining.corpus import Corpus, build_corpus, load_corpus, resized, save_corpus
from pretraining.decoder import DecoderSettings, train_decoder
from pretraining.pipeline import assemble, save_base_model
from pretraining.text import TextSettings, build_tokenizer, train_text_encoder
from pretraining.training_state import ProgressLog
from pretraining.unet import UnetSettings, train_unet
from synthmix.latent_diffusion.autoencoder import select_device

# Steps a minute of the whole budget, so that it means the same training on every machine. By what steps take on two
# cores (0.2, 0.18 and 0.48 to 0.59 s), these share it as 0.15, 0.05 and 0.66 to 0.82; the rest goes to the corpora, the
# text encoder and the cached latents.
_AUTOENCODER_STEPS = 45.9
_DECODER_STEPS = 18.0
_TWO_CORES_UNET_STEPS = 83.0
_TEXT_STEPS = 800
_SIMULATED_PICTURES = 10_000
_TEXTURES = 4000
_LARGE_PICTURES = 1500
_MIDDLE_PX, _LARGE_PX = 96, 128
_MERGES = 220

# For a GPU: forty times the pictures that two cores see in two hours. Decision 13 tells why; it hasn't been run yet.
_GPU_UNET = UnetSettings(
    steps=24_000, batch_size=256, views=8, most_views=64, warped_share=0.5, checkpoint_every_steps=6000
)


def kept(path: Path, count: int, build: Callable[[Callable[[int], None]], Corpus]) -> Corpus:
    """Reads a corpus, or builds and writes it if it isn't there; `build` is given what to tell its progress to."""
    if not path.exists():
        log = ProgressLog(path.with_suffix(".json"), path.stem, count)
        save_corpus(path, build(lambda drawn: log.record(drawn - 1, {})))
    corpus = load_corpus(path)
    print(f"{path.stem}: {len(corpus.images)} pictures", flush=True)
    return corpus


def main() -> None:
    """Runs the steps in order: corpora, autoencoder, decoder again, tokenizer, text encoder, UNet, assembled model."""
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__)
    parser.add_argument("--mitocheck", type=Path, required=True, help="folder with one sub-folder a phenotype")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, sample grids and the model")
    parser.add_argument("--minutes", type=float, required=True, help="budget on two cores")
    parser.add_argument(
        "--unet",
        choices=("two-cores", "gpu"),
        default="two-cores",
        help=f"two-cores: within the budget; gpu: {_GPU_UNET.steps} steps of {_GPU_UNET.batch_size}, which needs CUDA",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; bytes are reproducible for one number")
    arguments = parser.parse_args()
    if not any(arguments.mitocheck.glob("*/*.png")):
        parser.error(f"--mitocheck: {arguments.mitocheck} holds no phenotypes: name the folder of MitoCheck's images")
    device = select_device() if arguments.unet == "gpu" else torch.device("cpu")
    if arguments.unet == "gpu" and device.type != "cuda":
        parser.error("--unet gpu: torch finds no CUDA device here: run it where one is, or leave --unet out")
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    corpus = kept(
        out / "corpus.npz",
        _SIMULATED_PICTURES + _TEXTURES,
        lambda progress: build_corpus(
            arguments.mitocheck, range(_SIMULATED_PICTURES), _TEXTURES, arguments.seed, progress=progress
        ),
    )
    large = kept(
        out / f"corpus-{_LARGE_PX}.npz",
        _LARGE_PICTURES,
        lambda progress: build_corpus(
            arguments.mitocheck,
            range(_SIMULATED_PICTURES, _SIMULATED_PICTURES + _LARGE_PICTURES),
            0,
            arguments.seed,
            size_px=_LARGE_PX,
            progress=progress,
        ),
    )

    seed: int = arguments.seed
    minutes: float = arguments.minutes

    def steps(per_minute: float) -> int:
        return round(minutes * per_minute)

    autoencoder = train_autoencoder(corpus, out, AutoencoderSettings(steps=steps(_AUTOENCODER_STEPS), seed=seed))
    train_decoder(autoencoder, corpus, out, DecoderSettings(steps=steps(_DECODER_STEPS), seed=seed))
    tokenizer = build_tokenizer(corpus.captions.tolist(), _MERGES, out / "tokenizer")
    text_settings = TextSettings(steps=_TEXT_STEPS, seed=seed)
    text_encoder = train_text_encoder(corpus.captions.tolist(), tokenizer, out, text_settings)
    settings = _GPU_UNET if arguments.unet == "gpu" else UnetSettings(steps=steps(_TWO_CORES_UNET_STEPS))
    corpora = [corpus, resized(large, _MIDDLE_PX), large]
    unet = train_unet(corpora, autoencoder, tokenizer, text_encoder, out, replace(settings, seed=seed), device)

    save_base_model(assemble(autoencoder, tokenizer, text_encoder, unet), out / "base_model")
    size_mb = sum(path.stat().st_size for path in (out / "base_model").rglob("*") if path.is_file()) / 1e6
    print(f"base model: {out / 'base_model'}, {size_mb:.1f} MB")


if __name__ == "__main__":
    main()
