"""Object storage that refuses writes since its disk was full begins anew once there is room, and not before."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from synthmix.local import children, object_storage
from synthmix.local.children import Child, Supervisor
from synthmix.local.object_storage import RefusedWrites
from waiting import wait_until

# As SeaweedFS 4 wrote it while its disk was full, and ever after.
REFUSED = (
    "E1201 12:53:36.606293 filer.go:334 request_id:cb32d0f1 update entry /buckets/synthmix/a.json: persisting "
    "/buckets/synthmix/a.json : write /home/ada/object-storage/filerldb2/00/000074.log: no space left on device\n"
)
# Of a volume, which takes writes again as soon as there is room.
OTHERS = (
    "I1201 12:52:23.580471 store_replicate.go:83 failed to write to local disk: append to volume 6: write "
    "/home/ada/object-storage/synthmix_6.dat: no space left on device\n"
    "I1201 10:53:04.331495 leveldb2_store.go:43 filer store leveldb2 dir: /home/ada/object-storage/filerldb2\n"
)


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Whether the disk has no room."""
    low = threading.Event()
    monkeypatch.setattr(object_storage, "is_low", lambda folder: low.is_set())
    return low


def append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


def test_a_refused_write_is_a_fault_once_there_is_room(tmp_path: Path, low: threading.Event) -> None:
    log = tmp_path / "object-storage.log"
    watched = RefusedWrites(tmp_path, log)
    watched.begin()
    append(log, OTHERS)
    assert watched.fault() == ""
    low.set()
    append(log, REFUSED[:150])
    assert watched.fault() == "", "half of a line"
    append(log, REFUSED[150:] + OTHERS)
    assert watched.fault() == "", "there is no room yet"
    low.clear()
    assert "refuses writes since its disk was full" in watched.fault()
    watched.begin()
    assert watched.fault() == "", "another process"
    append(log, REFUSED)
    assert watched.fault()


def test_a_long_log_is_read_in_pieces(tmp_path: Path, low: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_storage, "MOST_LOG_BYTES", 64)
    log = tmp_path / "object-storage.log"
    append(log, OTHERS + REFUSED)
    watched = RefusedWrites(tmp_path, log)
    looks = len(OTHERS + REFUSED) // 64 + 1
    assert [bool(watched.fault()) for _ in range(looks)] == [False] * (looks - 1) + [True]


def test_the_supervisor_starts_a_child_with_a_fault_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()
    child = Child(
        "storage",
        [sys.executable, "-c", "import time; time.sleep(60)"],
        os.environ,
        folder=tmp_path,
        log=tmp_path / "storage.log",
        prepare=broken.clear,
        fault=lambda: "refuses writes" if broken.is_set() else "",
    )
    child.start()
    first, said = child.pid, list[str]()
    broken.set()
    assert child.fault() == "", "a young one is left alone, or it might be given up"
    monkeypatch.setattr(children, "QUICK_DEATH_S", 0.0)
    supervisor = Supervisor([child], dependents={}, marker="none", say=said.append, restarted=lambda: None)
    supervisor.start()
    wait_until(lambda: "storage was started again" in said, "the child to begin anew", 20.0)
    supervisor.stop()
    assert [line for line in said if "it is killed" in line] == [
        "storage refuses writes; it is killed, to be started again"
    ]
    assert supervisor.failure is None and child.pid != first and not child.has_ended()
    child.kill()
    child.wait(time.monotonic() + 10)
