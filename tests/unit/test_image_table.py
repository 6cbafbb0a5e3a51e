"""Images of an artifact as Parquet: equal bytes for equal images, bounded memory, no harm by a failure."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from image_archives import picture
from memory_object_store import FailingObjectStore, MemoryObjectStore
from synthmix.image_data import image_table
from synthmix.image_data.image_payloads import INDEX
from synthmix.image_data.image_table import ImageTableWriter, read_images, read_index
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, open_payload, payload_key, write_manifest
from synthmix.service_kit.digests import sha256_of
from synthmix.service_kit.errors import DataLoss, Unavailable
from synthmix.service_kit.resource_names import ArtifactName

ARTIFACT = ArtifactName("image-sets", "0123456789abcdef" * 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(store: MemoryObjectStore, images: list[bytes]) -> Manifest:
    table = ImageTableWriter(store, ARTIFACT)
    for number, data in enumerate(images):
        assert table.add(data, label="cell", prompt="a cell", seed=3, index=number) == sha256_of([data])
    payloads = table.close()
    manifest = Manifest(name=ARTIFACT, inputs={}, request={}, recipe_version=1, payloads=tuple(payloads))
    write_manifest(store, manifest)
    return manifest


def test_images_come_back_in_order() -> None:
    store = MemoryObjectStore.created()
    images = [picture(seed) for seed in range(10)]
    manifest = written(store, images)
    assert [payload.name for payload in manifest.payloads] == ["images-00000.parquet", INDEX]
    assert list(read_images(store, manifest, range(10))) == list(enumerate(images))
    assert list(read_images(store, manifest, [7, 2, 2])) == [(2, images[2]), (7, images[7])]
    assert list(read_images(store, manifest, [])) == []
    index = read_index(store, manifest)
    assert index.column_names == ["sha256", "shard", "row", "index", "label", "prompt", "seed"]
    assert index["index"].to_pylist() == list(range(10))
    assert read_index(store, manifest, ["label"]).column_names == ["label"]


def test_equal_images_give_equal_bytes() -> None:
    images = [picture(seed) for seed in range(10)]
    assert (
        written(MemoryObjectStore.created(), images).payloads == written(MemoryObjectStore.created(), images).payloads
    )


def test_shards_and_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_table, "SHARD_ROWS", 8)
    monkeypatch.setattr(image_table, "ROW_GROUP_ROWS", 3)
    store = MemoryObjectStore.created()
    images = [picture(seed) for seed in range(20)]
    manifest = written(store, images)
    assert [payload.name for payload in manifest.payloads] == [
        *(f"images-0000{shard}.parquet" for shard in range(3)),
        INDEX,
    ]
    with open_payload(store, manifest, "images-00000.parquet") as file:
        first = pq.ParquetFile(file).metadata
    assert [first.row_group(number).num_rows for number in range(first.num_row_groups)] == [3, 3, 2]
    assert list(read_images(store, manifest, range(20))) == list(enumerate(images))
    assert list(read_images(store, manifest, [19, 8, 4])) == [
        (4, images[4]),
        (8, images[8]),
        (19, images[19]),
    ]


def test_a_shard_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_table, "SHARD_BYTES", 1000)
    images = [bytes([number]) * size for number, size in enumerate([400, 400, 400, 3000, 10])]
    store = MemoryObjectStore.created()
    manifest = written(store, images)
    assert read_index(store, manifest)["shard"].to_pylist() == [0, 0, 1, 2, 3]
    assert [data for _, data in read_images(store, manifest, range(5))] == images


@pytest.mark.parametrize("failing_put", range(1, 7))
def test_a_failure_harms_no_finished_artifact(monkeypatch: pytest.MonkeyPatch, failing_put: int) -> None:
    monkeypatch.setattr(image_table, "SHARD_ROWS", 2)
    images = [picture(seed) for seed in range(9)]
    store = FailingObjectStore(fail_at=failing_put)
    with pytest.raises(Unavailable):
        written(store, images)
    assert find_manifest(store, ARTIFACT) is None

    finished = written(store, images)
    store.fail_at = store.puts + failing_put
    with pytest.raises(Unavailable):
        written(store, images)
    assert find_manifest(store, ARTIFACT) == finished
    assert list(read_images(store, finished, range(9))) == list(enumerate(images))


def test_columns_that_change_or_are_unknown_are_defects() -> None:
    table = ImageTableWriter(MemoryObjectStore.created(), ARTIFACT)
    table.add(picture(1), label="cell")
    with pytest.raises(ValueError, match="are not those of the first image"):
        table.add(picture(2), group="x")
    table = ImageTableWriter(MemoryObjectStore.created(), ARTIFACT)
    with pytest.raises(KeyError, match="colour"):
        table.add(picture(1), colour="red")
        table.close()


def test_a_damaged_copy_in_the_cache_is_noticed(cache: Path) -> None:
    store = MemoryObjectStore.created()
    images = [picture(seed) for seed in range(3)]
    manifest = written(store, images)
    assert len(list(read_images(store, manifest, range(3)))) == 3
    copy = cache / "payloads" / manifest.payload("images-00000.parquet").sha256
    data = copy.read_bytes()
    start = data.index(images[1])
    copy.write_bytes(data[: start + 60] + b"\0" + data[start + 61 :])
    with pytest.raises(DataLoss, match=r"image 1 of image-sets/.*delete .* and try again"):
        list(read_images(store, manifest, range(3)))


def test_changed_objects_are_noticed() -> None:
    store = MemoryObjectStore.created()
    manifest = written(store, [picture(1)])
    store.put_bytes(payload_key(ARTIFACT, manifest.payloads[0]), b"something else")
    with pytest.raises(DataLoss):
        list(read_images(store, manifest, [0]))


def test_no_images_are_an_empty_index() -> None:
    store = MemoryObjectStore.created()
    table = ImageTableWriter(store, ARTIFACT)
    payloads = table.close()
    assert [payload.name for payload in payloads] == [INDEX]
    assert all(isinstance(payload, Payload) for payload in payloads)
