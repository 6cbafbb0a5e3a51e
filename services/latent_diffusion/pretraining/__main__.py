"""Retrains the embedded base model.

Usage: ``python -m latent_diffusion.pretraining --mitocheck FOLDER --out FOLDER --minutes N``.

Run again with the same arguments, it goes on from the last checkpoints in OUT; the finished model is
OUT/base_model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from latent_diffusion.pretraining.autoencoder import AutoencoderSettings, train_autoencoder
from latent_diffusion.pretraining.corpus import build_corpus, load_corpus, save_corpus
from latent_diffusion.pretraining.pipeline import assemble, save_base_model
from latent_diffusion.pretraining.text import build_tokenizer
from latent_diffusion.pretraining.training_state import ProgressLog
from latent_diffusion.pretraining.unet import UnetSettings, train_unet

# Minutes become steps by rates, not by the clock, so that a budget means the same training on every machine.
_AUTOENCODER_STEPS_PER_MINUTE = 240
_UNET_STEPS_PER_MINUTE = 200
_AUTOENCODER_SHARE = 0.2
_SIMULATED_PICTURES = 10_000
_TEXTURES = 4000
_MERGES = 220


def main() -> None:
    """Runs the steps in order: corpus, autoencoder, tokenizer, UNet with text encoder, assembled model."""
    parser = argparse.ArgumentParser(prog="python -m latent_diffusion.pretraining", description=__doc__)
    parser.add_argument("--mitocheck", type=Path, required=True, help="folder with one sub-folder a phenotype")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, sample grids and the model")
    parser.add_argument("--minutes", type=float, required=True, help="budget on two cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; bytes are reproducible for one number")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    corpus_file = out / "corpus.npz"
    if not corpus_file.exists():
        log = ProgressLog(out / "corpus.json", "corpus", _SIMULATED_PICTURES + _TEXTURES)
        corpus = build_corpus(
            arguments.mitocheck,
            _SIMULATED_PICTURES,
            _TEXTURES,
            arguments.seed,
            progress=lambda drawn: log.record(drawn - 1, {}),
        )
        save_corpus(corpus_file, corpus)
    corpus = load_corpus(corpus_file)
    print(f"corpus: {len(corpus.images)} pictures", flush=True)

    autoencoder_steps = round(arguments.minutes * _AUTOENCODER_SHARE * _AUTOENCODER_STEPS_PER_MINUTE)
    autoencoder = train_autoencoder(corpus, out, AutoencoderSettings(steps=autoencoder_steps, seed=arguments.seed))
    tokenizer = build_tokenizer(corpus.captions.tolist(), _MERGES, out / "tokenizer")
    unet_steps = round(arguments.minutes * (1.0 - _AUTOENCODER_SHARE) * _UNET_STEPS_PER_MINUTE)
    settings = UnetSettings(steps=unet_steps, seed=arguments.seed)
    unet, text_encoder = train_unet(corpus, autoencoder, tokenizer, out, settings)

    save_base_model(assemble(autoencoder, tokenizer, text_encoder, unet), out / "base_model")
    size_mb = sum(path.stat().st_size for path in (out / "base_model").rglob("*") if path.is_file()) / 1e6
    print(f"base model: {out / 'base_model'}, {size_mb:.1f} MB")


if __name__ == "__main__":
    main()
