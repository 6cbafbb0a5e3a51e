"""Adapters trained with captions: each image's prompt is its own, and interrupted to the same bytes."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from image_archives import dataset, plates
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning, prior_images, recipe, task, training_prompts
from synthmix.adapter_training.previews import Previews
from synthmix.adapter_training.training_prompts import encoded_as_they_come, subjects
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.image_data.captions import train_captions
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.class_tokens import add_class_tokens, model_prompt
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts
from synthmix.service_kit.adapter_payloads import CAPTIONS_FILE
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.study_control.split import create_split

pytestmark = pytest.mark.usefixtures("one_thread", "any_base_model", "own_cache", "nothing_kept")

FILES = plates()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    monkeypatch.setattr(task, "open_object_store", lambda: store)
    return store


def train_part(store: MemoryObjectStore, folder: Path, captions: Sequence[str]) -> TrainPart:
    rows = zip(FILES, captions, strict=True)
    table = "path,label,text\n" + "\n".join(f"{name},{name.split('/')[0]},{text}" for name, text in rows)
    found = dataset(store, folder, FILES | {"manifest.csv": table.encode()}, caption_columns=["text"])
    split = create_split(store, found, SplitSettings(test=0.3, validation=0.2, seed=1))
    return open_train_part(store, f"{split}/parts/train", field="adapter.train_split")


@pytest.fixture
def part(store: MemoryObjectStore, tmp_path: Path) -> TrainPart:
    """Images of which each has a caption of its own."""
    return train_part(store, tmp_path, [f"{name.split('/')[0]} {number}" for number, name in enumerate(FILES)])


def artifact(
    store: MemoryObjectStore, part: TrainPart, found: BaseModel, number: int, **changes: Any
) -> dict[str, bytes]:
    """Trains, and returns the payloads by their names."""
    given = AdapterSettings(rank=2, images_seen=24, batch_size=4, image_size=32, learning_rate=1e-2)
    given.MergeFrom(AdapterSettings(**changes))
    settings = planning.filled(given, found)
    planning.check_settings(settings, found)
    captions = None
    if settings.caption_column:
        captions = train_captions(store, part, settings.caption_column, field="x")
    made = task.train(
        str(OperationName("adapter-training", f"{number:032x}")),
        str(ArtifactName(ADAPTERS, f"{number:032x}")),
        planning.canonical_request(
            settings, train_digest=part.digest, base_model_digest=found.digest, captions=captions
        ),
        {"train_split": str(part.name), "base_model": found.reference},
        lambda *report: None,
        1,
    )
    return {
        item["name"]: store.get_bytes(next(key for key in store.keys if item["sha256"] in key))
        for item in made["payloads"]
    }


def weights_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(".safetensors")}


def test_a_step_s_prompts_are_the_captions_of_its_images(
    store: MemoryObjectStore, part: TrainPart, found: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def noted(model: LatentDiffusion, texts: Sequence[str]) -> Any:
        asked.append(list(texts))
        return encode_prompts(model, texts)

    monkeypatch.setattr(training_prompts, "encode_prompts", noted)
    files = artifact(store, part, found, 0, caption_column="text", prompt="a cell: {caption}", caption_dropout=0.0)
    captions = train_captions(store, part, "text", field="x")
    assert len(set(captions)) == len(captions) == len(part)
    settings = AdapterSettings(batch_size=4)
    for step, texts in enumerate(asked):
        rows, _ = recipe.batch_rows(settings, step, len(part), 2)
        assert sorted(texts) == sorted({f"a cell: {captions[row]}" for row in rows.tolist()})
    assert len(asked) == 6
    stored = json.loads(files[CAPTIONS_FILE])
    assert {(label, text) for label, texts in stored.items() for text in texts} == set(
        zip(part.class_names, captions, strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"caption_dropout": 0.5},
        {"per": "class", "more_prompts": ["drawn {label}"], "previews": 1, "evaluations": 2},
        {"class_tokens": 1, "prompt": "{label}, {caption}", "held_out": 0.3},
        {"text_encoder_targets": "attention", "prior_preservation": 0.5, "prior_images": 2},
        {"prior_preservation": 0.5, "prior_preservation_source": "train"},
    ],
    ids=str,
)
def test_a_training_resumes_to_the_same_bytes(
    store: MemoryObjectStore,
    part: TrainPart,
    found: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(prior_images, "STEPS", 3)
    monkeypatch.setattr(task, "CHECKPOINT_INTERVAL_SECONDS", 0.0)
    whole = artifact(store, part, found, 0, caption_column="text", **options)
    numbers = itertools.count(1)

    def interrupt(*arguments: Any) -> None:
        if next(numbers) > 6:
            raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(task, "count_on_worker", interrupt)
        artifact(store, part, found, 1, caption_column="text", **options)
    assert artifact(store, part, found, 1, caption_column="text", **options) == whole


def test_captions_that_say_what_a_prompt_says_train_the_same_adapter(
    store: MemoryObjectStore, tmp_path: Path, found: BaseModel
) -> None:
    part = train_part(store, tmp_path, ["a picture of {label} there"] * len(FILES))
    options = {"prior_preservation": 0.5, "prior_preservation_source": "train", "prior_prompt": "a {label}"}
    plain = weights_of(artifact(store, part, found, 0, prompt="a picture of {label} there", **options))
    captioned = weights_of(artifact(store, part, found, 1, caption_column="text", **options))
    other = weights_of(artifact(store, part, found, 2, prompt="a drawing of {label}", **options))
    [name] = plain
    expected, got, different = load(plain[name]), load(captioned[name]), load(other[name])
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-2, atol=1e-4)
    assert any(not torch.allclose(different[key], value, rtol=1e-2, atol=1e-4) for key, value in expected.items())


def test_prompts_of_subjects_have_numbers(store: MemoryObjectStore, base: LatentDiffusion, part: TrainPart) -> None:
    settings = AdapterSettings(
        prompt="{caption}", more_prompts=["the {label}"], prior_preservation=1.0, prior_prompt="{label}"
    )
    of = subjects(part, train_captions(store, part, "text", field="x"))
    prompts = encoded_as_they_come(base, settings, of)
    assert prompts.count == 1 + 3 * len(part)
    first = of.of_images[0]
    label = part.class_names[0]
    numbers = torch.tensor([0, 1 + first, 1 + len(part) + first, 1 + 2 * len(part) + first])
    expected = encode_prompts(base, ["", of.captions[first], f"the {label}", label]).embeddings
    assert torch.equal(prompts.encode(numbers).embeddings, expected)


def test_a_preview_s_prompt_has_a_caption_of_its_class(base: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AdapterSettings(prompt="{label}: {caption}", previews=4, image_size=32)
    asked: list[str] = []

    def stop(model: LatentDiffusion, texts: Sequence[str]) -> None:
        asked.extend(texts)
        raise InterruptedError

    monkeypatch.setattr("synthmix.adapter_training.previews.encoded", stop)
    previews = Previews(settings, ("flat", "round"), grey=False, captions={"flat": ["a", "b"], "round": ["c"]})
    with pytest.raises(InterruptedError):
        previews.sheet(base, at_once=4)
    assert set(asked[:4]) == {"flat: a", "flat: b"} and asked[4:] == ["round: c"] * 4


def test_a_prompt_with_a_caption_has_learned_tokens_in_the_place_of_its_class(base: LatentDiffusion) -> None:
    model = shared_copy(base)
    add_class_tokens(model, ["round"], torch.zeros(1, model.text_encoder.config.hidden_size))
    told = model_prompt(model, "{label}, {caption}", "round", "a {label} one")
    assert told == "<|class 0 vector 0|>, a <|class 0 vector 0|> one"


def test_other_captions_than_were_asked_for_are_refused(
    store: MemoryObjectStore, part: TrainPart, found: BaseModel
) -> None:
    settings = planning.filled(AdapterSettings(caption_column="text"), found)
    request = planning.canonical_request(
        settings, train_digest=part.digest, base_model_digest=found.digest, captions=["others"]
    )
    with pytest.raises(FailedPrecondition, match="does not have the captions that were asked for"):
        task.train(
            str(OperationName("adapter-training", "0" * 32)),
            str(ArtifactName(ADAPTERS, "0" * 32)),
            request,
            {"train_split": str(part.name), "base_model": found.reference},
            lambda *report: None,
            1,
        )
