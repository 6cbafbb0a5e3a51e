"""What the shards of an image set hold, which of them are finished, and the index over them.

checkpoints/operations/image-synthesis/{id}/{number, 5 digits}.json   a shard that is in object storage
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data import image_table
from synthmix.image_data.captions import drawn_caption
from synthmix.image_data.generators import AdapterPart
from synthmix.image_data.image_table import ANGLE, SHARE, SOURCE_LABEL, SOURCES, STRENGTH, Shard
from synthmix.image_data.image_to_image import begins_from_images, is_inverted, is_mixed, is_of_any_class, of_class
from synthmix.image_data.paired_sources import SOURCES_OF_EACH
from synthmix.image_synthesis.drawn_adapters import drawn, in_drawing_order, own_captions
from synthmix.image_synthesis.inverted_pairs import drawn_angle, switches_prompts
from synthmix.image_synthesis.shard_ranges import shard_count, shard_range
from synthmix.image_synthesis.source_images import SourceImage, drawn_share, drawn_strength, executed_steps, sources_of
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
        later_template: The one that takes over from it at less noise; None if it is used to the end.
        caption: What the prompt has in the place of {caption}; "" where it has none.
        source: The train image that it begins from; None if it begins as noise of its own.
        strength: How far that is taken to noise.
        partner: The other one, of two that are mixed or inverted.
        angle: Where it begins on the circle through the noise of two, in radians.
        share: How much of two that are mixed is the first.
    """

    index: int
    label: str
    template: str
    seed: int
    adapters: tuple[AdapterPart, ...] = (AdapterPart(),)
    caption: str = ""
    source: SourceImage | None = None
    strength: float = 0.0
    partner: SourceImage | None = None
    angle: float = 0.0
    share: float = 1.0
    later_template: str | None = None

    @property
    def prompt(self) -> str:
        return prompt_for(self.template, self.label, self.caption)

    @property
    def sources(self) -> list[str]:
        """The sha256s of the train images that it is a child of: that it begins from, or that its adapters are of."""
        begun = [source.sha256 for source in (self.source, self.partner) if source]
        return list(dict.fromkeys([*begun, *(part.image for part in self.adapters if part.image)]))


def planned_images(
    request: dict[str, Any],
    indices: range,
    parts: Sequence[AdapterPart] = (AdapterPart(),),
    captions: Mapping[str, Sequence[str]] = MappingProxyType({}),
    sources: Mapping[str, Sequence[SourceImage]] = MappingProxyType({}),
) -> list[PlannedImage]:
    """The images at these indices of a canonical request.

    The noise of a class's n-th image is that which it has in a set with as many images of every class as of the
    largest: fewer images of one class don't change the images of another.

    Args:
        parts: The adapters of the request's artifact.
        captions: Those that it was trained with, of each class.
        sources: The train images of each class, where images begin from them.
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
        later = settings.prompt if switches_prompts(settings) else None
        first = settings.more_prompts if later else (settings.prompt, *settings.more_prompts)
        template = drawn_prompt(first, label, settings.seed, within)
        caption = drawn_caption(of_label, template + (later or ""), label, settings.seed, within)
        image = PlannedImage(index, label, template, seed, adapters, caption, later_template=later)
        if is_inverted(settings):
            source, partner = drawn(sources_of(settings, sources, label), within, SOURCES_OF_EACH)
            image = replace(image, source=source, partner=partner, angle=drawn_angle(settings, label, within))
        elif begins_from_images(settings):
            ordered_sources = sources_of(settings, sources, label)
            own_settings = of_class(settings, len(sources.get(label, ())))
            image = replace(image, strength=drawn_strength(own_settings, label, within))
            if is_mixed(settings):
                source, partner = drawn(ordered_sources, within, SOURCES_OF_EACH)
                image = replace(image, source=source, partner=partner, share=drawn_share(settings, label, within))
            else:
                image = replace(image, source=_source(ordered_sources, adapters[0], within))
        images.append(image)
    return images


def _source(sources: Sequence[SourceImage], adapter: AdapterPart, number: int) -> SourceImage:
    """What a class's n-th image begins from: the image that its adapter is of, if it is of one."""
    if adapter.image:
        [own, *_] = [source for source in sources if source.sha256 == adapter.image]
        return own
    return sources[number % len(sources)]


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
    sources: Mapping[str, Sequence[SourceImage]] = MappingProxyType({}),
) -> list[Payload]:
    """Writes the index over all shards, by number, and returns every payload.

    Args:
        parts: The adapters of the request's artifact. Where each is of one image, or images begin from others, the
            index says which images each synthetic one is a child of.
        captions: Those that it was trained with, of each class.
        sources: The train images of each class, where images begin from them.
    """
    payloads: list[Payload] = []
    columns: dict[str, list[Any]] = {}
    settings = from_canonical(request["settings"], SynthesisSettings)
    total = image_count(request)
    for number in range(shard_count(total)):
        payloads.append(shards[number].payload)
        images = planned_images(request, shard_range(total, number), parts, captions, sources)
        _append(columns, number, shards[number].sha256s, images, settings)
    return [*payloads, image_table.write_index(store, target, columns)]


def _append(
    columns: dict[str, list[Any]],
    shard: int,
    sha256s: Sequence[str],
    images: Sequence[PlannedImage],
    settings: SynthesisSettings,
) -> None:
    """Adds a shard's rows to the index."""
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
            **(_begun(image, image.source, settings) if image.source else {}),
        }.items():
            columns.setdefault(name, []).append(value)


def _begun(image: PlannedImage, source: SourceImage, settings: SynthesisSettings) -> dict[str, Any]:
    """What the index says of an image that begins from another."""
    if is_inverted(settings):  # from two, which may be of different groups
        return {ANGLE: image.angle, "steps": settings.steps}
    begun = {STRENGTH: image.strength, "steps": executed_steps(settings.steps, image.strength)}
    if is_mixed(settings):
        return {SHARE: image.share, **begun}
    return {
        "group": source.group,
        **begun,
        **({SOURCE_LABEL: source.label} if is_of_any_class(settings) else {}),
    }
