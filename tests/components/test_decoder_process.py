"""Images and manifests are decoded in a process without credentials, and its end is the file's fault alone."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthmix
from hostile_files import hostile_archives, hostile_images, hostile_tables
from image_archives import encoded, plates, zipped
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data import decoder_process
from synthmix.image_data.decoder import Inspected, ListingOptions, Squared
from synthmix.image_data.decoder_process import DecoderProcess
from synthmix.image_data.pixel_rules import ANY_PIXELS
from synthmix.service_kit.errors import InvalidArgument
from synthmix.study_control.image_import.importer import Imported, import_archive

PATTERN = r"(?P<group>plate-\d+)"
BY_PLATE = datasets_pb2.GroupRule(pattern=PATTERN)
OPTIONS = ListingOptions("path", "label", None, PATTERN, False)
DEEP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 90
VICTIM = "alpha/plate-1_0.png"
# Stands for an image that takes the decoder over: what it decodes as a certain number of bytes does something else.
FAULTY = """
import os, sys, time
from synthmix.image_data import decoder, decoder_process
inspect = decoder.inspect_image
def faulty(data, **options):
    if len(data) == {size}:
        {fault}
    return inspect(data, **options)
decoder.inspect_image = faulty
square = decoder.square_image
decoder.square_image = lambda data, side_px: faulty(data) if len(data) == {size} else square(data, side_px)
decoder_process.MEMORY_BYTES = 2**28  # to get there sooner
decoder_process.main()
"""
# Says of each archive whether its list was read ({}), or how it was refused.
LISTING = f"""
import json, sys
from pathlib import Path
import pyarrow.parquet
from synthmix.image_data.sources.archive import ArchiveLimits, open_archive
from synthmix.service_kit.errors import InvalidArgument
from synthmix.image_data import decoder_process
from synthmix.image_data.decoder import ListingOptions
decoder_process._limit()
for path in sys.argv[1:]:
    said = {{}}
    with open_archive(Path(path), ArchiveLimits()) as archive:
        try:
            decoder_process.DecoderHere(archive).listing(ListingOptions("path", "label", None, {PATTERN!r}, False))
        except InvalidArgument as error:
            said = {{"reason": error.reason, "violations": len(error.violations)}}
    print(json.dumps(said))
"""
SERVICES = str(Path(synthmix.__file__).resolve().parents[1])


def imported(store: MemoryObjectStore, archive: Path, **changes: Any) -> Imported:
    options: dict[str, Any] = {
        "group_rule": BY_PLATE,
        "classes": [],
        "simulated": False,
        "progress": lambda done, total: None,
        "decoder": lambda path, _: DecoderProcess(path),
    }
    return import_archive(store, archive, **options | changes)


def test_it_finds_what_decoding_here_finds(tmp_path: Path) -> None:
    files = plates() | {
        f"beta/plate-{number}_deep.tif": encoded(
            np.arange(64, dtype=np.uint16).reshape(8, 8) * (number + 1) * 90, "TIFF"
        )
        for number in range(6)
    }
    archive = zipped(tmp_path / "images.zip", files)
    here, apart = MemoryObjectStore.created(), MemoryObjectStore.created()
    with decoder_process.open_archive(archive) as opened:
        first = imported(here, archive, decoder=lambda path, archive: _Here(opened))
    assert imported(apart, archive) == first
    payloads = [{key for key in store.keys if "manifest" not in key} for store in (here, apart)]
    assert payloads[0] == payloads[1]


class _Here(decoder_process.DecoderHere):
    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *error: object) -> None:
        return None


def test_what_cannot_be_used_is_said_as_here(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "images.zip", plates() | {VICTIM: b"no image"})
    errors = []
    for decoder in ({}, {"decoder": lambda path, archive: _Here(archive)}):
        with pytest.raises(InvalidArgument) as caught:
            imported(MemoryObjectStore.created(), archive, **decoder)
        errors.append((caught.value.message, caught.value.reason, caught.value.violations))
    assert errors[0] == errors[1]


def test_it_holds_no_credentials_and_no_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "SYNTHMIX_OBJECT_STORE_SECRET_KEY": "s3cret-1",
        "SYNTHMIX_TOKEN": "s3cret-2",
        "AWS_SECRET_ACCESS_KEY": "s3cret-3",
        "RAY_AUTH_TOKEN": "s3cret-4",
        "KUBERNETES_SERVICE_HOST": "s3cret-5",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    archive = zipped(tmp_path / "images.zip", plates())
    (tmp_path / "other").touch()
    with (tmp_path / "other").open() as other, DecoderProcess(archive) as decoder:
        other.fileno()
        decoder.listing(OPTIONS)
        assert decoder._child is not None
        process = Path(f"/proc/{decoder._child.pid}")
        environment = (process / "environ").read_bytes().decode()
        opened = {str(item.resolve()) for item in (process / "fd").iterdir()}
        limits = (process / "limits").read_text()
    assert "s3cret" not in environment
    assert not [name for name in secrets if name in environment]
    assert str(archive) in opened and str(tmp_path / "other") not in opened
    [written] = [line.split() for line in limits.splitlines() if line.startswith("Max file size")]
    assert written[3:5] == ["0", "0"], "it can write nothing"
    [memory] = [line.split() for line in limits.splitlines() if line.startswith("Max address space")]
    assert int(memory[3]) < 3 * decoder_process.MEMORY_BYTES


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(fault: str, size: int) -> None:
        code = FAULTY.format(fault=fault, size=size)
        monkeypatch.setattr(decoder_process, "_COMMAND", (sys.executable, "-P", "-c", code))

    return use


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.abort()", "ends the process that decodes it (signal 6)"),
        ("os._exit(3)", "ends the process that decodes it (code 3)"),
        ("os.kill(os.getpid(), 11)", "ends the process that decodes it (signal 11)"),
        ("time.sleep(1000)", "takes more than 5.0 s to decode"),
        ("[bytearray(2**24) for _ in range(100)]", "or takes more than 3 GiB"),
        ("print('no JSON', flush=True)", "ends the process that decodes it"),
    ],
    ids=["abort", "exit", "segment", "hang", "memory", "babble"],
)
def test_the_end_of_it_is_said_of_the_file(
    fault: str, said: str, faulty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of this file alone: what comes before and after it is looked at."""
    if "sleep" in fault:  # only then, since a busy machine may take long for anything
        monkeypatch.setattr(decoder_process, "FILE_SECONDS", 5.0)
    files = plates() | {VICTIM: b"x" * 12345, "beta/plate-5_0.png": b"no image"}
    faulty(fault, 12345)
    store = MemoryObjectStore.created()
    with pytest.raises(InvalidArgument) as caught:
        imported(store, zipped(tmp_path / "images.zip", files))
    assert caught.value.reason == "IMAGE_UNREADABLE"
    problems = [violation.description for violation in caught.value.violations]
    assert len(problems) == 2, problems
    assert problems[0].startswith(VICTIM) and said in problems[0]
    assert problems[1].startswith("beta/plate-5_0.png") and "PNG, JPEG" in problems[1]
    assert store.keys == []


def test_an_archive_that_ends_it_again_and_again_is_given_up(
    faulty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "MOST_ENDS", 2)
    files = plates() | {f"alpha/plate-{plate}_bad.png": b"x" * 12345 for plate in range(6)}
    faulty("os.abort()", 12345)
    with pytest.raises(InvalidArgument) as caught:
        imported(MemoryObjectStore.created(), zipped(tmp_path / "images.zip", files))
    assert len(caught.value.violations) == 2


def most_memory_bytes(decoder: DecoderProcess) -> int:
    assert decoder._child is not None
    status = Path(f"/proc/{decoder._child.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == [], "what was written is gone"


def test_hostile_images_are_refused_or_decoded(tmp_path: Path, temporary: Path) -> None:
    files = hostile_images()
    assert len(files) == 160
    archive = zipped(tmp_path / "images.zip", {f"alpha/{name}": data for name, data in files.items()})
    with DecoderProcess(archive) as decoder:
        found = list(decoder.inspect([f"alpha/{name}" for name in files], ANY_PIXELS))
        assert decoder._ends == 0, "no library crashed"
        assert most_memory_bytes(decoder) < decoder_process.MEMORY_BYTES
    assert len(found) == len(files)
    for name, item in zip(files, found, strict=True):
        assert isinstance(item, (Inspected, InvalidArgument)), name
        if isinstance(item, InvalidArgument):
            assert "; " in item.message, f"{name}: {item.message}"
            assert item.reason not in ("", "INTERNAL"), name
    assert sum(isinstance(item, InvalidArgument) for item in found) > 100


def test_hostile_images_that_were_made_are_refused_or_decoded(tmp_path: Path, temporary: Path) -> None:
    """What comes of them are pixels, which are written anew: nothing of the files themselves is kept."""
    files = hostile_images()
    archive = zipped(tmp_path / "images.zip", {f"alpha/{name}": data for name, data in files.items()})
    with DecoderProcess(archive) as decoder:
        found = list(decoder.squares([f"alpha/{name}" for name in files], 32))
        assert decoder._ends == 0, "no library crashed"
    assert len(found) == len(files)
    for name, item in zip(files, found, strict=True):
        if isinstance(item, InvalidArgument):
            assert "; " in item.message and item.reason not in ("", "INTERNAL"), f"{name}: {item.message}"
        else:
            assert item.image.pixels.shape in ((32, 32), (32, 32, 3)) and item.image.pixels.dtype == np.uint8, name
    assert sum(isinstance(item, InvalidArgument) for item in found) > 100


def test_images_that_were_made_are_decoded_as_here(tmp_path: Path) -> None:
    """And so is what their metadata says."""
    said = {"label": "G1/S", "prompt": "a cell", "seed": -3, "sources": ["a" * 64, "b" * 64], "strength": 0.5}
    files = {"x/1.png": encoded(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)), "x/2.png": b"no image"}
    rows = [json.dumps({"file_name": name, **said}) for name in files]
    archive = zipped(tmp_path / "images.zip", files | {"metadata.jsonl": "\n".join(rows).encode()})
    options = ListingOptions("path", "label", None, "", False, made=True)
    with decoder_process.open_archive(archive) as opened, DecoderProcess(archive) as apart:
        here = decoder_process.DecoderHere(opened)
        listed = apart.listing(options).images
        assert [(image.label, image.path) for image in listed] == [("G1/S", "x/1.png"), ("G1/S", "x/2.png")]
        for image, other in zip(listed, here.listing(options).images, strict=True):
            assert dict(image.known) | {"sources": tuple(image.known["sources"])} == dict(other.known)
        (one, refused), (other, _) = apart.squares(list(files), 0), here.squares(list(files), 0)
    assert isinstance(one, Squared) and isinstance(other, Squared) and isinstance(refused, InvalidArgument)
    assert one.sha256 == other.sha256 and one.image.fingerprint == other.image.fingerprint
    assert np.array_equal(one.image.pixels, other.image.pixels)


def test_an_image_that_was_made_and_ends_it_is_said(faulty: Any, tmp_path: Path) -> None:
    faulty("os.abort()", 12345)
    archive = zipped(
        tmp_path / "images.zip", {"x/1.png": b"x" * 12345, "x/2.png": encoded(np.zeros((16, 16), np.uint8))}
    )
    with DecoderProcess(archive) as decoder:
        ended, whole = decoder.squares(["x/1.png", "x/2.png"], 0)
    assert isinstance(ended, InvalidArgument) and "ends the process that decodes it (signal 6)" in ended.message
    assert isinstance(whole, Squared)


def test_hostile_manifests_are_refused_or_read(tmp_path: Path, temporary: Path) -> None:
    """Those that do not end it by one process within a decoder's limits, so that 39 need not start."""
    tables = hostile_tables()
    assert len(tables) == 40
    archive = zipped(tmp_path / "images.zip", plates() | {"manifest.parquet": tables.pop("bomb.parquet")})
    with DecoderProcess(archive) as decoder, pytest.raises(InvalidArgument) as caught:
        decoder.listing(OPTIONS)
    assert caught.value.reason == "ARCHIVE_UNREADABLE"
    paths = [
        zipped(tmp_path / f"{number}.zip", plates() | {"manifest.parquet": data})
        for number, data in enumerate(tables.values())
    ]
    command = [sys.executable, "-P", "-c", LISTING, *map(str, paths)]
    environment = os.environ | {"PYTHONPATH": SERVICES}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(tables)
    for name, answer in zip(tables, said, strict=True):
        assert answer == {} or (answer["violations"] and answer["reason"] not in ("", "INTERNAL")), (name, answer)
    assert sum(answer != {} for answer in said) > 20, "most are refused"


def test_hostile_archives_are_refused_or_imported(tmp_path: Path, temporary: Path) -> None:
    """Here, since what a ZIP's list says is checked before anything is decoded."""
    archives = hostile_archives(zipped(tmp_path / "whole.zip", plates()).read_bytes())
    assert len(archives) == 40
    for name, data in archives.items():
        store = MemoryObjectStore.created()
        path = tmp_path / "images.zip"
        path.write_bytes(data)
        try:
            imported(store, path, decoder=lambda path, archive: _Here(archive))
        except InvalidArgument as error:
            assert error.violations and error.reason != "INTERNAL", name
            assert store.keys == [], name
