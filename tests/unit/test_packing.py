"""Packing: the same ZIP for the same files, and errors that name the file before anything is uploaded."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_archives import BY_PLATE, imported, picture, plates
from memory_object_store import MemoryObjectStore
from synthmix.client import packing
from synthmix.service_kit.digests import sha256_of_file
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument


def pack(source: Path, destination: Path, *, progress: Callable[[int, int], None]) -> Path:
    return packing.pack(source, destination, progress=progress).path


def quietly(done: int, total: int) -> None:
    pass


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed_names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def refused(source: Path, tmp_path: Path) -> InvalidArgument:
    destination = tmp_path / "out" / "images.zip"
    destination.parent.mkdir(exist_ok=True)
    with pytest.raises(InvalidArgument) as caught:
        pack(source, destination, progress=quietly)
    assert list(destination.parent.iterdir()) == []
    assert caught.value.violations[0].field == "source"
    assert "; " in caught.value.message, "a remedy follows"
    return caught.value


def test_a_folder_of_class_folders_is_packed(tmp_path: Path) -> None:
    files = plates() | {
        "LICENSE": b"MIT",
        ".DS_Store": b"x",
        "alpha/.hidden.png": b"x",
        "alpha/notes.txt": b"x",
    }
    steps: list[tuple[int, int]] = []
    archive = pack(
        folder_of(tmp_path / "images", files),
        tmp_path / "images.zip",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert packed_names(archive) == sorted(plates())
    assert steps == [(done, 24) for done in range(1, 25)]
    with zipfile.ZipFile(archive) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == plates()


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = pack(folder_of(tmp_path / "a", plates()), tmp_path / "a.zip", progress=quietly)
    copies = folder_of(tmp_path / "b", dict(reversed(plates().items())))
    for path in copies.rglob("*.png"):
        path.chmod(0o600)
    second = pack(copies, tmp_path / "b.zip", progress=quietly)
    assert sha256_of_file(first) == sha256_of_file(second)


def test_what_is_packed_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    store = MemoryObjectStore.created()
    archive = pack(folder_of(tmp_path / "images", plates()), tmp_path / "images.zip", progress=quietly)
    assert imported(store, archive, group_rule=BY_PLATE).collection == "datasets"


def test_a_zip_is_used_as_it_is(tmp_path: Path) -> None:
    archive = pack(folder_of(tmp_path / "images", plates()), tmp_path / "images.zip", progress=quietly)
    assert pack(archive, tmp_path / "other.zip", progress=quietly) == archive
    assert not (tmp_path / "other.zip").exists()


@pytest.mark.parametrize("name", ["manifest.csv", "labels.CSV", "manifest.parquet"])
def test_a_manifest_is_packed_with_the_files_that_it_names(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "images", plates() | {"alpha/unlisted.png": b"x"})
    paths = sorted(plates())
    if name.endswith("parquet"):
        pq.write_table(pa.table({"path": paths, "label": ["x"] * len(paths)}), folder / name)
    else:
        (folder / name).write_text("label,path\n" + "".join(f"x,{path}\n" for path in paths))
    archive = pack(folder / name, tmp_path / "images.zip", progress=quietly)
    assert packed_names(archive) == [f"manifest{Path(name).suffix.lower()}", *paths]
    if name.startswith("manifest"):
        assert sha256_of_file(pack(folder, tmp_path / "again.zip", progress=quietly)) == sha256_of_file(archive)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    real = folder_of(tmp_path / "real", plates())
    source = tmp_path / "links"
    source.mkdir()
    (source / "alpha").symlink_to(real / "alpha")
    (source / "beta").symlink_to(real / "beta")
    (real / "alpha" / "loop").symlink_to(source)
    assert packed_names(pack(source, tmp_path / "images.zip", progress=quietly)) == sorted(plates())


@pytest.mark.parametrize(
    ("files", "source", "reason", "problem"),
    [
        ({}, "nowhere", "SOURCE_NOT_FOUND", "does not exist"),
        ({}, "nowhere.zip", "SOURCE_NOT_FOUND", "does not exist"),
        ({"LICENSE": b"MIT"}, "", "NO_IMAGES", "'1 files' hold no class folder"),
        ({"a.png": b"x", "b.png": b"x"}, "", "NO_CLASS_FOLDERS", "'2 images' lie in no class folder"),
        (plates() | {"a.png": b"x"}, "", "CLASS_UNKNOWN", "1 images lie in no class folder"),
        (plates() | {"alpha/a.gif": b"x"}, "", "IMAGE_FORMAT_UNSUPPORTED", "alpha/a.gif is a GIF file"),
        ({"a.txt": b"x"}, "a.txt", "SOURCE_UNKNOWN", "is neither a folder nor a manifest nor a ZIP"),
        ({"a.zip": b"x"}, "a.zip", "ARCHIVE_UNREADABLE", "is not a whole ZIP archive"),
        ({"m.csv": b"file,label\n"}, "m.csv", "MANIFEST_COLUMN_MISSING", "'path' is not a column of m.csv"),
        ({"m.csv": b"path,class\n"}, "m.csv", "MANIFEST_COLUMN_MISSING", "'label' is not a column of m.csv"),
        ({"m.csv": b""}, "m.csv", "MANIFEST_UNREADABLE", "is empty"),
        ({"m.csv": b"path,label\n"}, "m.csv", "NO_IMAGES", "lists no image"),
        ({"m.csv": b"path,label\n\xff,x\n"}, "m.csv", "MANIFEST_UNREADABLE", "is not in UTF-8 (byte 0xff in line 2)"),
        (
            {"m.csv": b"path,label\na.png,x\n"},
            "m.csv",
            "MANIFEST_INVALID",
            "row 2: a.png is not in the source",
        ),
        (
            {"m.csv": b"path,label\n../a.png,x\n"},
            "m.csv",
            "MANIFEST_INVALID",
            "row 2: ../a.png leads out of the manifest's folder",
        ),
        (
            {"m.csv": b"path,label\n/etc/passwd,x\n"},
            "m.csv",
            "MANIFEST_INVALID",
            "row 2: /etc/passwd leads out of the manifest's folder",
        ),
        (
            {"m.parquet": b"PAR1"},
            "m.parquet",
            "MANIFEST_UNREADABLE",
            "is not a Parquet file that can be read",
        ),
        (
            {"manifest.csv": b"", "manifest.parquet": b""},
            "",
            "MANIFEST_AMBIGUOUS",
            "'manifest.csv and manifest.parquet' are both there",
        ),
    ],
)
def test_sources_that_are_refused(
    tmp_path: Path, files: dict[str, bytes], source: str, reason: str, problem: str
) -> None:
    (tmp_path / "in").mkdir()
    error = refused(folder_of(tmp_path / "in", files) / source, tmp_path)
    assert error.reason == reason
    assert problem in error.message


@pytest.mark.parametrize(
    ("name", "member"), [("table.xlsx", "[Content_Types].xml"), ("table.ods", "META-INF/manifest.xml")]
)
def test_an_office_document_is_refused_by_what_it_is(tmp_path: Path, name: str, member: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as document:
        document.writestr(member, "<xml/>")
        document.writestr("xl/media/image1.png", b"")
    error = refused(tmp_path / name, tmp_path)
    assert error.reason == "SOURCE_UNKNOWN"
    assert "is a spreadsheet or another office document, not a ZIP of images; save a table as CSV" in error.message


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", plates())
    with pytest.raises(
        FailedPrecondition, match=r"nowhere/images\.zip.* No such file or directory; check that it exists"
    ):
        pack(source, tmp_path / "nowhere" / "images.zip", progress=quietly)


def test_an_interrupted_packing_leaves_no_file(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = folder_of(tmp_path / "images", plates())
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "images.zip", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_file_beyond_4_gib_would_be_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50)
    archive = pack(folder_of(tmp_path / "images", plates()), tmp_path / "images.zip", progress=quietly)
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as opened:
        assert opened.testzip() is None


@pytest.mark.parametrize("module", ["numpy", "PIL", "pyarrow", "torch"])
def test_the_client_packs_without_heavy_imports(module: str) -> None:
    code = f"import sys, synthmix.client.packing; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_progress_is_typed(tmp_path: Path) -> None:
    counter: Callable[[int, int], None] = quietly
    assert pack(folder_of(tmp_path / "images", {"a/1.png": picture(1)}), tmp_path / "i.zip", progress=counter).exists()
