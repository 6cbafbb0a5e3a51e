"""What `synthmix up` tells its children, where it is another thing than a cluster's operator says."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from synthmix.local import ray_node, stack
from synthmix.local.children import Child
from synthmix.service_kit.environment import (
    HubSettings,
    ObjectStoreSettings,
    base_model_folders,
    hub_settings,
    object_store_settings,
    server_tls,
    tls_authorities,
)


def environment(monkeypatch: pytest.MonkeyPatch, **inherited: str) -> dict[str, str]:
    monkeypatch.setattr(ray_node, "driver_environment", lambda ray: {})
    plan: Any = SimpleNamespace(
        storage=SimpleNamespace(settings=ObjectStoreSettings("http://127.0.0.1:1", "key", "secret")),
        marker="marker",
        ray=SimpleNamespace(address="127.0.0.1:2", cpus=2, gpus=0),
        token="token",
        home=SimpleNamespace(cache="/home/cache", incidents="/home/incidents"),
        services=[],
    )
    return stack._environment(plan, inherited)


def test_any_base_model_may_be_named_on_one_s_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment(monkeypatch)
    assert hub_settings(told).allowed == ("*",)
    assert [str(folder) for folder in base_model_folders(told)] == ["/"]


def test_what_a_user_allows_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment(monkeypatch, SYNTHMIX_HUB_MODELS="lab/*", SYNTHMIX_BASE_MODEL_FOLDERS="/models")
    assert hub_settings(told).allowed == ("lab/*",)
    assert [str(folder) for folder in base_model_folders(told)] == ["/models"]


def test_a_process_that_is_told_nothing_allows_nothing() -> None:
    assert hub_settings({}) == HubSettings()
    assert HubSettings().allowed == ()


def test_tls_of_another_stack_is_not_this_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SYNTHMIX_TLS_CA", "SYNTHMIX_TLS_CERTIFICATE", "SYNTHMIX_TLS_KEY", "SYNTHMIX_OBJECT_STORE_CA")
    told = environment(monkeypatch, **dict.fromkeys(names, "/of/another.pem"))
    assert server_tls(told) is None
    assert tls_authorities(told) is None
    assert object_store_settings(told) == ObjectStoreSettings("http://127.0.0.1:1", "key", "secret")


@pytest.mark.parametrize(
    ("cpus", "memory_gib", "kept"), [(2, 24, 4 + 6), (16, 64, 4 + 32), (16, 16, 4 + 16), (2, 1, 4 + 2)]
)
def test_ray_keeps_the_workers_of_each_service_that_memory_has_room_for(
    cpus: int, memory_gib: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_node, "available_memory_bytes", lambda: memory_gib << 30)
    told = ray_node.environment(ray_node.plan(tmp_path, cpus=cpus, gpus=0, taken_ports=set()), {})
    assert told["RAY_num_workers_soft_limit"] == str(kept)


def test_where_memory_runs_out_ray_ends_one_task_at_a_time_and_leaves_another_attempt_to_us(tmp_path: Path) -> None:
    told = ray_node.environment(ray_node.plan(tmp_path, cpus=1, gpus=0, taken_ports=set()), {})
    assert (told["RAY_task_oom_retries"], told["RAY_worker_killing_policy_by_group"]) == ("0", "true")


def test_of_rays_earlier_sessions_the_last_stays(tmp_path: Path) -> None:
    node = ray_node.plan(tmp_path, cpus=1, gpus=0, taken_ports=set())
    ray_node.forget_sessions(node)
    sessions = [f"session_2026-11-30_16-{minute}-36_819371_5805" for minute in (14, 20, 29)]
    for name in sessions:
        (tmp_path / name / "logs").mkdir(parents=True)
        (tmp_path / name / "logs" / "raylet.out").write_text("x")
    (tmp_path / "session_latest").symlink_to(sessions[-1])
    ray_node.forget_sessions(node)
    assert {path.name for path in tmp_path.iterdir()} == {sessions[-1], "session_latest"}
    assert (tmp_path / "session_latest" / "logs" / "raylet.out").exists()


def test_a_child_is_prepared_before_each_start(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    found: list[str] = []

    def prepare() -> None:
        found.append(log.read_text() if log.exists() else "")

    command = [sys.executable, "-c", "print('ran')"]
    child = Child("child", command, os.environ, folder=tmp_path, log=log, prepare=prepare)
    for _ in range(2):
        child.start()
        child.wait(time.monotonic() + 60)
    assert found == ["", "ran\n"]
