"""What a worker does for one adapter after another: the base model and the encoded images stay, and no byte changes."""

import itertools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from image_archives import dataset
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning, recipe, task
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.image_data.image_table import read_index
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion import kept_models
from synthmix.latent_diffusion.base_model import resolve
from synthmix.latent_diffusion.loading import FIELD
from synthmix.service_kit.adapter_payloads import CLASS_TOKENS, LORA_WEIGHTS, LOSSES
from synthmix.service_kit.kept_values import give_back
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.study_control.split import create_split
from tiny_base_model import write_tiny_base_model

pytestmark = pytest.mark.usefixtures("any_base_model", "own_cache", "nothing_kept")

THREADS = 1


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    monkeypatch.setattr(task, "open_object_store", lambda: store)
    return store


@pytest.fixture
def train_part(store: MemoryObjectStore, tmp_path: Path) -> str:
    split = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.3, validation=0.2, seed=1))
    return f"{split}/parts/train"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_base_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the base model was loaded, and images and prompts encoded."""
    counts = {"loaded": 0, "images": 0, "prompts": 0}

    def counted(module: Any, function: str, name: str) -> None:
        original = getattr(module, function)

        def call(*arguments: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(module, function, call)

    counted(kept_models, "load", "loaded")
    counted(recipe, "cache_latents", "images")
    counted(task, "prompt_embeddings", "prompts")
    return counts


def adapter(
    store: MemoryObjectStore, train_part: str, base_model: str, number: int = 0, threads: int = THREADS, **changes: Any
) -> bytes:
    """Trains an adapter, and returns its weights."""
    [weights] = weights_of(store, artifact(store, train_part, base_model, number, threads, **changes)).values()
    return weights


def weights_of(store: MemoryObjectStore, trained: dict[str, Any]) -> dict[str, bytes]:
    """Of each of an artifact's adapters, by the names of their payloads."""
    return {
        item["name"]: store.get_bytes(next(key for key in store.keys if item["sha256"] in key))
        for item in trained["payloads"]
        if item["name"].endswith(".safetensors")
    }


def artifact(
    store: MemoryObjectStore, train_part: str, base_model: str, number: int, threads: int = THREADS, **changes: Any
) -> dict[str, Any]:
    """What the task returns of an artifact."""
    found = resolve(base_model, field=FIELD)
    settings = AdapterSettings(rank=2, images_seen=40, batch_size=4, image_size=32, learning_rate=1e-2)
    settings.MergeFrom(AdapterSettings(**changes))
    if settings.method == "none":
        settings.ClearField("rank")
    filled = planning.filled(settings, found)
    part = open_train_part(store, train_part, field="adapter.train_split")
    return task.train(
        str(OperationName("adapter-training", f"{number:032x}")),
        str(ArtifactName(ADAPTERS, f"{number:032x}")),
        planning.canonical_request(filled, train_digest=part.digest, base_model_digest=found.digest),
        {"train_split": train_part, "base_model": base_model},
        lambda *report: None,
        threads,
    )


def test_an_adapter_is_the_same_whatever_was_trained_before(
    store: MemoryObjectStore, train_part: str, tiny: str, calls: dict[str, int]
) -> None:
    alone = adapter(store, train_part, tiny, 0)
    give_back()
    others = [
        adapter(store, train_part, tiny, 1, seed=5),
        adapter(store, train_part, tiny, 2, targets="attention+feedforward+convolution", rank=3),
        adapter(store, train_part, tiny, 3, prompt="a {label} thing"),
    ]
    assert alone not in others
    assert adapter(store, train_part, tiny, 4) == alone
    assert calls == {"loaded": 2, "images": 2, "prompts": 3}  # each once before it was forgotten, and another prompt


def test_tokens_and_the_text_encoders_adapter_are_stored_and_leave_what_is_kept_alone(
    store: MemoryObjectStore, train_part: str, tiny: str
) -> None:
    alone = adapter(store, train_part, tiny, 0)
    options = {"class_tokens": 2, "text_encoder_targets": "attention", "per": "class"}
    of_classes = weights_of(store, artifact(store, train_part, tiny, 1, **options))
    assert {name.partition("/")[2] for name in of_classes} == {LORA_WEIGHTS, CLASS_TOKENS}
    classes = open_train_part(store, train_part, field="adapter.train_split").classes
    assert len(of_classes) == 2 * len(classes)
    for number, label in enumerate(classes):
        vectors = load(of_classes[f"class-{number:04d}/{CLASS_TOKENS}"])
        other = load(of_classes[f"class-{(number + 1) % len(classes):04d}/{CLASS_TOKENS}"])
        assert not torch.equal(vectors[f"<{label}>"], other[f"<{label}>"]), "learned by its own class's adapter alone"
        assert any(key.startswith("text_encoder.") for key in load(of_classes[f"class-{number:04d}/{LORA_WEIGHTS}"]))
    tokens = weights_of(store, artifact(store, train_part, tiny, 2, method="none", class_tokens=1))
    assert tokens.keys() == {CLASS_TOKENS}
    assert adapter(store, train_part, tiny, 3) == alone


def test_what_an_adapter_sees_is_encoded_anew_where_it_differs(
    store: MemoryObjectStore, train_part: str, tiny: str, calls: dict[str, int], tmp_path: Path
) -> None:
    adapter(store, train_part, tiny)
    for number, changes in enumerate(({"image_size": 24}, {"images_seen": 8}, {"threads": 2}), 1):
        adapter(store, train_part, tiny, number, **changes)
        assert calls["images"] == 1 + number
    other = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.5, validation=0.2, seed=1))
    adapter(store, f"{other}/parts/train", tiny, 4)
    assert calls["images"] == 5
    assert calls["loaded"] == 1
    adapter(store, train_part, str(write_tiny_base_model(tmp_path / "model", "v_prediction")), 5)
    assert calls["images"] == 6
    assert calls["loaded"] == 2


def test_a_training_goes_on_with_the_threads_that_it_began_with(
    store: MemoryObjectStore, train_part: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is started again, another number of processors may be idle."""
    monkeypatch.setattr(task, "CHECKPOINT_INTERVAL_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(task, "count_on_worker", interrupted_after(6))
        adapter(store, train_part, tiny, 0, threads=2)
    used: list[int] = []
    set_up = recipe.set_up
    monkeypatch.setattr(recipe, "set_up", lambda *arguments: used.append(torch.get_num_threads()) or set_up(*arguments))
    resumed = adapter(store, train_part, tiny, 0, threads=1)
    assert used == [2]
    assert resumed == adapter(store, train_part, tiny, 1, threads=2)


def interrupted_after(calls: int) -> Any:
    numbers = itertools.count(1)

    def count(*arguments: Any) -> None:
        if next(numbers) > calls:
            raise InterruptedError

    return count


def test_a_training_that_fails_leaves_the_base_model_as_it_was(
    store: MemoryObjectStore, train_part: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = adapter(store, train_part, tiny, 0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            adapter(store, train_part, tiny, 1)
    model = kept_models.lend(resolve(tiny, field=FIELD))
    assert not any(value.requires_grad for value in model.unet.parameters())
    assert not model.unet.training
    assert adapter(store, train_part, tiny, 2) == alone


def test_each_class_has_an_adapter_that_saw_no_other_class(
    store: MemoryObjectStore, train_part: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = open_train_part(store, train_part, field="x")
    trained = artifact(store, train_part, tiny, 0, per="class", images_seen=24, held_out=0.2, evaluations=1)
    weights = weights_of(store, trained)
    assert list(weights) == [
        f"class-000{number}/pytorch_lora_weights.safetensors" for number in range(len(part.classes))
    ]
    assert len(set(weights.values())) == len(weights)
    summary = trained["summary"]
    assert [item["label"] for item in summary["adapters"]] == list(part.classes)
    assert {item["images_seen"] for item in summary["adapters"]} == {24 // len(part.classes)}
    assert summary["images_seen"] == 24
    assert summary["parameter_count"] == len(weights) * summary["adapters"][0]["parameter_count"]

    seen: set[str] = set()
    chosen = recipe.chosen

    def noted(model: Any, settings: Any, latents: Any, rows: Any, held_out: Any) -> Any:
        seen.add(",".join(sorted({part.class_names[row] for row in [*rows, *held_out]})))
        assert not set(rows) & set(held_out)
        assert not {part.groups[row] for row in rows} & {part.groups[row] for row in held_out}
        return chosen(model, settings, latents, rows, held_out)

    monkeypatch.setattr(recipe, "chosen", noted)
    assert weights_of(store, artifact(store, train_part, tiny, 1, per="class", images_seen=24, held_out=0.2)) == weights
    assert seen == set(part.classes)


@pytest.mark.parametrize("interrupted_at", [1, 3, 4, 5, 7])
def test_adapters_of_classes_are_resumed_to_the_same_bytes(
    store: MemoryObjectStore, train_part: str, tiny: str, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    """Within the first, between two, and within another; and what is finished is not trained again."""
    whole = weights_of(store, artifact(store, train_part, tiny, 0, per="class", images_seen=32))
    monkeypatch.setattr(task, "CHECKPOINT_INTERVAL_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(task, "count_on_worker", interrupted_after(2 * interrupted_at))
        artifact(store, train_part, tiny, 1, per="class", images_seen=32)
    steps: list[int] = []
    monkeypatch.setattr(task, "count_on_worker", lambda metric, *others: steps.append(metric.endswith("_steps")))
    resumed = artifact(store, train_part, tiny, 1, per="class", images_seen=32, threads=2)
    assert weights_of(store, resumed) == whole
    assert resumed["summary"]["threads"] == THREADS
    assert sum(steps) <= 8 - interrupted_at + 1


def test_each_image_has_an_adapter_that_saw_no_other_image(
    store: MemoryObjectStore, train_part: str, tiny: str, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = open_train_part(store, train_part, field="x")
    count, seen = len(part), list[tuple[int, ...]]()
    chosen = recipe.chosen

    def noted(model: Any, settings: Any, latents: Any, rows: Any, held_out: Any) -> Any:
        seen.append((*rows, *held_out))
        return chosen(model, settings, latents, rows, held_out)

    monkeypatch.setattr(recipe, "chosen", noted)
    trained = artifact(store, train_part, tiny, 0, per="image", images_seen=8 * count)
    assert sorted(seen) == [(row,) for row in range(count)]
    assert calls == {"loaded": 1, "images": 1, "prompts": 1}
    weights = weights_of(store, trained)
    assert sorted(weights) == [f"image-{row:06d}/{LORA_WEIGHTS}" for row in range(count)]
    assert len(set(weights.values())) == count
    assert len(trained["payloads"]) == count + 1, "the courses of all trainings are one object"
    [losses] = [item for item in trained["payloads"] if item["name"] == LOSSES]
    courses = json.loads(store.get_bytes(f"{ArtifactName(ADAPTERS, '0' * 32)}/{losses['sha256']}"))
    summary = trained["summary"]
    assert [course[-1][1] for course in courses] == [item["final_loss"] for item in summary["adapters"]]
    paths = read_index(store, part.manifest, ["path"])["path"].to_pylist()
    for item in summary["adapters"]:
        row = int(item["folder"].removeprefix("image-"))
        assert (item["image"], item["label"]) == (part.sha256s[row], part.class_names[row])
        assert item["path"] == paths[part.index_rows[row]]
        assert item["labels"] == (part.class_names[row],)
        assert item["images_seen"] == 8
    assert summary["images_seen"] == 8 * count
    assert len(json.dumps({"payloads": trained["payloads"], "summary": summary})) < 1000 * count + 2000


@pytest.mark.parametrize("interrupted_at", [1, 5, 6])
def test_adapters_of_images_are_resumed_to_the_same_bytes(
    store: MemoryObjectStore, train_part: str, tiny: str, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    """Those that are finished are read as records alone, and one whose files are gone is trained again."""
    count = len(open_train_part(store, train_part, field="x"))
    asked = {"per": "image", "images_seen": 8 * count}
    whole = artifact(store, train_part, tiny, 0, **asked)
    monkeypatch.setattr(task, "CHECKPOINT_INTERVAL_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(task, "count_on_worker", interrupted_after(2 * interrupted_at))
        artifact(store, train_part, tiny, 1, **asked)
    finished = [key for key in store.keys if f"{1:032x}/finished/" in key]
    assert len(finished) == interrupted_at // 2
    assert all(key.endswith(".json") and len(store.get_bytes(key)) < 2000 for key in finished)
    if interrupted_at == 6:
        [payload] = store.get_json(finished[0])["payloads"]
        store.delete(f"{ArtifactName(ADAPTERS, f'{1:032x}')}/{payload['sha256']}")
    steps: list[int] = []
    monkeypatch.setattr(task, "count_on_worker", lambda metric, *others: steps.append(metric.endswith("_steps")))
    resumed = artifact(store, train_part, tiny, 1, **asked)
    assert weights_of(store, resumed) == weights_of(store, whole)
    assert [item["name"] for item in resumed["payloads"]] == [item["name"] for item in whole["payloads"]]
    assert {item["sha256"] for item in resumed["payloads"]} == {item["sha256"] for item in whole["payloads"]}
    left = 2 * count - interrupted_at + (2 if interrupted_at == 6 else 0)
    assert left <= sum(steps) <= left + 1


def test_pictures_of_a_class_are_beside_its_own_adapter(
    store: MemoryObjectStore, train_part: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = open_train_part(store, train_part, field="x").classes
    asked = {"previews": 1, "evaluations": 2, "images_seen": 24}
    of_all = artifact(store, train_part, tiny, 0, **asked)
    assert [item["labels"] for item in of_all["summary"]["adapters"]] == [classes]
    assert pictures_of(of_all) == ["previews/000000000012.png", "previews/000000000024.png"]
    of_each = artifact(store, train_part, tiny, 1, per="class", **asked)
    assert [item["labels"] for item in of_each["summary"]["adapters"]] == [(label,) for label in classes]
    pictures = pictures_of(of_each)
    assert len(set(pictures)) == len(pictures) == 2 * len(classes)
    plain = artifact(store, train_part, tiny, 2, per="class", images_seen=24)
    assert weights_of(store, of_each) == weights_of(store, plain)

    monkeypatch.setattr(task, "CHECKPOINT_INTERVAL_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(task, "count_on_worker", interrupted_after(2 * 5))
        artifact(store, train_part, tiny, 3, per="class", **asked)
    again = artifact(store, train_part, tiny, 3, per="class", **asked)
    assert {item["name"]: item["sha256"] for item in again["payloads"]} == {
        item["name"]: item["sha256"] for item in of_each["payloads"]
    }


def pictures_of(trained: dict[str, Any]) -> list[str]:
    return [item["name"] for item in trained["payloads"] if item["name"].endswith(".png")]


STOPPED = [
    pytest.param({}, id="plain"),
    pytest.param({"ema_decay": 0.9}, id="average"),
    pytest.param({"held_out": 0.2, "evaluations": 5, "patience": 5, "previews": 1}, id="held out, with pictures"),
    pytest.param({"class_tokens": 1, "class_token_images_seen": 10, "dropout": 0.2}, id="tokens first"),
    *(
        pytest.param(
            {"optimizer": optimizer, "learning_rate": rate},
            marks=pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed"),
            id=optimizer,
        )
        for optimizer, module, rate in (("prodigy", "prodigyopt", 1.0), ("schedule_free", "schedulefree", 1e-2))
    ),
]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An item for each optimizer step that is done."""
    done: list[int] = []
    count = task.count_on_worker

    def counted(metric: str, amount: int, service: str) -> None:
        count(metric, amount, service)
        done.extend([1] if metric.endswith("_steps") else [])

    monkeypatch.setattr(task, "count_on_worker", counted)
    return done


def payloads_of(trained: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["sha256"] for item in trained["payloads"]}


@pytest.mark.parametrize("options", STOPPED)
def test_a_training_that_stopped_is_gone_on_from_to_the_same_bytes(
    store: MemoryObjectStore, train_part: str, tiny: str, steps: list[int], options: dict[str, Any]
) -> None:
    whole = artifact(store, train_part, tiny, 0, **options)
    assert not states(store), "but of what is to stop"
    first = artifact(store, train_part, tiny, 1, stop_at=14, **options)
    steps.clear()
    second = artifact(store, train_part, tiny, 2, stop_at=28, threads=2, **options)
    assert len(steps) == 3, "from the fourth batch to the seventh"
    third = artifact(store, train_part, tiny, 3, **options)
    assert len(steps) == 6
    assert payloads_of(third) == payloads_of(whole)
    assert third["summary"] == whole["summary"]
    assert second["summary"]["threads"] == THREADS, "as the first part of it"
    if "patience" not in options:  # which keeps the weights of the lowest loss
        assert [item["summary"]["images_seen"] for item in (first, second, third)] == [16, 28, 40]

    store.delete_prefix("checkpoints/")
    steps.clear()
    from_the_beginning = artifact(store, train_part, tiny, 4, stop_at=28, **options)
    assert len(steps) == 7
    assert payloads_of(from_the_beginning) == payloads_of(second)
    assert from_the_beginning["summary"] == second["summary"]


def states(store: MemoryObjectStore) -> list[str]:
    """The keys of trainings as they stand where they stopped."""
    return [key for key in store.keys if "/stopped/" in key]


def test_what_is_stored_where_a_training_stops_is_what_would_be_used(
    store: MemoryObjectStore, train_part: str, tiny: str
) -> None:
    """Its average, beside a state in which the weights are those that learn on."""
    [weights] = weights_of(store, artifact(store, train_part, tiny, 0, stop_at=16, ema_decay=0.9)).values()
    [key] = states(store)
    state = load(store.get_bytes(key))
    stored = list(load(weights).values())
    for kind, is_stored in (("average", True), ("parameter", False)):
        of_kind = [value for name, value in state.items() if name.startswith(f"{kind}.") and "lora_B" in name]
        assert of_kind
        assert all(any(torch.equal(value, other) for other in stored) == is_stored for value in of_kind)


def test_a_training_that_died_when_it_had_stopped_trains_nothing_again(
    store: MemoryObjectStore, train_part: str, tiny: str, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"stop_at": 16, "previews": 1, "evaluations": 5, "held_out": 0.2}
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(task, "adapter_files", lambda *arguments: 1 / 0)
        artifact(store, train_part, tiny, 0, **asked)
    steps.clear()
    again = artifact(store, train_part, tiny, 0, **asked)
    assert not steps
    store.delete_prefix("checkpoints/")
    assert payloads_of(again) == payloads_of(artifact(store, train_part, tiny, 1, **asked))
    assert len(steps) == 4
    assert pictures_of(again) == ["previews/000000000008.png", "previews/000000000016.png"]


def test_a_training_goes_on_from_nothing_that_is_beyond_its_end_or_another_s(
    store: MemoryObjectStore, train_part: str, tiny: str, steps: list[int]
) -> None:
    artifact(store, train_part, tiny, 0, stop_at=16)
    [kept] = states(store)
    assert kept.endswith("/000000000016.safetensors")
    artifact(store, train_part, tiny, 1, stop_at=28)
    [kept] = states(store)
    assert kept.endswith("/000000000028.safetensors"), "the one before is needed no more"
    steps.clear()
    artifact(store, train_part, tiny, 2, stop_at=20)
    assert len(steps) == 5
    artifact(store, train_part, tiny, 3, stop_at=28, seed=1)
    assert len(steps) == 5 + 7
    assert len(states(store)) == 3


def test_a_training_that_ended_early_is_over_for_those_that_go_on_from_it(
    store: MemoryObjectStore, train_part: str, tiny: str, steps: list[int]
) -> None:
    options = {"held_out": 0.2, "evaluations": 10, "patience": 1, "learning_rate": 0.9, "dropout": 0.5}
    whole = artifact(store, train_part, tiny, 0, **options)
    ended = len(steps)
    assert ended < 9, "or this shows nothing"
    stopped = artifact(store, train_part, tiny, 1, stop_at=36, **options)
    steps.clear()
    assert payloads_of(artifact(store, train_part, tiny, 2, **options)) == payloads_of(whole) == payloads_of(stopped)
    assert not steps
