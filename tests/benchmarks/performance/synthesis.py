"""Synthesis beside diffusers' StableDiffusionPipeline: the built-in model, 64 pixels, guidance, one thread, PNG stored.

The pipeline is called as its documentation says, with the adapter loaded by `load_lora_weights`: 16 images a call, and
one image a call.
"""

import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from side_by_side import FEWEST_PAIRS, Row, compared, in_turns, peak_flops, run
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_synthesis.adapted_models import make_ready
from synthmix.image_synthesis.sampling import synthesise
from synthmix.image_synthesis.shards import PlannedImage
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.service_kit.adapter_payloads import LORA_WEIGHTS
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.service_kit.settings_messages import with_defaults

SIZE_PX = 64
GUIDANCE_SCALE = 2.0
BATCH = 16
PROMPT = "a microscopy image of a {} cell"
LABELS = ("round", "flat", "large", "small")
ADAPTER = Manifest(
    ArtifactName(ADAPTERS, "0" * 32),
    {},
    {"settings": {"image_size": SIZE_PX}},
    1,
    (),
    summary={"grey": False, "base_model": "builtin", "classes": list(LABELS)},
)


def write_adapter(base: LatentDiffusion, folder: Path) -> None:
    """An adapter of rank 16 that changes what comes out: its values are random, and cost what trained ones cost."""
    copied = shared_copy(base)
    torch.manual_seed(1)
    copied.unet.add_adapter(
        LoraConfig(
            r=16, lora_alpha=16, init_lora_weights="gaussian", target_modules=["to_q", "to_k", "to_v", "to_out.0"]
        )
    )
    for name, value in copied.unet.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0.0, 0.02)
    (folder / LORA_WEIGHTS).write_bytes(adapter_files(copied)[LORA_WEIGHTS])


def with_adapter(base: LatentDiffusion, folder: Path) -> LatentDiffusion:
    model = shared_copy(base)
    model.pipeline.load_lora_weights(folder, weight_name=LORA_WEIGHTS)
    return model


def planned(count: int) -> list[PlannedImage]:
    labels = [LABELS[index * len(LABELS) // count] for index in range(count)]
    return [PlannedImage(index, label, PROMPT.format(label), index) for index, label in enumerate(labels)]


def ours(model: LatentDiffusion, count: int, steps: int, out: Path) -> int:
    settings = with_defaults(SynthesisSettings(steps=steps, guidance_scale=GUIDANCE_SCALE))
    images = [image for batch in synthesise(model, ADAPTER, settings, planned(count)) for image in batch]
    for number, image in enumerate(images):
        (out / f"{number}.png").write_bytes(image)
    return len(images)


def stock(model: LatentDiffusion, count: int, batch: int, steps: int, out: Path) -> int:
    wanted = planned(count)
    for start in range(0, count, batch):
        part = wanted[start : start + batch]
        images = model.pipeline(
            [image.prompt for image in part],
            height=SIZE_PX,
            width=SIZE_PX,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
            generator=[torch.Generator().manual_seed(image.seed) for image in part],
        ).images
        for number, image in enumerate(images, start):
            image.save(out / f"{number}.png")
    return count


def difference(one: Path, other: Path, count: int) -> np.ndarray:
    """Of two folders' images, in levels of 255."""

    def read(folder: Path) -> np.ndarray:
        return np.stack(
            [np.asarray(Image.open(io.BytesIO((folder / f"{n}.png").read_bytes())), dtype=float) for n in range(count)]
        )

    return np.abs(read(one) - read(other))


def measure(quick: bool) -> list[Row]:
    steps = 4 if quick else 25
    singles = 2 if quick else 4
    base = load(BUILTIN_FOLDER, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_adapter(base, folder)
        peer = with_adapter(base, folder)
        models = {"float32": with_adapter(base, folder), "bfloat16": with_adapter(base, folder)}
        for precision, model in models.items():
            make_ready(model, precision)
        loops: dict[str, Callable[[], int]] = {
            "peer": partial(stock, peer, BATCH, BATCH, steps),
            "float32": partial(ours, models["float32"], BATCH, steps),
            "bfloat16": partial(ours, models["bfloat16"], BATCH, steps),
            "single": partial(stock, peer, singles, 1, steps),
        }
        for name in loops:
            (folder / name).mkdir()
        with FlopCounterMode(display=False) as counter:
            loops["peer"](folder / "peer")
        flops = counter.get_total_flops() / BATCH
        found = in_turns({name: partial(loop, folder / name) for name, loop in loops.items()}, FEWEST_PAIRS)
        exact = difference(folder / "float32", folder / "peer", BATCH)
        near = difference(folder / "bfloat16", folder / "peer", BATCH)
    what = f"synthesis, 64 px, {steps} steps, guidance, PNG stored"
    in_a_call = "StableDiffusionPipeline, 16 images a call"
    one_a_call = "StableDiffusionPipeline, one image a call"
    same = f"Images differ from the peer's by {exact.max():.0f} level of 255 at most."
    other = (
        f"Images differ from the peer's by {near.mean():.2f} levels of 255 in the mean and {near.max():.0f} at most."
    )
    floor_ms = 1000 * flops / peak_flops(torch.float32)
    bound = f"At the machine's peak, the peer's multiplications for an image alone take {floor_ms:.0f} ms in float32."
    row = partial(compared, unit="image", flops=flops)
    return [
        row(what, in_a_call, at_least=1.3, ours=found["float32"], others=found["peer"], note=same),
        row(what, one_a_call, at_least=3.3, ours=found["float32"], others=found["single"], note=bound),
        row(
            f"{what}, in bfloat16",
            in_a_call,
            at_least=2.0,
            ours=found["bfloat16"],
            others=found["peer"],
            dtype=torch.bfloat16,
            note=other,
        ),
        row(
            f"{what}, in bfloat16",
            one_a_call,
            at_least=3.3,
            ours=found["bfloat16"],
            others=found["single"],
            dtype=torch.bfloat16,
        ),
    ]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
