"""Image sets as other programs read them: torchvision, whatever unpacks a ZIP file, and WebDataset."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from memory_object_store import MemoryObjectStore
from synthmix.client import image_exports
from synthmix.client.image_exports import check_export, folder_names, write_images
from synthmix.image_data.image_table import SOURCES, STRENGTH, ImageTableWriter
from synthmix.service_kit.artifacts import payload_key
from synthmix.service_kit.errors import AlreadyExists, InvalidArgument
from synthmix.service_kit.resource_names import ArtifactName

NAME = ArtifactName("image-sets", "a" * 32)
LABELS = ["flat", "G1/S phase", "flat", "G1/S phase", "flat"]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The payloads of an image set in three shards, as a client downloads them."""
    monkeypatch.setattr("synthmix.image_data.image_table.SHARD_ROWS", 2)
    store, folder = MemoryObjectStore.created(), tmp_path / "stored"
    folder.mkdir()
    table = ImageTableWriter(store, NAME)
    for number, label in enumerate(LABELS):
        of_image: dict[str, Any] = {SOURCES: [f"{number:064x}"], STRENGTH: 0.5, "group": f"plate {number}", "steps": 12}
        table.add(png(40 * number), label=label, prompt=f"a {label} cell", seed=7, index=number, **of_image)
    for payload in table.close():
        (folder / payload.name).write_bytes(store.get_bytes(payload_key(NAME, payload)))
    return folder


def row(number: int) -> dict[str, Any]:
    """What is to be said of an image, but for its sha256."""
    label = LABELS[number]
    return {
        "label": label,
        "prompt": f"a {label} cell",
        "seed": 7,
        "sources": [f"{number:064x}"],
        "strength": 0.5,
        "group": f"plate {number}",
        "steps": 12,
    }


def test_an_image_folder_is_read_by_torchvision(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_images("imagefolder", stored, out) == len(LABELS)
    found = ImageFolder(str(out))
    assert found.classes == ["G1_S_phase", "flat"]
    levels = [[np.asarray(image).max() for image, label in found if label == number] for number in (0, 1)]
    assert levels == [[40, 120], [0, 80, 160]]
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        assert (out / line.pop("file_name")).read_bytes() == png(40 * number)
        assert len(line.pop("sha256")) == 64 and line == row(number)


def test_a_zip_has_the_same_files(stored: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "out", tmp_path / "out.zip"
    write_images("imagefolder", stored, folder)
    assert write_images("zip", stored, file) == len(LABELS)
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            assert archive.read(name) == (folder / name).read_bytes()
        assert sorted(archive.namelist()) == sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
        )
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}
    again = tmp_path / "again.zip"
    write_images("zip", stored, again)
    assert again.read_bytes() == file.read_bytes()


def test_a_web_dataset_has_samples_of_three_files(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_exports, "IMAGES_OF_A_SHARD", 3)
    out = tmp_path / "out"
    assert write_images("webdataset", stored, out) == len(LABELS)
    classes = json.loads((out / "classes.json").read_text())
    assert classes == ["G1/S phase", "flat"]
    number = 0
    assert sorted(path.name for path in out.glob("*.tar")) == ["images-000000.tar", "images-000001.tar"]
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
        assert list(files)[:3] == [f"{number:06d}.{kind}" for kind in ("png", "cls", "json")]
        for key in dict.fromkeys(name.partition(".")[0] for name in files):
            assert int(key) == number and files[f"{key}.png"] == png(40 * number)
            assert classes[int(files[f"{key}.cls"])] == LABELS[number]
            said = json.loads(files[f"{key}.json"])
            assert len(said.pop("sha256")) == 64 and said == row(number)
            number += 1
    assert number == len(LABELS)


def test_classes_have_folders_of_their_own() -> None:
    labels = ["a/b", "a:b", "A_B", "..", "", "  ", "zelle ü", "x" * 300]
    names = folder_names(labels)
    assert len({name.casefold() for name in names.values()}) == len(labels)
    assert names["a/b"].startswith("a_b") and names["zelle ü"] == "zelle_ü" and names[".."].startswith("_")
    assert all(name not in (".", "..") and "/" not in name and len(name) <= 110 for name in names.values())


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'imagefoldr' is not one of the choices; did you mean 'imagefolder'"):
        check_export("imagefoldr", tmp_path / "out")
    with pytest.raises(InvalidArgument, match=r"does not end in \.zip; add \.zip"):
        check_export("zip", tmp_path / "out.tar")
    with pytest.raises(AlreadyExists, match="exists; give another path"):
        check_export("webdataset", tmp_path)
