"""What a front end tells its service's host, with actors that are objects of this process."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.service_kit import operation_hosts, ray_tasks
from synthmix.service_kit.operation_hosts import HostActor, Hosts
from synthmix.service_kit.task_pool import FEWEST_WAITING, TaskPool


class FakeRay:
    """Calls at once what is called of an actor, of which there is one."""

    exceptions = SimpleNamespace(GetTimeoutError=TimeoutError, RayActorError=ChildProcessError)

    def __init__(self) -> None:
        self.actor: Any = None

    def ensure(self) -> "FakeRay":
        return self

    def remote(self, made: Callable[..., Any]) -> Any:
        def start(*arguments: Any) -> "FakeHandle":
            self.actor = self.actor or made(*arguments)
            return FakeHandle(self.actor)

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def get(self, answer: Any, timeout: float) -> Any:
        return answer


class FakeHandle:
    def __init__(self, actor: Any):
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._actor, name))


class FakeOperationHost:
    """Runs nothing."""

    def __init__(self, service: str, store: Any, functions: Any, tasks: TaskPool, *_: Any):
        self.tasks = tasks

    def start(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {"running": 0, "waiting": 0, "queued": 0, "unreadable": 0}


def test_a_host_hands_over_as_many_tasks_as_front_ends_say(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's pods do not know how many workers there may be, so that another number replaces none of them."""
    made: list[FakeOperationHost] = []

    def operation_host(*arguments: Any) -> FakeOperationHost:
        made.append(FakeOperationHost(*arguments))
        return made[-1]

    monkeypatch.setattr(operation_hosts, "OperationHost", operation_host)
    monkeypatch.setattr(operation_hosts, "open_object_store", lambda: store)
    monkeypatch.setattr(operation_hosts, "_observer", lambda service: None)
    monkeypatch.setattr(operation_hosts, "_expire_on_workers", lambda workers: None)
    monkeypatch.setattr(operation_hosts.node_cache, "start_expiring", lambda: None)
    monkeypatch.setattr(operation_hosts.audit, "log_from_host", lambda service: None)
    monkeypatch.setattr(HostActor, "_watch_claim", lambda self: None)
    monkeypatch.setattr(ray_tasks, "RayTasks", lambda *arguments: None)
    ray: Any = FakeRay()
    hosts = Hosts("image-synthesis", store, ray, {}, version="1")
    hosts.wake()
    [host] = made
    assert host.tasks.fewest_waiting == FEWEST_WAITING
    for most, expected in (("64", 64), ("96", 96), ("0", FEWEST_WAITING)):
        monkeypatch.setenv("SYNTHMIX_IMAGE_SYNTHESIS_MOST_WORKERS", most)
        hosts.wake()
        assert host.tasks.fewest_waiting == expected
    ray.actor.live("another version", 500)
    assert host.tasks.fewest_waiting == FEWEST_WAITING, "it says nothing of this one's workers"
    assert len(made) == 1
