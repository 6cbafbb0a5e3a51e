"""Leakage rules 1 and 2: splits share no group, hold every class, meet shares, tell of near duplicates."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from image_archives import SIX, dataset, encoded, noise
from memory_object_store import MemoryObjectStore
from real_images import real_images
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.image_data.fingerprints import fingerprint
from synthmix.image_data.image_table import read_index
from synthmix.image_data.split_parts import open_split
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import PARTS
from synthmix.study_control.split import SplitTables, check_settings, create_split, make_split

pytestmark = pytest.mark.usefixtures("own_cache")

DATASET = "0123456789abcdef" * 2


def index_of(rows: list[tuple[str, str]]) -> pa.Table:
    """An index of (label, group), whose images all look different."""
    prints = np.random.default_rng(0)
    return pa.table(
        {
            "label": [label for label, _ in rows],
            "group": [group for _, group in rows],
            "path": [f"{label}/{group}/{row}.png" for row, (label, group) in enumerate(rows)],
            "perceptual_hash": pa.array(prints.integers(0, 2**63, len(rows)).astype(np.uint64)),
            "thumbnail": pa.array([prints.bytes(256) for _ in rows], pa.binary(256)),
        }
    )


def split_of(rows: list[tuple[str, str]], **changes: Any) -> SplitTables:
    settings = SplitSettings(**({"test": 0.25, "validation": 0.15, "seed": 7} | changes))
    return make_split(index_of(rows), settings, dataset_id=DATASET)


def uneven_plates(seed: int, groups: int = 40, images: int = 800, classes: int = 4) -> list[tuple[str, str]]:
    """Groups of very different sizes, in each of which some class prevails."""
    random = np.random.default_rng(seed)
    group_of = random.choice(groups, images, p=random.dirichlet(np.ones(groups)))
    likely = random.dirichlet(np.ones(classes), groups)
    return [(f"class-{random.choice(classes, p=likely[group])}", f"plate-{group}") for group in group_of]


@pytest.mark.parametrize("seed", range(8))
def test_rule_1_no_group_is_in_two_parts_and_every_class_in_each(seed: int) -> None:
    rows = uneven_plates(seed)
    tables = split_of(rows, seed=seed)
    assert sorted(sum((tables.rows[part] for part in PARTS), ())) == list(range(len(rows)))
    groups = [{rows[row][1] for row in tables.rows[part]} for part in PARTS]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    for part in PARTS:
        assert set(tables.class_counts[part]) == {label for label, _ in rows}


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_met_where_groups_allow(seed: int) -> None:
    rows = [(label, f"plate-{plate}") for plate in range(40) for label in ("alpha", "beta") for _ in range(5)]
    tables = split_of(rows, seed=seed)
    for part, share in zip(PARTS, (0.6, 0.15, 0.25), strict=True):
        for counts in tables.class_counts[part].values():
            assert abs(counts["images"] / 200 - share) <= 0.02
    assert tables.warnings == ()


def test_independent_images_are_split_exactly() -> None:
    tables = split_of([("alpha" if row % 4 else "beta", f"image-{row}") for row in range(2000)])
    assert {part: tables.class_counts[part]["beta"]["images"] for part in PARTS} == pytest.approx(
        {"train": 300, "validation": 75, "test": 125}, abs=2
    )


def test_the_same_request_gives_the_same_split_and_another_seed_another() -> None:
    rows = uneven_plates(1)
    assert split_of(rows) == split_of(rows)
    assert split_of(rows).rows == {part: tuple(sorted(rows)) for part, rows in split_of(rows).rows.items()}
    assert len({split_of(rows, seed=seed).rows["test"] for seed in range(6)}) == 6


def test_a_split_does_not_depend_on_the_order_of_images() -> None:
    rows = uneven_plates(1)
    there, back = split_of(rows), split_of(rows[::-1])
    for part in PARTS:
        assert {rows[row][1] for row in there.rows[part]} == {rows[::-1][row][1] for row in back.rows[part]}


def test_shares_that_groups_do_not_allow_are_a_warning() -> None:
    rows = [(label, f"plate-{plate}") for plate in range(3) for label in ("alpha", "beta") for _ in range(10)]
    tables = split_of(rows)
    assert len(tables.warnings) == 1
    assert "33% of alpha instead of 15% is in validation" in tables.warnings[0]
    assert "groups cannot be divided" in tables.warnings[0]


def test_a_class_in_too_few_groups_is_refused() -> None:
    rows = [("alpha", f"plate-{plate}") for plate in range(9)] + [("beta", f"plate-{plate}") for plate in (0, 1)]
    with pytest.raises(FailedPrecondition) as caught:
        split_of(rows)
    assert caught.value.reason == "CLASS_TOO_SMALL"
    assert "class 'beta' has 2 groups" in caught.value.message
    assert "import the dataset with more groups of it, or without it" in caught.value.message


def test_a_division_that_does_not_exist_is_refused() -> None:
    # Each class has three groups, but no three parts hold all of them: class c is in the groups a, b and c
    # share pairwise.
    rows = (
        [("one", group) for group in "abc"]
        + [("two", group) for group in "abd"]
        + [("three", group) for group in "acd"]
        + [("four", group) for group in "bcd"]
    )
    with pytest.raises(FailedPrecondition) as caught:
        split_of(rows)
    assert caught.value.reason == "SPLIT_IMPOSSIBLE"
    assert "has 3 groups, and no division of the 4 groups was found that gives" in caught.value.message


@pytest.mark.parametrize(
    ("test", "validation", "field"),
    [
        (0, 0.15, "split.settings.test"),
        (1, 0.15, "split.settings.test"),
        (float("nan"), 0.15, "split.settings.test"),
        (0.25, 0, "split.settings.validation"),
        (0.25, -0.1, "split.settings.validation"),
        (0.5, 0.5, "split.settings.test"),
        (0.9, 0.2, "split.settings.test"),
    ],
)
def test_shares_that_leave_a_part_empty_are_refused(test: float, validation: float, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_settings(SplitSettings(test=test, validation=validation))
    assert caught.value.violations[0].field == field
    assert caught.value.reason == "OUT_OF_RANGE"


def cells(count: int) -> list[bytes]:
    smooth = [Image.fromarray(noise(seed, 8, 8)).resize((64, 64), Image.Resampling.BICUBIC) for seed in range(count)]
    return [encoded(image) for image in smooth]


def test_rule_2_near_duplicates_across_parts_are_reported(store: MemoryObjectStore, tmp_path: Path) -> None:
    images = cells(24)
    files = {f"{label}/plate-{row % 12}_{row}.png": images[row] for row, label in enumerate(["alpha", "beta"] * 12)}
    # The picture of the first plate, saved again for every other one.
    original = Image.fromarray(noise(0, 8, 8)).resize((64, 64), Image.Resampling.BICUBIC)
    files |= {f"alpha/plate-{plate}_again.jpg": encoded(original, "JPEG", quality=60 + plate) for plate in range(1, 12)}
    manifest = dataset(store, tmp_path, files)
    split = read_manifest(store, create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=1)))
    index = read_index(store, manifest)
    again = [
        row for row, path in enumerate(index["path"].to_pylist()) if "again" in path or path == "alpha/plate-0_0.png"
    ]
    counts = [len(set(again) & set(part.index_rows)) for part in open_split(store, str(split.name), field="split")]
    pairs = counts[0] * counts[1] + counts[0] * counts[2] + counts[1] * counts[2]
    warning = split.summary["warnings"][-1]
    assert warning.startswith(f"{pairs} pairs of images in different parts are near duplicates")
    assert warning.count(" and alpha/plate-") == 10
    assert warning.endswith("; ...")


def test_pictures_that_only_look_a_little_alike_are_not_reported() -> None:
    index = index_of([("alpha" if row % 2 else "beta", f"plate-{row % 12}") for row in range(200)])
    pictures = [fingerprint(noise(row, 8, 8)) for row in range(200)]
    index = index.set_column(3, "perceptual_hash", pa.array([item.perceptual_hash for item in pictures], pa.uint64()))
    index = index.set_column(4, "thumbnail", pa.array([item.thumbnail for item in pictures], pa.binary(256)))
    tables = make_split(index, SplitSettings(test=0.25, validation=0.15, seed=1), dataset_id=DATASET)
    assert not [warning for warning in tables.warnings if "near duplicates" in warning]


def test_a_split_is_stored_once_under_the_name_of_its_request(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dataset(store, tmp_path)
    name = create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=1))
    assert name != create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=2))
    stored = read_manifest(store, name)
    assert [payload.name for payload in stored.payloads] == [
        "train.parquet",
        "validation.parquet",
        "test.parquet",
    ]
    assert stored.inputs == {"dataset": manifest.name.id}
    assert sum(part["image_count"] for part in stored.summary["parts"].values()) == 24

    def put(*arguments: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(store, "put_bytes", put)
    assert create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=1)) == name


@pytest.mark.parametrize(
    ("folder", "classes", "pattern"),
    [("mitocheck", SIX, r"(?P<group>[^/]+?)___"), ("hek_ht1080", [], r"(?P<group>(293A|HT1080)-\d{6})")],
)
def test_real_microscopy_splits_evenly(
    store: MemoryObjectStore, tmp_path: Path, folder: str, classes: list[str], pattern: str
) -> None:
    source = real_images(folder)
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    manifest = dataset(store, tmp_path, files, classes=classes, group_rule=datasets_pb2.GroupRule(pattern=pattern))
    split = read_manifest(store, create_split(store, manifest, SplitSettings(test=0.25, validation=0.15, seed=7)))
    assert split.summary["warnings"] == []
    for part, share in zip(PARTS, (0.6, 0.15, 0.25), strict=True):
        for label, counts in split.summary["parts"][part]["class_counts"].items():
            assert abs(counts["images"] / manifest.summary["class_counts"][label]["images"] - share) <= 0.02
    train, validation, test = open_split(store, str(split.name), field="split")
    assert not set(train.groups) & set(test.groups) | set(train.groups) & set(validation.groups)
