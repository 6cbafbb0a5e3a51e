"""Images that begin from train images: which each begins from, how far it goes, and what is refused before."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from image_archives import dataset, plates
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.generators import AdapterPart
from synthmix.image_data.image_table import ANGLE, SHARE, SOURCE_LABEL, SOURCES, STRENGTH, Shard, read_index
from synthmix.image_data.image_to_image import strength_by_images
from synthmix.image_data.paired_sources import check_pairs
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_synthesis import planning as image_sets
from synthmix.image_synthesis.latent_guidance_options import GUIDANCE_COST, check_classes_to_tell
from synthmix.image_synthesis.shards import PlannedImage, planned_images, write_index
from synthmix.image_synthesis.source_images import executed_steps, mean_steps, source_images
from synthmix.latent_diffusion.base_model import BUILTIN, resolve
from synthmix.service_kit.artifacts import Manifest, Payload, write_manifest
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, Problems
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.study_control.split import create_split

ADAPTER, TARGET = ArtifactName(ADAPTERS, "e" * 32), ArtifactName(IMAGE_SETS, "f" * 32)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    return MemoryObjectStore.created()


@pytest.fixture
def train(store: MemoryObjectStore, tmp_path: Path) -> TrainPart:
    split = create_split(store, dataset(store, tmp_path, plates()), SplitSettings(test=0.3, validation=0.2, seed=1))
    return open_train_part(store, f"{split}/parts/train", field="x")


@pytest.fixture
def uneven(store: MemoryObjectStore, tmp_path: Path) -> TrainPart:
    """Of the second class one image a plate, and of the first two."""
    files = {name: data for name, data in plates().items() if not (name.startswith("beta") and name.endswith("_1.png"))}
    split = create_split(store, dataset(store, tmp_path, files), SplitSettings(test=0.3, validation=0.2, seed=1))
    return open_train_part(store, f"{split}/parts/train", field="x")


def image_set(store: MemoryObjectStore, train: TrainPart, *, split: str | None = None, **fields: Any) -> Any:
    """The plan of an image set of an adapter that was trained on this part."""
    inputs = {"base_model": resolve(BUILTIN, field="x").digest, "train_split": train.digest}
    summary = {"base_model": BUILTIN, "classes": list(train.classes), "grey": False}
    per = {"per": fields.pop("per")} if "per" in fields else {}
    request = {"settings": {"prompt": "a {label} cell"} | per, "train_split": train.digest}
    write_manifest(store, Manifest(ADAPTER, inputs, request, 3, (), summary))
    classes = fields.pop("class_images", {})
    if "class_images_of_settings" in fields:
        fields["class_images"] = fields.pop("class_images_of_settings")
    asked = image_sets_pb2.ImageSet(
        adapter=str(ADAPTER),
        train_split=str(train.name) if split is None else split,
        settings=SynthesisSettings(**fields),
        class_images=[image_sets_pb2.ClassImages(label=label, images=count) for label, count in classes.items()],
    )
    return image_sets.plan(store, asked, validate_only=False)


def planned(store: MemoryObjectStore, train: TrainPart, indices: range, **fields: Any) -> list[PlannedImage]:
    request = image_set(store, train, **fields).request
    return planned_images(request, indices, sources=source_images(train))


def test_each_source_is_begun_from_as_often_as_any_other(store: MemoryObjectStore, train: TrainPart) -> None:
    [label, other] = train.classes
    own = [sha256 for sha256, name in zip(train.sha256s, train.class_names, strict=True) if name == label]
    count = 3 * len(own) + 2
    images = planned(store, train, range(count), strength=0.5, class_images={label: count, other: 5})
    assert sorted(Counter(image.source.sha256 for image in images if image.source).values())[-3:] == [3, 4, 4]
    assert {image.source.sha256 for image in images if image.source} == set(own)
    assert all(image.sources == [image.source.sha256] for image in images if image.source)
    assert all(train.sha256s[image.source.row] == image.source.sha256 for image in images if image.source)
    # Neither shards nor the number of images change them; the seed does.
    assert planned(store, train, range(7, 9), strength=0.5, class_images={label: count, other: 5}) == images[7:9]
    fewer = planned(store, train, range(9), strength=0.5, class_images={label: 9, other: count})
    assert [image.source for image in fewer] == [image.source for image in images[:9]]
    reseeded = planned(store, train, range(9), strength=0.5, seed=1, class_images={label: 9, other: 5})
    assert [image.source for image in reseeded] != [image.source for image in images[:9]]


def test_images_begin_from_any_class(store: MemoryObjectStore, train: TrainPart) -> None:
    settings: dict[str, Any] = {"strength": 0.5, "source": "any_class"}
    count = 2 * len(train) + 3
    images = planned(store, train, range(2 * count), per_class=count, **settings)
    for of_class in (images[:count], images[count:]):
        counts = Counter(image.source.sha256 for image in of_class if image.source)
        assert set(counts) == set(train.sha256s) and set(counts.values()) == {2, 3}
    assert [image.source for image in images[:9]] != [image.source for image in images[count : count + 9]]
    assert {image.label for image in images} == set(train.classes)
    labels = dict(zip(train.sha256s, train.class_names, strict=True))
    assert all(image.source and image.source.label == labels[image.source.sha256] for image in images)
    request = image_set(store, train, per_class=1, **settings).request
    payloads = write_index(
        store, TARGET, request, {0: Shard(Payload("s0", "0" * 64, 1), ["0" * 64] * 2)}, sources=source_images(train)
    )
    rows = read_index(store, Manifest(TARGET, {}, request, 3, tuple(payloads), {})).to_pylist()
    assert all(row[SOURCE_LABEL] == labels[row[SOURCES][0]] for row in rows)


def test_of_any_class_each_class_has_as_many(store: MemoryObjectStore, train: TrainPart) -> None:
    plan = image_set(store, train, strength=0.5, source="any_class", images_per_source=3)
    counts = plan.request["class_images"].values()
    assert sum(counts) == 3 * len(train) and max(counts) - min(counts) <= 1
    assert image_set(store, train, strength=0.5, source="same_class", per_class=4).plan.target == (
        image_set(store, train, strength=0.5, per_class=4).plan.target
    ), "what is the default changes no address"


def test_an_adapter_of_one_image_goes_on_from_it(store: MemoryObjectStore, train: TrainPart) -> None:
    request = image_set(store, train, strength=0.5, per_class=6).request
    parts = [
        AdapterPart(f"image-{row:06d}", label, sha256)
        for row, (label, sha256) in enumerate(zip(train.class_names, train.sha256s, strict=True))
    ]
    for image in planned_images(request, range(12), parts, sources=source_images(train)):
        assert image.source is not None
        assert image.sources == [image.source.sha256] == [image.adapters[0].image]


def test_strengths_are_drawn(store: MemoryObjectStore, train: TrainPart) -> None:
    images = planned(store, train, range(80), strength=0.25, more_strengths=[0.5, 1.0], per_class=40)
    counts = Counter(image.strength for image in images)
    assert sorted(counts) == [0.25, 0.5, 1.0] and min(counts.values()) > 15
    assert [image.strength for image in images[:40]] != [image.strength for image in images[40:]], "by class"
    images = planned(store, train, range(80), strength=0.2, largest_strength=0.6, per_class=40)
    strengths = sorted(image.strength for image in images)
    assert 0.2 <= strengths[0] < 0.24 and 0.56 < strengths[-1] <= 0.6 and len(set(strengths)) > 70
    assert mean_steps(SynthesisSettings(steps=20, strength=0.2, largest_strength=0.6)) == pytest.approx(7.5)
    assert mean_steps(SynthesisSettings(steps=20, strength=0.25, more_strengths=[0.5, 1.0])) == pytest.approx(35 / 3)


def test_a_class_s_strength_by_its_train_images(store: MemoryObjectStore, uneven: TrainPart) -> None:
    counts = Counter(uneven.class_names)
    [(more, most), (fewer, least)] = counts.most_common()
    assert most > least
    strengths = {least: 0.4, most: 0.2, most + 1: 0.1}
    plan = image_set(store, uneven, strengths_by_images=strengths, class_images={more: 30, fewer: 10})
    sources = source_images(uneven)
    images = planned_images(plan.request, range(40), sources=sources)
    assert {(image.label, image.strength) for image in images} == {(more, 0.2), (fewer, 0.4)}
    assert all(image.source and image.source.label == image.label for image in images)
    assert {item.name: item.value for item in plan.plan.quantities} == {
        "steps that an image goes through": (30 * 5 + 10 * 10) / 40,
        f"strength of {more}": 0.2,
        f"strength of {fewer}": 0.4,
    }
    plain = image_set(store, uneven, split="", class_images={more: 30, fewer: 10}).plan
    start = image_sets.START_SECONDS
    assert plan.plan.predicted_seconds - start == pytest.approx((plain.predicted_seconds - start) * 6.25 / 25)
    assert strength_by_images({4: 0.35, 16: 0.15}, 3) == 0.35, "of fewer than any, that of the fewest"
    assert strength_by_images({4: 0.35, 16: 0.15}, 15) == 0.35
    assert strength_by_images({4: 0.35, 16: 0.15}, 16) == 0.15


def test_an_image_set_by_itself_fills_classes_up(store: MemoryObjectStore, uneven: TrainPart) -> None:
    [(more, most), (fewer, least)] = Counter(uneven.class_names).most_common()
    assert most > least
    images = {more: min(16, most), fewer: max(most - least, min(16, least))}
    plan = image_set(store, uneven, balance=True)
    assert plan.request["class_images"] == images
    assert plan.names == {}, "no image begins from the train part"
    assert plan.plan.target == image_set(store, uneven, split="", class_images=images).plan.target
    begun = image_set(store, uneven, balance=True, strength=0.5)
    assert begun.request["class_images"] == images and begun.names == {"train_split": str(uneven.name)}
    assert image_set(store, uneven, split="", class_images_of_settings={fewer: 3}).request["class_images"] == {
        label: 3 if label == fewer else image_sets.PER_CLASS for label in sorted(uneven.classes)
    }


@pytest.mark.parametrize(
    ("steps", "strength", "expected"), [(25, 0.3, 7), (25, 0.1, 2), (25, 1.0, 25), (25, 0.04, 1), (100, 0.29, 28)]
)
def test_steps_are_counted_as_diffusers_does(steps: int, strength: float, expected: int) -> None:
    assert executed_steps(steps, strength) == expected


def test_the_index_says_sources_and_strengths(store: MemoryObjectStore, train: TrainPart) -> None:
    request = image_set(store, train, strength=0.25, more_strengths=[0.5], per_class=2).request
    assert request["train_split"] == train.digest
    shards = {0: Shard(Payload("s0", "0" * 64, 1), [str(number) * 64 for number in range(4)])}
    payloads = write_index(store, TARGET, request, shards, sources=source_images(train))
    manifest = Manifest(TARGET, {}, request, 3, tuple(payloads), {})
    rows = read_index(store, manifest, ["label", SOURCES, STRENGTH, "group", "steps"]).to_pylist()
    classes = dict(zip(train.sha256s, train.class_names, strict=True))
    assert all([classes[sha256] for sha256 in row[SOURCES]] == [row["label"]] for row in rows)
    groups = dict(zip(train.sha256s, train.groups, strict=True))
    assert all(row["group"] == groups[row[SOURCES][0]] for row in rows)
    assert {(row[STRENGTH], row["steps"]) for row in rows} <= {(0.25, 6), (0.5, 12)}


def test_two_are_inverted_for_each_image(store: MemoryObjectStore, train: TrainPart) -> None:
    [label, other] = train.classes
    own = {sha256 for sha256, name in zip(train.sha256s, train.class_names, strict=True) if name == label}
    pairs = len(own) * (len(own) - 1)
    settings: dict[str, Any] = {"inversion_steps": 10, "class_images": {label: pairs, other: 5}}
    images = planned(store, train, range(pairs), **settings)
    assert {tuple(image.sources) for image in images} == {(a, b) for a in own for b in own if a != b}, "every pair once"
    angles = sorted(image.angle for image in images)
    assert 0 <= angles[0] < 1 and math.tau - 1 < angles[-1] < math.tau and len(set(angles)) == pairs
    assert planned(store, train, range(7, 9), **settings) == images[7:9], "whatever the shard"
    fewer = planned(store, train, range(9), inversion_steps=10, class_images={label: 9, other: 5})
    assert [(image.sources, image.angle) for image in fewer] == [(image.sources, image.angle) for image in images[:9]]


def test_the_index_says_both_that_were_inverted(store: MemoryObjectStore, train: TrainPart) -> None:
    request = image_set(store, train, inversion_steps=10, per_class=2).request
    shards = {0: Shard(Payload("s0", "0" * 64, 1), [str(number) * 64 for number in range(4)])}
    payloads = write_index(store, TARGET, request, shards, sources=source_images(train))
    rows = read_index(store, Manifest(TARGET, {}, request, 3, tuple(payloads), {})).to_pylist()
    classes = dict(zip(train.sha256s, train.class_names, strict=True))
    assert all([classes[sha256] for sha256 in row[SOURCES]] == 2 * [row["label"]] for row in rows)
    assert all(0 <= row[ANGLE] < math.tau and row["steps"] == 25 for row in rows)
    assert not {STRENGTH, "group"} & set(rows[0]), "two may be of two groups"


def test_two_are_mixed_for_each_image(store: MemoryObjectStore, train: TrainPart) -> None:
    [label, other] = train.classes
    own = {sha256 for sha256, name in zip(train.sha256s, train.class_names, strict=True) if name == label}
    pairs = len(own) * (len(own) - 1)
    settings: dict[str, Any] = {"strength": 0.5, "largest_strength": 0.9, "source": "pairs"}
    counts = {label: pairs, other: 5}
    images = planned(store, train, range(pairs), class_images=counts, **settings)
    assert {tuple(image.sources) for image in images} == {(a, b) for a in own for b in own if a != b}, "every pair once"
    assert len({image.share for image in images}) == pairs and all(0 <= image.share < 1 for image in images)
    assert 0.3 < sum(image.share for image in images) / pairs < 0.7
    assert all(0.5 <= image.strength < 0.9 for image in images)
    assert planned(store, train, range(7, 9), class_images=counts, **settings) == images[7:9], "whatever the shard"
    alone = planned(store, train, range(9), class_images=counts, **(settings | {"source": "same_class"}))
    assert [image.strength for image in alone] == [image.strength for image in images[:9]], "to compare with"
    assert all(image.share == 1 and image.partner is None for image in alone)
    each = image_set(store, train, images_per_source=3, **settings).plan
    assert each.total == 3 * len(train), "each is the first of three pairs"


def test_the_index_says_both_that_were_mixed(store: MemoryObjectStore, train: TrainPart) -> None:
    request = image_set(store, train, strength=0.5, source="pairs", per_class=2).request
    shards = {0: Shard(Payload("s0", "0" * 64, 1), [str(number) * 64 for number in range(4)])}
    payloads = write_index(store, TARGET, request, shards, sources=source_images(train))
    rows = read_index(store, Manifest(TARGET, {}, request, 3, tuple(payloads), {})).to_pylist()
    classes = dict(zip(train.sha256s, train.class_names, strict=True))
    assert all([classes[sha256] for sha256 in row[SOURCES]] == 2 * [row["label"]] for row in rows)
    images = planned(store, train, range(4), strength=0.5, source="pairs", per_class=2)
    assert [(row[SHARE], row[STRENGTH], row["steps"]) for row in rows] == [(image.share, 0.5, 12) for image in images]
    assert "group" not in rows[0], "two may be of two groups"


def test_inversions_are_of_pairs_whether_that_is_said_or_not(store: MemoryObjectStore, train: TrainPart) -> None:
    said, unsaid = (
        planned(store, train, range(8), inversion_steps=10, per_class=4, **more) for more in ({"source": "pairs"}, {})
    )
    assert said == unsaid
    [target, other] = [
        image_set(store, train, inversion_steps=10, per_class=4, **more).plan.target
        for more in ({"source": "pairs"}, {})
    ]
    assert target == other, "and one image set is made"


def test_prompts_that_are_switched(store: MemoryObjectStore, train: TrainPart) -> None:
    """The first ones are those of more_prompts, and prompt takes over from each."""
    more = ["a {label} cell, stained", "a {label} cell, in focus"]
    images = planned(store, train, range(20), split="", more_prompts=more, prompt_switch=0.3, per_class=10)
    assert {image.template for image in images} == set(more)
    assert {image.later_template for image in images} == {"a {label} cell"}
    images = planned(store, train, range(20), split="", more_prompts=more, per_class=10)
    assert {image.template for image in images} == {"a {label} cell", *more}
    assert {image.later_template for image in images} == {None}


def test_a_plan_of_inversions(store: MemoryObjectStore, train: TrainPart) -> None:
    plain = image_set(store, train, split="", per_class=4).plan
    inverted = image_set(store, train, inversion_steps=100, per_class=4).plan
    start = image_sets.START_SECONDS
    of_a_step = (plain.predicted_seconds - start) / (8 * 25)
    # Four images of each class begin from five of its train images. There is no guidance on their way back.
    assert inverted.predicted_seconds - start == pytest.approx(of_a_step * (8 * 25 + 10 * 100 / 2))
    assert [(item.name, item.value) for item in inverted.quantities] == [
        ("steps that an image goes through", 25.0),
        ("train images that are inverted", 10.0),
        ("steps of an inversion", 100.0),
    ]
    many = image_set(store, train, inversion_steps=100, images_per_source=5).plan
    assert many.total == 5 * len(train) and many.quantities[1].value == len(train)


def test_a_plan_of_moved_latents(store: MemoryObjectStore, train: TrainPart) -> None:
    plain = image_set(store, train, strength=0.5, per_class=4).plan
    moved = image_set(store, train, strength=0.5, per_class=4, latent_guidance_radius=0.1).plan
    assert moved.target != plain.target
    assert moved.predicted_seconds - plain.predicted_seconds == pytest.approx(
        8 * GUIDANCE_COST * image_sets.SECONDS_PER_IMAGE_STEP
    )


def test_a_classifier_tells_two_classes_apart() -> None:
    settings = SynthesisSettings(latent_guidance_radius=0.1)
    for made, there, said in ((["a"], {"a": 3}, "which are of one class"), (["b"], {"a": 3, "c": 2}, "know no 'b'")):
        problems = Problems()
        check_classes_to_tell(settings, made, there, problems, field="settings")
        [problem] = problems.found
        assert said in problem.message
        assert [item.field for item in problem.violations] == ["settings.latent_guidance_radius"]


def test_an_adapter_of_one_image_inverts_no_other(store: MemoryObjectStore, train: TrainPart) -> None:
    with pytest.raises(InvalidArgument, match="this adapter is one for each image, which knows no other") as raised:
        image_set(store, train, inversion_steps=10, per="image")
    assert [item.field for item in raised.value.violations] == ["image_set.settings.inversion_steps"]


def test_what_cannot_begin_from_pairs() -> None:
    settings = SynthesisSettings(strength=0.5, source="pairs")
    for per, counts, said in (
        ("image", {"a": 3}, "the adapter is one for each image, which knows no other; leave it out"),
        ("class", {"a": 3, "b": 1}, "begins from two images of a class, and the class 'b' has 1; leave it out"),
    ):
        problems = Problems()
        check_pairs(settings, per, counts, problems, field="settings", what="the adapter")
        [problem] = problems.found
        assert said in problem.message and problem.reason == "PAIRS_CANNOT"
        assert [item.field for item in problem.violations] == ["settings.source"]


def test_plans(store: MemoryObjectStore, train: TrainPart) -> None:
    counts = Counter(train.class_names)
    plain = image_set(store, train, split="", per_class=4)
    half = image_set(store, train, strength=0.5, per_class=4)
    assert plain.names == {} and half.names == {"train_split": str(train.name)}
    assert plain.plan.target != half.plan.target
    start = image_sets.START_SECONDS
    of_a_step = (plain.plan.predicted_seconds - start) / 25
    assert half.plan.predicted_seconds - start == pytest.approx(12 * of_a_step)
    assert [(item.name, item.value) for item in half.plan.quantities] == [("steps that an image goes through", 12.0)]
    of_each = image_set(store, train, strength=0.5, images_per_source=3)
    assert of_each.request["class_images"] == {label: 3 * count for label, count in sorted(counts.items())}
    same = image_set(store, train, strength=0.5, class_images={label: 3 * count for label, count in counts.items()})
    assert of_each.plan.target == same.plan.target


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"strength": 0.0}, "settings.strength", "0.0 is out of range; use a value above 0 and of at most 1"),
        ({"strength": 1.5}, "settings.strength", "1.5 is out of range"),
        ({"strength": 0.03}, "settings.strength", "0.03 of 25 steps is less than one step; use at least 0.04"),
        (
            {"strength": 0.5, "more_strengths": [0.5, 0.01]},
            "settings.more_strengths[1]",
            "0.01 of 25 steps is less than one step",
        ),
        (
            {"strength": 0.5, "largest_strength": 0.5},
            "settings.largest_strength",
            "0.5 is not above strength, which is 0.5; set the smallest one as strength",
        ),
        (
            {"strength": 0.5, "largest_strength": 0.7, "more_strengths": [0.6]},
            "settings.more_strengths",
            "and largest_strength makes a range of them; leave one of the two out",
        ),
        ({"split": "", "more_strengths": [0.5]}, "settings.more_strengths", "without a strength they begin as noise"),
        ({"split": "", "images_per_source": 5}, "settings.images_per_source", "set strength, such as 0.5"),
        ({"split": "", "source": "any_class"}, "settings.source", "set strength, such as 0.5"),
        ({"split": "", "source": "pairs"}, "settings.source", "without a strength they begin as noise"),
        ({"strength": 0.5, "source": "pair"}, "settings.source", "did you mean 'pairs'"),
        (
            {"strength": 0.5, "images_per_source": 5, "per_class": 9},
            "settings.images_per_source",
            "5 says how many images there are, and so does per_class; leave one of the two out",
        ),
        (
            {"strength": 0.5, "images_per_source": 5, "class_images": {"compact": 3}},
            "settings.images_per_source",
            "and so does class_images",
        ),
        ({"split": "", "strength": 0.5}, "train_split", "is required; images with a strength begin from train images"),
        (
            {"inversion_steps": 10, "strength": 0.5},
            "settings.inversion_steps",
            "10 says how images begin from train images, and so does strength; leave one of the two out",
        ),
        ({"inversion_steps": 0}, "settings.inversion_steps", "0 is out of range"),
        (
            {"inversion_steps": 10, "more_strengths": [0.5]},
            "settings.more_strengths",
            "is of images with a strength, and with inversion_steps there is none",
        ),
        ({"inversion_steps": 10, "source": "any_class"}, "settings.source", "with inversion_steps there is none"),
        (
            {"inversion_steps": 10, "sampler": "DDPMScheduler"},
            "settings.inversion_steps",
            "begins from noise of two images, and DDPMScheduler adds other noise in each step; use a sampler without",
        ),
        (
            {"inversion_steps": 10, "sampler": "DDIMScheduler", "eta": 0.5},
            "settings.eta",
            "0.5 adds noise in each step, and with inversion_steps images begin from noise of two images",
        ),
        (
            {
                "inversion_steps": 10,
                "sampler": "DPMSolverMultistepScheduler",
                "solver_algorithm": "sde-dpmsolver++",
            },
            "settings.solver_algorithm",
            "adds noise in each step",
        ),
        ({"split": "", "inversion_steps": 10}, "train_split", "images with inversion_steps begin from train images"),
        (
            {"split": "", "prompt_switch": 0.3},
            "settings.prompt_switch",
            "0.3 is how long one of more_prompts is used before prompt, and there are none; set more_prompts",
        ),
        (
            {"split": "", "latent_guidance_radius": 0.1},
            "settings.latent_guidance_radius",
            "0.1 is of images that begin from train images, by a classifier of these, and these begin as noise",
        ),
        (
            {"strength": 0.5, "latent_guidance_step": 0.2},
            "settings.latent_guidance_step",
            "and without latent_guidance_radius none are; set latent_guidance_radius, such as 0.1",
        ),
        ({"strength": 0.5, "latent_guidance_radius": 0.0}, "settings.latent_guidance_radius", "0.0 is out of range"),
        ({}, "train_split", "is what images begin from, and without a strength they begin as noise"),
        ({"balance": True}, "settings.balance", "has nothing to fill up: every class has 6 train images; leave it out"),
        ({"split": "", "balance": True}, "train_split", "is required; balance goes by the train images of each class"),
        ({"strengths_by_images": {1: 0.5}, "split": ""}, "train_split", "is required; images with a strength begin"),
        (
            {"strengths_by_images": {1: 0.5, 4: 0.03}},
            "settings.strengths_by_images[4]",
            "0.03 of 25 steps is less than one step; use at least 0.04",
        ),
        (
            {"strengths_by_images": {1: 1.5}},
            "settings.strengths_by_images[1]",
            "1.5 is out of range; use a value above",
        ),
        ({"strengths_by_images": {0: 0.5}}, "settings.strengths_by_images[0]", "use numbers of at least 1"),
        (
            {"strengths_by_images": {1: 0.5}, "strength": 0.3},
            "settings.strength",
            "0.3 says how far images are taken to noise, and so does strengths_by_images; leave one of the two out",
        ),
        (
            {"strengths_by_images": {1: 0.5}, "more_strengths": [0.3]},
            "settings.more_strengths",
            "and so does strengths_by_images",
        ),
        (
            {"strengths_by_images": {1: 0.5}, "inversion_steps": 10},
            "settings.inversion_steps",
            "10 says how images begin from train images, and so does strengths_by_images; leave one of the two out",
        ),
        (
            {"split": "", "class_images_of_settings": {"rond": 5}},
            "settings.class_images[rond]",
            "'rond' is not one of the choices",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    store: MemoryObjectStore, train: TrainPart, fields: dict[str, Any], field: str, said: str
) -> None:
    if "class_images" in fields:
        fields = fields | {"class_images": {train.classes[0]: 3}}
    with pytest.raises(InvalidArgument) as raised:
        image_set(store, train, **fields)
    assert said in raised.value.message
    assert f"image_set.{field}" in [item.field for item in raised.value.violations]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_images_begin_from_no_other_part(store: MemoryObjectStore, train: TrainPart, part: str) -> None:
    with pytest.raises(InvalidArgument, match="is held out: its images must not reach a generator"):
        image_set(store, train, strength=0.5, split=str(train.name).replace("train", part))


def test_images_begin_from_what_their_adapter_was_trained_on(store: MemoryObjectStore, train: TrainPart) -> None:
    other = create_split(store, train.manifest, SplitSettings(test=0.5, validation=0.2, seed=2))
    with pytest.raises(FailedPrecondition, match="was trained on, and its images may be test images of that split"):
        image_set(store, train, strength=0.5, split=f"{other}/parts/train")
