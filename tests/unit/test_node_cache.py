"""The cache of a node: within its budget, shared by processes, and nothing goes that someone reads."""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from synthmix.service_kit import node_cache
from synthmix.service_kit.environment import cache_folder
from synthmix.service_kit.errors import ResourceExhausted
from synthmix.service_kit.node_cache import LONGEST_SECONDS, cache_budget_bytes, link_cached, open_cached

BUDGET_BYTES = 1000


@pytest.fixture(autouse=True)
def small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SYNTHMIX_CACHE_MOST_BYTES", str(BUDGET_BYTES))
    monkeypatch.setattr(node_cache, "PATIENCE_SECONDS", 0.0)
    return tmp_path / "cache"


def content(key: str, size_bytes: int) -> bytes:
    return hashlib.sha256(key.encode()).digest() * (size_bytes // 32) + b"." * (size_bytes % 32)


def writer(key: str, size_bytes: int, made: list[str] | None = None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if made is not None:
            made.append(key)
        path.write_bytes(content(key, size_bytes))

    return make


def read(key: str, size_bytes: int, made: list[str]) -> bytes:
    with open_cached("payloads", key, size_bytes, writer(key, size_bytes, made)) as file:
        return file.read()


def kept() -> set[str]:
    return {path.name for path in (cache_folder() / "payloads").iterdir()}


def test_a_file_is_made_once() -> None:
    made: list[str] = []
    assert read("a", 300, made) == read("a", 300, made) == content("a", 300)
    assert made == ["a"]
    assert list((cache_folder() / "writing").iterdir()) == []


def test_the_least_recently_used_goes_first() -> None:
    made: list[str] = []
    for number, key in enumerate(("a", "b", "c")):
        read(key, 300, made)
        os.utime(cache_folder() / "payloads" / key, (number, time.time()))
    read("a", 300, made)
    read("d", 300, made)
    assert kept() == {"a", "c", "d"}
    assert read("b", 300, made) == content("b", 300)
    assert made == ["a", "b", "c", "d", "b"]


def grow_old(key: str, seconds: float) -> None:
    path = cache_folder() / "payloads" / key
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_a_file_goes_a_day_after_it_was_made_however_often_it_is_used() -> None:
    made: list[str] = []
    for key in ("a", "b", "c"):
        read(key, 300, made)
    for key in ("a", "b"):
        grow_old(key, LONGEST_SECONDS - 60)
    assert (read("a", 300, made), node_cache.expire()) == (content("a", 300), 0)
    for key in ("a", "b"):
        grow_old(key, 120)
    with open_cached("payloads", "c", 300, writer("c", 300)), (cache_folder() / "payloads" / "a").open("rb") as reading:
        assert node_cache.expire() == 2
        assert reading.read() == content("a", 300), "whoever reads it reads on"
    assert kept() == {"c"}
    assert node_cache.expire() == 0


def test_a_file_that_is_too_old_is_not_read_even_before_anybody_looked() -> None:
    made: list[str] = []
    read("a", 300, made)
    grow_old("a", LONGEST_SECONDS + 1)
    assert read("a", 300, made) == content("a", 300)
    assert made == ["a", "a"]


def test_a_cache_that_is_not_there_holds_nothing_old() -> None:
    assert node_cache.expire() == 0


def test_what_others_keep_in_the_cache_counts_and_stays() -> None:
    """As HF_HOME does, which is below the cache in pods."""
    blobs = cache_folder() / "huggingface" / "hub" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights").write_bytes(bytes(600))
    (blobs.parent / "model.safetensors").symlink_to(blobs / "weights")
    made: list[str] = []
    read("a", 300, made)
    read("b", 300, made)
    assert kept() == {"b"}
    with pytest.raises(ResourceExhausted):
        read("c", 500, made)
    assert (blobs / "weights").stat().st_size == 600


def test_room_is_made_for_what_others_write() -> None:
    made: list[str] = []
    read("a", 900, made)
    with node_cache.room(800):
        assert kept() == set()


def test_what_someone_reads_stays() -> None:
    made: list[str] = []
    with open_cached("payloads", "a", 600, writer("a", 600)) as file:
        with pytest.raises(ResourceExhausted, match=r"does not fit into the cache .* raise SYNTHMIX_CACHE_MOST_BYTES"):
            read("b", 500, made)
        assert made == [], "refused before a byte is written"
        read("c", 300, made)
        read("d", 300, made)
        assert file.read() == content("a", 600)
    assert kept() == {"a", "d"}
    read("b", 500, made)
    assert "a" not in kept() or "d" not in kept()


def test_what_is_mapped_stays_until_nobody_has_it() -> None:
    with open_cached("pixels", "a", 800, writer("a", 800)) as file:
        array = np.memmap(file, dtype=np.uint8, mode="r")
    part = array[10:20]
    del array
    with pytest.raises(ResourceExhausted):
        read("b", 500, [])
    assert bytes(part) == content("a", 800)[10:20]
    del part
    assert read("b", 500, []) == content("b", 500)


def test_a_linked_file_stays_where_it_is_used_whatever_goes_from_the_cache() -> None:
    with node_cache.room(0) as folder, link_cached("payloads", "a", 300, writer("a", 300), folder / "model.bin"):
        (cache_folder() / "payloads" / "a").unlink()  # as one that is too old goes
        assert (folder / "model.bin").read_bytes() == content("a", 300)
    assert not folder.exists()


def test_a_file_that_goes_before_it_is_linked_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    link, late = os.link, ["once"]
    made: list[str] = []

    def linked(source: Path, path: Path) -> None:
        if late:
            late.clear()
            source.unlink()
        link(source, path)

    monkeypatch.setattr(os, "link", linked)
    with node_cache.room(0) as folder, link_cached("payloads", "a", 300, writer("a", 300, made), folder / "model.bin"):
        assert (folder / "model.bin").read_bytes() == content("a", 300)
    assert made == ["a", "a"]


def test_what_cannot_fit_is_refused_and_takes_nothing_away() -> None:
    made: list[str] = []
    read("a", 900, made)
    with pytest.raises(ResourceExhausted) as caught:
        read("b", 1001, made)
    assert caught.value.reason == "CACHE_FULL"
    assert caught.value.metadata == {"setting": "SYNTHMIX_CACHE_MOST_BYTES", "limit": "1000 B"}
    assert (made, kept()) == (["a"], {"a"})


def test_a_full_disk_is_said_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "reserve_bytes", lambda folder: 2**60)
    with pytest.raises(ResourceExhausted, match=r"the disk of .* is full"):
        read("a", 300, [])


def test_a_disk_that_was_full_a_moment_ago_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    full_once = iter([2**60])
    monkeypatch.setattr(node_cache, "reserve_bytes", lambda folder: next(full_once, 0))
    with pytest.raises(ResourceExhausted) as caught:
        read("a", 300, [])
    assert caught.value.reason == "STORAGE_FULL"


def test_what_others_hold_on_a_disk_with_room_is_told_of_the_cache() -> None:
    with open_cached("payloads", "a", 900, writer("a", 900)), pytest.raises(ResourceExhausted) as caught:
        read("b", 300, [])
    assert caught.value.reason == "CACHE_FULL"


def test_a_share_of_the_disk_is_left_to_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    free_bytes = 600

    def usage(path: Path) -> Any:
        used_bytes = sum(file.stat().st_size for file in (cache_folder() / "payloads").glob("*"))
        return SimpleNamespace(total=4000, free=free_bytes - used_bytes)

    monkeypatch.setattr(node_cache, "reserve_bytes", lambda folder: 80)
    monkeypatch.setattr("shutil.disk_usage", usage)
    made: list[str] = []
    read("a", 300, made)
    monkeypatch.setenv("SYNTHMIX_CACHE_FREE_PERCENT", "5")
    read("b", 350, made)
    assert kept() == {"b"}, "200 of 4,000 bytes stay free"
    with pytest.raises(
        ResourceExhausted, match=r"is full .*, of which 5 % of the disk \(SYNTHMIX_CACHE_FREE_PERCENT\)"
    ):
        read("c", 450, made)
    assert made == ["a", "b"]
    monkeypatch.setenv("SYNTHMIX_CACHE_FREE_PERCENT", "0")
    read("c", 450, made)
    assert kept() == {"c"}, "none but what every disk keeps"


def test_what_fails_leaves_nothing_behind() -> None:
    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        open_cached("payloads", "a", 900, fails)
    assert kept() == set()
    assert read("b", 900, []) == content("b", 900)


def test_a_file_of_another_size_is_made_again() -> None:
    made: list[str] = []
    read("a", 300, made)
    (cache_folder() / "payloads" / "a").write_bytes(b"torn")
    assert read("a", 300, made) == content("a", 300)
    assert made == ["a", "a"]


def test_without_a_setting_it_is_a_share_of_the_disk(small_cache: Path) -> None:
    assert cache_budget_bytes({"SYNTHMIX_CACHE_DIR": str(small_cache)}) > 2**30


def _is_killed_while_it_writes(begun: Path) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"half")
        begun.touch()
        time.sleep(600)

    open_cached("payloads", "a", 900, make)


def test_what_a_killed_process_had_begun_goes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_is_killed_while_it_writes, args=(tmp_path / "begun",))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    with pytest.raises(ResourceExhausted):
        read("b", 500, [])
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert read("a", 900, []) == content("a", 900)
    assert list((cache_folder() / "writing").iterdir()) == []


def _reads_at_random(seed: int, failures: "multiprocessing.Queue[str]") -> None:
    node_cache.PATIENCE_SECONDS = 60.0
    node_cache._POLL_SECONDS = 0.005
    generator = random.Random(seed)
    try:
        for _ in range(150):
            key = generator.choice("abcdefghij")
            size_bytes = 100 + 20 * "abcdefghij".index(key)
            with open_cached("payloads", key, size_bytes, writer(key, size_bytes)) as file:
                time.sleep(generator.random() * 0.002)
                if file.read() != content(key, size_bytes):
                    failures.put(f"{key} is torn")
            used = 0
            for path in (cache_folder() / "payloads").iterdir():
                try:
                    used += path.stat().st_size
                except FileNotFoundError:
                    continue
            if used > BUDGET_BYTES + 280:  # a listing is no snapshot: one may go and another come meanwhile
                failures.put(f"{used} bytes")
    except BaseException as error:
        failures.put(repr(error))


def test_processes_share_it_and_keep_the_budget() -> None:
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    processes = [context.Process(target=_reads_at_random, args=(seed, failures)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert failures.empty(), failures.get()
    assert sum(path.stat().st_size for path in (cache_folder() / "payloads").iterdir()) <= BUDGET_BYTES
