"""Adapter training beside diffusers' train_text_to_image_lora.py: rank 16, one thread.

Steps alone, with the model loaded and the images at hand before the clock runs; and many short trainings with their
starts.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from image_archives import dataset, encoded, zipped
from memory_object_store import MemoryObjectStore
from ready_training import ReadyTraining
from side_by_side import FEWEST_PAIRS, Row, Seconds, compared, in_turns, run
from synthesis import LABELS, PROMPT
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.latent_diffusion.base_model import BUILTIN, BUILTIN_FOLDER
from synthmix.latent_diffusion.prompts import prompt_for
from synthmix.latent_diffusion.unet_modules import multiplies_in_bfloat16
from synthmix.study_control.split import create_split
from text_to_image_lora import TextToImageLora

IMAGES = 256
BATCH = 16
RANK = 16
LEARNING_RATE = 1e-3
ADAPTERS = 40
ADAPTER_IMAGES = 64
PEER = "diffusers' train_text_to_image_lora.py"
NOTE_OF_MANY = (
    "A round is one process of ours for each precision, which makes {made} adapters, and one of the script, which "
    f"makes one. The others of the {ADAPTERS} count as the script's one does, and as those of ours after its first. "
    "Ours is a worker's process without Ray and object storage, which take milliseconds of an adapter."
)


def pixels(size_px: int, images: int = IMAGES) -> np.ndarray:
    """Noise: what images show does not matter to the clock."""
    return np.random.default_rng(0).integers(0, 256, (images, size_px, size_px, 3), dtype=np.uint8)


def write_images(folder: Path, images: np.ndarray) -> Path:
    """PNGs, each with its caption beside it."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(prompt_for(PROMPT, LABELS[number % len(LABELS)]))
    return folder


def rows(size_px: int, steps: int, at_least: dict[str, float], scratch: Path) -> list[Row]:
    """Of each precision, with the ratio that is asked of it. The script is in float32."""
    images = pixels(size_px)
    ours = {
        precision: ReadyTraining(
            AdapterSettings(
                base_model=BUILTIN,
                rank=RANK,
                batch_size=BATCH,
                images_seen=10**6,
                image_size=size_px,
                learning_rate=LEARNING_RATE,
                prompt=PROMPT,
                precision=precision,
            ),
            images,
            LABELS,
            8,
        )
        for precision in at_least
    }
    peer = TextToImageLora(
        BUILTIN_FOLDER,
        write_images(scratch / str(size_px), images),
        resolution=size_px,
        batch_size=BATCH,
        rank=RANK,
        learning_rate=LEARNING_RATE,
    )
    with FlopCounterMode(display=False) as counter:
        peer.train(1)
    loops = {"peer": peer, **ours}
    found = in_turns({name: partial(loop.train, steps) for name, loop in loops.items()}, FEWEST_PAIRS)
    what = f"adapter training, {size_px} px, batches of {BATCH}, without the start"
    return [
        compared(
            what if precision == "float32" else f"{what}, in {precision}",
            PEER,
            "image",
            ratio,
            ours=found[precision],
            others=found["peer"],
            flops=counter.get_total_flops() / BATCH,
            dtype=getattr(torch, precision),
        )
        for precision, ratio in at_least.items()
    ]


@dataclass(frozen=True)
class Ended:
    """What a process took from its start to its end."""

    seconds: Seconds
    lines: list[str]


def process(script: str, *arguments: str | Path | int) -> Ended:
    """Runs a script of this folder with one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun_s = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, Path(__file__).parent / script, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(Seconds(processor_s, time.perf_counter() - begun_s), ended.stdout.decode().splitlines())


def stored_split(path: Path, folder: Path, images: np.ndarray) -> Path:
    """A ZIP archive of a store's objects, with a split of the images."""
    store = MemoryObjectStore.created()
    files = {
        f"{LABELS[number % len(LABELS)]}/plate-{number // 8}_{number}.png": encoded(image)
        for number, image in enumerate(images)
    }
    create_split(store, dataset(store, folder, files), SplitSettings(test=0.2, validation=0.1, seed=0))
    return zipped(path, {key: store.get_bytes(key) for key in store.keys})


def many_adapters_rows(scratch: Path, quick: bool) -> list[Row]:
    """Of each precision; the script is in float32.

    Of our process the first few adapters are timed; the others cost what those after the first one cost.
    """
    made, steps = 3 if quick else 6, ADAPTER_IMAGES // BATCH
    images = pixels(64)
    store = stored_split(scratch / "store.zip", scratch, images)
    folder = write_images(scratch / "many", images)

    def ours(precision: str) -> Seconds:
        begun_s = time.time()
        ended = process("adapter_worker.py", store, made, ADAPTER_IMAGES, precision)
        processor_s, clock_s = zip(*map(json.loads, ended.lines), strict=True)
        further = (ADAPTERS - made) / (made - 1)
        return Seconds(
            (ended.seconds.processor + further * (processor_s[-1] - processor_s[0])) / ADAPTERS,
            (clock_s[-1] - begun_s + further * (clock_s[-1] - clock_s[0])) / ADAPTERS,
        )

    def peers(number: int) -> Seconds:
        out = scratch / f"out-{number}"
        arguments = ("--resolution", 64, "--batch-size", BATCH, "--rank", RANK, "--steps", steps)
        return process("text_to_image_lora.py", BUILTIN_FOLDER, folder, out, *arguments).seconds

    precisions = ("float32", "bfloat16") if multiplies_in_bfloat16() else ("float32",)
    rounds = [(peers(number), *map(ours, precisions)) for number in range(2 if quick else FEWEST_PAIRS)]
    other, *own = zip(*rounds, strict=True)
    what = f"{ADAPTERS} adapters of {ADAPTER_IMAGES} images, 64 px, starts included"
    return [
        compared(
            what if precision == "float32" else f"{what}, in {precision}",
            f"{PEER}, {ADAPTERS} times",
            "adapter",
            10.0,
            ours=of_precision,
            others=other,
            note="" if precision != "float32" else NOTE_OF_MANY.format(made=made),
        )
        for precision, of_precision in zip(precisions, own, strict=True)
    ]


def measure(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # Where there are no products in it, it is slower, and nobody would ask for it.
        bfloat16 = {"bfloat16": 2.5} if multiplies_in_bfloat16() else {}
        return [
            *rows(64, 2 if quick else 8, {"float32": 1.6, **bfloat16}, scratch),
            *rows(128, 1 if quick else 3, {"float32": 1.5, **bfloat16}, scratch),
            *many_adapters_rows(scratch, quick),
        ]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
