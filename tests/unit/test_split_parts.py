"""Leakage rules 3 and 4: a generator gets a train part, and no synthetic image can be in a part."""

import dataclasses
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from image_archives import dataset, encoded, noise, picture, plates
from image_files import tiff
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.image_data import pixel_cache, split_parts
from synthmix.image_data.decoding import decode_image, to_square
from synthmix.image_data.image_table import ImageTableWriter
from synthmix.image_data.pixel_cache import pixels, some_pixels
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.image_data.split_parts import (
    DatasetRows,
    TestPart,
    TrainPart,
    ValidationPart,
    open_split,
    open_train_part,
    part_summary,
)
from synthmix.image_data.synthetic_images import SyntheticImages, open_image_set
from synthmix.service_kit.artifacts import Manifest, read_manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from synthmix.service_kit.resource_names import ArtifactName, PartName
from synthmix.study_control.split import create_split
from tampering import replace_manifest

SOME_ID = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore.created()


@pytest.fixture
def split(store: MemoryObjectStore, tmp_path: Path) -> ArtifactName:
    return create_split(store, dataset(store, tmp_path), SplitSettings(test=0.3, validation=0.2, seed=1))


def image_set(store: MemoryObjectStore, labels: tuple[str, ...] = ("alpha", "beta")) -> ArtifactName:
    name = ArtifactName("image-sets", SOME_ID)
    table = ImageTableWriter(store, name)
    for number, label in enumerate(labels):
        table.add(picture(1000 + number), label=label, prompt=f"a {label} cell", seed=1, index=number)
    write_manifest(store, Manifest(name=name, inputs={}, request={}, recipe_version=1, payloads=tuple(table.close())))
    return name


def test_parts_hold_the_dataset_and_share_nothing(store: MemoryObjectStore, split: ArtifactName) -> None:
    train, validation, test = open_split(store, str(split), field="split")
    assert [type(part) for part in (train, validation, test)] == [TrainPart, ValidationPart, TestPart]
    assert train.classes == validation.classes == test.classes == ("alpha", "beta")
    assert len(train) + len(validation) + len(test) == 24
    assert sorted(train.index_rows + validation.index_rows + test.index_rows) == list(range(24))
    for left, right in ((train, validation), (train, test), (validation, test)):
        assert not set(left.groups) & set(right.groups)
        assert not set(left.sha256s) & set(right.sha256s)
    assert train.white_levels == (255,)
    assert len(train.labels) == len(train.groups) == len(train.sha256s) == len(train) == len(list(train.images()))
    assert set(train.labels) == {0, 1}


def test_the_manifests_of_a_split_are_read_once_for_its_three_parts(
    store: MemoryObjectStore, split: ArtifactName, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[ArtifactName] = []

    def counted(store: MemoryObjectStore, name: ArtifactName) -> Manifest:
        read.append(name)
        return read_manifest(store, name)

    monkeypatch.setattr(split_parts, "read_manifest", counted)
    train, _, _ = open_split(store, str(split), field="split")
    assert read == [split, train.manifest.name]


def test_images_are_those_of_the_rows(store: MemoryObjectStore, split: ArtifactName) -> None:
    files = plates()
    _, _, test = open_split(store, str(split), field="split")
    expected = [files[path] for path in sorted(files)]
    assert list(test.images()) == [expected[row] for row in test.index_rows]


def test_digests_are_cheap_and_of_the_content(store: MemoryObjectStore, split: ArtifactName) -> None:
    train, validation, test = open_split(store, str(split), field="split")
    for part in (train, validation, test):
        assert part.digest == part_summary(read_manifest(store, part.name.split), part.name.part)["digest"]
    assert len({train.digest, validation.digest, test.digest}) == 3


def test_a_brighter_white_level_is_other_content(store: MemoryObjectStore, split: ArtifactName) -> None:
    train = open_train_part(store, f"{split}/parts/train", field="x")
    brighter = dataclasses.replace(train.manifest, summary=train.manifest.summary | {"white_level": 4095})
    assert dataclasses.replace(train, manifest=brighter).digest != train.digest


@pytest.mark.parametrize(
    "name",
    [
        f"datasets/{SOME_ID}",
        "datasets/mitocheck-six",
        f"splits/{SOME_ID}",
        f"splits/{SOME_ID}/parts/test",
        f"splits/{SOME_ID}/parts/validation",
    ],
)
def test_rule_3_only_a_train_part_reaches_a_generator(store: MemoryObjectStore, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_train_part(store, name, field="adapter.train_split")
    assert caught.value.reason == "TRAIN_SPLIT_REQUIRED"
    assert caught.value.violations[0].field == "adapter.train_split"
    assert name in caught.value.message
    assert "must not reach a generator; use splits/{id}/parts/train" in caught.value.message


@pytest.mark.parametrize(
    "name", ["", "train", f"adapters/{SOME_ID}", f"splits/{SOME_ID}/parts/training", "splits/x/parts/train"]
)
def test_other_names_are_no_parts(store: MemoryObjectStore, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_train_part(store, name, field="adapter.train_split")
    assert caught.value.reason == "INVALID_RESOURCE_NAME"


def test_a_missing_split_is_not_found(store: MemoryObjectStore) -> None:
    with pytest.raises(NotFound, match=f"splits/{SOME_ID} does not exist"):
        open_train_part(store, f"splits/{SOME_ID}/parts/train", field="x")


def test_the_train_part_opens(store: MemoryObjectStore, split: ArtifactName) -> None:
    part = open_train_part(store, f"{split}/parts/train", field="x")
    assert isinstance(part, TrainPart)
    assert part == open_split(store, str(split), field="x")[0]


def test_rule_4_no_part_can_hold_a_synthetic_image(store: MemoryObjectStore, split: ArtifactName) -> None:
    synthetic = open_image_set(store, str(image_set(store)), classes=("alpha", "beta"), field="image_set")
    assert not isinstance(synthetic, DatasetRows)
    row = (synthetic.manifest, store, (0,), synthetic.sha256s[:1], ("alpha",), ("g",))
    for kind, part in ((TrainPart, "train"), (ValidationPart, "validation"), (TestPart, "test")):
        with pytest.raises(TypeError, match="is not one of datasets"):
            kind(*row, PartName(split, part))
    with pytest.raises(TypeError, match="is not one of datasets"):
        DatasetRows(*row)


def test_rule_4_a_dataset_is_no_image_set(store: MemoryObjectStore, split: ArtifactName) -> None:
    real = open_train_part(store, f"{split}/parts/train", field="x")
    with pytest.raises(TypeError, match="is not one of image-sets"):
        SyntheticImages(real.manifest, store, real.index_rows, real.sha256s, real.classes, real.labels)
    with pytest.raises(InvalidArgument, match="image_set"):
        open_image_set(store, str(real.manifest.name), classes=("alpha", "beta"), field="image_set")


def test_parts_are_not_each_other(store: MemoryObjectStore, split: ArtifactName) -> None:
    train, validation, test = open_split(store, str(split), field="split")
    for part, others in (
        (train, (ValidationPart, TestPart)),
        (validation, (TrainPart, TestPart)),
        (test, (TrainPart, ValidationPart)),
    ):
        assert not isinstance(part, others)
    with pytest.raises(TypeError, match="is not a train part"):
        TrainPart(test.manifest, store, test.index_rows, test.sha256s, test.class_names, test.groups, test.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        test.index_rows = train.index_rows  # type: ignore[misc]


def test_a_split_whose_dataset_changed_is_refused(store: MemoryObjectStore, split: ArtifactName) -> None:
    manifest = read_manifest(store, split)
    manifest.summary["parts"]["test"]["digest"] = SOME_ID
    replace_manifest(store, manifest)
    with pytest.raises(DataLoss, match=r"parts/test is not what was split"):
        open_split(store, str(split), field="split")


def test_an_image_set_of_other_classes_is_refused(store: MemoryObjectStore) -> None:
    name = image_set(store, ("alpha", "gamma"))
    with pytest.raises(FailedPrecondition, match="holds class 'gamma', which the train part does not have"):
        open_image_set(store, str(name), classes=("alpha", "beta"), field="image_set")
    opened = open_image_set(store, str(name), classes=("gamma", "other", "alpha"), field="image_set")
    assert opened.labels == (2, 0)
    assert list(opened.images()) == [picture(1000), picture(1001)]


def test_pixels_are_decoded_once(
    store: MemoryObjectStore, split: ArtifactName, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_train_part(store, f"{split}/parts/train", field="x")
    decoded = pixels(store, train, 16)
    np.testing.assert_array_equal(some_pixels(store, train, [1, 3], 16), decoded[[1, 3]])
    assert decoded.shape == (len(train), 16, 16, 3)
    np.testing.assert_array_equal(decoded, [decode_image(data, white_level=255) for data in train.images()])
    assert not decoded.flags.writeable

    def again(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(pixel_cache, "_write", again)
    np.testing.assert_array_equal(pixels(store, train, 16), decoded)
    with pytest.raises(AssertionError, match="decoded again"):
        pixels(store, train, 8)  # another size is another file
    assert len(list((cache / "pixels").glob("*.npy"))) == 1


def test_synthetic_images_have_pixels_too(store: MemoryObjectStore) -> None:
    synthetic = open_image_set(store, str(image_set(store)), classes=("alpha", "beta"), field="image_set")
    assert pixels(store, synthetic, 8).shape == (2, 8, 8, 3)
    assert synthetic.digest != ""


def test_16_bit_pixels_are_scaled_by_the_white_level_of_the_dataset(store: MemoryObjectStore, tmp_path: Path) -> None:
    dark = {name: encoded(np.full((4, 4), 100 + number, dtype=np.uint16)) for number, name in enumerate(plates())}
    for plate in range(6):
        bright = np.full((4, 4), 4000 - plate, dtype=np.uint16)
        dark[f"alpha/plate-{plate}_bright.png"] = encoded(bright)
    manifest = dataset(store, tmp_path, dark)
    assert manifest.summary["white_level"] == 4095
    train = open_train_part(
        store,
        f"{create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=0))}/parts/train",
        field="x",
    )
    assert pixels(store, train, 4).max() == round(4000 * 255 / 4095)


def test_channels_that_are_chosen_are_what_parts_hold(store: MemoryObjectStore, tmp_path: Path) -> None:
    channels = {name: np.stack([noise(number), noise(100 + number)], axis=-1) for number, name in enumerate(plates())}
    files = {
        name.replace("png", "tif"): tiff(
            value.astype(np.uint16) * 16, photometric="minisblack", planarconfig="contig", metadata=None
        )
        for name, value in channels.items()
    }
    digests = set()
    for rule in (PixelRule((1,)), PixelRule((2,)), PixelRule((2, 1))):
        manifest = dataset(store, tmp_path, files, pixel_rule=rule)
        name = f"{create_split(store, manifest, SplitSettings(test=0.3, validation=0.2, seed=0))}/parts/train"
        train = open_train_part(store, name, field="x")
        digests.add(train.digest)
        taken = np.stack([channels[path.replace("tif", "png")] for path in _paths(store, train)])
        numbers = [number - 1 for number in (rule.channels * 3)[:3]] if len(rule.channels) == 1 else [1, 0]
        decoded = pixels(store, train, 16)
        assert train.white_levels == (4095,) * len(rule.channels)
        np.testing.assert_array_equal(
            decoded[..., : len(numbers)], (taken[..., numbers].astype(int) * 16 * 255 + 2047) // 4095
        )
        assert len(numbers) == 3 or not decoded[..., 2].any()
    assert len(digests) == 3


def _paths(store: MemoryObjectStore, part: TrainPart) -> list[str]:
    from synthmix.image_data.image_table import read_index

    paths = read_index(store, part.manifest, ["path"])["path"].to_pylist()
    return [paths[row] for row in part.index_rows]


def test_digests_of_parts_that_chose_nothing_stay(store: MemoryObjectStore, split: ArtifactName) -> None:
    """Adapters, image sets and classifiers are addressed by them."""
    train = open_train_part(store, f"{split}/parts/train", field="x")
    images = list(zip(train.sha256s, train.class_names, train.groups, strict=True))
    assert train.digest == digest_of({"white_level": 255, "images": images})


def test_one_process_decodes_while_the_others_wait(
    store: MemoryObjectStore, split: ArtifactName, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_train_part(store, f"{split}/parts/train", field="x")
    writes = []
    write = pixel_cache._write

    def counted(*arguments: object) -> None:
        writes.append(threading.get_ident())
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pixel_cache, "_write", counted)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(pixels(store, train, 16))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writes) == 1
    assert all(np.array_equal(result, results[0]) for result in results)
    assert len(results) == 6


def test_a_killed_writer_leaves_nothing_that_is_read(
    store: MemoryObjectStore, split: ArtifactName, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_train_part(store, f"{split}/parts/train", field="x")
    calls = []

    def dying(image: np.ndarray, size_px: int) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            os._exit(9)
        return to_square(image, size_px)

    with monkeypatch.context() as patched:
        patched.setattr(pixel_cache, "to_square", dying)
        process = multiprocessing.get_context("fork").Process(target=pixels, args=(store, train, 16))
        process.start()
        process.join(60)
    assert process.exitcode == 9
    assert len(list((cache / "writing").iterdir())) == 1
    assert not list((cache / "pixels").iterdir())
    assert pixels(store, train, 16).shape == (len(train), 16, 16, 3)
    assert not list((cache / "writing").iterdir())


def test_a_failed_writer_leaves_no_file(
    store: MemoryObjectStore, split: ArtifactName, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_train_part(store, f"{split}/parts/train", field="x")

    def full(file_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceExhausted, match=r"the disk of .* is full"):
        pixels(store, train, 16)
    assert not list((cache / "pixels").iterdir())
    assert not list((cache / "writing").iterdir())
