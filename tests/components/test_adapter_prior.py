"""Prior preservation: what its loss is, which images it is of, and interrupted to the same bytes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_archives import dataset
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import objective, planning, prior_images, recipe, task
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.prior_images import Prior, base_models_latents
from synthmix.adapter_training.prior_options import all_prompts
from synthmix.adapter_training.training_prompts import encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.kept_values import give_back
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.study_control.split import create_split
from tiny_adapters import pixels, settings_of, trained

pytestmark = pytest.mark.usefixtures("one_thread", "any_base_model", "own_cache", "nothing_kept")
CLASSES = ("round", "flat")


def of_train_images(base: LatentDiffusion) -> Prior:
    return Prior(*recipe.cache_latents(base, pixels(10), np.arange(10) % 2, views=2))


@pytest.mark.parametrize(
    "options", [{}, {"caption_dropout": 0.9, "min_snr_gamma": 5.0}, {"more_prompts": ["drawn {label}"]}], ids=str
)
def test_the_loss_is_the_train_images_and_a_weight_times_the_priors(
    base: LatentDiffusion, found: BaseModel, options: dict[str, Any]
) -> None:
    """At the first step the adapter changes nothing yet, so that the base model tells what the prior's loss is."""
    options = options | {"prior_prompt": "a cell that is {label}"}
    settings = settings_of(found, "lora", "attention", prior_preservation=0.25, **options)
    prior = of_train_images(base)
    _, state = trained(base, settings, 2, prior=prior, prompts=all_prompts(settings))
    del options["prior_prompt"]
    plain_settings = settings_of(found, "lora", "attention", **options)
    _, plain = trained(base, plain_settings, 2, prompts=all_prompts(plain_settings))

    scheduler = objective.training_scheduler(base)
    rows, views = recipe.batch_rows(settings, 0, 10, 2, prior_images.EPOCH)
    drawn, labels = prior.drawn(settings, scheduler, 0, rows, views)
    assert not torch.equal(rows, recipe.batch_rows(settings, 0, 10, 2)[0])
    prompts = prompt_embeddings(base, [settings.prior_prompt], CLASSES).embeddings[1 + labels]
    predicted = base.unet(drawn.noisy, drawn.timesteps, prompts).sample
    expected = objective.loss(settings, scheduler, predicted, drawn).item()
    assert state.losses[0] == pytest.approx(plain.losses[0] + 0.25 * expected, rel=1e-5)
    assert state.losses[1] != plain.losses[1]


def test_what_the_base_model_makes_depends_on_seed_class_and_number_alone(
    base: LatentDiffusion, found: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior_images, "STEPS", 3)
    settings = settings_of(found, "lora", "attention", prior_preservation=1.0, prior_images=3)
    model = shared_copy(base)
    values, labels = base_models_latents(model, settings, CLASSES, [0, 1])
    assert values.shape == (1, 6, 4, 4, 4)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.isfinite(values).all()
    assert len({tuple(image.flatten().tolist()) for image in values[0]}) == 6
    again, of_one = base_models_latents(model, settings, ("flat", "round", "square"), [1])
    assert torch.equal(again[0], values[0, :3]) and of_one.tolist() == [1, 1, 1]
    settings.prior_images = 2
    assert torch.equal(base_models_latents(model, settings, CLASSES, [1])[0][0], values[0, 3:5])
    settings.seed += 1
    assert not torch.equal(base_models_latents(model, settings, CLASSES, [1])[0][0], values[0, 3:5])


def test_they_are_what_the_stock_pipeline_makes(
    base: LatentDiffusion, found: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(found, "lora", "attention", prior_preservation=1.0, prior_images=1)
    values, _ = base_models_latents(shared_copy(base), settings, CLASSES, [1])
    seed = prior_images.derived_seed(settings.seed, prior_images.SAMPLE, "flat", 0)
    stock = (
        shared_copy(base)
        .pipeline(
            settings.prior_prompt.replace("{label}", "flat"),
            height=32,
            width=32,
            num_inference_steps=prior_images.STEPS,
            guidance_scale=prior_images.GUIDANCE_SCALE,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        )
        .images
    )
    torch.testing.assert_close(values[0], stock, rtol=1e-3, atol=1e-4)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    monkeypatch.setattr(task, "open_object_store", lambda: store)
    return store


@pytest.fixture
def train_part(store: MemoryObjectStore, tmp_path: Path) -> str:
    split = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.3, validation=0.2, seed=1))
    return f"{split}/parts/train"


def artifact(
    store: MemoryObjectStore, train_part: str, found: BaseModel, number: int, **changes: Any
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Trains, and returns the weights of the adapters by their payloads' names, and the summary."""
    given = AdapterSettings(rank=2, images_seen=24, batch_size=4, image_size=32, learning_rate=1e-2)
    given.MergeFrom(AdapterSettings(**changes))
    settings = planning.filled(given, found)
    planning.check_settings(settings, found)
    part = open_train_part(store, train_part, field="adapter.train_split")
    made = task.train(
        str(OperationName("adapter-training", f"{number:032x}")),
        str(ArtifactName(ADAPTERS, f"{number:032x}")),
        planning.canonical_request(settings, train_digest=part.digest, base_model_digest=found.digest),
        {"train_split": train_part, "base_model": found.reference},
        lambda *report: None,
        1,
    )
    weights = {
        item["name"]: store.get_bytes(next(key for key in store.keys if item["sha256"] in key))
        for item in made["payloads"]
        if item["name"].endswith(".safetensors")
    }
    return weights, made["summary"]


def interrupted_after(calls: int) -> Any:
    numbers = itertools.count(1)

    def count(*arguments: Any) -> None:
        if next(numbers) > calls:
            raise InterruptedError

    return count


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"prior_images": 2}, 2),
        ({"prior_images": 2, "per": "class", "prior_prompt": "a cell"}, 2),
        ({"prior_preservation_source": "train", "held_out": 0.2}, 0),
    ],
    ids=str,
)
def test_a_training_resumes_to_the_same_bytes_and_sees_its_train_images_alone(
    store: MemoryObjectStore,
    train_part: str,
    found: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    made: int,
) -> None:
    monkeypatch.setattr(prior_images, "STEPS", 3)
    monkeypatch.setattr(task, "CHECKPOINT_INTERVAL_SECONDS", 0.0)
    seen: list[tuple[recipe.Latents, Prior]] = []
    train = recipe.train

    def noted(*given: Any) -> None:
        seen.append((given[3], given[7]))
        train(*given)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "train", noted)
        whole, summary = artifact(store, train_part, found, 0, prior_preservation=0.5, **options)
    plain, _ = artifact(store, train_part, found, 1, per=options.get("per", "dataset"))
    assert whole.keys() == plain.keys() and not set(whole.values()) & set(plain.values())
    assert summary["images_seen"] == 24, "the prior's images do not count"
    for (latents, prior), adapter in zip(seen, summary["adapters"], strict=True):
        classes = sorted(set(latents.labels.tolist()))
        assert adapter["prior_images"] == made * len(classes)
        if made:
            assert prior.labels.tolist() == [label for label in classes for _ in range(made)]
        else:  # those that are trained on, none of the held-out ones
            assert torch.equal(prior.values, latents.values) and torch.equal(prior.labels, latents.labels)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(task, "count_on_worker", interrupted_after(6))
        artifact(store, train_part, found, 2, prior_preservation=0.5, **options)
    give_back()  # another worker's: it has to make the prior's images anew
    assert artifact(store, train_part, found, 2, prior_preservation=0.5, **options)[0] == whole


def test_a_batch_of_the_prior_is_divided_as_the_train_images_are(base: LatentDiffusion, found: BaseModel) -> None:
    settings = settings_of(found, "lora", "attention", prior_preservation=1.0)
    prior = of_train_images(base)
    model, whole = trained(base, settings, prior=prior, prompts=all_prompts(settings))
    copied = shared_copy(base)
    state = recipe.set_up(copied, settings)
    state.micro_batch = 3
    latents = recipe.cache_latents(copied, pixels(10), np.arange(10) % 2, views=2)
    encoded = encoded_once(copied, prompt_embeddings(copied, all_prompts(settings), CLASSES))
    recipe.train(copied, state, settings, latents, encoded, lambda state: None, None, prior)
    assert state.losses == pytest.approx(whole.losses, rel=1e-4)
    assert adapter_files(model).keys() == adapter_files(copied).keys()
