"""What a worker does for one artifact: data and base model in, checkpoints on the way, its adapters' payloads out."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from synthmix.adapter_training import optimizers, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.checkpoints import (
    Checkpoint,
    Finished,
    read_finished,
    read_newest_checkpoint,
    read_previews,
    write_checkpoint,
    write_finished,
    write_preview,
)
from synthmix.adapter_training.inputs import open_captions, open_inputs
from synthmix.adapter_training.kept_inputs import INPUTS
from synthmix.adapter_training.portions import Portion, portions
from synthmix.adapter_training.previews import Previews
from synthmix.adapter_training.prior_images import Prior, base_models_latents
from synthmix.adapter_training.prior_options import TRAIN, all_prompts
from synthmix.adapter_training.stopped import Stopped, read_stopped, write_stopped
from synthmix.adapter_training.training_prompts import (
    Subjects,
    TrainingPrompts,
    encoded_as_they_come,
    encoded_in_each_step,
    encoded_once,
    prompt_embeddings,
    subjects,
)
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.captions import captions_file, captions_of_classes
from synthmix.image_data.generators import BASE_MODEL_KIND, IMAGE, ORIGINAL_PX, recorded_adapter_settings
from synthmix.image_data.image_table import read_index
from synthmix.image_data.pixel_cache import are_grey, pixels
from synthmix.image_data.split_parts import TrainPart
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.kept_models import lend
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.model_kinds import SDXL
from synthmix.service_kit.adapter_payloads import CAPTIONS_FILE, LOSSES, images_seen_of, in_folder
from synthmix.service_kit.artifacts import write_payload
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import open_object_store

CHECKPOINT_INTERVAL_SECONDS = 15.0
REPORT_INTERVAL_SECONDS = 0.5


def train(
    operation: str,
    target: str,
    request: dict[str, Any],
    names: dict[str, Any],
    report: Callable[[int, int | None, str], None],
    threads: int,
) -> dict[str, Any]:
    """Trains an artifact's adapters, from the newest state that there is of them, and writes their payloads.

    Returns:
        The payloads and the summary for the manifest, which the operation writes.
    """
    settings = recorded_adapter_settings(request)
    optimizers.require_package(settings)
    store = open_object_store()
    name, artifact = OperationName.parse(operation), ArtifactName.parse(target, field="target")
    checkpoint, done = _newest_state(store, name, request), read_finished(store, name, artifact)
    # What is begun goes on with as many threads: with others it would not come to the same bytes.
    begun_with = [finished.summary["threads"] for finished in done.values()]
    if checkpoint is not None and checkpoint.threads is not None:
        begun_with.append(checkpoint.threads)
    threads = begun_with[0] if begun_with else threads
    torch.set_num_threads(threads)
    part, found = open_inputs(store, names, train_split=request["train_split"], base_model_digest=request["base_model"])
    images, original_px = pixels(store, part, settings.image_size), _original_px(store, part, found)
    captions = open_captions(store, part, settings, request)
    run = _Run(store, name, artifact, request, found, part, images, settings, threads, report, original_px, captions)
    of_artifact = portions(part, settings)
    for number, portion in enumerate(of_artifact):
        if portion.folder not in done:
            goes_on = checkpoint if checkpoint is not None and checkpoint.folder == portion.folder else None
            said = f"training {portion.label}".rstrip()
            if portion.image:
                said = f"training image {number + 1} of {len(of_artifact)}"
            done[portion.folder] = run.trained(portion, number * portion.images_seen, goes_on, said)
            if len(of_artifact) > 1:
                write_finished(store, name, portion.folder, done[portion.folder])
    return _stored(run, of_artifact, done)


def _newest_state(store: ObjectStore, operation: OperationName, request: dict[str, Any]) -> Checkpoint | None:
    """What this operation has come to, or the same adapter's training up to an earlier end, if that is further on."""
    checkpoint = read_newest_checkpoint(store, operation)
    stopped = read_stopped(store, request, beyond=checkpoint.images_seen if checkpoint is not None else 0)
    if stopped is None:
        return checkpoint
    for name, png in stopped.previews.items():
        write_preview(store, operation, stopped.checkpoint.folder, images_seen_of(name), png)
    return stopped.checkpoint


@dataclass(frozen=True)
class _Run:
    """What the trainings of one artifact's adapters have in common."""

    store: ObjectStore
    operation: OperationName
    artifact: ArtifactName
    request: dict[str, Any]
    found: base_model.BaseModel
    part: TrainPart
    images: np.ndarray
    settings: AdapterSettings
    threads: int
    report: Callable[[int, int | None, str], None]
    original_px: int | None
    captions: tuple[str, ...] | None

    @cached_property
    def subjects(self) -> Subjects:
        return subjects(self.part, self.captions)

    def trained(self, portion: Portion, seen_before: int, checkpoint: Checkpoint | None, said: str) -> Finished:
        """An adapter, trained to its end, whose files are written.

        Args:
            seen_before: Images that earlier adapters of the artifact have seen.
            checkpoint: Of this adapter's training; None to begin.
            said: What who watches is told.
        """
        settings = AdapterSettings()
        settings.CopyFrom(self.settings)
        settings.images_seen = portion.images_seen
        steps = recipe.training_steps(settings)
        model = lend(self.found)
        with self._memory():
            latents, held_out = recipe.chosen(
                model, settings, self._latents(model, portion, steps), portion.rows, portion.held_out
            )
            prior = None
            if settings.prior_preservation:
                seen = seen_before + (checkpoint.images_seen if checkpoint else 0)
                prior = self._prior(model, latents, min(seen, self.settings.images_seen))
            state = recipe.set_up(model, settings, checkpoint, self.part.classes)
            prompts = self._prompts(model)
        labels = self._classes_of(latents)
        of_classes = captions_of_classes(self.part.class_names, self.captions) if self.captions else {}
        previews = Previews(settings, labels, self.grey, self.original_px, of_classes)

        def draw(images_seen: int, at_once: int) -> None:
            sheet = previews.sheet(model, at_once=at_once)
            write_preview(self.store, self.operation, portion.folder, images_seen, sheet)

        def checkpoint_of(state: recipe.TrainingState) -> Checkpoint:
            return Checkpoint(
                state.step * settings.batch_size,
                recipe.state_tensors(state),
                state.losses,
                self.threads,
                tuple(state.held_out),
                portion.folder,
                state.micro_batch,
            )

        last = {"checkpoint_s": time.monotonic(), "report_s": 0.0}

        def after_step(state: recipe.TrainingState) -> None:
            count_on_worker("synthmix_training_steps", 1, ADAPTER_TRAINING)
            count_on_worker("synthmix_training_images", settings.batch_size, ADAPTER_TRAINING)
            now_s = time.monotonic()
            images_seen = state.step * settings.batch_size
            if now_s - last["report_s"] > REPORT_INTERVAL_SECONDS:
                last["report_s"] = now_s
                seen = seen_before + min(images_seen, settings.images_seen)
                self.report(min(seen, self.settings.images_seen), None, _message(said, state))
            if recipe.is_over(state, settings):
                if settings.stop_at:
                    previews = read_previews(self.store, self.operation, portion.folder)
                    write_stopped(self.store, self.request, Stopped(checkpoint_of(state), previews))
            elif now_s - last["checkpoint_s"] > CHECKPOINT_INTERVAL_SECONDS:
                last["checkpoint_s"] = now_s
                write_checkpoint(self.store, self.operation, checkpoint_of(state))

        with self._memory():
            drawn = draw if settings.previews else None
            recipe.train(model, state, settings, latents, prompts, after_step, held_out, prior, drawn, self.original_px)
        if not np.isfinite(state.losses[-1]):
            raise FailedPrecondition(
                f"the training diverged (loss {state.losses[-1]}); lower the adapter's learning_rate "
                f"(it was {settings.learning_rate:g})",
                reason="TRAINING_DIVERGED",
            )
        curve = recipe.loss_curve(state.losses)
        files = {
            **adapter_files(model, state.first_factors),
            **read_previews(self.store, self.operation, portion.folder),
        }
        return Finished(
            payloads=tuple(
                write_payload(self.store, self.artifact, in_folder(portion.folder, file), data)
                for file, data in files.items()
            ),
            losses=curve,
            summary={
                "final_loss": curve[-1][1],
                "parameter_count": sum(value.numel() for value in state.parameters.values()),
                "images_seen": recipe.kept_images_seen(state, settings),
                # What the base model made; train images that are the prior's as well are none more.
                "prior_images": len(prior.labels) if prior and settings.prior_preservation_source != TRAIN else 0,
                "held_out_losses": state.held_out,
                "labels": labels,
                # It decides about last bits, as the number of threads does.
                "micro_batch": state.micro_batch or settings.batch_size,
                "threads": self.threads,
                "device": str(model.device),
            },
        )

    def _memory(self) -> AbstractContextManager[None]:
        return memory_told_at(
            "adapter.settings.batch_size",
            f"batches of {self.settings.batch_size} images of {self.settings.image_size} pixels",
            "lower the adapter's batch_size or image_size",
        )

    def _latents(self, model: LatentDiffusion, portion: Portion, steps: int) -> recipe.Latents:
        """Of the whole train part, in as many views as the adapter's training has epochs, up to all."""
        epochs = -(-steps * self.settings.batch_size // len(portion.rows))
        views = min(recipe.MOST_VIEWS, epochs)
        # The number of threads is in the keys: it decides about last bits.
        values, _ = INPUTS.get(
            ("latents", self.found.digest, self.part.digest, self.settings.image_size, views, self.threads),
            lambda: recipe.cache_latents(model, self.images, np.asarray(self.part.labels), views),
        )
        return recipe.Latents(values, torch.tensor(self.subjects.of_images))

    def _classes_of(self, latents: recipe.Latents) -> tuple[str, ...]:
        """The classes that images are of, in order."""
        there = {self.subjects.labels[subject] for subject in latents.labels.unique().tolist()}
        return tuple(label for label in self.part.classes if label in there)

    def _prior(self, model: LatentDiffusion, latents: recipe.Latents, seen: int) -> Prior:
        """Of the classes of an adapter's train images, whose latents are given; before the model has an adapter."""
        settings, values, labels = self.settings, *latents
        if settings.prior_preservation_source != TRAIN:
            self.report(seen, None, "making images of the prior")
            wanted = tuple(self.part.classes.index(label) for label in self._classes_of(latents))
            made_by = (settings.prior_prompt, settings.prior_images, settings.image_size, settings.seed)
            values, labels = INPUTS.get(
                ("prior", self.found.digest, made_by, self.part.classes, wanted, self.original_px, self.threads),
                lambda: base_models_latents(model, settings, self.part.classes, wanted, self.original_px),
            )
            of_class = [self.subjects.first_of(self.part.classes[label]) for label in labels.tolist()]
            labels = torch.tensor(of_class)
        return Prior(values, labels)

    @cached_property
    def grey(self) -> bool:
        """Whether the train images are grey, as the synthetic ones are to be then."""
        return are_grey(self.images)

    def _prompts(self, model: LatentDiffusion) -> TrainingPrompts:
        texts, classes = all_prompts(self.settings), self.part.classes
        if self.settings.text_encoder_targets or self.settings.class_tokens:
            return encoded_in_each_step(model, self.settings, self.subjects.labels, self.subjects.captions)
        if self.captions:
            return encoded_as_they_come(model, self.settings, self.subjects)
        tensors = INPUTS.get(
            ("prompts", self.found.digest, texts, classes, self.threads),
            lambda: prompt_embeddings(model, texts, classes).tensors,
        )
        return encoded_once(model, Conditions(*tensors))


def _stored(run: _Run, of_artifact: Sequence[Portion], done: dict[str, Finished]) -> dict[str, Any]:
    """Writes the courses of the trainings, and returns all payloads and what the manifest says of the artifact."""
    finished = [done[portion.folder] for portion in of_artifact]
    adapters = [adapter.summary for adapter in finished]
    if run.settings.per == IMAGE:  # an object each would be as many again as there are adapters
        courses: dict[str, Any] = {LOSSES: [adapter.losses for adapter in finished]}
    else:
        courses = {in_folder(portion.folder, LOSSES): done[portion.folder].losses for portion in of_artifact}
    payloads = [payload for adapter in finished for payload in adapter.payloads]
    payloads += [
        write_payload(run.store, run.artifact, name, json.dumps(course).encode()) for name, course in courses.items()
    ]
    if run.captions:
        payloads.append(write_payload(run.store, run.artifact, CAPTIONS_FILE, captions_file(run.part, run.captions)))
    return {
        "payloads": [payload.__dict__ for payload in payloads],
        "summary": {
            "classes": list(run.part.classes),
            "class_counts": {label: run.part.labels.count(index) for index, label in enumerate(run.part.classes)},
            "grey": run.grey,
            "final_loss": float(np.mean([adapter["final_loss"] for adapter in adapters])),
            "parameter_count": sum(adapter["parameter_count"] for adapter in adapters),
            "threads": run.threads,
            "device": adapters[0]["device"],
            "images_seen": min(run.settings.images_seen, sum(adapter["images_seen"] for adapter in adapters)),
            "held_out_losses": _together([adapter["held_out_losses"] for adapter in adapters]),
            # What image synthesis tells the UNet, so that images are sampled as what was trained.
            **({} if run.original_px is None else {BASE_MODEL_KIND: SDXL.name, ORIGINAL_PX: run.original_px}),
            "adapters": [
                {"folder": portion.folder, "label": portion.label, **image, **adapter}
                for portion, image, adapter in zip(of_artifact, _images(run, of_artifact), adapters, strict=True)
            ],
        },
    }


def _images(run: _Run, of_artifact: Sequence[Portion]) -> list[dict[str, str]]:
    """Of adapters of one image each, the image's sha256 and its path in the dataset; of others nothing."""
    if run.settings.per != IMAGE:
        return [{} for _ in of_artifact]
    paths = read_index(run.store, run.part.manifest, ["path"])["path"].take(list(run.part.index_rows)).to_pylist()
    return [{"image": portion.image, "path": paths[portion.rows[0]]} for portion in of_artifact]


def _original_px(store: ObjectStore, part: TrainPart, found: base_model.BaseModel) -> int | None:
    """What a UNet that is told of sizes is to take for the train images' side before they were resized: their median's.

    SDXL learned from images of many sizes what the enlarging of small ones does to them, apart from what is in them, by
    being told each one's size before it was resized (Podell et al. 2023, arXiv:2307.01952, section 2.2). So the adapter
    need not learn that 96 pixels enlarged to 1,024 are blurred. It is one number for all images, and not each one's
    own: a synthetic image has no size of its own before, and is to be sampled as what was trained. Images of a dataset
    mostly come from one instrument, and are of one size.

    None where the UNet is told of none.
    """
    if found.kind is not SDXL:
        return None
    index = read_index(store, part.manifest, ["width_px", "height_px"])
    sides_px = np.minimum(index["width_px"].to_numpy(), index["height_px"].to_numpy())[list(part.index_rows)]
    return int(np.median(sides_px))


def _together(courses: list[list[Sequence[float]]]) -> list[Sequence[float]]:
    """The losses on held-out images of all adapters: their means, after the images that all have seen together.

    None, if some were measured more often than others, since they ended early.
    """
    if len({len(course) for course in courses}) > 1:
        return []
    return [
        (sum(seen for seen, _ in points), float(np.mean([loss for _, loss in points])))
        for points in zip(*courses, strict=True)
    ]


def _message(said: str, state: recipe.TrainingState) -> str:
    """What who watches is told: what is trained, and the loss on held-out images."""
    if not state.held_out:
        return said
    lowest = min(measured.loss for measured in state.held_out)
    return f"{said}; held-out loss {state.held_out[-1].loss:.4g}, lowest {lowest:.4g}"
