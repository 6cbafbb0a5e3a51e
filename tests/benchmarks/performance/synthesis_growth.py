"""What an image costs in a set of ten times as many, and what a second worker of one processor adds.

Whole shards, as a worker makes them: planned, synthesised, encoded, stored and recorded. One step an image, since what
could grow is all that is around the steps.
"""

import multiprocessing
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from memory_object_store import MemoryObjectStore
from side_by_side import FEWEST_PAIRS, Row, Seconds, compared, environment, in_turns, run
from synthesis import ADAPTER, GUIDANCE_SCALE, LABELS, PROMPT, with_adapter, write_adapter
from synthmix.image_synthesis import sampling
from synthmix.image_synthesis.sampling import make_ready, synthesise_shard
from synthmix.image_synthesis.shard_ranges import SHARD_IMAGES, shard_count
from synthmix.image_synthesis.shards import finished_shards, image_count, write_index
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.service_kit.artifacts import write_manifest
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName, OperationName

OPERATION = OperationName("image-synthesis", "1" * 32)
TARGET = ArtifactName(IMAGE_SETS, "2" * 32)


def prepared() -> LatentDiffusion:
    torch.set_num_threads(1)
    base = load(BUILTIN_FOLDER, torch.device("cpu"))
    with TemporaryDirectory() as folder:
        write_adapter(base, Path(folder))
        model = with_adapter(base, Path(folder))
    make_ready(model, "automatic")
    return model


def request(images: int, steps: int) -> dict[str, Any]:
    return {
        "settings": {"prompt": PROMPT.format("{label}"), "steps": steps, "guidance_scale": GUIDANCE_SCALE},
        "adapter": ADAPTER.name.id,
        "class_images": dict.fromkeys(LABELS, images // len(LABELS)),
        "recipe_version": 0,
    }


def store_for(model: LatentDiffusion) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    write_manifest(store, ADAPTER)
    sampling.open_object_store = lambda: store  # type: ignore[assignment]
    sampling.adapted_model = lambda name, precision: model  # type: ignore[assignment]
    return store


def image_set(model: LatentDiffusion, images: int) -> int:
    """Makes a whole image set, with its index, into a store of its own."""
    store, wanted = store_for(model), request(images, 1)
    for number in range(shard_count(images)):
        synthesise_shard(str(OPERATION), str(TARGET), wanted, number, lambda done: None, 1)
    write_index(store, TARGET, wanted, finished_shards(store, OPERATION, TARGET))
    return image_count(wanted)


def worker(steps: int, shards: int, ready: Any, start: Any) -> None:
    model = prepared()
    store_for(model)
    wanted = request(shards * SHARD_IMAGES, steps)
    synthesise_shard(str(OPERATION), str(TARGET), wanted, 0, lambda done: None, 1)
    while True:
        ready.release()
        start.acquire()
        for number in range(shards):
            synthesise_shard(str(OPERATION), str(TARGET), wanted, number, lambda done: None, 1)


def workers_row(quick: bool) -> Row:
    """Wall time: what is asked is what two processors make together."""
    steps, shards = (1, 2) if quick else (10, 1)
    context = multiprocessing.get_context("spawn")
    ready, starts = context.Semaphore(0), [context.Semaphore(0) for _ in range(2)]
    processes = [context.Process(target=worker, args=(steps, shards, ready, start), daemon=True) for start in starts]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()

    def seconds(count: int) -> Seconds:
        begun_s = time.perf_counter()
        for start in starts[:count]:
            start.release()
        for _ in range(count):
            ready.acquire()
        took_s = (time.perf_counter() - begun_s) / (count * shards * SHARD_IMAGES)
        return Seconds(took_s, took_s)

    pairs = [(seconds(2), seconds(1)) for _ in range(FEWEST_PAIRS)]
    for process in processes:
        process.terminate()
        process.join()
    ratios = [one.wall / two.wall for two, one in pairs]
    medians = [sorted(item.wall for item in column)[FEWEST_PAIRS // 2] for column in zip(*pairs, strict=True)]
    return Row(
        "synthesis by two workers of one processor each, in wall time",
        "one such worker",
        "image",
        1.85,
        ratios,
        ratios,
        *medians,
        environment=environment(),
    )


def measure(quick: bool) -> list[Row]:
    few = 4 * SHARD_IMAGES if quick else 1000
    model = prepared()
    found = in_turns({"many": partial(image_set, model, 10 * few), "few": partial(image_set, model, few)}, FEWEST_PAIRS)
    growth = compared(
        f"an image of a set of {10 * few:,}",
        f"an image of a set of {few:,}",
        "image",
        0.95,
        ours=found["many"],
        others=found["few"],
    )
    return [growth, workers_row(quick)]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
