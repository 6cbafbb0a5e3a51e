"""Image to image gives diffusers' images from train images' latents, and its limits are text to image and the image."""

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from image_archives import dataset, plates
from in_process_study import InProcessServices, run_study, workers_open
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning as adapter_planning
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.image_data.image_table import ANGLE, SHARE, SOURCES, STRENGTH, read_images, read_index
from synthmix.image_data.pixel_cache import some_pixels
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_synthesis import image_set_operation, inverted_sources, planning, sampling, shard_ranges
from synthmix.image_synthesis.shards import image_count
from synthmix.latent_diffusion.autoencoder import encode_images, reconstruct
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.denoising import Guidance, Start, decode, denoise, encoded
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.artifacts import Manifest, read_manifest, read_payload, write_manifest, write_payload
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_records import OperationRecord, now
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ADAPTERS, FEATURES, IMAGE_SETS, ArtifactName, OperationName
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.split import create_split
from tiny_adapters import settings_of, trained

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "nothing_kept")

PROMPTS = ["a round cell", "a flat cell", "a round cell"]
SIZE_PX = 32
STEPS = 8
TOLERANCE = 1e-4
# One that skips, one of two answers a step, one that draws noise, one that keeps what it saw, one by sigmas.
SAMPLERS = [
    "DDIMScheduler",
    "HeunDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
]


@pytest.fixture
def clean(base: LatentDiffusion) -> torch.Tensor:
    """Latents of three images."""
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    return encode_images(base.vae, images, 3)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(len(PROMPTS))]


def with_scheduler(model: LatentDiffusion, name: str, **options: Any) -> LatentDiffusion:
    copied = shared_copy(model)
    config = copied.pipeline.scheduler.config
    copied.pipeline.scheduler = getattr(diffusers, name).from_config(config, **options)
    return copied


def made(model: LatentDiffusion, start: Start | None, guidance_scale: float = 2.0, steps: int = STEPS) -> torch.Tensor:
    conditions = encoded(model, PROMPTS)
    return denoise(
        model,
        [conditions[prompt] for prompt in PROMPTS],
        [conditions[""]] * len(PROMPTS),
        generators(),
        size_px=SIZE_PX,
        steps=steps,
        guidance=Guidance(guidance_scale),
        start=start,
    )


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("strength", "executed"), [(0.3, 2), (0.75, 6), (1.0, 8)])
def test_images_are_those_of_the_stock_pipeline(
    base: LatentDiffusion, clean: torch.Tensor, name: str, strength: float, executed: int
) -> None:
    model = with_scheduler(base, name)
    pipeline = StableDiffusionImg2ImgPipeline(
        **{key: value for key, value in model.pipeline.components.items() if key != "image_encoder"},
        requires_safety_checker=False,
    )
    expected = pipeline(
        PROMPTS,
        image=clean,  # of four channels, so that it is taken for latents
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        generator=generators(),
        output_type="np",
    ).images
    images = decode(model, made(with_scheduler(base, name), Start(clean, executed))).clamp(0, 1)
    np.testing.assert_allclose(np.asarray(images), expected, atol=TOLERANCE)


def test_from_noise_alone_it_is_text_to_image(base: LatentDiffusion, clean: torch.Tensor) -> None:
    """Where a base model's last noise level leaves nothing of an image, as the built-in one's."""
    options: dict[str, Any] = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    model = with_scheduler(base, "DDIMScheduler", rescale_betas_zero_snr=True, **options)
    of_noise, begun = made(model, None), made(model, Start(clean, STEPS))
    torch.testing.assert_close(begun, of_noise, rtol=0, atol=1e-5)
    leaks = with_scheduler(base, "DDIMScheduler", rescale_betas_zero_snr=False, **options)
    assert (made(leaks, Start(clean, STEPS)) - made(leaks, None)).abs().max() > 1e-4


def test_with_little_noise_it_is_the_image(base: LatentDiffusion, clean: torch.Tensor) -> None:
    model = with_scheduler(base, "DDIMScheduler", timestep_spacing="leading", steps_offset=0)
    far = [float((made(model, Start(clean, executed), 1.0, steps=50) - clean).abs().mean()) for executed in (1, 10, 50)]
    assert far == sorted(far) and far[0] < 0.1 * far[2]


LABELS = ("alpha", "beta")
ADAPTER, IMAGE_SET = ArtifactName(ADAPTERS, "a" * 32), ArtifactName(IMAGE_SETS, "b" * 32)


@pytest.fixture
def store(
    base: LatentDiffusion, found: BaseModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MemoryObjectStore:
    """With a split, and an adapter of its train part."""
    store = MemoryObjectStore.created()
    monkeypatch.setattr(sampling, "open_object_store", lambda: store)
    create_split(store, dataset(store, tmp_path, plates()), SplitSettings(test=0.3, validation=0.2, seed=1))
    part = train_part(store)
    settings = settings_of(found, "lora", "attention")
    model, state = trained(base, settings)
    payloads = [
        write_payload(store, ADAPTER, name, data) for name, data in adapter_files(model, state.first_factors).items()
    ]
    request = adapter_planning.canonical_request(settings, train_digest=part.digest, base_model_digest=found.digest)
    summary = {"grey": False, "base_model": str(folder), "classes": list(LABELS)}
    inputs = {"base_model": found.digest, "train_split": part.digest}
    write_manifest(store, Manifest(ADAPTER, inputs, request, 3, tuple(payloads), summary))
    return store


def train_part(store: MemoryObjectStore) -> TrainPart:
    [split] = {key.split("/")[1] for key in store.keys if key.startswith("splits/")}
    return open_train_part(store, f"splits/{split}/parts/train", field="x")


def image_set(store: MemoryObjectStore, **fields: Any) -> tuple[Manifest, np.ndarray, list[dict[str, Any]]]:
    """Makes one as its operation does, and returns it with its pixels and the rows of its index."""
    asked = image_sets_pb2.ImageSet(
        adapter=str(ADAPTER),
        train_split=str(train_part(store).name),
        settings=SynthesisSettings(**{"prompt": "a {label} cell", "steps": 4} | fields),
        class_images=[image_sets_pb2.ClassImages(label=label, images=5) for label in LABELS],
    )
    planned = planning.plan(store, asked, validate_only=False)

    def make(function: str, arguments: Sequence[dict[str, Any]], on_result: Callable[[int, Any], None]) -> None:
        for shard in reversed(arguments):  # workers take them in any order
            sampling.synthesise_shard(**shard, report=lambda done: None, threads=1)

    record = OperationRecord(
        OperationName("image-synthesis", planned.id),
        IMAGE_SETS,
        str(IMAGE_SET),
        {"request": planned.request, "names": planned.names},
        now(),
    )
    context = OperationContext(store, record)
    context.run_tasks = make  # type: ignore[assignment, method-assign]
    image_set_operation.run(context)
    manifest = read_manifest(store, IMAGE_SET)
    count = image_count(planned.request)
    images = [np.asarray(Image.open(io.BytesIO(data))) for _, data in read_images(store, manifest, range(count))]
    return manifest, np.stack(images).astype(int), read_index(store, manifest).to_pylist()


@pytest.mark.parametrize("moved", [{}, {"latent_guidance_radius": 0.5}])
def test_images_do_not_depend_on_shards_and_batches(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch, moved: dict[str, float]
) -> None:
    given = set(store.keys)
    all_made = []
    for shard_images, at_once in ((64, 16), (4, 3), (1, 1)):
        monkeypatch.setattr(shard_ranges, "SHARD_IMAGES", shard_images)
        monkeypatch.setattr(sampling, "images_at_once", lambda model, size_px, at_once=at_once: at_once)
        for key in set(store.keys) - given:
            store.delete(key)
        manifest, images, rows = image_set(store, strength=0.25, more_strengths=[0.5, 1.0], **moved)
        columns = ("index", "label", "seed", SOURCES, STRENGTH)
        all_made.append((images, [{name: row[name] for name in columns} for row in rows]))
    part = train_part(store)
    assert manifest.summary["sources"] is True and manifest.summary["train_split"] == str(part.name)
    assert manifest.inputs == {"adapter": ADAPTER.id, "train_split": part.digest}
    for images, rows in all_made[1:]:
        assert rows == all_made[0][1]
        assert np.abs(images - all_made[0][0]).max() <= 1
    classes = dict(zip(part.sha256s, part.class_names, strict=True))
    assert all([classes[sha256] for sha256 in row[SOURCES]] == [row["label"]] for row in rows)
    assert len(Counter(row[STRENGTH] for row in rows)) > 1


def test_a_classifier_of_train_images_moves_each_image(store: MemoryObjectStore) -> None:
    """And of train images alone: no features of others are made."""
    _, plain, _ = image_set(store, strength=0.5)
    for key in [key for key in store.keys if key.startswith(f"{IMAGE_SET}/")]:
        store.delete(key)
    _, images, _ = image_set(store, strength=0.5, latent_guidance_radius=0.5)
    assert (np.abs(images - plain).max(axis=(1, 2, 3)) > 0).all()
    [features] = {key.split("/")[1] for key in store.keys if key.startswith("features/")}
    found = read_manifest(store, ArtifactName(FEATURES, features))
    assert found.request["images"] == {"digest": train_part(store).digest, "rows": None}


def test_what_is_taken_a_quarter_of_the_way_is_like_its_source(store: MemoryObjectStore, base: LatentDiffusion) -> None:
    """A worker that mixed up which image is whose source would be found out."""
    part = train_part(store)
    real = some_pixels(store, part, range(len(part)), SIZE_PX)
    real = reconstruct(base.vae, real, grey=False).astype(float)  # which a network of random weights hardly does
    _, images, rows = image_set(store, strength=0.25)
    sources = [part.sha256s.index(row[SOURCES][0]) for row in rows]
    distances = np.abs(images[:, None] - real[None]).mean(axis=(2, 3, 4))
    own = distances[np.arange(len(images)), sources]
    others = np.median(distances, axis=1)
    assert (own < others).all()


def test_inverted_images_do_not_depend_on_shards_and_batches(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = set(store.keys)
    all_made = []
    for shard_images, at_once in ((64, 16), (4, 3), (1, 1)):
        monkeypatch.setattr(shard_ranges, "SHARD_IMAGES", shard_images)
        for module in (sampling, inverted_sources):
            monkeypatch.setattr(module, "images_at_once", lambda model, size_px, at_once=at_once: at_once)
        for key in set(store.keys) - given:
            store.delete(key)
        manifest, images, rows = image_set(store, inversion_steps=6)
        all_made.append((images, [{name: row[name] for name in ("index", SOURCES, ANGLE)} for row in rows]))
    assert manifest.summary["sources"] is True and manifest.summary["train_split"] == str(train_part(store).name)
    for images, rows in all_made[1:]:
        assert rows == all_made[0][1]
        assert np.abs(images - all_made[0][0]).max() <= 1


def test_each_source_is_inverted_once_a_worker(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    inverted: list[int] = []

    def counted(model: Any, latents: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        inverted.append(len(latents))
        return latents

    monkeypatch.setattr(inverted_sources, "inverted", counted)
    monkeypatch.setattr(shard_ranges, "SHARD_IMAGES", 2)
    image_set(store, inversion_steps=6)
    assert sum(inverted) == len(train_part(store))


def test_images_begin_from_the_mixed_latents_of_their_own_sources(
    store: MemoryObjectStore, base: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[Any, torch.Tensor]] = []
    synthesise = sampling.synthesise

    def noted(model: Any, adapter: Any, settings: Any, planned: Any, start: Any, *more: Any) -> Any:
        begun.extend(zip(planned, start.latents, strict=True))
        return synthesise(model, adapter, settings, planned, start, *more)

    monkeypatch.setattr(sampling, "synthesise", noted)
    image_set(store, strength=0.5, source="pairs")
    part = train_part(store)
    latents = encode_images(base.vae, some_pixels(store, part, range(len(part)), SIZE_PX), 16)
    assert len({image.share for image, _ in begun}) == len(begun) > 4
    for image, found in begun:
        first, second = (latents[part.sha256s.index(sha256)] for sha256 in image.sources)
        torch.testing.assert_close(found, image.share * first + (1 - image.share) * second)


def test_mixed_images_do_not_depend_on_shards_and_batches(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = set(store.keys)
    all_made = []
    for shard_images, at_once in ((64, 16), (4, 3)):
        monkeypatch.setattr(shard_ranges, "SHARD_IMAGES", shard_images)
        monkeypatch.setattr(sampling, "images_at_once", lambda model, size_px, at_once=at_once: at_once)
        for key in set(store.keys) - given:
            store.delete(key)
        _, images, rows = image_set(store, strength=0.5, source="pairs")
        all_made.append((images, [{name: row[name] for name in ("index", SOURCES, SHARE)} for row in rows]))
    (first, first_rows), (second, second_rows) = all_made
    assert first_rows == second_rows
    assert np.abs(first - second).max() <= 1


@pytest.mark.parametrize("place", [0, 1])
def test_images_begin_from_the_noise_of_their_own_sources(
    store: MemoryObjectStore, base: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """A worker that mixed up which noise is whose would be found out."""
    begun: dict[str, torch.Tensor] = {}
    synthesise = sampling.synthesise

    def noted(model: Any, adapter: Any, settings: Any, planned: Any, start: Any, *more: Any) -> Any:
        begun.update((image.sources[place], latents) for image, latents in zip(planned, start.latents, strict=True))
        return synthesise(model, adapter, settings, planned, start, *more)

    monkeypatch.setattr(sampling, "synthesise", noted)
    monkeypatch.setattr(sampling, "on_circle", lambda *pair: pair[place])
    monkeypatch.setattr(inverted_sources, "inverted", lambda model, latents, *given, **named: latents)
    image_set(store, inversion_steps=6)
    part = train_part(store)
    latents = encode_images(base.vae, some_pixels(store, part, range(len(part)), SIZE_PX), 16)
    assert len(begun) > 4
    for sha256, found in begun.items():
        torch.testing.assert_close(found, latents[part.sha256s.index(sha256)])


STUDY = """\
name: from-images
dataset: cells
adapters: {{base_model: {model}, rank: 2, images_seen: 8, batch_size: 4, image_size: 32}}
synthesis: {{prompt: "a {{label}} cell", {synthesis}, steps: 4}}
mixtures: {{{mixtures}, ratios: [0, 0.5]}}
classifier: {{architecture: mobilenetv3_small_050, pretrained: false, image_size: 32, epochs: 1, batch_size: 8}}
seeds: 2
"""


@pytest.mark.usefixtures("any_base_model")
@pytest.mark.parametrize(
    ("synthesis", "mixtures", "real", "synthetic"),
    [
        # Mixtures leave half of the real images out, and with them the children of these (leakage rule 5).
        ("strength: [0.5, 1]", "mode: replace", 0.5, 0.5),
        ("strength: 0.5, sampler: DPMSolverMultistepScheduler", "mode: sample_local", 1.0, 1.0),
        # A child of two may stand in the place of either, and counts as one of each.
        ("strength: 0.75, source: pairs", "mode: sample_local", 1.0, 2.0),
        ("strength: 0.5, source: any_class", "mode: sample_global, soft_label_gamma: 0.5", 1.0, 1.0),
        ("inversion_steps: 4, more_prompts: [['one {{label}}']], prompt_switch: 0.5", "mode: sample_global", 1.0, 1.0),
    ],
)
def test_a_study_of_image_to_image(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    synthesis: str,
    mixtures: str,
    real: float,
    synthetic: float,
) -> None:
    store = MemoryObjectStore.created()
    claim_name(store, LOCAL, "cells", dataset(store, tmp_path, plates()).name, account=None, replace=False)
    workers_open(store, monkeypatch)
    text = STUDY.format(model=folder, synthesis=synthesis, mixtures=mixtures)
    spec = parse_document(text, studies_pb2.StudySpec, "study.yaml").message
    study, _ = run_study(store, InProcessServices(store), spec, monkeypatch)
    report = json.loads(read_payload(store, study, "report.json"))
    [line] = [line for line in report["leakage"] if "begin from an image" in line["statement"]]
    assert line["status"] == "held" and "have such parents alone" in line["evidence"]
    assert [line for line in report["leakage"] if line["status"] == "broken"] == []
    of_half = [trial for trial in report["trials"] if "-0.5-" in trial["training"]["mixture"]]
    count = len(train_part(store))
    assert of_half and all(
        (trial["training"]["real_images"], trial["training"]["synthetic_images"])
        == (pytest.approx(real * count, abs=1), pytest.approx(synthetic * count, abs=1))
        for trial in of_half
    )


@pytest.mark.usefixtures("any_base_model")
def test_a_study_of_selections(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen is compared with what it was chosen from, and what was left out is shown."""
    store = MemoryObjectStore.created()
    claim_name(store, LOCAL, "cells", dataset(store, tmp_path, plates()).name, account=None, replace=False)
    workers_open(store, monkeypatch)
    text = STUDY.format(model=folder, synthesis="strength: 0.5", mixtures="mode: append")
    text += "selection: [none, {drop_lowest: 0.4}]\n"
    spec = parse_document(text, studies_pb2.StudySpec, "study.yaml").message
    study, _ = run_study(store, InProcessServices(store), spec, monkeypatch)
    report = json.loads(read_payload(store, study, "report.json"))
    assert [line for line in report["leakage"] if line["status"] == "broken"] == []
    assert any("Selections judged by the train part" in line["statement"] for line in report["leakage"])
    made, chosen = report["image_sets"]
    assert made["selection"] is None and chosen["selection"]["candidates"] == sum(made["images"].values())
    left_out = chosen["selection"]["left_out"]
    assert sum(left_out.values()) + sum(chosen["images"].values()) == sum(made["images"].values())
    assert left_out["drop lowest"] > 0
    assert {made["name"], chosen["name"]} == {item["image_set"] for item in report["galleries"]}
    assert {item["image_set"] for item in report["rejected"]} == {chosen["name"]}
    assert b"not kept, below them the rule" in read_payload(store, study, "report.html")
