"""Retrains the built-in base model, or goes on with a training that was interrupted.

Usage: ``python -m pretraining --mitocheck FOLDER --out FOLDER``.

It takes about 30 hours of one CPU core and may be killed at any moment: run again with the same arguments, it goes on
from the last checkpoints in OUT. The finished model is OUT/base_model.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pretraining.autoencoder import AutoencoderSettings
from pretraining.decoder import DecoderSettings
from pretraining.recipe import Recipe, pretrain
from pretraining.text import TextSettings
from pretraining.unet import UnetSettings
from synthmix.latent_diffusion.autoencoder import select_device

_CPU = Recipe(
    autoencoder=AutoencoderSettings(steps=12_000),
    decoder=DecoderSettings(steps=4000),
    text=TextSettings(steps=800),
    unet=UnetSettings(steps=110_000),
)
# For a GPU: more than three times the pictures. Decision 13 tells why; it hasn't been run yet.
_GPU = replace(
    _CPU,
    unet=UnetSettings(
        steps=24_000, batch_size=256, constant_steps=4000, checkpoint_every_steps=1000, grid_every_steps=6000
    ),
)


def main() -> None:
    """Runs what is left of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__)
    parser.add_argument("--mitocheck", type=Path, required=True, help="folder with one sub-folder a phenotype")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, sample grids and the model")
    parser.add_argument("--on", choices=("cpu", "gpu"), default="cpu", help="where the UNet is trained; gpu needs CUDA")
    parser.add_argument(
        "--unet-steps",
        type=int,
        help=f"of the UNet (default: {_CPU.unet.steps}; gpu: {_GPU.unet.steps}); an interrupted training may be given "
        "others when it goes on",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; bytes are reproducible for one number")
    arguments = parser.parse_args()
    if not any(arguments.mitocheck.glob("*/*.png")):
        parser.error(f"--mitocheck: {arguments.mitocheck} holds no phenotypes: name the folder of MitoCheck's images")
    recipe = _GPU if arguments.on == "gpu" else _CPU
    device = select_device() if arguments.on == "gpu" else torch.device("cpu")
    if arguments.on == "gpu" and device.type != "cuda":
        parser.error("--on gpu: torch finds no CUDA device here: run it where one is, or leave --on out")
    if arguments.unet_steps:
        recipe = replace(recipe, unet=replace(recipe.unet, steps=arguments.unet_steps))
    torch.set_num_threads(arguments.threads)
    try:
        folder = pretrain(recipe, arguments.mitocheck, arguments.out, device, arguments.threads)
    except ValueError as error:
        parser.error(str(error))
    size_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"base model: {folder}, {size_mb:.1f} MB")


if __name__ == "__main__":
    main()
