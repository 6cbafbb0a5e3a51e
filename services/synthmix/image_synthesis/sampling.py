"""What a worker does for one shard: the model with its adapter, and images that each have a generator of their own.

The image at index i starts from the noise of (seed, i): which worker makes it, and how many there are, changes nothing.
"""

import io
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.captions import adapter_captions
from synthmix.image_data.fused_adapters import is_fused
from synthmix.image_data.generators import MORE_ADAPTERS, ORIGINAL_PX, adapter_parts, adapter_settings
from synthmix.image_data.image_table import write_shard
from synthmix.image_data.image_to_image import is_inverted
from synthmix.image_data.pixel_cache import some_pixels
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_data.summed_adapters import is_summed
from synthmix.image_synthesis.adapted_models import adapted_model, summed_model
from synthmix.image_synthesis.batch_size import images_at_once
from synthmix.image_synthesis.inverted_pairs import switches_prompts
from synthmix.image_synthesis.inverted_sources import source_noise
from synthmix.image_synthesis.latent_guidance import judge_of, moved
from synthmix.image_synthesis.latent_guidance_options import moves_latents
from synthmix.image_synthesis.sampler_options import sampler_options
from synthmix.image_synthesis.shard_ranges import shard_range
from synthmix.image_synthesis.shards import PlannedImage, image_count, planned_images, record_shard
from synthmix.image_synthesis.source_images import SourceImage, executed_steps, source_images, sources_of
from synthmix.latent_diffusion.autoencoder import encode_images
from synthmix.latent_diffusion.class_tokens import class_tokens, model_prompt
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.denoising import (
    Guidance,
    LaterPrompts,
    Sampler,
    Start,
    StartNoise,
    decode,
    denoise,
    encoded,
    first_level,
    named_sampler,
)
from synthmix.latent_diffusion.inversion import on_circle
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.environment import IMAGE_SYNTHESIS
from synthmix.service_kit.errors import DataLoss, FailedPrecondition, invalid_field
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.settings_messages import from_canonical

Key = TypeVar("Key")
Move = Callable[[torch.Tensor, Sequence[PlannedImage]], torch.Tensor]
"""What is done to the latents of planned images before they are decoded."""


def synthesise_shard(
    operation: str,
    target: str,
    request: dict[str, Any],
    number: int,
    report: Callable[[int], None],
    threads: int,
    train_split: str = "",
) -> int:
    """Makes the images of one shard, writes and records it, and returns how many they are.

    Args:
        train_split: splits/{id}/parts/train, where images begin from others.
    """
    torch.set_num_threads(threads)
    store = open_object_store()
    adapter = read_manifest(store, ArtifactName(ADAPTERS, request["adapter"]))
    settings = from_canonical(request["settings"], SynthesisSettings)
    captions = adapter_captions(store, adapter)
    train = open_train_part(store, train_split, field="image_set.train_split") if train_split else None
    indices = shard_range(image_count(request), number)
    sources = {} if train is None else source_images(train)
    planned = planned_images(request, indices, adapter_parts(adapter), captions, sources)
    shares = (settings.fusion_weight, 1 - settings.fusion_weight) if is_fused(settings) else (1.0,)
    made: dict[int, bytes] = {}
    for folders, of_folders in _alike(planned, lambda image: tuple(part.folder for part in image.adapters)).items():
        if is_summed(settings):
            names = (adapter.name, *(ArtifactName(ADAPTERS, item) for item in request[MORE_ADAPTERS]))
            factors = tuple(settings.adapter_weights)
            model = summed_model(store, names, settings.precision, factors, settings.adapter_scale)
        else:
            model = adapted_model(store, adapter.name, settings.precision, folders, shares, settings.adapter_scale)
        move = _mover(store, train, model, adapter, settings) if train and moves_latents(settings) else None
        for alike in _alike(of_folders, lambda image: executed_steps(settings.steps, image.strength)).values():
            start: Start | StartNoise | None = None
            if train is not None and is_inverted(settings):
                noise = _noise(store, train, model, adapter, settings, folders, alike, sources, captions)
                start = _on_circles(noise, alike)
            elif train is not None:
                start = _start(store, train, model, adapter, settings, alike)
            in_order = iter(image.index for image in alike)
            for batch in synthesise(model, adapter, settings, alike, start, move):
                made |= {next(in_order): data for data in batch}
                report(len(made))
        del model  # or it stays beside the next one
    images = [made[image.index] for image in planned]
    shard = write_shard(store, ArtifactName.parse(target, field="target"), number, images)
    record_shard(store, OperationName.parse(operation), number, shard)
    count_on_worker("synthmix_images", len(images), IMAGE_SYNTHESIS)
    return len(images)


def _alike(planned: Sequence[PlannedImage], what: Callable[[PlannedImage], Key]) -> dict[Key, list[PlannedImage]]:
    """Images by what they have in common: each adapter is put into the base model once, and a batch takes one way."""
    found: dict[Key, list[PlannedImage]] = {}
    for image in planned:
        found.setdefault(what(image), []).append(image)
    return found


def _start(
    store: ObjectStore,
    train: TrainPart,
    model: LatentDiffusion,
    adapter: Manifest,
    settings: SynthesisSettings,
    planned: Sequence[PlannedImage],
) -> Start:
    """What images that take as many steps begin from: the latents of their sources, as adapters are trained on them.

    Those of two are mixed before noise is added: of mixed noise there would be less.
    """
    first, second = (
        [source.row for source in of_all if source]
        for of_all in zip(*((image.source, image.partner) for image in planned), strict=True)
    )
    different = sorted({*first, *second})
    size_px = adapter_settings(adapter).image_size
    latents = encode_images(model.vae, some_pixels(store, train, different, size_px), images_at_once(model, size_px))
    begun, partners = (latents[[different.index(row) for row in rows]] for rows in (first, second))
    if second:
        shares = torch.tensor([image.share for image in planned], dtype=begun.dtype)
        begun = torch.lerp(partners, begun, shares.view(-1, 1, 1, 1))
    return Start(begun, executed_steps(settings.steps, planned[0].strength))


def _noise(
    store: ObjectStore,
    train: TrainPart,
    model: LatentDiffusion,
    adapter: Manifest,
    settings: SynthesisSettings,
    folders: Hashable,
    planned: Sequence[PlannedImage],
    sources: Mapping[str, Sequence[SourceImage]],
    captions: Mapping[str, Sequence[str]],
) -> dict[int, torch.Tensor]:
    """What each train image that one of these begins from would be made of, by its row.

    Each is inverted by the prompt of all images, and by its own caption where the prompt asks for one.
    """
    size_px, sampler = adapter_settings(adapter).image_size, sampler_of(model, settings)
    wanted = {source.row for image in planned for source in (image.source, image.partner) if source}
    found: dict[int, torch.Tensor] = {}
    with _steps_told(settings, sampler):
        last = first_level(model, sampler, settings.steps)
    with _memory_told(images_at_once(model, size_px), size_px):
        for label in dict.fromkeys(image.label for image in planned):
            own = captions.get(label) or [""] * len(sources[label])
            found |= source_noise(
                store,
                train,
                model,
                sources_of(settings, sources, label),
                {
                    source.row: _text(model, adapter, settings.prompt, label, caption)
                    for source, caption in zip(sources[label], own, strict=True)
                },
                wanted,
                size_px=size_px,
                original_px=adapter.summary.get(ORIGINAL_PX),
                steps=settings.inversion_steps,
                last=last,
                of_model=(adapter.name, settings.precision, folders, settings.adapter_scale),
            )
    return found


def _on_circles(noise: Mapping[int, torch.Tensor], planned: Sequence[PlannedImage]) -> StartNoise:
    """What images begin from that have two sources each."""
    first, second = (
        torch.stack([noise[source.row] for source in of_all if source])
        for of_all in zip(*((image.source, image.partner) for image in planned), strict=True)
    )
    return StartNoise(on_circle(first, second, torch.tensor([image.angle for image in planned], dtype=torch.float64)))


def _mover(
    store: ObjectStore, train: TrainPart, model: LatentDiffusion, adapter: Manifest, settings: SynthesisSettings
) -> Move:
    """Moves images' latents by a classifier of the train part."""
    judge = judge_of(store, train, adapter_settings(adapter).image_size, model.device)

    def move(latents: torch.Tensor, planned: Sequence[PlannedImage]) -> torch.Tensor:
        return moved(
            model,
            latents,
            judge,
            [train.classes.index(image.label) for image in planned],
            [image.seed for image in planned],
            step=settings.latent_guidance_step,
            radius=settings.latent_guidance_radius,
            grey=adapter.summary["grey"],
        )

    return move


def synthesise(
    model: LatentDiffusion,
    adapter: Manifest,
    settings: SynthesisSettings,
    planned: Sequence[PlannedImage],
    start: Start | StartNoise | None = None,
    move: Move | None = None,
) -> Iterator[list[bytes]]:
    """PNGs of the planned images, in batches, each while the next one is made.

    Args:
        start: What each of them begins from; noise if None.
        move: What their latents go through before they are decoded; nothing if None.
    """
    size_px, grey = adapter_settings(adapter).image_size, adapter.summary["grey"]
    templates = [image.template for image in planned]
    texts, later, others = (
        [
            _text(model, adapter, template, image.label, image.caption)
            for template, image in zip(of_all, planned, strict=True)
        ]
        for of_all in (
            templates,
            [image.later_template or image.template for image in planned],
            [settings.negative_prompt] * len(planned),
        )
    )
    embeddings = encoded(model, [*texts, *later, *others])
    at_once, sampler = images_at_once(model, size_px), sampler_of(model, settings)
    with ThreadPoolExecutor(1, thread_name_prefix="png") as encoder:
        before = None
        for begin in range(0, len(planned), at_once):
            batch = planned[begin : begin + at_once]
            prompts, later_prompts, negative = (
                [embeddings[text] for text in of_all[begin : begin + at_once]] for of_all in (texts, later, others)
            )
            of_batch = start and replace(start, latents=start.latents[begin : begin + at_once])
            original_px = adapter.summary.get(ORIGINAL_PX)
            taking_over = LaterPrompts(later_prompts, settings.prompt_switch) if switches_prompts(settings) else None
            pixels = _pixels(
                model, settings, batch, prompts, negative, size_px, original_px, of_batch, sampler, taking_over, move
            )
            if before is not None:
                yield before.result()
            before = encoder.submit(_pngs, pixels, adapter.name, grey=grey)
        if before is not None:
            yield before.result()


def _text(model: LatentDiffusion, adapter: Manifest, template: str, label: str, caption: str) -> str:
    """A prompt for an image, with learned tokens in the place of its class's name if the adapter has them."""
    learned = class_tokens(model)
    if learned is not None and label not in learned.classes:
        raise DataLoss(
            f"{adapter.name} has learned tokens of classes, and none of {label!r}; delete it and train it again",
            reason="ADAPTER_UNREADABLE",
        )
    return model_prompt(model, template, label, caption)


def _pixels(
    model: LatentDiffusion,
    settings: SynthesisSettings,
    planned: Sequence[PlannedImage],
    prompts: Sequence[Conditions],
    others: Sequence[Conditions],
    size_px: int,
    original_px: int | None,
    start: Start | StartNoise | None,
    sampler: Sampler,
    later: LaterPrompts | None,
    move: Move | None,
) -> torch.Tensor:
    """The planned images as `decode` returns them."""
    with _memory_told(len(planned), size_px):
        with _steps_told(settings, sampler):
            latents = denoise(
                model,
                prompts,
                others,
                [torch.Generator().manual_seed(image.seed) for image in planned],
                size_px=size_px,
                steps=settings.steps,
                guidance=guidance_of(settings),
                original_px=original_px,
                start=start,
                sampler=sampler,
                later=later,
            )
        return decode(model, move(latents, planned) if move else latents)


def _memory_told(count: int, size_px: int) -> AbstractContextManager[None]:
    """Raises FailedPrecondition if the memory is not enough for what is done with so many images."""
    return memory_told_at(
        "image_set.adapter", f"{count} images of {size_px} pixels at once", "use an adapter of a smaller image_size"
    )


@contextmanager
def _steps_told(settings: SynthesisSettings, sampler: Sampler) -> Iterator[None]:
    """Raises InvalidArgument for steps that the scheduler does not take: few, or not as many as one likes."""
    try:
        yield
    except ValueError as error:
        raise invalid_field(
            "image_set.settings.steps",
            settings.steps,
            f"cannot be taken with {type(sampler.scheduler).__name__} ({error})",
            "use another number of steps, such as 25",
            reason="STEPS_UNSUPPORTED",
        ) from error


def sampler_of(model: LatentDiffusion, settings: SynthesisSettings) -> Sampler:
    """What takes the steps: the base model's own scheduler if none is named."""
    if not settings.HasField("sampler"):
        return Sampler(model.pipeline.scheduler)
    return named_sampler(model, settings.sampler, sampler_options(settings), settings.eta)


def guidance_of(settings: SynthesisSettings) -> Guidance:
    """`settings` are filled."""
    return Guidance(
        settings.guidance_scale,
        settings.guidance_least_noise,
        settings.guidance_most_noise,
        settings.guidance_rescale,
    )


def _pngs(pixels: torch.Tensor, adapter_name: ArtifactName, *, grey: bool) -> list[bytes]:
    values = pixels.cpu().numpy()
    if not np.isfinite(values).all():
        raise FailedPrecondition(
            f"the base model with {adapter_name} makes images that are no numbers (NaN or infinite); train an "
            "adapter with a lower learning_rate, or use another base model",
            reason="IMAGES_NOT_FINITE",
        )
    return [_png(image.clip(0.0, 1.0), grey=grey) for image in values]


def _png(image: np.ndarray, *, grey: bool) -> bytes:
    """PNG of an image (height, width, 3) in 0 to 1. Grey if the real ones are: colour noise would tell them apart."""
    values = np.clip(np.rint(image.mean(axis=-1) * 255 if grey else image * 255), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
