"""An adapter for each train image: what each is trained on, how many there may be, and which ones make an image."""

import asyncio
import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_archives import dataset, plates
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import image_options
from synthmix.adapter_training import planning as adapters
from synthmix.adapter_training.front_end import AdapterService, adapter_message
from synthmix.adapter_training.portions import portions
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.classifier_evaluation import planning as evaluations
from synthmix.image_data.generators import AdapterPart, adapter_parts, classes_made
from synthmix.image_data.image_table import SOURCES, Shard, read_index
from synthmix.image_data.split_parts import TrainPart, open_split, open_train_part
from synthmix.image_data.synthetic_images import open_image_set
from synthmix.image_synthesis import planning as image_sets
from synthmix.image_synthesis.drawn_adapters import drawn, in_drawing_order
from synthmix.image_synthesis.shard_ranges import SHARD_IMAGES, shard_count, shard_range
from synthmix.image_synthesis.shards import planned_images, write_index
from synthmix.latent_diffusion.base_model import BUILTIN, resolve
from synthmix.service_kit.artifacts import Manifest, Payload, write_manifest
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.study_control import leakage
from synthmix.study_control.split import create_split

ADAPTER = ArtifactName(ADAPTERS, "e" * 32)
PARTS = [AdapterPart(f"image-{row:06d}", label, f"{row:064x}") for row, label in enumerate(["a"] * 5 + ["b"] * 7)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    return MemoryObjectStore.created()


@pytest.fixture
def train_split(store: MemoryObjectStore, tmp_path: Path) -> str:
    split = create_split(store, dataset(store, tmp_path, plates()), SplitSettings(test=0.3, validation=0.2, seed=1))
    return f"{split}/parts/train"


@pytest.fixture
def train(store: MemoryObjectStore, train_split: str) -> TrainPart:
    return open_train_part(store, train_split, field="x")


def plan(store: MemoryObjectStore, train_split: str, **settings: Any) -> Any:
    request = adapters_pb2.Adapter(train_split=train_split, settings=AdapterSettings(per="image", **settings))
    return adapters.plan(store, request).plan


def known(plan: Any) -> dict[str, float]:
    return {item.name: item.value for item in plan.quantities}


# Training


def test_each_train_image_has_an_adapter_that_sees_it_alone(train: TrainPart) -> None:
    found = portions(train, AdapterSettings(per="image", images_seen=10 * len(train) - 1))
    assert sorted(portion.rows for portion in found) == [(row,) for row in range(len(train))]
    for portion in found:
        [row] = portion.rows
        assert portion.folder == f"image-{row:06d}"
        assert (portion.label, portion.image) == (train.class_names[row], train.sha256s[row])
        assert (portion.images_seen, portion.held_out) == (10, ())
    labels = [portion.label for portion in found]
    assert labels == sorted(labels), "class by class"


def test_a_plan_says_how_many_adapters_there_are_and_how_long_each_learns(
    store: MemoryObjectStore, train_split: str, train: TrainPart
) -> None:
    count = len(train)
    short = plan(store, train_split, images_seen=20 * count, batch_size=16)
    assert known(short)["adapters"] == count
    one = known(plan_of_all(store, train_split))
    assert known(short)["parameters"] == count * one["parameters"]
    assert known(short)["stored MiB"] == pytest.approx(count * one["parameters"] * 4 / 2**20, abs=0.1)
    assert "stored MiB" not in one
    said = short.warnings[0]
    assert said.startswith(f"one adapter for each of {count} images, ")
    assert f"each sees its image 20 times, in 2 steps, which are few (LoFT: 600); images_seen {count * 1600}" in said
    long = plan(store, train_split, images_seen=1600 * count, batch_size=16)
    assert long.warnings[0].endswith("each sees its image 1,600 times, in 100 steps")
    # The last batch of each is a whole one, and each has to be begun.
    image_s = adapters.SECONDS_PER_IMAGE_SEEN[True]
    expected = adapters.START_SECONDS + count * (2 * 16 * image_s + image_options.SECONDS_PER_ADAPTER[True])
    assert short.predicted_seconds == pytest.approx(expected)


def plan_of_all(store: MemoryObjectStore, train_split: str) -> Any:
    return adapters.plan(store, adapters_pb2.Adapter(train_split=train_split, settings=AdapterSettings())).plan


def test_tokens_that_come_first_leave_images_for_each_adapter(
    store: MemoryObjectStore, train_split: str, train: TrainPart
) -> None:
    asked = {"images_seen": 20 * len(train), "class_tokens": 1}
    plan(store, train_split, class_token_images_seen=19, **asked)
    with pytest.raises(InvalidArgument, match=rf"20 leaves no images .* each of {len(train)} sees 20 of"):
        plan(store, train_split, class_token_images_seen=20, **asked)


def test_more_adapters_than_an_artifact_holds_are_refused(
    store: MemoryObjectStore, train_split: str, train: TrainPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_options, "MOST_ADAPTERS", len(train))
    size = known(plan(store, train_split))["stored MiB"]
    monkeypatch.setattr(image_options, "MOST_ADAPTERS", len(train) - 1)
    with pytest.raises(
        InvalidArgument, match=rf"an adapter for each of {len(train)} train images, more than"
    ) as raised:
        plan(store, train_split)
    assert raised.value.reason == "TOO_MANY_ADAPTERS"
    assert [item.field for item in raised.value.violations] == ["adapter.settings.per"]
    assert "use per: class, or a split whose train part has at most" in raised.value.message
    plan_of_all(store, train_split)

    monkeypatch.setattr(image_options, "MOST_ADAPTERS", len(train))
    monkeypatch.setattr(image_options, "MOST_STORED_BYTES", int((size - 0.2) * 2**20))
    with pytest.raises(InvalidArgument, match=r"would store .* MiB for each of .* use a lower rank") as raised:
        plan(store, train_split)
    assert raised.value.reason == "TOO_MANY_ADAPTERS"
    plan(store, train_split, rank=2)


def test_what_begins_from_the_base_models_weights_is_stored_at_twice_its_rank() -> None:
    for method, factor in (("lora", 1), ("pissa", 2), ("olora", 2), ("none", 1)):
        assert image_options.stored_bytes(AdapterSettings(method=method), 10) == 40 * factor


# What is stored


def of_images(parts: list[AdapterPart] = PARTS, **settings: Any) -> Manifest:
    """The adapter of these images on the built-in base model."""
    found = resolve(BUILTIN, field="x")
    full, digest = adapters.filled(AdapterSettings(per="image", **settings), found), found.digest
    return Manifest(
        ADAPTER,
        {"base_model": digest, "train_split": "1" * 32},
        adapters.canonical_request(full, train_digest="1" * 32, base_model_digest=digest),
        3,
        (Payload("image-000000/pytorch_lora_weights.safetensors", "0" * 64, 4),),
        {
            "base_model": BUILTIN,
            "classes": ["a", "b", "without"],
            "final_loss": 0.5,
            "parameter_count": 7,
            "adapters": [
                {
                    **dataclasses.asdict(part),
                    "path": f"{part.label}/{part.folder}.png",
                    "images_seen": 3,
                    "final_loss": 0.25,
                }
                for part in parts
            ],
        },
        create_time="2026-01-01T00:00:00Z",
    )


def test_an_adapter_says_which_image_each_of_its_adapters_is_of() -> None:
    message = adapter_message(MemoryObjectStore.created(), of_images())
    assert [(item.image, item.label) for item in message.class_adapters] == [(part.image, part.label) for part in PARTS]
    assert message.class_adapters[0].path == "a/image-000000.png"
    assert adapter_parts(of_images()) == PARTS
    assert classes_made(of_images()) == ["a", "b"]


def test_a_list_leaves_out_what_is_there_for_each_image() -> None:
    class Collection:
        async def list(self, *arguments: Any) -> Any:
            of_all = adapters_pb2.Adapter(settings=AdapterSettings(per="dataset"))
            of_all.payloads.add(name="x")
            return [adapter_message(MemoryObjectStore.created(), of_images()), of_all], "", []

    service = AdapterService(MemoryObjectStore.created(), Collection())  # type: ignore[arg-type]
    answer = asyncio.run(service.ListAdapters(adapters_pb2.ListAdaptersRequest(), None))  # type: ignore[arg-type]
    first, second = answer.adapters
    assert (first.name, len(first.class_adapters), len(first.payloads)) == (str(ADAPTER), 0, 0)
    assert len(second.payloads) == 1


# Which adapters make an image


def request(fused: int = 1, **class_images: int) -> dict[str, Any]:
    settings = {"prompt": "a {label} cell", **({"fused_adapters": fused} if fused > 1 else {})}
    return {"settings": settings, "adapter": ADAPTER.id, "class_images": class_images}


def test_each_images_adapter_makes_as_many_images_of_its_class_as_any_other() -> None:
    images = planned_images(request(a=12, b=14), range(26), PARTS)
    made = Counter(part for image in images for part in image.adapters)
    assert all(image.adapters[0].label == image.label and len(image.sources) == 1 for image in images)
    assert sorted(made[part] for part in PARTS[:5]) == [2, 2, 2, 3, 3]
    assert {made[part] for part in PARTS[5:]} == {2}
    order = [image.adapters[0].folder for image in images[:5]]
    assert order != sorted(order), "the seed gives the order"


@pytest.mark.parametrize("fused", [1, 2])
def test_what_an_image_is_made_with_depends_on_no_shard_and_no_other_image(fused: int) -> None:
    whole = planned_images(request(fused, a=100, b=100), range(200), PARTS)
    for size in (1, 7, 64):
        parts = [
            image
            for start in range(0, 200, size)
            for image in planned_images(request(fused, a=100, b=100), range(start, min(200, start + size)), PARTS)
        ]
        assert parts == whole
    fewer = planned_images(request(fused, a=30, b=100), range(130), PARTS)
    assert fewer == [dataclasses.replace(image, index=index) for index, image in enumerate(whole[:30] + whole[100:])]


def test_two_that_are_fused_are_of_one_class_and_all_pairs_come() -> None:
    images = planned_images(request(2, a=20, b=42), range(62), PARTS)
    for image in images:
        assert len(set(image.sources)) == 2
        assert {part.label for part in image.adapters} == {image.label}
    for label, count in (("a", 5), ("b", 7)):
        pairs = [tuple(image.sources) for image in images if image.label == label]
        assert len(set(pairs)) == len(pairs) == count * (count - 1)
        for place in (0, 1):
            assert set(Counter(pair[place] for pair in pairs).values()) == {count - 1}
    assert drawn(in_drawing_order(tuple(PARTS), "a", 0), 20, 2) == drawn(in_drawing_order(tuple(PARTS), "a", 0), 0, 2)
    assert drawn(PARTS[:2], 3, 2) == (PARTS[1], PARTS[0])


def test_an_adapter_for_all_classes_or_for_each_is_drawn_as_it_is() -> None:
    [image] = planned_images(request(a=1), range(1))
    assert (image.adapters, image.sources) == ((AdapterPart(),), [])
    of_classes = [AdapterPart("class-0000", "a"), AdapterPart("class-0001", "b")]
    images = planned_images(request(a=2, b=1), range(3), of_classes)
    assert [image.adapters[0].folder for image in images] == ["class-0000", "class-0000", "class-0001"]
    assert not any(image.sources for image in images)


@pytest.mark.parametrize("fused", [1, 2])
def test_the_index_says_which_images_each_one_is_a_child_of(store: MemoryObjectStore, fused: int) -> None:
    asked, target = request(fused, a=70, b=3), ArtifactName(IMAGE_SETS, "f" * 32)
    shards = {
        number: Shard(Payload(f"s{number}", "0" * 64, 1), [f"{index:064x}" for index in shard_range(73, number)])
        for number in range(shard_count(73))
    }
    [*_, index] = write_index(store, target, asked, shards, PARTS)
    manifest = Manifest(target, {}, asked, 1, (index,), {SOURCES: True})
    write_manifest(store, manifest)
    found = open_image_set(store, str(target), classes=["a", "b"], field="x").sources
    assert found == tuple(tuple(image.sources) for image in planned_images(asked, range(73), PARTS))
    assert found is not None and {len(sources) for sources in found} == {fused}
    [*_, index] = write_index(store, target, request(a=70, b=3), shards)
    assert SOURCES not in read_index(store, dataclasses.replace(manifest, payloads=(index,))).column_names


@pytest.mark.parametrize(
    ("row", "label", "status"), [(0, "alpha", "held"), (0, "beta", "broken"), (None, "alpha", "broken")]
)
def test_the_report_looks_at_whose_children_images_are(
    store: MemoryObjectStore, train_split: str, row: int | None, label: str, status: str
) -> None:
    parts = open_split(store, train_split.removesuffix("/parts/train"), field="x")
    parents = {name: parts[0].class_names.index(name) for name in ("alpha", "beta")}
    sha256 = "f" * 64 if row is None else parts[0].sha256s[parents["alpha"]]
    asked, target = request(**{label: 2}), ArtifactName(IMAGE_SETS, "f" * 32)
    shards = {0: Shard(Payload("s0", "0" * 64, 1), ["1" * 64, "2" * 64])}
    [*_, index] = write_index(store, target, asked, shards, [AdapterPart("image-000000", label, sha256)])
    sets = [Manifest(target, {}, asked, 1, (index,), {SOURCES: True})]
    [line] = leakage.children(store, parts, sets)
    assert line.status == status
    assert line.evidence.startswith("2 of 2 images" if status == "held" else "0 of 2 images")
    assert leakage.children(store, parts, [dataclasses.replace(sets[0], summary={})]) == []


def test_an_evaluation_is_refused_if_too_few_children_may_be_taken(
    store: MemoryObjectStore, train_split: str, train: TrainPart
) -> None:
    """Before anything is trained: of what a mixture leaves out it takes no children, so that some are left over."""
    parts = [
        AdapterPart(f"image-{row:06d}", label, sha256)
        for row, (label, sha256) in enumerate(zip(train.class_names, train.sha256s, strict=True))
    ]
    counts = dict(Counter(train.class_names))
    target, asked = ArtifactName(IMAGE_SETS, "f" * 32), request(**counts)
    shards = {0: Shard(Payload("s0", "0" * 64, 1), [f"{index:064x}" for index in range(len(train))])}
    store.put_bytes(f"{target}/{'0' * 64}", b"x")
    payloads = write_index(store, target, asked, shards, parts)
    write_manifest(store, dataclasses.replace(of_images(parts), inputs={"train_split": train.digest}, payloads=()))
    summary = {SOURCES: True, "imported_adapter": False}
    write_manifest(store, Manifest(target, {"adapter": ADAPTER.id}, asked, 3, tuple(payloads), summary))

    def plan_of(ratio: float, mode: str = "replace") -> Any:
        mixtures = evaluations_pb2.MixtureSettings(mode=mode, ratios=[ratio])
        evaluation = evaluations_pb2.Evaluation(
            split=train_split.removesuffix("/parts/train"),
            image_sets=[str(target)],
            mixtures=mixtures,
            classifier=evaluations_pb2.ClassifierSettings(pretrained=False),
            seeds=2,
        )
        return evaluations.plan(store, evaluation, validate_only=False).plan

    assert plan_of(0.5).total == 4
    assert plan_of(1.0).total == plan_of(0.75, "append").total == 4
    with pytest.raises(FailedPrecondition, match="too few children of the real images that replace 75 % keeps"):
        plan_of(0.75)


# What an image set's plan says


def image_set(store: MemoryObjectStore, adapter: Manifest | None, *, validate_only: bool = False, **fields: Any) -> Any:
    if adapter is not None:
        write_manifest(store, dataclasses.replace(adapter, payloads=()))
    classes = [image_sets_pb2.ClassImages(label=label, images=4) for label in ("a", "b")]
    asked = image_sets_pb2.ImageSet(
        adapter=str(ADAPTER),
        settings=SynthesisSettings(prompt="a {label} cell", **fields),
        class_images=classes,
    )
    return image_sets.plan(store, asked, validate_only=validate_only).plan


def test_changing_adapters_takes_time(store: MemoryObjectStore) -> None:
    alone = image_set(store, None, validate_only=True).predicted_seconds
    of_each = image_set(store, of_images()).predicted_seconds
    assert of_each == pytest.approx(alone + 8 * image_sets.SECONDS_PER_ADAPTER)


@pytest.mark.parametrize(
    ("fused", "images", "expected"),
    [(1, {"a": 3}, 3), (1, {"a": 500, "b": 64}, 8 * 5 + 7), (2, {"a": 500, "b": 64}, 8 * 20 + 42)],
)
def test_how_often_adapters_are_changed(fused: int, images: dict[str, int], expected: int) -> None:
    settings = SynthesisSettings(fused_adapters=fused)
    assert image_sets.adapter_changes(settings, PARTS, images) == expected
    assert image_sets.adapter_changes(settings, [AdapterPart()], images) == 0
    assert SHARD_IMAGES == 64


@pytest.mark.parametrize(
    ("adapter", "fields", "field", "said"),
    [
        (
            lambda: dataclasses.replace(of_images(), request={"settings": {}}),
            {"fused_adapters": 2},
            "fused_adapters",
            "2 fuses adapters of two images, and this adapter is not one for each image; use one of per: image",
        ),
        (
            lambda: of_images(method="dora"),
            {"fused_adapters": 2},
            "fused_adapters",
            "those of the method dora do not add up; leave it out, or use a method of lora, rslora, pissa, olora, none",
        ),
        (
            lambda: of_images(PARTS[4:]),
            {"fused_adapters": 2},
            "fused_adapters",
            "the class 'a' has 1; leave it out, or use a split that gives each class two train images",
        ),
        (of_images, {"fused_adapters": 3}, "fused_adapters", "is out of range; use a value between 1 and 2"),
        (
            lambda: of_images(method="none"),
            {"adapter_scale": 0.5},
            "adapter_scale",
            "0.5 is of what an adapter changes in weights, and this adapter is learned class tokens alone",
        ),
        (of_images, {"fused_adapters": 2, "fusion_weight": 1.0}, "fusion_weight", "a value strictly between 0 and 1"),
        (of_images, {"fusion_weight": 0.3}, "fusion_weight", "and there is one; set fused_adapters: 2, or leave"),
    ],
)
def test_what_cannot_be_fused_is_refused(
    store: MemoryObjectStore, adapter: Callable[[], Manifest], fields: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(said)) as raised:
        image_set(store, adapter(), **fields)
    assert [item.field for item in raised.value.violations] == [f"image_set.settings.{field}"]


@pytest.mark.parametrize("method", ["lora", "rslora", "pissa", "olora"])
def test_what_adds_up_can_be_fused(store: MemoryObjectStore, method: str) -> None:
    assert image_set(store, of_images(method=method), fused_adapters=2, fusion_weight=0.3).total == 8
