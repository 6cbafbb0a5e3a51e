"""All that is in a source is used, accounted for, or refused by name: by folder, ZIP and manifest alike."""

import io
import os
import socket
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_archives import BY_PLATE, encoded, noise, picture, plates, zipped
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.client.packing import Packed, _scan, pack
from synthmix.image_data.sources.archive import open_archive
from synthmix.image_data.sources.file_kinds import Kind, is_system, kind_of, undecoded_format
from synthmix.image_data.sources.folder_layout import is_split_part, layout_doubt
from synthmix.image_data.sources.group_patterns import pattern_span
from synthmix.image_data.sources.manifests import Columns, read_rows
from synthmix.image_data.sources.source_account import MOST_ROWS, account_of, merged, sentence, shown, vanished
from synthmix.image_data.sources.source_listing import Listing, ListingRequest, list_images
from synthmix.image_data.sources.user_text import compared, is_missing, normalised
from synthmix.service_kit.errors import InvalidArgument
from synthmix.study_control.image_import.importer import Imported, import_archive

PNG, JPEG = picture(1), encoded(noise(2, 8, 8), "JPEG")
SOURCE = ListingRequest("source")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(source: Path, tmp_path: Path, request: ListingRequest = SOURCE) -> Packed:
    return pack(source, tmp_path / "packed.zip", progress=lambda done, total: None, request=request)


def imported(archive: Path, **changes: Any) -> Imported:
    arguments: dict[str, Any] = {"group_rule": BY_PLATE, "classes": [], "simulated": False}
    return import_archive(
        MemoryObjectStore.created(), archive, progress=lambda done, total: None, **(arguments | changes)
    )


def listed(archive: Path, request: ListingRequest = SOURCE) -> Listing:
    with open_archive(archive) as opened:
        return list_images(opened, request)


def rows(account: tuple[datasets_pb2.LeftOut, ...]) -> list[tuple[str, str, int]]:
    return [(row.folder, row.reason, row.count) for row in account]


def refused(act: Any, *arguments: Any, **options: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        act(*arguments, **options)
    assert caught.value.violations
    return caught.value


# What a file is


@pytest.mark.parametrize("name", ["a.jfif", "a", "a.JPG", "a.png", "a.dat", "a.gif", "a.jpeg_small", "a.001"])
def test_images_are_known_by_their_bytes(name: str) -> None:
    assert kind_of(f"alpha/{name}", JPEG) == Kind.IMAGE


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_every_decoded_format_is_known_without_a_suffix(image_format: str) -> None:
    assert kind_of("alpha/scan", encoded(noise(3, 8, 8, 3), image_format)) == Kind.IMAGE


def test_bigtiff_and_mpo_are_images() -> None:
    assert kind_of("a/x", b"II+\0\x08\0\0\0") == kind_of("a/x", b"MM\0+\0\x08\0\0") == Kind.IMAGE
    assert kind_of("a/x.mpo", JPEG) == Kind.IMAGE


@pytest.mark.parametrize(
    ("name", "head", "format_name"),
    [
        ("a.gif", b"GIF89a", "GIF"),
        ("a.png", b"GIF87a", "GIF"),
        ("a", b"\0\0\0\x18ftypheic", "HEIC"),
        ("IMG_1.jpg", b"\0\0\0\x18ftypheic", "HEIC"),
        ("a", b"\0\0\0\x18ftypavif", "AVIF"),
        ("a", b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        ("a", b"\xff\x0a123", "JPEG XL"),
        ("a", b"8BPS\0\1", "Photoshop"),
        ("a", bytes(128) + b"DICM", "DICOM"),
        ("a", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("a", b"ZISRAWFILE", "CZI"),
        ("a", b"\xda\xce\xbe\x0a", "ND2"),
        ("a", b"\x93NUMPY\1\0", "NumPy"),
        ("a", b"<?xml version='1.0'?>\n<svg xmlns=", "SVG"),
        ("a", b"P5\n12 12\n255\n", "PNM"),
        ("a.lif", b"p\0\0\0", "LIF"),
        ("a.lsm", b"II*\0", "LSM"),
        ("a.svs", b"II*\0", "SVS"),
        ("a.nef", b"MM\0*", "NEF"),
        ("a", b"RIFF\0\0\0\0AVI LIST", "AVI video"),
        ("a.mrxs", JPEG, "MRXS"),
        ("a.qptiff", b"II*\0", "QPTIFF"),
        ("a.flex", b"II*\0", "FLEX"),
        ("a.BIF", b"II+\0", "BIF"),
        ("a", b"II*\0\x10\0\0\0CR\x02\0", "camera raw"),
        ("a.tif", b"II*\0\x10\0\0\0CR\x02\0", "camera raw"),
        ("a", encoded(noise(3, 16, 16), "ICO"), "ICO"),
        ("a", b"\0\0\2\0\1\0\x20\x20\0\0", "ICO"),
        ("a", bytes(208) + b"MAP ", "MRC"),
        ("a", bytes(344) + b"n+1\0", "NIfTI"),
        ("a", b"\x1c\2\0\0n+2\0\r\n\x1a\n", "NIfTI"),
        ("a.nii.gz", b"\x1f\x8b", "NII.GZ"),
        ("a.tif.gz", b"\x1f\x8b", "TIF.GZ"),
        ("x.zarr/0/0.0", b"\2\1", "Zarr"),
        ("x.ome.zarr/c/0/1", JPEG, "Zarr"),
        ("a.ics", b"\t\n", "ICS"),
        ("a", b"ics_version\t1.0", "ICS"),
        ("a.sld", b"", "SLD"),
        ("a.eps", b"%!PS", "EPS"),
        ("a", b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        ("a", b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
        ("a.webm", b"", "WEBM"),
        ("a.mkv", b"", "MKV"),
        ("a.avi", b"", "AVI"),
        ("a.mp4", b"", "MP4"),
        ("a", b"\0\0\0\x18ftypiso6", "HEIF or MP4"),
        ("a", b"\0\0\0\x18ftypdash", "HEIF or MP4"),
        ("a", b"\0\0\1\xba", "MPEG video"),
    ],
)
def test_pictures_that_are_not_decoded_are_called_by_their_format(name: str, head: bytes, format_name: str) -> None:
    assert kind_of(f"alpha/{name}", head) == Kind.UNDECODED
    assert undecoded_format(f"alpha/{name}", head) == format_name


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("notes.txt", b"BMI,age\n"),
        ("a.csv", b"path,label"),
        ("b", b"P5 is a gene"),
        ("LICENSE", b"MIT"),
        ("a.json", b"{}"),
        ("a.wav", b"RIFF\0\0\0\0WAVE"),
        ("empty", b""),
        ("page.html", b"<html><svg>"),
        ("a.m4a", b"\0\0\0\x18ftypM4A "),
        ("a.csv.gz", b"\x1f\x8b"),
        ("a.ps", b"%!PS-Adobe-3.0\n"),
        ("zeros", bytes(1024)),
        ("zarr/notes", b"x"),
    ],
)
def test_other_files_are_not_images(name: str, head: bytes) -> None:
    assert kind_of(f"alpha/{name}", head) == Kind.OTHER


@pytest.mark.parametrize("name", ["a.png", "a.jfif", "a.TIF", "a.jif"])
def test_a_damaged_image_is_not_missed(name: str) -> None:
    assert kind_of(name, b"") == kind_of(name, b"<html>") == Kind.IMAGE


@pytest.mark.parametrize(
    "path",
    [
        "@eaDir/a.png/SYNOFILE_THUMB_M.png",
        "alpha/@eaDir/a.png",
        "__MACOSX/alpha/._a.png",
        "alpha/._a.png",
        "alpha/Thumbs.db",
        "alpha/THUMBS.DB",
        ".DS_Store",
        "$RECYCLE.BIN/a.png",
        "System Volume Information/x",
        "lost+found/x",
        "alpha/.ipynb_checkpoints/a-checkpoint.png",
        "@Recently-Snapshot/a.png",
        "#recycle/alpha/a.png",
        "desktop.ini",
        "alpha/~$manifest.xlsx",
        ".Trashes/a.png",
        ".git/objects/a",
        "found.001/a.png",
        "FOUND.123/file0000.chk",
        "alpha/Thumbs.db:encryptable",
        "alpha/a.png:Zone.Identifier",
        "$WinREAgent/a",
        "@SynoDrive/a.png",
        "@GMT-2021.03.01-00.00.00/a.png",
    ],
)
def test_files_of_systems_are_known(path: str) -> None:
    assert is_system(path)


@pytest.mark.parametrize(
    "path",
    [
        "alpha/@home.png",
        "alpha/$1.png",
        "alpha/#1.png",
        "a b/c.png",
        "recycle/a.png",
        "@high/1.png",
        "$low/1.png",
        "found.it/1.png",
    ],
)
def test_files_of_users_are_not_taken_for_systems(path: str) -> None:
    assert not is_system(path)


# The account


JUNK = {
    "LICENSE": b"MIT",
    "alpha/notes.txt": b"x",
    "alpha/Thumbs.db": b"x",
    "gamma/counts.csv": b"1",
    "gamma/readme": b"x",
    "@eaDir/alpha/thumb.png": PNG,
    "alpha/.ipynb_checkpoints/plate-0_0-checkpoint.png": PNG,
}
ACCOUNT = [
    ("", "NOT_AN_IMAGE", 1),
    ("@eaDir", "SYSTEM_FILE", 1),
    ("alpha", "NOT_AN_IMAGE", 1),
    ("alpha", "SYSTEM_FILE", 2),
    ("delta", "EMPTY_FOLDER", 0),
    ("gamma", "NOT_AN_IMAGE", 2),
]


def test_a_folder_and_a_zip_give_the_same_images_and_the_same_account(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", plates() | JUNK)
    (folder / "delta").mkdir()
    of_folder = packed(folder, tmp_path)
    assert rows(of_folder.left_out) == ACCOUNT
    archive = zipped(tmp_path / "whole.zip", plates() | JUNK)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("delta/", b"")
    of_zip = imported(archive)
    assert of_zip.left_out == of_folder.left_out
    assert imported(of_folder.path).name == of_zip.name


def test_images_of_every_name_are_used_by_folder_and_zip(tmp_path: Path) -> None:
    files = plates(("alpha",)) | {
        f"{label}/plate-{plate}_{number}{suffix}": encoded(noise(100 * number + plate, 8, 8, 3), "JPEG")
        for number, (label, suffix) in enumerate((("jfif", ".jfif"), ("none", ""), ("wrong", ".txt")))
        for plate in range(3)
    }
    with_folder = packed(folder_of(tmp_path / "images", files), tmp_path)
    assert with_folder.left_out == ()
    result = imported(with_folder.path)
    assert result.left_out == ()
    assert imported(zipped(tmp_path / "whole.zip", files)).name == result.name
    assert len(listed(with_folder.path).images) == 12 + 9


def test_a_class_that_vanishes_is_a_warning(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", plates() | JUNK)
    (folder / "delta").mkdir()
    assert vanished(packed(folder, tmp_path).left_out, ["alpha", "beta"]) == [
        "the folder 'delta' is not a class of this dataset: a folder without files",
        "the folder 'gamma' is not a class of this dataset: 2 files, not an image (gamma/counts.csv, gamma/readme)",
    ]


def test_files_that_a_manifest_does_not_name_are_accounted(tmp_path: Path) -> None:
    files = plates() | {"alpha/extra.png": PNG, "notes.txt": b"x", "beta/.hidden": b"x"}
    lines = ["path,label", *(f"{name},{name.split('/')[0]}" for name in plates())]
    folder = folder_of(tmp_path / "images", files | {"labels.csv": "\n".join(lines).encode()})
    account = [("", "NOT_IN_MANIFEST", 1), ("alpha", "NOT_IN_MANIFEST", 1), ("beta", "SYSTEM_FILE", 1)]
    assert rows(packed(folder / "labels.csv", tmp_path).left_out) == account
    (folder / "labels.csv").rename(folder / "manifest.csv")
    assert rows(packed(folder, tmp_path).left_out) == account
    whole = zipped(tmp_path / "whole.zip", files | {"manifest.csv": "\n".join(lines).encode()})
    assert rows(imported(whole).left_out) == account


def test_classes_that_were_not_chosen_are_accounted(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", plates(("alpha", "beta", "gamma")))
    result = imported(archive, classes=["ALPHA", " beta"])
    assert rows(result.left_out) == [("gamma", "CLASS_NOT_CHOSEN", 12)]
    assert vanished(result.left_out, ["alpha", "beta"]) == []


def test_an_account_is_bounded() -> None:
    many = account_of((f"class-{number:04d}", "NOT_AN_IMAGE", f"{'x' * 500}{number}") for number in range(1000))
    assert len(many) == MOST_ROWS
    assert sum(row.count for row in many) == 1000
    assert many[-1].reason == "MORE"
    assert max(len(path) for row in many for path in row.examples) <= 200
    assert merged(many) == many
    assert shown("a\x1b[31m\udcff") == r"a\x1b[31m\udcff"
    assert (
        sentence(datasets_pb2.LeftOut(folder="alpha", reason="NOT_AN_IMAGE", count=5, examples=("a", "b", "c")))
        == "alpha: 5 files, not an image (a, b, c, ...)"
    )


# Files that are not plain


def special_files(folder: Path) -> None:
    os.mkfifo(folder / "alpha" / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(folder)
    listener.bind("socket")
    listener.close()
    (folder / "beta" / "gone").symlink_to(folder / "nowhere")
    (folder / "beta" / "loop").symlink_to(folder / "beta" / "loop")
    (folder / "null").symlink_to("/dev/null")


def test_special_files_neither_hang_nor_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of(tmp_path / "images", plates())
    special_files(folder)
    assert rows(packed(folder, tmp_path).left_out) == [
        ("", "SPECIAL_FILE", 2),
        ("alpha", "SPECIAL_FILE", 1),
        ("beta", "BROKEN_LINK", 2),
    ]


@pytest.mark.parametrize("kind", ["pipe", "link", "unreadable", "name", "backslash"])
def test_an_image_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = folder_of(tmp_path / "images", plates())
    file = folder / "alpha" / "lost.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("nowhere")
    elif kind == "backslash":
        (folder / "alpha" / "lost\\1.png").write_bytes(PNG)
    elif kind == "name":
        Path(os.fsdecode(bytes(folder) + b"/alpha/lost-\xff.png")).write_bytes(PNG)
    else:
        file.write_bytes(PNG)
        monkeypatch.setattr("synthmix.client.packing.os.access", lambda path, mode: Path(path) != file)
    error = refused(packed, folder, tmp_path)
    assert error.reason == "SOURCE_UNREADABLE"
    assert "alpha/lost" in error.message
    error.message.encode()


def test_a_manifest_that_names_a_pipe_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", {"a.png": PNG, "manifest.csv": b"path,label\na.png,x\npipe.png,y\n"})
    os.mkfifo(folder / "pipe.png")
    assert "row 3: pipe.png is a pipe" in refused(packed, folder, tmp_path).message


def test_a_source_that_is_a_pipe_or_a_device_is_refused(tmp_path: Path) -> None:
    for name in ("pipe", "pipe.zip", "pipe.csv"):
        os.mkfifo(tmp_path / name)
        assert refused(packed, tmp_path / name, tmp_path).reason == "SOURCE_UNKNOWN"
    assert refused(packed, Path("/dev/null"), tmp_path).reason == "SOURCE_UNKNOWN"
    assert refused(packed, tmp_path / ("x" * 5000), tmp_path).reason == "SOURCE_NOT_FOUND"


# Layouts


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "test",
        "val",
        "valid",
        "validation",
        "training",
        "testing",
        "eval",
        "holdout",
        "dev",
        "fold1",
        "fold_2",
        "Train",
        "TEST",
        "Validation",
        "train_set",
        "test-images",
        "hold-out",
        "fold-3",
        "X_train",
        "train1",
    ],
)
def test_parts_of_splits_are_known_by_name(name: str) -> None:
    assert is_split_part(name)


@pytest.mark.parametrize("name", ["alpha", "trainer", "tested_positive", "fold", "device", "valve", "eval_x", "testis"])
def test_classes_are_not_taken_for_parts(name: str) -> None:
    assert is_split_part(name) == (name == "fold")


DOUBTFUL = {
    "split above": ["train/alpha/1.png", "train/beta/2.png", "test/alpha/3.png", "test/beta/4.png"],
    "split of other classes": ["Train/a/1.png", "Valid/b/2.png"],
    "split, flat": ["train/1.png", "test/2.png"],
    "folds": ["fold_1/a/1.png", "fold_2/a/2.png", "fold_3/b/3.png"],
    "one part": ["training/a/1.png", "training/b/2.png", "new/a/3.png"],
    "split below": ["alpha/train/1.png", "alpha/test/2.png", "beta/train/3.png", "beta/test/4.png"],
    "plates above": ["plate1/alpha/1.png", "plate1/beta/2.png", "plate2/alpha/3.png", "plate2/beta/4.png"],
    "dates above": ["2021-03-01/live/1.png", "2021-03-01/dead/2.png", "2021-03-02/live/3.png", "2021-03-02/dead/4.png"],
    "words above words": ["left/alpha/1.png", "left/beta/2.png", "right/alpha/3.png", "right/beta/4.png"],
    "masks": ["images/1.png", "masks/1.png"],
    "labels": ["images/a/1.png", "labels/a/1.png"],
    "masks below": ["alpha/images/1.png", "alpha/masks/1.png", "beta/images/2.png", "beta/masks/2.png"],
    "depths": ["alpha/1.png", "alpha/old/2.png", "beta/3.png"],
    "depths by class": ["alpha/1.png", "beta/x/2.png"],
    "thumbnails": ["images/1.png", "thumbnails/1.png"],
    "predictions": ["Images/1.png", "Predictions/1.png"],
    "formats": ["images_png/1.png", "masks_png/1.png"],
    "formats of labels": ["img-tif/1.png", "labels.tif/1.png"],
    "a blank": ["images/1.png", "Ground Truth/1.png"],
    "results": ["raw/1.png", "results/1.png"],
    "masks beside a class": ["masks/1.png", "alpha/1.png"],
    "overlays beside classes": ["alpha/1.png", "beta/1.png", "Overlays/1.png"],
    "masks beside others below": ["alpha/x/1.png", "alpha/masks/1.png", "beta/y/2.png"],
    "inference": ["inference/1.png", "train/1.png"],
    "external and train": ["external/1.png", "train/1.png"],
    "partly shared": [
        "A/x/1.png",
        "A/y/1.png",
        "B/x/1.png",
        "B/z/1.png",
        "C/y/1.png",
        "C/z/1.png",
    ],
    "internal above": ["internal/a/1.png", "internal/b/2.png", "external/a/3.png", "external/b/4.png"],
    "one class of several plates": ["plate1/alpha/1.png", "plate2/alpha/2.png"],
    "one class of several days": ["2021-03-01/live/1.png", "2021-03-02/live/2.png"],
    "days above wells": ["day1/A01/1.png", "day1/A02/2.png", "day2/A01/3.png", "day2/A02/4.png"],
}


@pytest.mark.parametrize("paths", DOUBTFUL.values(), ids=DOUBTFUL)
def test_layouts_that_may_not_be_classes_are_doubted(paths: list[str]) -> None:
    assert layout_doubt(paths, None)


HONEST = {
    "flat": (["alpha/1.png", "beta/2.png"], None),
    "shared plates": (["alpha/plate1/1.png", "alpha/plate2/2.png", "beta/plate1/3.png", "beta/plate2/4.png"], None),
    "lines with numbers": (["293A/p1/1.png", "293A/p2/2.png", "HT1080/p1/3.png", "HT1080/p2/4.png"], None),
    "own sub-folders": (["alpha/x/1.png", "alpha/y/2.png", "beta/z/3.png", "beta/w/4.png"], None),
    "a class called test": (["test/1.png", "control/2.png"], None),
    "one sub-folder": (["alpha/images/1.png", "beta/images/2.png"], None),
    "one sub-folder of words": (["alpha/anna/1.png", "beta/anna/2.png"], None),
    "one sub-folder of numbered classes": (["dose1/tiles/1.png", "dose2/tiles/2.png"], None),
    "one sub-folder of pictures": (["day1/images/1.png", "day2/images/2.png"], None),
    "doses with wells": (["dose1/A01/1.png", "dose1/B02/2.png", "dose2/A01/3.png", "dose2/B02/4.png"], None),
    "grades with plates": (["grade_1/plate1/1.png", "grade_1/plate2/2.png", "grade_2/plate1/3.png"], None),
    "numbers with wells": (["1/A01/1.png", "1/B02/2.png", "2/A01/3.png", "2/B02/4.png"], None),
    "internal and external": (["internal/1.png", "external/2.png"], None),
    "internal and external with plates": (["internal/p1/1.png", "external/p1/2.png"], None),
    "faces with and without masks": (["mask/1.png", "no_mask/2.png"], None),
    "target and control": (["target/1.png", "control/2.png"], None),
    "labelled cells": (["labelled/1.png", "unlabelled/2.png"], None),
    "partly shared plates": (["a/p1/1.png", "a/p2/1.png", "b/p2/1.png", "b/p3/1.png", "c/p1/1.png"], None),
    "words that the pattern takes for groups": (
        ["left/anna/1.png", "left/ben/2.png", "right/anna/3.png", "right/ben/4.png"],
        r"/(?P<group>[a-z]+)/",
    ),
    "numbers that the pattern takes for groups": (
        ["day1/well1/1.png", "day1/well2/2.png", "day2/well1/3.png", "day2/well2/4.png"],
        r"(?P<group>well\d)",
    ),
}


@pytest.mark.parametrize(("paths", "pattern"), HONEST.values(), ids=HONEST)
def test_honest_layouts_are_not_doubted(paths: list[str], pattern: str | None) -> None:
    assert layout_doubt(paths, pattern_span(pattern) if pattern else None) == ""


def test_a_doubtful_layout_is_refused_by_client_and_server_unless_it_is_accepted(tmp_path: Path) -> None:
    files = {f"{part}/{name}": data for part in ("train", "test") for name, data in plates().items()}
    files = {name: picture(number) for number, name in enumerate(files)}
    folder = folder_of(tmp_path / "images", files)
    archive = zipped(tmp_path / "whole.zip", files)
    for act in (lambda: packed(folder, tmp_path), lambda: packed(archive, tmp_path), lambda: imported(archive)):
        error = refused(act)
        assert error.reason == "LAYOUT_DOUBTFUL"
        assert "'test', 'train' are named like parts of a split" in error.message
        assert "--yes" in error.message
    accepted = imported(packed(folder, tmp_path, ListingRequest("source", accept_layout=True)).path, accept_layout=True)
    assert "parts of a split" in accepted.layout_doubt


# Manifests


PLAIN = Columns()


def read(text: str | bytes, columns: Columns = PLAIN, name: str = "manifest.csv") -> list[tuple[Any, ...]]:
    data = text.encode() if isinstance(text, str) else text
    return [(row.number, row.path, row.label, row.group) for row in read_rows(data, name, columns, field="source")]


ONE = [(2, "a.png", "x", None)]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.png,x\n",
        "path;label\na.png;x\n",
        "path\tlabel\na.png\tx\n",
        "path|label\na.png|x\n",
        "sep=;\npath;label\na.png;x\n",
        "sep=\t\r\npath\tlabel\r\na.png\tx\r\n",
        '"sep=|"\npath|label\na.png|x\n',
        " Path , LABEL\na.png,x\n",
        "label,path\rx,a.png\r",
        "path,label,,\na.png,x,,\n,,,\n",
        'path;"note, with commas, and more";label\na.png;n;x\n',
        "\ufeffpath,label\na.png, x \n",
        "path\tlabel\na.png\tx\n".encode("utf-16"),
        b"\xfe\xff" + "path,label\na.png,x\n".encode("utf-16-be"),
    ],
)
def test_manifests_of_every_program_are_read(text: str | bytes) -> None:
    assert read(text) == ONE


def test_columns_are_chosen_and_compared_without_case() -> None:
    text = "File Name,Phenotype,Plate ID\na.png,x,7\n"
    assert read(text, Columns("file name", "phenotype", "plate id")) == [(2, "a.png", "x", "7")]
    error = refused(read, text, Columns("file name", "phenotipe"))
    assert "'phenotipe' is not a column of manifest.csv; did you mean 'Phenotype'?" in error.message
    assert error.violations[0].field == "label_column"


@pytest.mark.parametrize(
    ("text", "reason", "problem"),
    [
        ("path,label,label\na.png,x,y\n", "MANIFEST_COLUMN_TWICE", "has the column 'label' more than once"),
        ("path,label, Label\na.png,x,y\n", "MANIFEST_COLUMN_TWICE", "' Label', 'label'"),
        ("path,label,note,note\na.png,x,1,2\n", "MANIFEST_COLUMN_TWICE", "'note'"),
        ("path,label\na.png\n", "MANIFEST_INVALID", "row 2 has 1 field, and the header has 2"),
        ("path,label\na.png,x\nb.png,x,y\n", "MANIFEST_INVALID", "row 3 has 3 fields, and the header has 2"),
        ('path,label\n"a\nb.png",x\n\nc.png\n', "MANIFEST_INVALID", "row 4 has 1 field,"),
        ("path,label\na.png,NaN\n", "MANIFEST_INVALID", "row 2 has no label ('NaN')"),
        ("path,label\na.png,x\nb.png, n/a \n", "MANIFEST_INVALID", "row 3 has no label ('n/a')"),
        ("path,label\nNA,x\n", "MANIFEST_INVALID", "row 2 has no path ('NA')"),
        ('path,label\na.png,"x\n', "MANIFEST_UNREADABLE", "ends inside quotation marks, which were opened in row 2"),
        (
            'path,label\na.png,"x"y\n',
            "MANIFEST_UNREADABLE",
            "has quotation marks in row 2 that are not around a whole cell",
        ),
        (
            "path,label\na.png,caf\xe9\n".encode("latin-1"),
            "MANIFEST_UNREADABLE",
            "is not in UTF-8 (byte 0xe9 in line 2)",
        ),
        ("path,label\na.png,x\n".encode("utf-16-le"), "MANIFEST_UNREADABLE", "holds NUL characters"),
        ("file,label\na.png,x\n", "MANIFEST_COLUMN_MISSING", "by --path-column; the columns are file, label"),
    ],
)
def test_manifests_that_do_not_fit_are_refused_with_row_numbers(text: str | bytes, reason: str, problem: str) -> None:
    error = refused(read, text)
    assert error.reason == reason
    assert problem in error.message


@pytest.mark.parametrize("text", ["", " ", "NaN", "nan", "NA", "N/A", "null", "None", "#N/A", "\u00a0", "<NA>", "NULL"])
def test_a_missing_label_and_a_missing_group_are_faults(text: str) -> None:
    assert is_missing(normalised(text))
    error = refused(read, f"path,label,plate\na.png,{text},p\nb.png,x,{text}\n", Columns(group="plate"))
    assert "2 rows of manifest.csv are unusable" in error.message
    assert "row 2 has no label" in error.message
    assert "row 3 has no plate" in error.message


@pytest.mark.parametrize("text", ["0", "x", "nano", "no", "Nona", "-", "?"])
def test_labels_that_only_look_missing_are_kept(text: str) -> None:
    assert not is_missing(text)


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_parquet_cells_read_as_csv_has_them() -> None:
    data = parquet(Path=["a.png", "b.png"], label=[1.0, 2.5], plate=[3, 4])
    assert read(data, Columns(group="plate"), "m.parquet") == [(2, "a.png", "1", "3"), (3, "b.png", "2.5", "4")]


@pytest.mark.parametrize("labels", [[1.0, None], [1.0, float("nan")], ["x", None], ["x", "NaN"], [True, None]])
def test_missing_parquet_labels_are_faults(labels: list[Any]) -> None:
    data = parquet(path=["a.png", "b.png"], label=labels)
    assert "row 3 has no label" in refused(read, data, Columns(), "m.parquet").message


def test_a_path_of_other_case_or_form_is_found_or_named(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "é.png")
    folder = folder_of(
        tmp_path / "images", {name: PNG, "Big.PNG": PNG, "manifest.csv": "path,label\né.png,x\n".encode()}
    )
    assert "é.png" in zipfile.ZipFile(packed(folder, tmp_path).path).namelist()
    (folder / "manifest.csv").write_text("path,label\nbig.png,x\n")
    assert "row 2: did you mean 'Big.PNG'? big.png is not in the source" in refused(packed, folder, tmp_path).message


# Labels and groups


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Caf\u00e9", "Cafe\u0301"),
        ("a b", "a  b"),
        ("a b", "a\u00a0b"),
        ("x", " x "),
        ("a b", "a\tb"),
        ("a b", "a\u2003b"),
    ],
)
def test_the_same_text_is_one_label(first: str, second: str) -> None:
    assert normalised(first) == normalised(second)
    rows_read = read(f"path,label,plate\na.png,{first},{first}\nb.png,{second},{second}\n", Columns(group="plate"))
    assert len({row[2:] for row in rows_read}) == 1


@pytest.mark.parametrize(("first", "second"), [("Alpha", "alpha"), ("STRASSE", "straße"), ("A  b", "a b")])
def test_classes_that_differ_in_case_are_refused_everywhere(tmp_path: Path, first: str, second: str) -> None:
    assert compared(first) == compared(second)
    files = {f"{label}/{n}.png": picture(n) for n, label in enumerate((first, second, "other"))}
    lines = "".join(f"{name},{name.split('/')[0]}\n" for name in files)
    manifest = {"manifest.csv": f"path,label\n{lines}".encode()}
    for number, given in enumerate((files, files | manifest)):
        folder = folder_of(tmp_path / f"images{number}", given)
        archive = zipped(tmp_path / f"{number}.zip", given)
        for act in (lambda: packed(folder, tmp_path), lambda: listed(archive)):  # noqa: B023
            error = refused(act)
            assert error.reason == "LABELS_DIFFER_IN_CASE"
            assert repr(normalised(first)) in error.message


# Names in ZIPs


def zip_with_raw_names(path: Path, files: dict[bytes, bytes]) -> Path:
    """A ZIP whose names have these bytes and no flag."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr("".join(chr(0x41 + byte % 26) for byte in name), content)
    raw = data.getvalue()
    for name in files:
        raw = raw.replace("".join(chr(0x41 + byte % 26) for byte in name).encode(), name)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("label", ["Café", "Zürich", "細胞", "кле́тка", "ñ–µ"])
def test_utf8_names_without_the_flag_are_read_as_utf8(tmp_path: Path, label: str) -> None:
    archive = zip_with_raw_names(tmp_path / "mac.zip", {f"{label}/1.png".encode(): PNG, b"b/22.png": picture(2)})
    with open_archive(archive) as opened:
        assert opened.warnings == ()
        assert unicodedata.normalize("NFC", f"{label}/1.png") in opened.paths


def test_names_of_a_local_code_page_are_said(tmp_path: Path) -> None:
    archive = zip_with_raw_names(tmp_path / "dos.zip", {"Zürich/1.png".encode("cp437"): PNG, b"b/22.png": picture(2)})
    with open_archive(archive) as opened:
        assert "Zürich/1.png" in opened.paths
        assert "1 names in the archive are in a local encoding" in opened.warnings[0]


@pytest.mark.parametrize(
    ("said", "of", "version", "expected"),
    [
        ("細胞/1.png", b"__/1.png", 1, "細胞/1.png"),
        ("Zürich/1.png", "Zürich/1.png".encode("cp1252"), 1, "Zürich/1.png"),
        ("Cafe\u0301/1.png", b"Caf\x82/1.png", 1, "Café/1.png"),
        ("other/1.png", b"renamed before", 1, "Z\u2584rich/1.png"),
        ("other/1.png", b"Z\xdcrich/1.png", 2, "Z\u2584rich/1.png"),
    ],
)
def test_the_unicode_path_of_an_entry_is_its_name_if_the_checksum_fits(
    tmp_path: Path, said: str, of: bytes, version: int, expected: str
) -> None:
    fits = expected != "Z\u2584rich/1.png"
    raw = of if fits else b"Z\xdcrich/1.png"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        placeholder = "".join(chr(0x41 + byte % 26) for byte in raw)
        entry = zipfile.ZipInfo(placeholder)
        content = struct.pack("<BL", version, zlib.crc32(of)) + said.encode()
        entry.extra = struct.pack("<HH", 0x5455, 1) + b"\0" + struct.pack("<HH", 0x7075, len(content)) + content
        archive.writestr(entry, PNG)
    (tmp_path / "a.zip").write_bytes(data.getvalue().replace(placeholder.encode(), raw))
    with open_archive(tmp_path / "a.zip") as opened:
        assert opened.paths == [expected]
        assert bool(opened.warnings) != fits
        assert opened.read(expected) == PNG


def test_a_folder_is_looked_at_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "images", plates())

    def opened(*arguments: Any, **options: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Path, "open", opened)
    assert _scan(folder).paths == sorted(plates())


def test_a_group_pattern_gives_normalised_groups(tmp_path: Path) -> None:
    files = {f"{label}/plate  {n % 3}_{n}.png": picture(n + 50 * (label == "b")) for label in "ab" for n in range(6)}
    spaced = {name.replace("  ", "\u00a0") if "_4" in name else name: data for name, data in files.items()}
    rule = datasets_pb2.GroupRule(pattern=r"/(?P<group>[^_]+)_")
    assert imported(zipped(tmp_path / "a.zip", spaced), group_rule=rule).left_out == ()
