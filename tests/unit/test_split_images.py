"""Which images a split has in which part, for whoever trains a generator elsewhere: the client and `datasets split`."""

import csv
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import synthmix.cli
import synthmix.cli.datasets
from image_archives import plates, zipped
from memory_object_store import MemoryObjectStore
from served import TOKEN, serving
from synthmix import Client, GroupRule
from synthmix.client import split_images
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels
from synthmix.image_data.split_parts import open_split
from synthmix.service_kit.errors import FailedPrecondition, NotFound


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore.created()


@pytest.fixture
def client(store: MemoryObjectStore, tmp_path: Path) -> Iterator[Client]:
    with serving(store) as addresses, Client(Channels(Endpoints(addresses, TOKEN))) as client:
        archive = zipped(tmp_path / "cells.zip", plates(plate_count=8))
        client.import_dataset(archive, "cells", group=GroupRule(pattern=r"(?P<group>plate-\d+)"))
        yield client


def test_each_image_is_in_the_part_that_the_split_has_it_in(store: MemoryObjectStore, client: Client) -> None:
    split = client.create_split("cells", test=0.25, validation=0.25, seed=3)
    images = client.split_images(split.name)
    for part in open_split(store, split.name, field="split"):
        own = [(image.sha256, image.label, image.group) for image in images if image.part == part.part]
        assert own == list(zip(part.sha256s, part.class_names, part.groups, strict=True)) and own
    assert {image.path for image in images} == set(plates(plate_count=8))
    with pytest.raises(NotFound):
        client.split_images(f"splits/{'0' * 32}")


def test_without_pyarrow_it_is_said_what_brings_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    split = client.create_split("cells")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FailedPrecondition, match="parquet"):
        client.split_images(split.name)


def test_the_command_writes_a_table(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(synthmix.cli.datasets, "connect", lambda arguments: nullcontext(client))
    out = tmp_path / "lists" / "split.csv"
    command = ["datasets", "split", "cells", "--test", "0.25", "--seed", "7", "--to", str(out)]
    assert synthmix.cli.main(command) == 0
    printed = capsys.readouterr().out
    split = client.create_split("cells", test=0.25, validation=0.15, seed=7)
    assert printed.startswith(f"{split.name}\n") and "train" in printed
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [split_images.SplitImage(**row) for row in rows] == client.split_images(split.name)
    before = out.read_bytes()
    assert synthmix.cli.main(command) == 2
    assert "exists; give another path" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert synthmix.cli.main(["datasets", "split", "cells", "--test", "1.5"]) == 2
    assert "split.settings.test" in capsys.readouterr().err
