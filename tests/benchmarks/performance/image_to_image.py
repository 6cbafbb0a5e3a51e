"""Image to image beside diffusers' StableDiffusionImg2ImgPipeline, and beside text to image in as many steps.

As synthesis.py: the built-in model, 64 pixels, guidance, one thread, PNG stored. Images begin from others of half the
way to noise, so that half of the steps are gone through; encoding what they begin from is counted.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from side_by_side import FEWEST_PAIRS, Row, compared, in_turns, run
from synthesis import ADAPTER, BATCH, GUIDANCE_SCALE, SIZE_PX, difference, ours, planned, with_adapter, write_adapter
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_synthesis.adapted_models import make_ready
from synthmix.image_synthesis.sampling import synthesise
from synthmix.image_synthesis.source_images import executed_steps
from synthmix.latent_diffusion.autoencoder import encode_images
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.denoising import Start
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.service_kit.settings_messages import with_defaults

STRENGTH = 0.5


def sources() -> np.ndarray:
    """Pictures with something in them, (images, side, side, 3) uint8: blurred noise."""
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
    resized = [Image.fromarray(item).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC) for item in noise]
    return np.stack([np.asarray(item) for item in resized])


def begun(model: LatentDiffusion, steps: int, out: Path) -> int:
    settings = with_defaults(SynthesisSettings(steps=steps, guidance_scale=GUIDANCE_SCALE, strength=STRENGTH))
    start = Start(encode_images(model.vae, sources(), BATCH), executed_steps(steps, STRENGTH))
    images = [image for batch in synthesise(model, ADAPTER, settings, planned(BATCH), start) for image in batch]
    for number, image in enumerate(images):
        (out / f"{number}.png").write_bytes(image)
    return len(images)


def stock(pipeline: StableDiffusionImg2ImgPipeline, steps: int, out: Path) -> int:
    wanted = planned(BATCH)
    images = pipeline(
        [image.prompt for image in wanted],
        image=[Image.fromarray(item) for item in sources()],
        strength=STRENGTH,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE_SCALE,
        generator=[torch.Generator().manual_seed(image.seed) for image in wanted],
    ).images
    for number, image in enumerate(images):
        image.save(out / f"{number}.png")
    return len(images)


def measure(quick: bool) -> list[Row]:
    steps = 8 if quick else 25
    executed = executed_steps(steps, STRENGTH)
    base = load(BUILTIN_FOLDER, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_adapter(base, folder)
        model, peer = with_adapter(base, folder), with_adapter(base, folder)
        make_ready(model, "automatic")
        parts = {name: part for name, part in peer.pipeline.components.items() if name != "image_encoder"}
        pipeline = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        loops: dict[str, Callable[[Path], int]] = {
            "ours": partial(begun, model, steps),
            "peer": partial(stock, pipeline, steps),
            "text": partial(ours, model, BATCH, executed),
        }
        for name in loops:
            (folder / name).mkdir()
        found = in_turns({name: partial(loop, folder / name) for name, loop in loops.items()}, FEWEST_PAIRS)
        apart = difference(folder / "ours", folder / "peer", BATCH)
    what = f"image to image, 64 px, {executed} of {steps} steps, guidance, PNG stored"
    drawn = (
        "The peer draws what it begins from out of the autoencoder's posterior, and ours takes its mean: images "
        f"differ by {apart.mean():.2f} levels of 255 in the mean."
    )
    itself = "What is above text to image is encoding what the images begin from."
    row = partial(compared, unit="image", ours=found["ours"])
    return [
        row(what, "StableDiffusionImg2ImgPipeline, 16 images a call", at_least=1.3, others=found["peer"], note=drawn),
        row(what, f"ours, text to image in {executed} steps", at_least=0.9, others=found["text"], note=itself),
    ]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
