"""What the shards of an image set hold, which of them are finished, and the index over them.

checkpoints/operations/image-synthesis/{id}/{number, 5 digits}.json   a shard that is in object storage
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data import image_table
from synthmix.image_data.captions import drawn_caption
from synthmix.image_data.generators import AdapterPart
from synthmix.image_data.image_table import SOURCES, Shard
from synthmix.image_synthesis.drawn_adapters import drawn, in_drawing_order, own_captions
from synthmix.image_synthesis.shard_ranges import shard_count, shard_range
from synthmix.latent_diffusion.prompts import prompt_for
from synthmix.service_kit.artifacts import Payload, payload_key
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.seeds import derived_seed
from synthmix.service_kit.settings_messages import from_canonical


@dataclass(frozen=True)
class PlannedImage:
    """What an image of a set is to be, before it is made.

    Attributes:
        index: Its position in the set; images are ordered by class.
        seed: Of its own generator.
        adapters: What it is made with: one, or several that are fused.
        template: The prompt before its class was named; of several, the one that was drawn.
        caption: What the prompt has in the place of {caption}; "" where it has none.
    """

    index: int
    label: str
    template: str
    seed: int
    adapters: tuple[AdapterPart, ...] = (AdapterPart(),)
    caption: str = ""

    @property
    def prompt(self) -> str:
        return prompt_for(self.template, self.label, self.caption)

    @property
    def sources(self) -> list[str]:
        """The sha256s of the train images that it is a child of, if its adapters are of one image each."""
        return [part.image for part in self.adapters if part.image]


def planned_images(
    request: dict[str, Any],
    indices: range,
    parts: Sequence[AdapterPart] = (AdapterPart(),),
    captions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[PlannedImage]:
    """The images at these indices of a canonical request.

    The noise of a class's n-th image is that which it has in a set with as many images of every class as of the
    largest: fewer images of one class don't change the images of another.

    Args:
        parts: The adapters of the request's artifact.
        captions: Those that it was trained with, of each class.
    """
    settings = from_canonical(request["settings"], SynthesisSettings)
    counts = dict(sorted(request["class_images"].items()))
    labels, ends = list(counts), list(itertools.accumulate(counts.values()))
    all_parts, own = tuple(parts), own_captions(parts, captions)
    images = []
    ordered: dict[str, tuple[AdapterPart, ...]] = {}
    for index in indices:
        number = next(number for number, end in enumerate(ends) if index < end)
        within = index - (ends[number] - counts[labels[number]])
        seed = derived_seed(settings.seed, "image", number * max(counts.values()) + within)
        label = labels[number]
        if label not in ordered:
            ordered[label] = in_drawing_order(all_parts, label, settings.seed)
        adapters = drawn(ordered[label], within, settings.fused_adapters)
        # An adapter of one image has seen that image's caption alone.
        of_label = [own[adapters[0].image]] if own else captions.get(label, ())
        template = drawn_prompt((settings.prompt, *settings.more_prompts), label, settings.seed, within)
        caption = drawn_caption(of_label, template, label, settings.seed, within)
        images.append(PlannedImage(index, label, template, seed, adapters, caption))
    return images


def drawn_prompt(prompts: Sequence[str], label: str, seed: int, number: int) -> str:
    """The prompt of a class's n-th image."""
    return prompts[derived_seed(seed, "prompt", label, number) % len(prompts)]


def image_count(request: dict[str, Any]) -> int:
    return sum(request["class_images"].values())


def record_shard(store: ObjectStore, operation: OperationName, number: int, shard: Shard) -> None:
    """Keeps that a shard is written, for when the operation has to go on from there."""
    store.put_json(f"{operation.checkpoints}{number:05d}.json", asdict(shard))


def finished_shards(store: ObjectStore, operation: OperationName, target: ArtifactName) -> dict[int, Shard]:
    """The shards of the image set that are recorded, and still in object storage, by number."""
    present = {item.key for item in store.list(f"{target}/")}
    found = {}
    for item in store.list(operation.checkpoints):
        value = store.get_json(item.key)
        shard = Shard(Payload(**value["payload"]), value["sha256s"])
        if payload_key(target, shard.payload) in present:
            found[int(item.key.rpartition("/")[2].removesuffix(".json"))] = shard
    return found


def write_index(
    store: ObjectStore,
    target: ArtifactName,
    request: dict[str, Any],
    shards: Mapping[int, Shard],
    parts: Sequence[AdapterPart] = (AdapterPart(),),
    captions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[Payload]:
    """Writes the index over all shards, by number, and returns every payload.

    Args:
        parts: The adapters of the request's artifact. Where each is of one image, the index says which images each
            synthetic one is a child of.
        captions: Those that it was trained with, of each class.
    """
    payloads: list[Payload] = []
    columns: dict[str, list[Any]] = {}
    total = image_count(request)
    for number in range(shard_count(total)):
        payloads.append(shards[number].payload)
        images = planned_images(request, shard_range(total, number), parts, captions)
        _append(columns, number, shards[number].sha256s, images)
    return [*payloads, image_table.write_index(store, target, columns)]


def _append(columns: dict[str, list[Any]], shard: int, sha256s: Sequence[str], images: Sequence[PlannedImage]) -> None:
    for row, (sha256, image) in enumerate(zip(sha256s, images, strict=True)):
        for name, value in {
            "sha256": sha256,
            "shard": shard,
            "row": row,
            "index": image.index,
            "label": image.label,
            "prompt": image.prompt,
            "seed": image.seed,
            **({SOURCES: image.sources} if image.sources else {}),
        }.items():
            columns.setdefault(name, []).append(value)
