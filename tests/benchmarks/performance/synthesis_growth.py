"""What an image costs in a set of ten times as many, and what a second worker of one processor adds.

Whole shards, as a worker makes them: planned, synthesised, encoded, stored and recorded. One step an image, since what
could grow is all that is around the steps.
"""

import multiprocessing
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from memory_object_store import MemoryObjectStore
from side_by_side import FEWEST_PAIRS, Row, Seconds, compared, environment, run, timed
from synthesis import ADAPTER, GUIDANCE_SCALE, LABELS, PROMPT, with_adapter, write_adapter
from synthmix.image_synthesis import sampling
from synthmix.image_synthesis.adapted_models import make_ready
from synthmix.image_synthesis.sampling import synthesise_shard
from synthmix.image_synthesis.shard_ranges import SHARD_IMAGES, shard_count
from synthmix.image_synthesis.shards import finished_shards, write_index
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


def stored_adapter() -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    write_manifest(store, ADAPTER)
    return store


def use(model: LatentDiffusion, store: MemoryObjectStore) -> None:
    sampling.open_object_store = lambda: store  # type: ignore[assignment]
    sampling.adapted_model = lambda store, name, precision, *parts: model  # type: ignore[assignment]


class GrowingSet:
    """An image set that is made part by part, the last with its index, into a store of its own."""

    def __init__(self, model: LatentDiffusion, images: int) -> None:
        self._model, self._store = model, stored_adapter()
        self._request, self._shards = request(images, 1), shard_count(images)
        self._made = 0

    def make(self, until_share: float) -> int:
        """Goes on until a share of the set is made, and returns how many images that were."""
        use(self._model, self._store)
        last = round(until_share * self._shards)
        images = 0
        for number in range(self._made, last):
            images += synthesise_shard(str(OPERATION), str(TARGET), self._request, number, lambda done: None, 1)
        self._made = last
        if last == self._shards:
            write_index(self._store, TARGET, self._request, finished_shards(self._store, OPERATION, TARGET))
        return images


def worker(steps: int, parent: Connection) -> None:
    """Makes a shard, says so, and makes the next whenever it is told to."""
    model = prepared()
    use(model, stored_adapter())
    while True:
        synthesise_shard(str(OPERATION), str(TARGET), request(SHARD_IMAGES, steps), 0, lambda done: None, 1)
        parent.send(None)
        if not parent.recv():
            return


def workers_row(quick: bool) -> Row:
    """Wall time: what is asked is what two processors make together."""
    context = multiprocessing.get_context("spawn")
    workers: list[Connection] = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=worker, args=(1 if quick else 10, theirs), daemon=True).start()
        workers.append(ours)
    for each in workers:
        each.recv()

    def seconds(count: int) -> Seconds:
        begun_s = time.perf_counter()
        for each in workers[:count]:
            each.send(True)
        for each in workers[:count]:
            each.recv()
        took_s = (time.perf_counter() - begun_s) / (count * SHARD_IMAGES)
        return Seconds(took_s, took_s)

    pairs = [(seconds(2), seconds(1)) for _ in range(FEWEST_PAIRS)]
    for each in workers:
        each.send(False)
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
    few = SHARD_IMAGES if quick else 1000
    model = prepared()
    GrowingSet(model, few).make(1.0)
    large = GrowingSet(model, 10 * few)
    pairs = [
        (timed(partial(large.make, (number + 1) / FEWEST_PAIRS)), timed(partial(GrowingSet(model, few).make, 1.0)))
        for number in range(FEWEST_PAIRS)
    ]
    many_s, few_s = zip(*pairs, strict=True)
    growth = compared(
        f"an image of a set of {10 * few:,}",
        f"an image of a set of {few:,}",
        "image",
        0.95,
        ours=many_s,
        others=few_s,
    )
    return [growth, workers_row(quick)]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
