"""The hub's models in a node's cache: they make room for others, the least recently used first, unless in use."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

from synthmix.service_kit import hub_cache, node_cache
from synthmix.service_kit.errors import ResourceExhausted
from synthmix.service_kit.hub_cache import held, hold
from synthmix.service_kit.node_cache import open_cached, room

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, within a cache of 1,000 bytes, as in pods."""
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SYNTHMIX_CACHE_MOST_BYTES", "1000")
    monkeypatch.setattr(node_cache, "PATIENCE_SECONDS", 0.0)
    folder = tmp_path / "cache" / "huggingface" / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def model(hub: Path, name: str, size_bytes: int, *, used: float, commit: str = COMMIT) -> Path:
    """A model as the hub's library lays it down, with one file, and when it was used last."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "blobs" / "weights").write_bytes(bytes(size_bytes))
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    os.utime(repository, (used, used))
    return repository


def read(key: str, size_bytes: int) -> None:
    def make(path: Path) -> None:
        path.write_bytes(bytes(size_bytes))

    open_cached("payloads", key, size_bytes, make).close()


def there(hub: Path) -> set[str]:
    found = scan_cache_dir(hub)
    assert not found.warnings, "whole, or gone"
    return {item.repo_id for item in found.repos}


def test_models_and_files_go_in_the_order_of_their_last_use(hub: Path) -> None:
    now_s = time.time()
    model(hub, "o/old", 200, used=now_s - 300)
    read("a", 200)
    os.utime(hub.parents[1] / "payloads" / "a", (now_s - 200, now_s))
    model(hub, "o/new", 200, used=now_s - 100)
    with room(500):
        assert there(hub) == {"o/new"}
        assert (hub.parents[1] / "payloads" / "a").exists()
    with room(700):
        assert there(hub) == {"o/new"}
        assert not (hub.parents[1] / "payloads" / "a").exists()
    with room(900):
        assert there(hub) == set()


def test_a_model_that_was_used_now_goes_last(hub: Path) -> None:
    for name, used in (("o/a", 1.0), ("o/b", 2.0)):
        model(hub, name, 300, used=used)
    with held("o/a"):
        pass
    with room(500):
        assert there(hub) == {"o/a"}


def test_a_model_stays_while_someone_uses_it(hub: Path) -> None:
    model(hub, "o/used", 600, used=1.0)
    with held("o/used"), held("o/used"), pytest.raises(ResourceExhausted, match="beside what is in use"):
        read("a", 500)
    assert there(hub) == {"o/used"}
    read("a", 500)
    assert there(hub) == set()


def test_a_copy_of_a_model_that_someone_uses_goes_alone(hub: Path) -> None:
    """It has the same commits, by which the hub's library names what it deletes."""
    for name in ("o/copy", "o/model", "p/copy", "q/copy"):
        model(hub, name, 200, used=1.0)
    with held("o/model"), room(700):
        assert there(hub) == {"o/model"}


def test_what_models_share_goes_with_the_last_of_them(hub: Path) -> None:
    """The hub's library keeps large files of its Xet storage once, with links to them."""
    size_bytes, store = 600, hub / "blobs" / "ab"
    blobs = [
        model(hub, name, size_bytes, used=used) / "blobs" / "weights" for name, used in (("o/a", 1.0), ("o/b", 2.0))
    ]
    for blob in blobs:
        shared = {"xet_hash": "ab" * 32, "cache_dir": hub, "expected_size": size_bytes}
        assert publish_blob_to_shared_store(blob_path=str(blob), **shared)
    assert hub_cache.delete(blobs[0].parents[1]) < size_bytes
    assert (store / ("ab" * 32)).stat().st_size == size_bytes
    assert there(hub) == {"o/b"}
    assert hub_cache.delete(blobs[1].parents[1]) > size_bytes
    assert not (store / ("ab" * 32)).exists()


def test_what_a_download_that_was_broken_off_left_goes_as_well(hub: Path) -> None:
    blobs = hub / "models--o--half" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights.incomplete").write_bytes(bytes(700))
    read("a", 500)
    assert not blobs.exists()


def _uses(name: str, folder: str, begun: Path) -> None:
    hub_cache.hub_folder = lambda: Path(folder)  # type: ignore[assignment]
    lock = hold(name)
    begun.touch()
    time.sleep(600)
    assert lock is None


def test_a_process_that_was_killed_uses_nothing(hub: Path, tmp_path: Path) -> None:
    model(hub, "o/used", 600, used=1.0)
    process = multiprocessing.get_context("spawn").Process(target=_uses, args=("o/used", str(hub), tmp_path / "begun"))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    with pytest.raises(ResourceExhausted):
        read("a", 500)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    read("a", 500)
    assert there(hub) == set()


def test_a_hub_s_cache_elsewhere_is_left_alone(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "user" / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(elsewhere))
    model(elsewhere, "o/mine", 2000, used=1.0)
    with room(900):
        assert there(elsewhere) == {"o/mine"}
    assert hold("o/mine") is None
