"""Homes of local stacks: what comes back when a stack is killed, and that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from stack_processes import marker_of, up
from synthmix.local import Connection, read_connection, start_stack
from synthmix.local.children import Child, Supervisor, wait_until_ready
from synthmix.local.home import prepare
from synthmix.local.sweep import MARKER_VARIABLE, kill_marked, marked_processes, record_run, sweep
from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import FailedPrecondition, SynthMixError, Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore
from waiting import wait_until

# "Killing it with -9 leaves no process behind": the time that may take.
KILL_TIMEOUT_S = 3.0


def test_a_home_through_kills_and_restarts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home) as first:
        connection = read_connection(home)
        marker, temporary = marker_of(home), _temporary_paths(home)
        store = S3ObjectStore(connection.object_store)
        store.put_bytes("kept", os.urandom(100_000))
        kept = store.get_bytes("kept")

        # Children that are killed come back where they were, object storage with all that it acknowledged.
        for name in ("object-storage", "study-control"):
            os.kill(connection.pids[name], signal.SIGKILL)
        wait_until(lambda: _restarted(home, connection, "object-storage", "study-control"), "the restart", 20.0)
        assert _read_when_back(store, "kept") == kept
        assert read_connection(home).services == connection.services

        # So is everything when the stack's own process is killed.
        assert len(marked_processes(marker)) > len(connection.pids)
        first.kill()
        wait_until(lambda: not marked_processes(marker), "every process to end", KILL_TIMEOUT_S)
        wait_until(lambda: not any(path.exists() for path in temporary), "temporary files to go", KILL_TIMEOUT_S)
        assert not (home / "stack.json").exists()
        with pytest.raises(Unavailable) as absence:
            read_connection(home)
        assert absence.value.reason == "NO_STACK"

    with up(home) as second:
        connection = read_connection(home)
        marker, temporary = marker_of(home), _temporary_paths(home)
        assert _read_when_back(S3ObjectStore(connection.object_store), "kept") == kept

        # When Ray's head dies, the services begin anew with it: their old connections are worth nothing.
        os.kill(connection.pids["ray-node"], signal.SIGKILL)
        wait_until(lambda: _restarted(home, connection, "ray-node", *SERVICES), "the restart", 20.0)

        second.send_signal(signal.SIGTERM)
        assert second.wait(40) == 0
        assert marked_processes(marker) == []
        assert not any(path.exists() for path in temporary)
        assert {path.name for path in home.iterdir()} == {
            "cache",
            "certificate.pem",
            "credentials.json",
            "lock",
            "logs",
            "object-storage",
            "users.json",
        }


def test_a_start_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home, wait=False) as process:
        wait_until(lambda: (home / "logs" / "ray-node.log").exists(), "the first child", 20.0)
        marker, temporary = marker_of(home), _temporary_paths(home)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert marked_processes(marker) == []
    assert not any(path.exists() for path in temporary)
    assert not (home / "running.json").exists()


def test_what_even_the_reaper_left_is_swept(tmp_path: Path) -> None:
    """As at the next start, after the machine went down or the reaper was killed as well."""
    home = prepare(tmp_path / "home")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (temporary / "socket").touch()
    record_run(home, "left-over", [temporary, tmp_path / "never-made"])
    home.connection.write_text("{}")
    # Its child has another parent by now, and nothing but the marker says whose it is.
    command = [sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '60'])"]
    subprocess.run(command, env=os.environ | {MARKER_VARIABLE: "left-over"}, check=True)
    assert len(marked_processes("left-over")) == 1
    sweep(home)
    assert marked_processes("left-over") == []
    assert not temporary.exists()
    assert not home.connection.exists()
    assert not home.running.exists()


def test_a_process_that_titled_itself_is_found() -> None:
    """Ray's agents write their titles over their environment, marker and all."""
    agent = "from ray._raylet import setproctitle; setproctitle('ray::Agent'); print('ready', flush=True); input()"
    leader = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {agent!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", leader],
        env=os.environ | {MARKER_VARIABLE: "titled-itself"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        [titled] = psutil.Process(process.pid).children()
        assert MARKER_VARIABLE not in titled.environ()
        assert {found.pid for found in marked_processes("titled-itself")} == {process.pid, titled.pid}
        kill_marked("titled-itself")
        assert not titled.is_running() or titled.status() == psutil.STATUS_ZOMBIE


def test_a_child_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    child = _child(tmp_path, "print('no such setting'); raise SystemExit(3)")
    child.start()
    said: list[str] = []
    supervisor = Supervisor([child], dependents={}, marker="none", say=said.append, restarted=lambda: None)
    supervisor.start()
    wait_until(lambda: supervisor.failure is not None, "the supervisor to give up", 20.0)
    supervisor.stop()
    assert isinstance(supervisor.failure, SynthMixError)
    assert "ended with exit status 3, 5 times in a row" in supervisor.failure.message
    assert "no such setting" in supervisor.failure.message
    assert sum("starting it again" in line for line in said) == 4


def test_a_child_that_fails_to_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    child = _child(tmp_path, "raise SystemExit('SYNTHMIX_TOKEN is not set')")
    child.start()
    with pytest.raises(Unavailable, match="SYNTHMIX_TOKEN is not set"):
        wait_until_ready({child: lambda: False}, timeout_s=20.0, say_ready=lambda _: None, check_stop=lambda: None)


def test_an_unreadable_credentials_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    home = prepare(tmp_path / "home")
    home.credentials.write_text("not JSON")
    with pytest.raises(FailedPrecondition, match="delete it"):
        start_stack(home.folder)
    home.credentials.unlink()
    assert not home.running.exists()


def test_a_home_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(FailedPrecondition, match="choose another folder"):
        start_stack(tmp_path / "home")


def _child(folder: Path, program: str) -> Child:
    return Child("dying", [sys.executable, "-c", program], os.environ, folder=folder, log=folder / "dying.log")


def _restarted(home: Path, before: Connection, *names: str) -> bool:
    """Whether these children have new processes, and their front ends answer."""
    now = read_connection(home)
    return all(now.pids[name] != before.pids[name] for name in names) and all(
        _answers(now.metrics[name]) for name in names if name in SERVICES
    )


def _read_when_back(store: ObjectStore, key: str) -> bytes:
    """What an object storage that was killed still holds: it answers before it has found its volumes again."""
    return ask_until(
        lambda: store.get_bytes(key),
        end_s=time.monotonic() + 60.0,
        pause_s=0.5,
        is_passing=lambda error: isinstance(error, Unavailable),
    )


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _temporary_paths(home: Path) -> list[Path]:
    paths = [Path(path) for path in json.loads((home / "running.json").read_text())["temporary_paths"]]
    assert paths
    return paths
