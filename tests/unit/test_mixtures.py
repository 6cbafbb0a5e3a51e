"""Mixtures and the grid: what a classifier trains on, and what a trial is addressed by."""

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

from memory_object_store import MemoryObjectStore
from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings, MixtureSettings
from synthmix.classifier_evaluation.mixtures import (
    Mixture,
    MixtureSpec,
    TrialSpec,
    check_ratios,
    compose,
    expand_grid,
)
from synthmix.classifier_evaluation.trial_requests import check_generator, steps_per_epoch, trial_name, trial_request
from synthmix.image_data.mixture_kinds import (
    APPEND,
    BALANCE,
    DUPLICATED_REAL,
    KINDS,
    MODES,
    REAL,
    RECONSTRUCTED_REAL,
    SYNTHETIC_ONLY,
    MixtureKind,
    fill_left_out,
    taken_by,
)
from synthmix.image_data.split_parts import AnyPart, TestPart, TrainPart, ValidationPart
from synthmix.image_data.synthetic_images import BegunFrom, SyntheticImages
from synthmix.service_kit.artifacts import Manifest, write_manifest
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import ArtifactName, PartName
from synthmix.service_kit.settings_messages import with_defaults

SERVICES_FOLDER = Path(__file__).resolve().parents[2] / "services"
CLASSES = ("alpha", "beta", "gamma")
COUNTS = (53, 31, 16)
IMAGE_SET, OTHER_IMAGE_SET = "a" * 32, "b" * 32
SPLIT = f"splits/{32 * '0'}"
RATIOS = (0.1, 0.25, 0.5, 0.75)
STORE = MemoryObjectStore.created()


def manifest(name: ArtifactName, inputs: dict[str, str] | None = None) -> Manifest:
    summary = {"white_level": 255, "class_counts": dict.fromkeys(CLASSES, 1)}
    return Manifest(name=name, inputs=inputs or {}, request={}, recipe_version=1, payloads=(), summary=summary)


def part(kind: type[AnyPart], counts: tuple[int, ...] = COUNTS) -> AnyPart:
    labels = tuple(label for label, count in zip(CLASSES, counts, strict=True) for _ in range(count))
    order = np.random.default_rng(0).permutation(len(labels))
    texts = tuple(f"{row:064x}" for row in range(len(labels)))
    return kind(
        manifest=manifest(ArtifactName("datasets", "d" * 32)),
        store=STORE,
        index_rows=tuple(range(len(labels))),
        sha256s=texts,
        class_names=tuple(labels[row] for row in order),
        groups=texts,
        name=PartName(ArtifactName("splits", "5" * 32), kind.part),
    )


def image_set(per_class: int, image_set_id: str = IMAGE_SET) -> SyntheticImages:
    labels = tuple(label for label in range(len(CLASSES)) for _ in range(per_class))
    return SyntheticImages(
        manifest=manifest(ArtifactName("image-sets", image_set_id)),
        store=STORE,
        index_rows=tuple(range(len(labels))),
        sha256s=tuple(f"{row:064x}" for row in range(len(labels))),
        classes=CLASSES,
        labels=labels,
    )


def grid_of(
    mode: str,
    ratios: typing.Sequence[float],
    synthetic_only: bool,
    controls: typing.Sequence[str],
    image_sets: typing.Sequence[str],
    seeds: int,
) -> list[TrialSpec]:
    settings = MixtureSettings(mode=mode, ratios=ratios, synthetic_only=synthetic_only, controls=controls)
    return expand_grid(settings, image_sets, seeds)


def appended(ratio: float, seed: int = 0) -> Mixture:
    return compose(MixtureSpec(APPEND, ratio, IMAGE_SET), part(TrainPart), image_set(60), seed)


def test_the_documentation_lists_every_kind() -> None:
    def asked_for(kind: MixtureKind) -> str:
        if kind.is_mode:
            return f"`mode`, ratios to {kind.largest_ratio:g}"
        return "`controls`" if kind.control else {SYNTHETIC_ONLY: "`synthetic_only`", REAL: "always"}[kind.name]

    rows = [f"| `{kind.name}` | {asked_for(kind)} | {kind.sentence} |" for kind in KINDS.values()]
    assert "\n".join(rows) in (SERVICES_FOLDER / "README.md").read_text()


def test_the_grid_of_the_paper() -> None:
    trials = grid_of(APPEND, [0, *RATIOS], True, [DUPLICATED_REAL], [IMAGE_SET], 3)
    labels = list(dict.fromkeys(trial.mixture.label for trial in trials))
    assert labels == [
        "real only",
        "real duplicated 10 %",
        "real duplicated 25 %",
        "real duplicated 50 %",
        "real duplicated 75 %",
        "append 10 %",
        "append 25 %",
        "append 50 %",
        "append 75 %",
        "synthetic only",
    ]
    assert len(trials) == len(set(trials)) == 30
    assert [trial.seed for trial in trials[:3]] == [0, 1, 2]


def test_real_only_is_always_there_and_shared_by_image_sets() -> None:
    trials = grid_of(APPEND, [0.5, 0.25], True, [DUPLICATED_REAL], [IMAGE_SET, OTHER_IMAGE_SET], 1)
    keys = [trial.mixture.key for trial in trials]
    assert keys == [
        "real",
        "duplicated_real-0.25",
        "duplicated_real-0.5",
        f"append-0.25-{IMAGE_SET}",
        f"append-0.5-{IMAGE_SET}",
        f"synthetic_only-{IMAGE_SET}",
        f"append-0.25-{OTHER_IMAGE_SET}",
        f"append-0.5-{OTHER_IMAGE_SET}",
        f"synthetic_only-{OTHER_IMAGE_SET}",
    ]
    assert [trial.mixture.kind for trial in grid_of(APPEND, [], False, [], [], 2)] == [REAL, REAL]
    assert grid_of(APPEND, [0], False, [], [], 2) == grid_of(APPEND, [], False, [], [], 2)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (
            {"ratios": [0, 0.1, -0.25]},
            "evaluation.mixtures.ratios[2]",
            "-0.25 is out of range; use a value between 0 and 10",
        ),
        ({"ratios": [float("nan")]}, "evaluation.mixtures.ratios[0]", "nan is out of range"),
        ({"ratios": [0.5, 11]}, "evaluation.mixtures.ratios[1]", "11.0 is out of range"),
        (
            {"controls": ["duplicated-real"]},
            "evaluation.mixtures.controls[0]",
            "did you mean 'duplicated_real'?",
        ),
        ({"image_sets": []}, "evaluation.image_sets", "name one or more, or ask for ratio 0 alone"),
        ({"image_sets": [], "ratios": []}, "evaluation.image_sets", "synthetic only"),
        (
            {"image_sets": [], "ratios": [], "synthetic_only": False, "controls": [RECONSTRUCTED_REAL]},
            "evaluation.image_sets",
            "reconstructed_real",
        ),
    ],
)
def test_bad_grids(changes: dict[str, typing.Any], field: str, words: str) -> None:
    grid: dict[str, typing.Any] = {
        "mode": APPEND,
        "ratios": [0.5],
        "synthetic_only": True,
        "controls": [],
        "image_sets": [IMAGE_SET],
        "seeds": 1,
    } | changes
    with pytest.raises(InvalidArgument) as caught:
        grid_of(**grid)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert words in caught.value.message


def test_every_fault_of_a_grid_is_named_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        grid_of(APPEND, [-1, 99], False, ["shuffled"], [IMAGE_SET], 1)
    assert [violation.field for violation in caught.value.violations] == [
        "evaluation.mixtures.ratios[0]",
        "evaluation.mixtures.ratios[1]",
        "evaluation.mixtures.controls[0]",
    ]


@pytest.mark.parametrize(
    ("kind", "ratio", "image_set_id", "mode"),
    [
        (REAL, 0.5, None, None),
        (REAL, 0.0, IMAGE_SET, None),
        (REAL, 0.0, None, APPEND),
        (APPEND, 0.0, IMAGE_SET, None),
        (APPEND, 0.5, None, None),
        (APPEND, 0.5, IMAGE_SET, APPEND),
        (SYNTHETIC_ONLY, 0.0, None, None),
        (DUPLICATED_REAL, 0.5, IMAGE_SET, APPEND),
        (DUPLICATED_REAL, 0.0, None, APPEND),
        (DUPLICATED_REAL, 0.5, None, None),
        (RECONSTRUCTED_REAL, 0.0, None, None),
    ],
)
def test_no_such_mixture(kind: str, ratio: float, image_set_id: str | None, mode: str | None) -> None:
    with pytest.raises(ValueError, match="no mixture is"):
        MixtureSpec(kind, ratio, image_set_id, mode)


@pytest.mark.parametrize("ratio", [0.03, *RATIOS, 1.0, 1.73])
def test_append_adds_a_share_of_every_class(ratio: float) -> None:
    mixture = compose(MixtureSpec(APPEND, ratio, IMAGE_SET), part(TrainPart), image_set(120), seed=0)
    assert mixture.real_rows.tolist() == list(range(sum(COUNTS)))
    assert len(mixture.synthetic_rows) == round(ratio * sum(COUNTS))
    assert len(set(mixture.synthetic_rows)) == len(mixture.synthetic_rows)
    added = np.bincount(mixture.labels[sum(COUNTS) :], minlength=3)
    assert np.abs(added - ratio * np.array(COUNTS)).max() < 1
    assert tuple(added) == MixtureSpec(APPEND, ratio, IMAGE_SET).taken(COUNTS).synthetic
    synthetic_labels = np.array(image_set(120).labels)[mixture.synthetic_rows]
    assert mixture.labels.tolist() == [*part(TrainPart).labels, *synthetic_labels]


def test_what_a_ratio_adds_is_among_what_the_next_adds() -> None:
    train, synthetic = part(TrainPart), image_set(60)
    smaller: set[int] = set()
    # Every total from 0 to 60, small steps: where largest remainders would take an image away from a class.
    for percent in range(1, 61):
        mixture = compose(MixtureSpec(APPEND, percent / 100, IMAGE_SET), train, synthetic, seed=0)
        larger = set(mixture.synthetic_rows.tolist())
        assert smaller < larger
        smaller = larger


def test_seeds_choose_the_images() -> None:
    assert appended(0.25, seed=1).synthetic_rows.tolist() == appended(0.25, seed=1).synthetic_rows.tolist()
    assert set(appended(0.25, seed=1).synthetic_rows) != set(appended(0.25, seed=2).synthetic_rows)


@pytest.mark.parametrize(
    ("ratios", "counts", "faults"),
    [
        # 0.01 of 12 images is 0.12 of one; half an image rounds to none, and one begins above 1 / 24.
        (
            [0, 0.01],
            (6, 6),
            {0.01: "adds no image to the 12 real ones of the train part; use at least 0.0417, which adds one"},
        ),
        ([0.001], (300, 200), {0.001: "use at least 0.00101, which adds one, or leave it out"}),
        (
            [0.1, 0.12],
            (5, 5),
            {0.12: "adds the same 1 of 10 images as ratio 0.1; leave one of them out, or use at least"},
        ),
        # In whatever order they are listed, the larger one is at fault.
        ([0.26, 0.5, 0.25], (60, 40), {}),
        ([0.252, 0.5, 0.25], (60, 40), {0.252: "adds the same 25 of 100 images as ratio 0.25"}),
        ([0.01, 0.02, 0.5], (6, 6), {0.01: "adds no image", 0.02: "adds no image"}),
        (
            [1.0, 1.04, 10.0],
            (6, 6),
            {1.04: "adds the same 12 of 12 images as ratio 1; leave one of them out, or use at least 1.05"},
        ),
        ([0, 0.1, 0.25, 0.5, 0.75], (53, 31, 16), {}),
    ],
)
def test_a_ratio_adds_images_that_no_other_adds(
    ratios: list[float], counts: tuple[int, ...], faults: dict[float, str]
) -> None:
    train = dict(zip(CLASSES, counts, strict=False))
    if not faults:
        check_ratios(APPEND, ratios, train, field="mixtures.ratios")
        return
    with pytest.raises(InvalidArgument) as caught:
        check_ratios(APPEND, ratios, train, field="mixtures.ratios")
    found = {item.field: item.description for item in caught.value.violations}
    assert set(found) == {f"mixtures.ratios[{ratios.index(ratio)}]" for ratio in faults}
    for ratio, words in faults.items():
        assert words in found[f"mixtures.ratios[{ratios.index(ratio)}]"]


@pytest.mark.parametrize(
    ("counts", "ratio", "without"),
    [
        ((90, 8, 2), 0.1, "'gamma'"),
        ((50, 50), 0.01, "'beta'"),
        ((90, 5, 5), 0.01, "'beta', 'gamma'"),
    ],
)
def test_a_ratio_that_leaves_a_class_out_is_warned_of(counts: tuple[int, ...], ratio: float, without: str) -> None:
    train = dict(zip(CLASSES, counts, strict=False))
    [warning] = check_ratios(APPEND, [0, ratio], train, field="mixtures.ratios")
    assert f"none of {without}; " in warning
    named = float(warning.partition("; ")[2].split()[0])
    assert all(MixtureSpec(APPEND, named, IMAGE_SET).taken(counts).synthetic)
    assert not all(MixtureSpec(APPEND, named - 0.01, IMAGE_SET).taken(counts).synthetic)
    assert check_ratios(APPEND, [named], train, field="mixtures.ratios") == []


def test_share_and_replace_take_what_their_sentences_say() -> None:
    train, synthetic = part(TrainPart), image_set(240)
    share = compose(MixtureSpec("share", 0.75, IMAGE_SET), train, synthetic, 0)
    assert share.real_rows.tolist() == list(range(100))
    assert len(share.synthetic_rows) == 300  # r N / (1 - r); a share of 0.75 of 400
    swapped = compose(MixtureSpec("replace", 0.25, IMAGE_SET), train, synthetic, 0)
    assert len(swapped) == 100 and len(swapped.synthetic_rows) == 25
    assert np.bincount(swapped.labels).tolist() == list(COUNTS)
    assert len(set(swapped.real_rows)) == 75 and swapped.real_rows.tolist() == sorted(swapped.real_rows)
    assert swapped.labels[:75].tolist() == np.array(train.labels)[swapped.real_rows].tolist()
    duplicated = compose(MixtureSpec(DUPLICATED_REAL, 0.75, mode="share"), train, None, 0)
    assert np.bincount(duplicated.labels).tolist() == np.bincount(share.labels).tolist()


def test_reconstructed_real_is_the_train_part_once_for_all_image_sets() -> None:
    trials = grid_of(APPEND, [0.5], False, [RECONSTRUCTED_REAL], [IMAGE_SET, OTHER_IMAGE_SET], 1)
    reconstructed = [trial.mixture for trial in trials if trial.mixture.kind == RECONSTRUCTED_REAL]
    assert reconstructed == [MixtureSpec(RECONSTRUCTED_REAL, image_set=IMAGE_SET)]
    mixture = compose(reconstructed[0], part(TrainPart), None, 0)
    assert mixture.real_rows.tolist() == list(range(100)) and len(mixture.synthetic_rows) == 0


def test_a_control_that_goes_with_a_mode_takes_nothing_by_itself() -> None:
    with pytest.raises(TypeError):
        taken_by(KINDS[DUPLICATED_REAL], 0.5, COUNTS)


def test_what_replace_keeps_is_among_what_a_smaller_ratio_keeps() -> None:
    kept = [
        set(compose(MixtureSpec("replace", ratio, IMAGE_SET), part(TrainPart), image_set(60), 3).real_rows.tolist())
        for ratio in (0.1, 0.25, 0.5, 1.0)
    ]
    assert kept[0] > kept[1] > kept[2] > kept[3] == set()


@pytest.mark.parametrize("mode", [mode for mode in MODES if not KINDS[mode].fills_up])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_every_mode_adds_more_by_a_larger_ratio_and_keeps_to_the_class_shares(mode: str, share: float) -> None:
    kind = KINDS[mode]
    ratio = share * kind.largest_ratio
    taken, less = taken_by(kind, ratio, COUNTS), taken_by(kind, 0.5 * ratio, COUNTS)
    assert all(more >= fewer for more, fewer in zip(taken.synthetic, less.synthetic, strict=True))
    total = sum(taken.synthetic)
    assert taken.synthetic == pytest.approx([count * total / 100 for count in COUNTS], abs=1)
    assert min(taken.real) >= 0 and taken.images == sum(taken.real) + total


def test_balance_fills_the_smaller_classes_up() -> None:
    train, synthetic = part(TrainPart), image_set(40)
    whole = compose(MixtureSpec(BALANCE, 1.0, IMAGE_SET), train, synthetic, seed=0)
    assert np.bincount(whole.labels).tolist() == [53, 53, 53]
    half = compose(MixtureSpec(BALANCE, 0.5, IMAGE_SET), train, synthetic, seed=0)
    assert np.bincount(half.labels).tolist() == [53, 31 + 11, 16 + 18]
    assert set(half.synthetic_rows) < set(whole.synthetic_rows)
    repeated = compose(MixtureSpec(DUPLICATED_REAL, 1.0, mode=BALANCE), train, None, seed=0)
    assert np.bincount(repeated.labels).tolist() == [53, 53, 53]
    labels = [trial.mixture.label for trial in grid_of(BALANCE, [0, 1.0], False, [DUPLICATED_REAL], [IMAGE_SET], 1)]
    assert labels == ["real only", "real duplicated 100 %", "balanced 100 %"]


def test_ratios_of_balance() -> None:
    train = dict(zip(CLASSES, COUNTS, strict=True))
    assert check_ratios(BALANCE, [0, 0.5, 1.0], train, field="mixtures.ratios") == []
    [warning] = check_ratios(BALANCE, [0.02], train, field="mixtures.ratios")  # of 37 it is 0.74 of one, of 22 0.44
    assert "and none of 'beta'; 0.0228 is the least ratio that adds one of each class" in warning
    for ratios, field, said in (
        ([0.01], "mixtures.ratios[0]", "use at least 0.0136, which adds one"),
        ([0.6, 0.601], "mixtures.ratios[1]", "adds the same 35 of 100 images as ratio 0.6"),
    ):
        with pytest.raises(InvalidArgument, match=re.escape(said)) as caught:
            check_ratios(BALANCE, ratios, train, field="mixtures.ratios")
        assert [item.field for item in caught.value.violations] == [field]
    with pytest.raises(
        InvalidArgument, match="and all have 9 train images; use another mode, such as append"
    ) as caught:
        check_ratios(BALANCE, [1.0], dict.fromkeys(CLASSES, 9), field="mixtures.ratios")
    assert caught.value.violations[0].field == "mixtures.mode"


@pytest.mark.parametrize(
    ("mode", "ratios", "filled", "synthetic_only"),
    [("", [], [], True), ("append", [0.5], [0.5], False), (BALANCE, [], [0, 1], False), (BALANCE, [0.5], [0.5], False)],
)
def test_a_mode_may_have_ratios_of_its_own(
    mode: str, ratios: list[float], filled: list[float], synthetic_only: bool
) -> None:
    mixtures = MixtureSettings(mode=mode or None, ratios=ratios)
    fill_left_out(mixtures)
    assert (list(mixtures.ratios), mixtures.synthetic_only) == (filled, synthetic_only)


def test_a_control_of_the_same_size_says_nothing_where_the_size_stays() -> None:
    with pytest.raises(InvalidArgument, match="is the same as real only where the mode is replace"):
        grid_of("replace", [0.5], False, [DUPLICATED_REAL], [IMAGE_SET], 1)
    with pytest.raises(InvalidArgument, match="use a value between 0 and 1"):
        grid_of("replace", [1.5], False, [], [IMAGE_SET], 1)
    trials = grid_of("share", [0.5], False, [DUPLICATED_REAL], [IMAGE_SET], 1)
    assert [trial.mixture.label for trial in trials] == ["real only", "real duplicated 50 %", "share 50 %"]


def test_a_ratio_that_cannot_be_larger_is_to_be_left_out() -> None:
    with pytest.raises(InvalidArgument, match=r"as ratio 0\.99; leave one of them out$") as caught:
        check_ratios("replace", [0.99, 1.0], {"alpha": 40}, field="ratios")
    assert caught.value.violations[0].field == "ratios[1]"


def test_synthetic_only_has_the_real_class_counts() -> None:
    mixture = compose(MixtureSpec(SYNTHETIC_ONLY, image_set=IMAGE_SET), part(TrainPart), image_set(60), seed=0)
    assert len(mixture.real_rows) == 0
    assert np.bincount(mixture.labels).tolist() == list(COUNTS)
    assert len(set(mixture.synthetic_rows)) == sum(COUNTS)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.5])
def test_duplicated_real_is_as_large_and_as_mixed_as_append(ratio: float) -> None:
    mixture = compose(MixtureSpec(DUPLICATED_REAL, ratio, mode=APPEND), part(TrainPart), None, seed=0)
    per_class = MixtureSpec(APPEND, ratio, IMAGE_SET).taken(COUNTS).synthetic
    assert np.bincount(mixture.labels).tolist() == (np.array(COUNTS) + per_class).tolist()
    assert len(mixture.synthetic_rows) == 0
    repeats = np.bincount(mixture.real_rows)
    assert {int(count) for count in repeats} <= {1 + int(ratio), 2 + int(ratio)}, "none twice before all have come once"
    assert mixture.labels.tolist() == np.array(part(TrainPart).labels)[mixture.real_rows].tolist()


def test_real_only_is_the_train_part() -> None:
    mixture = compose(MixtureSpec(REAL), part(TrainPart), None, seed=3)
    assert mixture.real_rows.tolist() == list(range(sum(COUNTS)))
    assert mixture.labels.tolist() == list(part(TrainPart).labels)
    assert MixtureSpec(REAL).taken(COUNTS).synthetic == (0, 0, 0)


def test_an_image_set_that_is_too_small_says_how_large_it_must_be() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        compose(MixtureSpec(APPEND, 0.75, IMAGE_SET), part(TrainPart), image_set(20), seed=0)
    assert caught.value.reason == "TOO_FEW_SYNTHETIC_IMAGES"
    assert "of 'alpha' (needs 40, has 20), 'beta' (needs 23, has 20); make a larger" in caught.value.message


def children(of_each: int, *, parents: int = 1) -> SyntheticImages:
    """An image set in which each train image has as many children; or each pair of neighbours of a class."""
    train = part(TrainPart)
    labels: list[int] = []
    sources: list[tuple[str, ...]] = []
    for label, name in enumerate(CLASSES):
        own = [sha256 for sha256, of_image in zip(train.sha256s, train.class_names, strict=True) if of_image == name]
        for number in range(of_each * len(own)):
            labels.append(label)
            sources.append(tuple(own[(number + behind) % len(own)] for behind in range(parents)))
    return dataclasses.replace(
        image_set(1),
        index_rows=tuple(range(len(labels))),
        sha256s=tuple(f"{row:064x}" for row in range(len(labels))),
        labels=tuple(labels),
        sources=tuple(sources),
    )


@pytest.mark.parametrize("parents", [1, 2])
def test_a_real_image_is_drawn_as_a_child_of_its_own(parents: int) -> None:
    train, synthetic = part(TrainPart), children(3, parents=parents)
    assert synthetic.sources is not None
    mixture = compose(MixtureSpec("sample_local", 0.25, IMAGE_SET), train, synthetic, 0)
    assert mixture.real_rows.tolist() == list(range(100)) and mixture.labels.tolist() == list(train.labels)
    assert mixture.drawn is not None and mixture.drawn.probability == 0.25
    for row, (first, count) in enumerate(zip(mixture.drawn.first, mixture.drawn.count, strict=True)):
        candidates = mixture.synthetic_rows[first : first + count]
        assert count == 3 * parents == len(set(candidates))
        assert all(train.sha256s[row] in synthetic.sources[candidate] for candidate in candidates)
    assert len(mixture.synthetic_rows) == 100 * 3 * parents


def test_a_real_image_is_drawn_as_any_of_its_class() -> None:
    train, synthetic = part(TrainPart), image_set(20)
    mixture = compose(MixtureSpec("sample_global", 1.0, IMAGE_SET), train, synthetic, 0)
    assert mixture.drawn is not None and len(mixture) == 100
    for row, (first, count) in enumerate(zip(mixture.drawn.first, mixture.drawn.count, strict=True)):
        candidates = mixture.synthetic_rows[first : first + count]
        assert {synthetic.labels[candidate] for candidate in candidates} == {train.labels[row]} and count == 20


def test_an_image_that_nothing_can_stand_for_is_refused() -> None:
    train, synthetic = part(TrainPart), children(1)
    fewer = dataclasses.replace(
        synthetic,
        index_rows=synthetic.index_rows[:90],
        sha256s=synthetic.sha256s[:90],
        labels=synthetic.labels[:90],
        sources=(synthetic.sources or ())[:90],
    )
    for images, without in ((fewer, 10), (image_set(20), 100)):
        with pytest.raises(FailedPrecondition, match=f"has no child of {without} of the 100 train images") as caught:
            compose(MixtureSpec("sample_local", 0.5, IMAGE_SET), train, images, 0)
        assert caught.value.reason == "TOO_FEW_SYNTHETIC_IMAGES" and "sample_global" in caught.value.message
    of_two = dataclasses.replace(image_set(20), labels=(0,) * 30 + (1,) * 30)
    with pytest.raises(FailedPrecondition, match="no image of the class of 16 of the 100 train images"):
        compose(MixtureSpec("sample_global", 0.5, IMAGE_SET), train, of_two, 0)


def of_any_class() -> SyntheticImages:
    """Sixty images of each class, of which each begins from the next class, half of them at a strength of 0.25."""
    images = image_set(60)
    others = tuple((label + 1) % 3 for label in images.labels)
    strengths = tuple(0.25 if row % 2 else 1.0 for row in range(len(images)))
    return dataclasses.replace(images, begun=BegunFrom(others, strengths))


@pytest.mark.parametrize("kind", [APPEND, "sample_global", SYNTHETIC_ONLY])
def test_labels_are_soft_where_images_begin_from_other_classes(kind: str) -> None:
    train, synthetic = part(TrainPart), of_any_class()
    ratio = 0.0 if kind == SYNTHETIC_ONLY else 0.5
    mixture = compose(MixtureSpec(kind, ratio, IMAGE_SET, soft_label_gamma=0.5), train, synthetic, 0)
    assert mixture.soft is not None and mixture.soft.class_count == 3
    for row, share, other in zip(mixture.synthetic_rows, mixture.soft.own_shares, mixture.soft.others, strict=True):
        assert other == (synthetic.labels[row] + 1) % 3
        assert share == pytest.approx(0.5 if row % 2 else 1.0)
    hard = compose(MixtureSpec(kind, ratio, IMAGE_SET), train, synthetic, 0)
    assert hard.soft is None and hard.synthetic_rows.tolist() == mixture.synthetic_rows.tolist()
    same_class = compose(MixtureSpec(kind, ratio, IMAGE_SET, soft_label_gamma=0.5), train, image_set(60), 0)
    assert same_class.soft is None, "there is nothing but their own class"


def test_only_mixtures_with_synthetic_images_have_soft_labels() -> None:
    settings = MixtureSettings(mode=APPEND, ratios=[0.5], synthetic_only=True, soft_label_gamma=0.5)
    gammas = {trial.mixture.kind: trial.mixture.soft_label_gamma for trial in expand_grid(settings, [IMAGE_SET], 1)}
    assert gammas == {REAL: None, APPEND: 0.5, SYNTHETIC_ONLY: 0.5}
    with pytest.raises(ValueError, match="no mixture is"):
        MixtureSpec(REAL, soft_label_gamma=0.5)


def test_soft_labels_are_part_of_a_trials_address_if_there_are_any() -> None:
    def request(gamma: float | None) -> dict[str, typing.Any]:
        mixture = MixtureSpec(APPEND, 0.5, IMAGE_SET, soft_label_gamma=gamma)
        parts = {"train": "1", "validation": "2", "test": "3"}
        return trial_request(parts, with_defaults(ClassifierSettings()), TrialSpec(mixture, 0))

    assert "soft_label_gamma" not in request(None)["mixture"]
    assert len({trial_name(request(gamma)) for gamma in (None, 0.5, 0.8)}) == 3


def test_what_a_drawing_mixture_needs_of_an_image_set() -> None:
    assert MixtureSpec("sample_local", 0.1, IMAGE_SET).needed(COUNTS) == COUNTS
    assert sum(MixtureSpec("sample_global", 0.1, IMAGE_SET).needed(COUNTS)) == 10
    assert (
        MixtureSpec(APPEND, 0.1, IMAGE_SET).needed(COUNTS)
        == MixtureSpec(APPEND, 0.1, IMAGE_SET).taken(COUNTS).synthetic
    )


@pytest.mark.parametrize("parents", [1, 2])
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_rule_5_no_child_of_a_real_image_that_is_left_out(ratio: float, parents: int) -> None:
    train, synthetic = part(TrainPart), children(6, parents=parents)
    assert synthetic.sources is not None
    mixtures = [compose(MixtureSpec("replace", ratio, IMAGE_SET), train, synthetic, seed) for seed in range(5)]
    for mixture in mixtures:
        kept = {train.sha256s[row] for row in mixture.real_rows}
        assert len(kept) < len(train)
        assert all(kept.issuperset(synthetic.sources[row]) for row in mixture.synthetic_rows)
        assert len(mixture) == len(train)
        assert len(set(mixture.synthetic_rows)) == len(mixture.synthetic_rows)
    without = dataclasses.replace(synthetic, sources=None)
    free = compose(MixtureSpec("replace", ratio, IMAGE_SET), train, without, 0)
    assert not {train.sha256s[row] for row in free.real_rows}.issuperset(
        sha256 for row in free.synthetic_rows for sha256 in synthetic.sources[row]
    ), "the children are those of images that are left out as well"


@pytest.mark.parametrize("mixture", [MixtureSpec(APPEND, 0.5, IMAGE_SET), MixtureSpec(SYNTHETIC_ONLY, 0, IMAGE_SET)])
def test_of_all_real_images_or_of_none_every_child_may_be_taken(mixture: MixtureSpec) -> None:
    train, synthetic = part(TrainPart), children(1)
    found = compose(mixture, train, synthetic, 3)
    without = compose(mixture, train, dataclasses.replace(synthetic, sources=None), 3)
    assert found.synthetic_rows.tolist() == without.synthetic_rows.tolist()


def test_too_few_children_of_what_is_kept_are_told_of() -> None:
    with pytest.raises(
        FailedPrecondition, match=r"too few children of the real images that replace 75 % keeps .*needs 40, has 1[34]"
    ) as raised:
        compose(MixtureSpec("replace", 0.75, IMAGE_SET), part(TrainPart), children(1), 0)
    assert raised.value.reason == "TOO_FEW_SYNTHETIC_IMAGES"
    assert compose(MixtureSpec("replace", 0.75, IMAGE_SET), part(TrainPart), children(4), 0)


def test_rule_4_a_mixture_takes_a_train_part_and_an_image_set_only() -> None:
    hints = typing.get_type_hints(compose)
    assert (hints["train"], hints["synthetic"]) == (TrainPart, SyntheticImages | None)
    mixture = MixtureSpec(APPEND, 0.5, IMAGE_SET)
    for train, synthetic in [
        (part(ValidationPart), image_set(60)),
        (part(TestPart), image_set(60)),
        (image_set(60), image_set(60)),
        (part(TrainPart), part(TrainPart)),
        (part(TrainPart), part(TestPart)),
    ]:
        with pytest.raises(TypeError, match="made of a train part and an image set"):
            compose(mixture, train, synthetic, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not made of"):
        compose(mixture, part(TrainPart), image_set(60, OTHER_IMAGE_SET), 0)
    with pytest.raises(ValueError, match="is not made of"):
        compose(mixture, part(TrainPart), None, 0)


def settings(**changes: typing.Any) -> ClassifierSettings:
    return with_defaults(ClassifierSettings(**changes))


def test_a_trial_is_addressed_by_what_shapes_it() -> None:
    parts = {"train": "1" * 32, "validation": "2" * 32, "test": "3" * 32}
    trial = TrialSpec(MixtureSpec(APPEND, 0.25, IMAGE_SET), 0)
    name = trial_name(trial_request(parts, settings(), trial))
    assert name == trial_name(trial_request(dict(reversed(parts.items())), settings(learning_rate=1e-3), trial))
    others = {
        trial_name(trial_request(parts | {"test": "4" * 32}, settings(), trial)),
        trial_name(trial_request(parts, settings(epochs=11), trial)),
        trial_name(trial_request(parts, settings(augmentation=False), trial)),
        trial_name(trial_request(parts, settings(), dataclasses.replace(trial, seed=1))),
        *(
            trial_name(trial_request(parts, settings(), TrialSpec(mixture, 0)))
            for mixture in (
                MixtureSpec(REAL),
                MixtureSpec(DUPLICATED_REAL, 0.25, mode=APPEND),
                MixtureSpec(APPEND, 0.5, IMAGE_SET),
                MixtureSpec(APPEND, 0.25, OTHER_IMAGE_SET),
                MixtureSpec(SYNTHETIC_ONLY, image_set=IMAGE_SET),
            )
        ),
    }
    assert len(others) == 9 and name not in others


def test_matched_steps_and_matched_epochs() -> None:
    assert steps_per_epoch(settings(batch_size=32), 100, 175) == 4
    assert steps_per_epoch(settings(batch_size=32, match="epochs"), 100, 175) == 6


def test_what_a_user_sets_is_no_default() -> None:
    assert settings(pretrained=False, augmentation=False).pretrained is False
    assert settings(pretrained=False, augmentation=False).augmentation is False
    assert settings().pretrained and settings().augmentation


def test_an_image_set_of_another_split_is_refused() -> None:
    store = MemoryObjectStore.created()
    write_manifest(store, manifest(ArtifactName("adapters", "e" * 32), {"train_split": "1" * 32}))
    images = manifest(ArtifactName("image-sets", IMAGE_SET), {"adapter": "e" * 32})
    check_generator(store, images, SPLIT, "1" * 32, field="evaluation.image_sets[0]")
    with pytest.raises(FailedPrecondition, match="may have seen this one's test images") as caught:
        check_generator(store, images, SPLIT, "2" * 32, field="evaluation.image_sets[0]")
    assert caught.value.violations[0].field == "evaluation.image_sets[0]"


def test_front_ends_get_by_without_torch() -> None:
    code = (
        "import sys, synthmix.classifier_evaluation.mixtures, synthmix.classifier_evaluation.trial_requests; "
        "from synthmix.classifier_evaluation.architectures import check_architecture; "
        "check_architecture('tf_efficientnet_b7', pretrained=True); "
        "sys.exit(bool({'torch', 'timm', 'sklearn', 'ray'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SERVICES_FOLDER)}, check=False).returncode
        == 0
    )
