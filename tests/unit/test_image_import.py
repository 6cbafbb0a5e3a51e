"""Uploads: what becomes a dataset, and what is refused, with the reason and nothing written."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_archives import BY_PLATE, SIX, dataset, encoded, imported, noise, picture, plates, zipped
from image_files import tiff
from memory_object_store import FailingObjectStore, MemoryObjectStore
from real_images import real_images
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.image_table import read_images, read_index
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.image_data.sources.archive import ArchiveLimits
from synthmix.service_kit.artifacts import list_artifacts, read_manifest
from synthmix.service_kit.digests import digest_of, sha256_of
from synthmix.service_kit.errors import InvalidArgument, Unavailable
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import DATASETS, ArtifactName
from synthmix.study_control.datasets import dataset_message, import_request
from synthmix.study_control.image_import import import_operation, importer

pytestmark = pytest.mark.usefixtures("own_cache")

BY_COLUMN = datasets_pb2.GroupRule(column="plate")


def refused(store: MemoryObjectStore, archive: Path, **changes: Any) -> InvalidArgument:
    """The error of an import, after which nothing is in the store."""
    with pytest.raises(InvalidArgument) as caught:
        imported(store, archive, **changes)
    assert store.keys == []
    assert caught.value.reason != "INTERNAL"
    assert caught.value.violations
    return caught.value


# What becomes a dataset


def test_class_folders_become_a_dataset(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = plates()
    steps: list[tuple[int, int]] = []
    manifest = dataset(store, tmp_path, files, progress=lambda done, total: steps.append((done, total)))
    assert manifest.summary == {
        "image_count": 24,
        "group_count": 6,
        "white_level": 255,
        "simulated": False,
        "warnings": [],
        "left_out": [],
        "layout_doubt": "",
        "has_manifest": False,
        "class_counts": {"alpha": {"images": 12, "groups": 6}, "beta": {"images": 12, "groups": 6}},
        "group_rule": {"pattern": r"(?P<group>plate-\d+)"},
    }
    index = read_index(store, manifest)
    assert index["path"].to_pylist() == sorted(files)
    assert index["label"].to_pylist() == ["alpha"] * 12 + ["beta"] * 12
    assert index["group"].to_pylist() == [path.split("/")[1].split("_")[0] for path in sorted(files)]
    assert index["sha256"].to_pylist() == [sha256_of([files[path]]) for path in sorted(files)]
    assert set(index["width_px"].to_pylist()) == set(index["height_px"].to_pylist()) == {16}
    assert [data for _, data in read_images(store, manifest, range(24))] == [files[path] for path in sorted(files)]
    assert steps == [(done, 48) for done in range(1, 49)]


def test_the_same_images_are_the_same_dataset_written_once(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = plates()
    first = imported(store, zipped(tmp_path / "a.zip", files))
    backwards = zipped(
        tmp_path / "b.zip", {f"top/{name}": files[name] for name in reversed(files)}, zipfile.ZIP_DEFLATED
    )

    def put(*arguments: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(store, "put_bytes", put)
    assert imported(store, backwards) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {"files": files | {"alpha/plate-0_9.png": picture(99)}},
        lambda files: {"files": {name.replace("alpha", "gamma"): data for name, data in files.items()}},
        lambda files: {"files": files, "simulated": True},
        lambda files: {"files": files, "group_rule": datasets_pb2.GroupRule(pattern=r"plate-(?P<group>\d+)")},
    ],
)
def test_any_difference_is_another_dataset(
    store: MemoryObjectStore, tmp_path: Path, change: Callable[..., dict[str, Any]]
) -> None:
    changes = change(plates())
    other = dataset(store, tmp_path, **changes)
    assert other.name != dataset(MemoryObjectStore.created(), tmp_path).name


def test_payloads_are_the_same_bytes_each_time(store: MemoryObjectStore, tmp_path: Path) -> None:
    assert dataset(store, tmp_path).payloads == dataset(MemoryObjectStore.created(), tmp_path).payloads


def test_other_files_are_ignored_and_counted(store: MemoryObjectStore, tmp_path: Path) -> None:
    extra = {
        "LICENSE": b"MIT",
        "README.md": b"#",
        "notes.txt": b"",
        "alpha/counts.csv": b"1",
        "__MACOSX/alpha/._plate-0_0.png": b"x",
        ".DS_Store": b"x",
        "alpha/Thumbs.db": b"x",
        ".hidden/plate-1_x.png": b"x",
        "alpha/._plate-0_0.png": b"x",
    }
    manifest = dataset(store, tmp_path, plates() | extra)
    assert manifest.summary["image_count"] == 24
    assert [(row["folder"], row["reason"], row["count"]) for row in manifest.summary["left_out"]] == [
        ("", "NOT_AN_IMAGE", 3),
        ("", "SYSTEM_FILE", 1),
        (".hidden", "SYSTEM_FILE", 1),
        ("__MACOSX", "SYSTEM_FILE", 1),
        ("alpha", "NOT_AN_IMAGE", 1),
        ("alpha", "SYSTEM_FILE", 2),
    ]
    assert manifest.summary["left_out"][0]["examples"] == ["LICENSE", "README.md", "notes.txt"]
    assert manifest.summary["warnings"] == []


@pytest.mark.parametrize("top", ["", "my images/", "./"])
def test_one_common_top_folder_is_not_a_class(store: MemoryObjectStore, tmp_path: Path, top: str) -> None:
    files = {top + name: data for name, data in plates().items()} | {"LICENSE": b"MIT"}
    manifest = dataset(store, tmp_path, files)
    assert sorted(manifest.summary["class_counts"]) == ["alpha", "beta"]
    assert read_index(store, manifest)["path"][0].as_py() == "alpha/plate-0_0.png"


def test_images_may_lie_deeper(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = {name.replace("_", "/run/"): data for name, data in plates().items()}
    assert dataset(store, tmp_path, files).summary["group_count"] == 6


def test_classes_are_chosen(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = plates(("alpha", "beta", "gamma")) | {"gamma/plate-0_bad.png": b"not an image"}
    manifest = dataset(store, tmp_path, files, classes=["beta", "alpha"])
    assert sorted(manifest.summary["class_counts"]) == ["alpha", "beta"]
    assert imported(store, zipped(tmp_path / "two.zip", plates())) == manifest.name, "the images are the same"


def test_backslashes_and_decomposed_accents_are_read(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = {name.replace("alpha", "Zu\u0308rich").replace("/", "\\"): data for name, data in plates().items()}
    assert sorted(dataset(store, tmp_path, files).summary["class_counts"]) == ["Z\u00fcrich", "beta"]


def test_every_kind_of_image_is_taken(store: MemoryObjectStore, tmp_path: Path) -> None:
    grey, colour = (16, 16), (20, 12, 3)
    kinds: list[tuple[str, str, tuple[int, ...]]] = [
        ("PNG", "png", grey),
        ("JPEG", "JPG", grey),
        ("TIFF", "tif", grey),
        ("BMP", "bmp", grey),
    ]
    kinds += [("WEBP", "webp", colour), ("PNG", "PNG", colour)]
    files = {
        f"{label}/plate-{plate}.{suffix}": encoded(noise(10 * plate + number, *shape), image_format)
        for number, label in enumerate(("alpha", "beta"))
        for plate, (image_format, suffix, shape) in enumerate(kinds)
    }
    index = read_index(store, dataset(store, tmp_path, files))
    assert set(index["mode"].to_pylist()) == {"L", "RGB"}


def test_16_bit_images_get_a_white_level(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = {name: encoded(noise(number).astype(np.uint16) * 10) for number, name in enumerate(plates())}
    assert dataset(store, tmp_path, files).summary["white_level"] == 4095
    mixed = files | {"alpha/plate-0_8bit.png": picture(7)}
    assert dataset(store, tmp_path, mixed).summary["warnings"] == [
        "8-bit and 16-bit images are mixed: a classifier may tell them apart by brightness alone"
    ]


def test_a_hot_pixel_does_not_make_all_other_images_dark(store: MemoryObjectStore, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = {name: random.integers(100, 356, (32, 32)).astype(np.uint16) for name in plates()}
    quiet = dataset(store, tmp_path, {name: encoded(image) for name, image in images.items()})
    assert (quiet.summary["white_level"], quiet.summary["warnings"]) == (511, [])
    images["beta/plate-3_1.png"][4, 5] = 65535
    hot = dataset(store, tmp_path, {name: encoded(image) for name, image in images.items()})
    assert 355 <= hot.summary["white_level"] <= 710
    assert hot.summary["white_levels"] == [hot.summary["white_level"]]
    [warning] = hot.summary["warnings"]
    assert "values reach 65,535: of 24,576 pixels, 1 (0.0041 %) are brighter and become white, and 0 of 24" in warning
    wide = {name: encoded(image) for name, image in images.items()}
    wanted = dataset(store, tmp_path, wide, white_level=300)
    assert wanted.summary["white_level"] == 300
    assert len({quiet.name, hot.name, wanted.name}) == 3


def test_channels_and_planes_are_part_of_a_dataset_only_if_they_were_chosen(
    store: MemoryObjectStore, tmp_path: Path
) -> None:
    colour = {name: encoded(noise(number, 16, 16, 3)) for number, name in enumerate(plates())}
    rules = (PixelRule(), PixelRule((2,)), PixelRule((3, 1)), PixelRule((2,), 1))
    manifests = [dataset(store, tmp_path, colour, pixel_rule=rule) for rule in rules]
    assert len({manifest.name for manifest in manifests}) == 4
    assert [manifest.summary.get("pixels") for manifest in manifests] == [
        None,
        {"channels": [2]},
        {"channels": [3, 1]},
        {"channels": [2], "plane": 1},
    ]
    assert set(manifests[0].request) == {"images", "group_rule", "simulated", "recipe_version", "decoder_version"}
    modes = [set(read_index(store, manifest)["mode"].to_pylist()) for manifest in manifests]
    assert modes[0] == {"RGB"}


def test_a_channel_that_an_image_has_not_names_the_image(store: MemoryObjectStore, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "images.zip", plates() | {"alpha/plate-1_5.png": encoded(noise(90, 16, 16, 3))})
    error = refused(store, archive, pixel_rule=PixelRule((2,)))
    assert "alpha/plate-0_0.png has 1 channel, and no channel 2; choose others by --channel" in error.message
    assert "plate-1_5" not in error.message
    stacks = plates() | {"beta/plate-2_3.tif": tiff(noise(91, 5, 8, 8))}
    error = refused(store, zipped(tmp_path / "stacks.zip", stacks))
    assert "beta/plate-2_3.tif is a TIFF of 5 pages; choose one by --plane" in error.message


def test_planes_are_chosen(store: MemoryObjectStore, tmp_path: Path) -> None:
    stacks = {
        f"{label}/plate-{plate}.tif": tiff(noise(10 * plate + number, 3, 8, 8), metadata=None, photometric="minisblack")
        for number, label in enumerate("ab")
        for plate in range(3)
    }
    manifest = dataset(store, tmp_path, stacks, pixel_rule=PixelRule(plane=3))
    assert manifest.summary["image_count"] == 6
    assert manifest.summary["pixels"] == {"plane": 3}


def request(**pixels: Any) -> datasets_pb2.CreateDatasetRequest:
    dataset_ = datasets_pb2.Dataset(
        display_name="cells", group_rule=BY_PLATE, pixels=datasets_pb2.PixelRule(**pixels) if pixels else None
    )
    return datasets_pb2.CreateDatasetRequest(dataset=dataset_, upload=f"uploads/{'0' * 64}")


def test_what_is_chosen_of_pixels_is_part_of_the_request() -> None:
    assert "pixels" not in import_request(request(), LOCAL)
    assert import_request(request(channels=[2, 1], plane=3, white_level=900), LOCAL)["pixels"] == {
        "channels": [2, 1],
        "plane": 3,
        "white_level": 900,
    }


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        ({"channels": [1, 2, 3, 4]}, "dataset.pixels.channels: [1, 2, 3, 4] is not one to three different channels"),
        ({"channels": [1, 1]}, "dataset.pixels.channels: [1, 1] is not one to three different channels"),
        ({"channels": [0]}, "dataset.pixels.channels[0]: 0 is out of range"),
        ({"channels": [1, -2]}, "dataset.pixels.channels[1]: -2 is out of range"),
        ({"channels": [2**31 - 1]}, "dataset.pixels.channels[0]: 2147483647 is out of range"),
        ({"plane": -1}, "dataset.pixels.plane: -1 is out of range"),
        ({"white_level": -1}, "dataset.pixels.white_level: -1 is out of range"),
        ({"white_level": 65536}, "dataset.pixels.white_level: 65536 is out of range; use a value between 0 and 65535"),
    ],
)
def test_what_no_image_can_have_is_refused_at_once(pixels: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        import_request(request(**pixels), LOCAL)
    assert words in caught.value.message


def test_the_worker_takes_what_the_request_chose(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour = {name: encoded(noise(number, 16, 16, 3)) for number, name in enumerate(plates())}
    packed = zipped(tmp_path / "images.zip", colour).read_bytes()
    upload = sha256_of([packed])
    store.put_bytes(f"uploads/{upload}", packed)
    monkeypatch.setattr(import_operation, "open_object_store", lambda: store)
    imported = import_operation.import_upload(
        import_request(request(channels=[3, 1]), LOCAL) | {"upload": upload},
        accept_layout=False,
        report=lambda done, total: None,
        threads=1,
    )
    manifest = read_manifest(store, ArtifactName.parse(imported["name"], field="name"))
    assert manifest.summary["pixels"] == {"channels": [3, 1]}


def test_a_dataset_says_what_was_taken_and_what_is_white(store: MemoryObjectStore, tmp_path: Path) -> None:
    deep = {
        name.replace("png", "tif"): tiff(noise(number, 16, 16, 2).astype(np.uint16) * 16, planarconfig="contig")
        for number, name in enumerate(plates())
    }
    message = dataset_message(store, dataset(store, tmp_path, deep, pixel_rule=PixelRule((2, 1))), {}, owner=LOCAL)
    assert (list(message.pixels.channels), message.pixels.plane) == ([2, 1], 0)
    assert list(message.white_levels) == [4095, 4095]
    eight_bits = dataset_message(store, dataset(store, tmp_path), {}, owner=LOCAL)
    assert not eight_bits.HasField("pixels")
    assert not eight_bits.white_levels


def manifest_files(rows: list[str], name: str = "manifest.csv") -> dict[str, bytes]:
    """Images in one flat folder, and a manifest that labels them."""
    images = {f"images/{number}.png": picture(number) for number in range(24)}
    return {name: "\n".join(["path,label,plate,remark", *rows]).encode("utf-8-sig")} | images


ROWS = [f"images/{number}.png,{'alpha' if number % 2 else 'beta'},p{number // 4},ok" for number in range(24)]


def test_a_csv_manifest_labels_and_groups(store: MemoryObjectStore, tmp_path: Path) -> None:
    manifest = dataset(store, tmp_path, manifest_files(ROWS), group_rule=BY_COLUMN)
    assert manifest.summary["class_counts"] == {
        "alpha": {"images": 12, "groups": 6},
        "beta": {"images": 12, "groups": 6},
    }
    assert manifest.summary["warnings"] == []
    below = {f"top/{name}": data for name, data in manifest_files(ROWS).items()}
    assert imported(store, zipped(tmp_path / "below.zip", below), group_rule=BY_COLUMN) == manifest.name


def test_a_parquet_manifest_is_the_same_dataset(store: MemoryObjectStore, tmp_path: Path) -> None:
    columns = list(zip(*(row.split(",") for row in ROWS), strict=True))
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"plate": [int(value[1:]) for value in columns[2]], "label": columns[1], "path": columns[0]}),
        sink,
    )
    files = {name: data for name, data in manifest_files(ROWS).items() if name != "manifest.csv"}
    manifest = dataset(store, tmp_path, files | {"manifest.parquet": sink.getvalue()}, group_rule=BY_COLUMN)
    assert manifest.summary["class_counts"] == {
        "alpha": {"images": 12, "groups": 6},
        "beta": {"images": 12, "groups": 6},
    }


def test_images_that_no_row_names_are_ignored(store: MemoryObjectStore, tmp_path: Path) -> None:
    manifest = dataset(store, tmp_path, manifest_files(ROWS[:20]), group_rule=BY_COLUMN)
    assert manifest.summary["image_count"] == 20
    [row] = manifest.summary["left_out"]
    assert (row["folder"], row["reason"], row["count"]) == ("images", "NOT_IN_MANIFEST", 4)
    assert row["examples"][0] == "images/20.png"


def test_a_manifest_may_use_a_pattern(store: MemoryObjectStore, tmp_path: Path) -> None:
    rule = datasets_pb2.GroupRule(pattern=r"/(?P<group>\d+)\.png")
    assert dataset(store, tmp_path, manifest_files(ROWS), group_rule=rule).summary["group_count"] == 24


def test_without_groups_each_image_is_one_and_a_warning_says_so(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = plates() | {"alpha/plate-1_copy.png": plates()["alpha/plate-0_0.png"]}
    manifest = dataset(store, tmp_path, files, group_rule=datasets_pb2.GroupRule(none=True))
    assert manifest.summary["group_count"] == 24
    assert manifest.summary["warnings"][0].startswith("group: none was stated")
    [row] = manifest.summary["left_out"]
    assert (row["folder"], row["reason"], row["examples"]) == ("alpha", "DUPLICATE", ["alpha/plate-1_copy.png"])


def test_copies_in_one_class_and_group_are_dropped_with_a_warning(store: MemoryObjectStore, tmp_path: Path) -> None:
    copies = {f"alpha/plate-0_copy{number}.png": plates()["alpha/plate-0_0.png"] for number in range(5)}
    manifest = dataset(store, tmp_path, plates() | copies)
    assert manifest.summary["image_count"] == 24
    [row] = manifest.summary["left_out"]
    assert (row["folder"], row["reason"], row["count"]) == ("alpha", "DUPLICATE", 5)
    assert row["examples"] == [f"alpha/plate-0_copy{number}.png" for number in range(3)]


def test_a_simulated_dataset_says_so(store: MemoryObjectStore, tmp_path: Path) -> None:
    assert dataset(store, tmp_path, simulated=True).summary["simulated"] is True


# What is refused: archives


def with_attribute(mode: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in plates().items():
            archive.writestr(name, data)
        special = zipfile.ZipInfo("alpha/plate-0_special.png")
        special.external_attr = mode << 16
        archive.writestr(special, "/etc/passwd")
    return file.getvalue()


def with_flag() -> bytes:
    """An archive whose first entry says that it is encrypted."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in plates().items():
            archive.writestr(name, data)
    flagged = bytearray(file.getvalue())
    struct.pack_into("<H", flagged, flagged.index(b"PK\x01\x02") + 8, 1)
    return bytes(flagged)


def whole(extra: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in (plates() | (extra or {})).items():
            archive.writestr(name, data)
    return file.getvalue()


def with_a_damaged_manifest() -> bytes:
    data = bytearray(whole({"manifest.csv": b"path,label\n"}))
    data[data.index(b"path,label")] ^= 0xFF
    return bytes(data)


def with_a_changed_byte() -> bytes:
    """An archive in which a stored image is not what its CRC says."""
    data = bytearray(whole())
    data[data.index(plates()["alpha/plate-2_1.png"]) + 100] ^= 0xFF
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def with_a_name_twice() -> bytes:
    file = io.BytesIO(whole())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("alpha/plate-0_0.png", picture(50))
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "reason", "problem"),
    [
        (lambda: b"", "ARCHIVE_UNREADABLE", "is not a whole ZIP archive"),
        (lambda: b"hello" * 1000, "ARCHIVE_UNREADABLE", "is not a whole ZIP archive"),
        (lambda: whole()[:-1000], "ARCHIVE_UNREADABLE", "it may be truncated: pack and upload it again"),
        (lambda: whole()[1000:], "ARCHIVE_UNREADABLE", "is not a whole ZIP archive"),
        (with_a_damaged_manifest, "ARCHIVE_DAMAGED", "'manifest.csv' is damaged in the archive"),
        (with_a_changed_byte, "IMAGE_UNREADABLE", "alpha/plate-2_1.png is damaged in the archive"),
        (
            lambda: whole({"../evil.png": picture(9)}),
            "ARCHIVE_UNSAFE",
            "../evil.png leads out of the archive",
        ),
        (lambda: whole({"alpha/../../evil.png": picture(9)}), "ARCHIVE_UNSAFE", "leads out of the archive"),
        (
            lambda: whole({"..\\evil.png": picture(9)}),
            "ARCHIVE_UNSAFE",
            "../evil.png leads out of the archive",
        ),
        (
            lambda: whole({"/etc/evil.png": picture(9)}),
            "ARCHIVE_UNSAFE",
            "/etc/evil.png is an absolute path",
        ),
        (lambda: whole({"C:\\evil.png": picture(9)}), "ARCHIVE_UNSAFE", "C:/evil.png is an absolute path"),
        (
            lambda: whole({f"alpha/{'x' * 600}.png": picture(9)}),
            "ARCHIVE_UNSAFE",
            "is longer than 512 characters",
        ),
        (lambda: with_attribute(0o120777), "ARCHIVE_UNSAFE", "alpha/plate-0_special.png is a symbolic link"),
        (lambda: with_attribute(0o010644), "ARCHIVE_UNSAFE", "alpha/plate-0_special.png is a special file"),
        (with_flag, "ARCHIVE_UNSAFE", "alpha/plate-0_0.png is encrypted"),
        (with_a_name_twice, "ARCHIVE_UNSAFE", "alpha/plate-0_0.png is there twice"),
        (lambda: whole({}, zipfile.ZIP_LZMA), "ARCHIVE_UNSAFE", "compressed by a method other than deflate"),
        (
            lambda: whole({"alpha/plate-0_bomb.png": bytes(200 * 2**20)}, zipfile.ZIP_DEFLATED),
            "ARCHIVE_TOO_LARGE",
            "more than 200 times its own size, as a decompression bomb would",
        ),
    ],
)
def test_archives_that_are_refused(
    store: MemoryObjectStore, tmp_path: Path, make: Callable[[], bytes], reason: str, problem: str
) -> None:
    archive = tmp_path / "images.zip"
    archive.write_bytes(make())
    error = refused(store, archive)
    assert (error.reason, error.violations[0].field) == (reason, "upload")
    assert problem in error.message


def test_an_archive_with_a_file_beyond_the_limit_is_refused(store: MemoryObjectStore, tmp_path: Path) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", plates()), limits=ArchiveLimits(entry_bytes=100))
    assert error.reason == "ARCHIVE_TOO_LARGE"
    assert "is a file of more than 100 B" in error.message
    assert "import fewer or smaller images at a time" in error.message


def test_a_bomb_is_refused_before_anything_is_decompressed(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(
        tmp_path / "images.zip",
        plates() | {"alpha/plate-0_bomb.png": bytes(100 * 2**20)},
        zipfile.ZIP_DEFLATED,
    )

    def read(*arguments: object) -> None:
        raise AssertionError("decompressed")

    monkeypatch.setattr(zipfile.ZipFile, "open", read)
    assert refused(store, archive).reason == "ARCHIVE_TOO_LARGE"


# What is refused: images and classes


@pytest.mark.parametrize(
    ("extra", "reason", "problem"),
    [
        (
            {"alpha/plate-0_bad.png": b"not an image"},
            "IMAGE_UNREADABLE",
            "1 images cannot be used; fix them or leave them out\n  alpha/plate-0_bad.png is not a PNG, JPEG, "
            "TIFF, BMP or WebP image",
        ),
        (
            {"alpha/plate-0_bad.png": picture(500)[:-100]},
            "IMAGE_UNREADABLE",
            "alpha/plate-0_bad.png is damaged or truncated",
        ),
        ({"alpha/plate-0_empty.png": b""}, "IMAGE_UNREADABLE", "alpha/plate-0_empty.png is not a PNG"),
        (
            {"alpha/plate-0_large.png": encoded(np.zeros((9000, 9000), dtype=np.uint8))},
            "IMAGE_UNREADABLE",
            "alpha/plate-0_large.png is larger than 64 megapixels (9000 x 9000 pixels)",
        ),
        (
            {"alpha/plate-0.gif": encoded(noise(1), "GIF")},
            "IMAGE_FORMAT_UNSUPPORTED",
            "convert them to PNG, JPEG, TIFF, BMP or WebP\n  alpha/plate-0.gif is a GIF file",
        ),
        ({"alpha/plate-0.czi": b"ZISRAWFILE"}, "IMAGE_FORMAT_UNSUPPORTED", "alpha/plate-0.czi is a CZI file"),
        ({"overview.png": picture(500)}, "CLASS_UNKNOWN", "1 images lie in no class folder"),
        ({f"{'x' * 101}/plate-0_0.png": picture(500)}, "INVALID_LABEL", "use 1 to 100 printable characters"),
        ({" gamma/plate-0_0.png": picture(500)}, "CLASS_TOO_SMALL", "gamma has 1 images"),
        ({"ga\x07mma/plate-0_0.png": picture(500)}, "INVALID_LABEL", r"'ga\\x07mma'"),
        ({"gamma/plate-0_0.png": picture(500)}, "CLASS_TOO_SMALL", "gamma has 1 images in 1 groups"),
        (
            {f"gamma/plate-{n % 2}_{n}.png": picture(50 + n) for n in range(10)},
            "CLASS_TOO_SMALL",
            "gamma has 10 images in 2 groups",
        ),
        (
            {"beta/plate-0_copy.png": plates()["alpha/plate-0_0.png"]},
            "DUPLICATE_LABELS",
            "alpha/plate-0_0.png (alpha) and beta/plate-0_copy.png (beta)",
        ),
        (
            {"alpha/plate-4_copy.png": plates()["alpha/plate-0_0.png"]},
            "DUPLICATE_ACROSS_GROUPS",
            "alpha/plate-0_0.png (group plate-0) and alpha/plate-4_copy.png (group plate-4)",
        ),
    ],
)
def test_images_that_are_refused(
    store: MemoryObjectStore, tmp_path: Path, extra: dict[str, bytes], reason: str, problem: str
) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", plates() | extra))
    assert (error.reason, error.violations[0].field) == (reason, "upload")
    assert problem in error.message


def test_a_label_with_control_characters_does_not_reach_a_terminal(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = plates() | {"alpha/plate-0_\x1b[31m.png": b"bad"}
    error = refused(store, zipped(tmp_path / "images.zip", files))
    assert "\x1b" not in error.message + error.violations[0].description


def test_twenty_problems_are_listed_and_the_rest_counted(store: MemoryObjectStore, tmp_path: Path) -> None:
    bad = {f"alpha/plate-0_bad{number:02d}.png": b"bad" for number in range(25)}
    error = refused(store, zipped(tmp_path / "images.zip", plates() | bad))
    assert len(error.violations) == 20
    assert "25 images cannot be used" in error.message
    assert error.message.endswith("\n  and 5 more")
    assert error.metadata == {"left_out": "5"}


@pytest.mark.parametrize("files", [{}, {"LICENSE": b"MIT"}, {"a.txt": b"x", "b/c.txt": b"x"}])
def test_an_archive_without_images_is_refused(
    store: MemoryObjectStore, tmp_path: Path, files: dict[str, bytes]
) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", files))
    assert error.reason == "NO_IMAGES"
    assert "pack one folder for each class" in error.message


def test_a_single_class_is_refused(store: MemoryObjectStore, tmp_path: Path) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", plates(("alpha",))))
    assert error.reason == "SINGLE_CLASS"
    assert "['alpha'] is a single class; a classifier needs at least two" in error.message
    assert refused(store, zipped(tmp_path / "two.zip", plates()), classes=["beta"]).reason == "SINGLE_CLASS"


def test_an_unknown_class_is_refused_with_the_nearest(store: MemoryObjectStore, tmp_path: Path) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", plates()), classes=["alpha", "betta"])
    assert error.violations[0].field == "dataset.classes[1]"
    assert "'betta' is not one of the choices; did you mean 'beta'? use one of: alpha, beta" in error.message


# What is refused: groups


@pytest.mark.parametrize(
    ("rule", "reason", "field", "problem"),
    [
        ({}, "FIELD_MISSING", "dataset.group_rule", "or none: true if each image is independent"),
        ({"none": False}, "FIELD_MISSING", "dataset.group_rule", "or none: true if each image is independent"),
        ({"pattern": ""}, "FIELD_MISSING", "dataset.group_rule.pattern", "with a named group"),
        (
            {"pattern": "(?P<group>[a-z"},
            "INVALID_PATTERN",
            "dataset.group_rule.pattern",
            "is not a regular expression",
        ),
        (
            {"pattern": r"plate-(\d+)"},
            "INVALID_PATTERN",
            "dataset.group_rule.pattern",
            "has no named group (?P<group>...)",
        ),
        (
            {"pattern": r"plate-(?P<plate>\d+)"},
            "INVALID_PATTERN",
            "dataset.group_rule.pattern",
            "has no named group",
        ),
        (
            {"pattern": "(?P<group>x)" + "y" * 500},
            "INVALID_PATTERN",
            "dataset.group_rule.pattern",
            "is longer than 500 characters",
        ),
        (
            {"pattern": r"(?P<group>well-\d+)"},
            "PATTERN_UNMATCHED",
            "dataset.group_rule.pattern",
            "24 of 24 images get no group",
        ),
        (
            {"pattern": r"(?P<group>plate-[0-4])"},
            "PATTERN_UNMATCHED",
            "dataset.group_rule.pattern",
            "alpha/plate-5_0.png",
        ),
        (
            {"pattern": r"(?P<group>x*)plate"},
            "PATTERN_UNMATCHED",
            "dataset.group_rule.pattern",
            "24 of 24 images get no group",
        ),
        ({"column": "plate"}, "MANIFEST_MISSING", "dataset.group_rule.column", "the source has no manifest"),
        ({"column": ""}, "FIELD_MISSING", "dataset.group_rule.column", "name the manifest's column"),
    ],
)
def test_group_rules_that_are_refused(
    store: MemoryObjectStore, tmp_path: Path, rule: dict[str, Any], reason: str, field: str, problem: str
) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", plates()), group_rule=datasets_pb2.GroupRule(**rule))
    assert (error.reason, error.violations[0].field) == (reason, field)
    assert problem in error.message


@pytest.mark.parametrize(
    ("rows", "changes", "reason", "problem"),
    [
        (
            [*ROWS, "images/99.png,alpha,p1,"],
            {},
            "MANIFEST_INVALID",
            "row 26: images/99.png is not in the source",
        ),
        (
            [*ROWS, "../secret.png,alpha,p1,"],
            {},
            "MANIFEST_INVALID",
            "row 26: ../secret.png leads out of the manifest's folder",
        ),
        ([*ROWS, "images/3.png,alpha,p1,"], {}, "MANIFEST_INVALID", "and 26 both name images/3.png"),
        ([*ROWS, "images/3.png,,p1,"], {}, "MANIFEST_INVALID", "row 26 has no label"),
        ([*ROWS, "images/3.png,alpha"], {}, "MANIFEST_INVALID", "row 26 has 2 fields, and the header has 4"),
        (
            [*ROWS, "manifest.csv,alpha,p1,"],
            {},
            "MANIFEST_INVALID",
            "row 26: manifest.csv is the manifest",
        ),
        ([], {}, "NO_IMAGES", "lists no image"),
        (
            ROWS,
            {"group_rule": datasets_pb2.GroupRule(column="chip")},
            "MANIFEST_COLUMN_MISSING",
            "'chip' is not a column of manifest.csv; add it; the columns are path, label, plate, remark",
        ),
    ],
)
def test_manifests_that_are_refused(
    store: MemoryObjectStore,
    tmp_path: Path,
    rows: list[str],
    changes: dict[str, Any],
    reason: str,
    problem: str,
) -> None:
    error = refused(
        store, zipped(tmp_path / "images.zip", manifest_files(rows)), **({"group_rule": BY_COLUMN} | changes)
    )
    assert error.reason == reason
    assert problem in error.message


@pytest.mark.parametrize(
    ("manifest", "reason", "problem"),
    [
        (
            {"manifest.csv": b"file,label,plate\n"},
            "MANIFEST_COLUMN_MISSING",
            "'path' is not a column of manifest.csv",
        ),
        ({"manifest.csv": b""}, "MANIFEST_UNREADABLE", "is empty"),
        (
            {"manifest.csv": b"path,label,plate\n\xff\xfe,a,b"},
            "MANIFEST_UNREADABLE",
            "is not in UTF-8 (byte 0xff in line 2)",
        ),
        ({"manifest.parquet": b"PAR1"}, "MANIFEST_UNREADABLE", "is not a Parquet file that can be read"),
        (
            {"manifest.csv": b"path,label,plate\n", "manifest.parquet": b"PAR1"},
            "MANIFEST_AMBIGUOUS",
            "keep one of them",
        ),
    ],
)
def test_unreadable_manifests_are_refused(
    store: MemoryObjectStore, tmp_path: Path, manifest: dict[str, bytes], reason: str, problem: str
) -> None:
    error = refused(store, zipped(tmp_path / "images.zip", plates() | manifest), group_rule=BY_COLUMN)
    assert error.reason == reason
    assert problem in error.message


# What fails half way


def test_storage_that_fails_half_way_makes_no_dataset_and_harms_none(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "images.zip", plates())
    for failing_put in (1, 2, 3):  # a shard, the index, the manifest
        store = FailingObjectStore(fail_at=failing_put)
        with pytest.raises(Unavailable):
            imported(store, archive)
        assert list_artifacts(store, DATASETS) == []
        finished = read_manifest(store, imported(store, archive))
        store.fail_at = store.puts + failing_put
        other = zipped(tmp_path / "other.zip", plates() | {"alpha/plate-9_0.png": picture(999)})
        with pytest.raises(Unavailable):
            imported(store, other)
        assert list_artifacts(store, DATASETS) == [finished.name]
        assert len(list(read_images(store, finished, range(24)))) == 24


def test_an_interrupted_import_can_be_repeated(store: MemoryObjectStore, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total - 3:
            raise KeyboardInterrupt

    archive = zipped(tmp_path / "images.zip", plates())
    with pytest.raises(KeyboardInterrupt):
        imported(store, archive, progress=interrupt)
    assert list_artifacts(store, DATASETS) == []
    assert read_manifest(store, imported(store, archive)).summary["image_count"] == 24


# Real data


@pytest.mark.parametrize(
    ("folder", "classes", "pattern", "images", "groups"),
    [
        ("mitocheck", SIX, r"(?P<group>[^/]+?)___", 2217, 56),
        ("hek_ht1080", [], r"(?P<group>(293A|HT1080)-\d{6})", 200, 62),
    ],
)
def test_real_microscopy_is_imported(
    store: MemoryObjectStore,
    tmp_path: Path,
    folder: str,
    classes: list[str],
    pattern: str,
    images: int,
    groups: int,
) -> None:
    source = real_images(folder)
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    manifest = dataset(store, tmp_path, files, classes=classes, group_rule=datasets_pb2.GroupRule(pattern=pattern))
    assert (manifest.summary["image_count"], manifest.summary["group_count"]) == (images, groups)
    assert manifest.summary["warnings"] == []
    assert manifest.summary["left_out"][0]["examples"] == ["LICENSE"]
    assert manifest.seconds < 60


def test_the_recipe_version_names_another_dataset(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dataset(store, tmp_path).name
    monkeypatch.setattr(importer, "RECIPE_VERSION", importer.RECIPE_VERSION + 1)
    assert dataset(store, tmp_path, group_rule=BY_PLATE).name != before


def test_a_default_import_keeps_its_address(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden: options that came later leave the data sets alone that do not use them."""
    monkeypatch.setattr(importer, "DECODER_VERSION", 1)
    files = {
        f"{label}/plate-{plate}_0.png": encoded(np.full((4, 4), 40 * plate + 9 * number, dtype=np.uint8), "BMP")
        for number, label in enumerate(("alpha", "beta"))
        for plate in range(3)
    }
    assert str(dataset(store, tmp_path, files).name) == "datasets/1db1be868434aacd9dd9dd86c39f1da9"
    request = datasets_pb2.CreateDatasetRequest(
        dataset=datasets_pb2.Dataset(display_name="cells", group_rule=BY_PLATE, classes=["beta", "alpha"]),
        upload=f"uploads/{'0' * 64}",
    )
    assert digest_of(import_request(request, LOCAL)) == "56d3117c2850c3b88c57c54b67481a02"
