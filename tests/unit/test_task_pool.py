"""Tasks in windows: what is handed over, to whom, and what becomes of a task that dies."""

import itertools
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fake_backend import FakeBackend
from memory_object_store import MemoryObjectStore
from synthmix.service_kit import operation_records as records
from synthmix.service_kit import task_pool
from synthmix.service_kit.environment import WorkerSettings
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, InvalidArgument, SynthMixError
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.ray_tasks import RayTasks, slots_of
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.task_pool import TASK_ATTEMPTS, TaskDied, TaskPool
from waiting import wait_until


def context_of(number: int, pool: TaskPool, owner: str = "local", study: str = "") -> OperationContext:
    name = OperationName("image-synthesis", f"{number:032x}")
    record = records.OperationRecord(name, "image-sets", "", {}, records.now(), requested_by=Requester(owner, study))
    return OperationContext(MemoryObjectStore.created(), record, pool)


class Running:
    """An operation's tasks, run from a thread."""

    def __init__(self, context: OperationContext, tasks: int, makes: Sequence[str] = ()):
        self.context = context
        self.values: list[Any] = []
        self.ended: list[int] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(tasks, makes), daemon=True)
        self._thread.start()

    def _run(self, tasks: int, makes: Sequence[str]) -> None:
        try:
            arguments = [{"number": number} for number in range(tasks)]
            if makes:
                self._run_making(arguments, makes)
            else:
                self.values = self.context.run_tasks(
                    "module:function", arguments, lambda index, _: self.ended.append(index)
                )
        except BaseException as error:
            self.error = error

    def _run_making(self, arguments: Sequence[dict[str, int]], makes: Sequence[str]) -> None:
        with self.context.tasks() as tasks:
            tasks.add("module:function", arguments, makes)
            ended: dict[int, Any] = {}
            while tasks.left:
                ended |= dict(tasks.ended())
        self.values = [ended[index] for index in range(len(arguments))]

    def join(self) -> "Running":
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self


def pool_of(backend: FakeBackend, fewest_waiting: int = 2) -> TaskPool:
    return TaskPool(backend, fewest_waiting=fewest_waiting, first_backoff_s=0.01)


def test_tasks_are_handed_over_in_windows() -> None:
    backend = FakeBackend(slots=3)
    running = Running(context_of(1, pool_of(backend)), tasks=20)
    wait_until(lambda: len(backend.running) == 6, "a task a slot, and as many waiting")
    for _ in range(20):
        wait_until(lambda: bool(backend.running), "the next task")
        backend.end()
    assert running.join().values == list(range(20))
    assert sorted(running.ended) == list(range(20))
    assert backend.most_at_once == 6
    assert running.context.worker_seconds == 10.0


def test_without_a_worker_a_few_wait_for_the_autoscaler_to_see() -> None:
    backend = FakeBackend(slots=0)
    Running(context_of(1, pool_of(backend, fewest_waiting=4)), tasks=20)
    wait_until(lambda: len(backend.running) == 4, "those that wait")
    time.sleep(0.1)
    assert len(backend.running) == 4


def test_no_grid_blocks_another_one() -> None:
    backend = FakeBackend(slots=2)
    pool = pool_of(backend)
    large = Running(context_of(1, pool, owner="ada"), tasks=500)
    wait_until(lambda: len(backend.running) == 4, "the window is full")
    small = Running(context_of(2, pool, owner="bob"), tasks=3)
    wait_until(lambda: pool.waiting == 499, "the small one is in the queue")
    for _ in range(4 + 6):
        wait_until(lambda: bool(backend.running), "the next task")
        backend.end()
    assert small.join().values == [0, 1, 2], "within two turns of the window"
    large.context.cancel()
    assert isinstance(large.join().error, Cancelled)


def test_two_studies_of_one_owner_take_turns_whatever_their_size() -> None:
    backend = FakeBackend(slots=1)
    pool = pool_of(backend, fewest_waiting=1)
    runs = [Running(context_of(number, pool, study=f"studies/{number // 3}"), tasks=5) for number in range(4)]
    wait_until(lambda: pool.waiting == 18, "all are in the queue")
    for _ in range(20):
        wait_until(lambda: bool(backend.running), "the next task")
        backend.end()
    for run in runs:
        run.join()
    late = [call.operation[-1] for call in backend.submitted[2:10]]
    assert late.count("3") == 4, "one study has three operations and the other one, and each gets every second turn"


def test_tasks_may_be_added_while_others_run_and_the_lowest_rank_goes_first() -> None:
    backend = FakeBackend(slots=1)
    context = context_of(1, pool_of(backend, fewest_waiting=1))
    with context.tasks() as tasks:
        assert tasks.add("module:function", [{}] * 4, ranks=[0, 1, 1, 2]) == range(4)
        wait_until(lambda: len(backend.running) == 2, "the window")
        assert tasks.add("module:other", [{}] * 3, ranks=[2, 0, -1]) == range(4, 7)
        assert list(tasks.ended(0.01)) == [] and tasks.left == 7
        found = []
        while tasks.left:
            backend.end()
            found += list(tasks.ended())
    assert [index for index, _ in found] == [0, 1, 6, 5, 2, 3, 4], "two were handed over before"
    assert [call.function for call in backend.submitted[:3]] == ["module:function"] * 2 + ["module:other"]
    assert context.worker_seconds == 3.5


def test_what_is_left_of_added_tasks_does_not_run_on() -> None:
    backend = FakeBackend(slots=2)
    pool = pool_of(backend)
    context = context_of(1, pool)
    with pytest.raises(InvalidArgument), context.tasks() as tasks:
        tasks.add("module:function", [{}] * 5)
        wait_until(lambda: len(backend.running) == 4, "the window")
        backend.end(InvalidArgument("no", reason="NO"))
        list(tasks.ended())
    assert {call.index for call in backend.cancelled} >= {1, 2, 3} and not backend.running
    assert pool.waiting == 0


def test_two_that_make_the_same_are_not_run_at_once() -> None:
    backend = FakeBackend(slots=4)
    pool = pool_of(backend)
    first = Running(context_of(1, pool), tasks=2, makes=["trials/a", "trials/b"])
    wait_until(lambda: len(backend.running) == 2, "both")
    second = Running(context_of(2, pool), tasks=3, makes=["trials/b", "trials/c", "trials/a"])
    wait_until(lambda: len(backend.running) == 3, "what nobody else makes")
    wait_until(lambda: pool.waiting == 2, "those that wait for others")
    assert [call.makes for call in backend.submitted] == ["trials/a", "trials/b", "trials/c"]
    for number in range(5):
        wait_until(lambda: bool(backend.running), "the next")
        at_work = [call.makes for call, _ in backend.running]
        assert len(at_work) == len(set(at_work)), number
        backend.end()
    assert first.join().values == [0, 1] and second.join().values == [0, 1, 2]


def test_who_waits_for_one_that_dies_or_is_cancelled_makes_it() -> None:
    backend = FakeBackend(slots=4)
    pool = pool_of(backend)
    runs = [Running(context_of(1, pool), tasks=1, makes=["trials/a"])]
    wait_until(lambda: len(backend.running) == 1, "the first")
    for number in (2, 3):
        runs.append(Running(context_of(number, pool), tasks=1, makes=["trials/a"]))
        wait_until(lambda waiting=number - 1: pool.waiting == waiting, "one more that waits")
    backend.end(TaskDied("the worker was killed"))
    wait_until(lambda: bool(backend.running), "the second")
    assert backend.running[0][0].operation.endswith("2")
    runs[2].context.cancel()
    assert isinstance(runs[2].join().error, Cancelled)
    wait_until(lambda: pool.waiting == 1, "the first alone, as one that was cancelled waits for nothing")
    runs[2] = Running(context_of(3, pool), tasks=1, makes=["trials/a"])
    wait_until(lambda: pool.waiting == 2, "one more again")
    runs[1].context.cancel()
    assert isinstance(runs[1].join().error, Cancelled)
    for _ in range(2):
        wait_until(lambda: bool(backend.running), "the others")
        backend.end()
    assert runs[0].join().values == runs[2].join().values == [0]
    assert pool.waiting == 0


def test_a_task_that_dies_is_tried_again_after_a_pause() -> None:
    backend = FakeBackend(slots=1)
    running = Running(context_of(1, pool_of(backend)), tasks=1)
    for _ in range(TASK_ATTEMPTS - 1):
        wait_until(lambda: bool(backend.running), "the task")
        backend.end(TaskDied("the worker was killed"))
    wait_until(lambda: bool(backend.running), "the last attempt")
    backend.end()
    assert running.join().values == [0]


@pytest.mark.parametrize(("memory", "reason"), [(True, "OUT_OF_MEMORY"), (False, "WORKER_DIED")])
def test_one_that_dies_again_and_again_fails_with_a_clear_error(memory: bool, reason: str) -> None:
    backend = FakeBackend(slots=2)
    running = Running(context_of(1, pool_of(backend)), tasks=2)
    wait_until(lambda: len(backend.running) == 2, "both tasks")
    other = backend.running[1][0]
    for _ in range(TASK_ATTEMPTS):
        wait_until(lambda: any(call.index == 0 for call, _ in backend.running), "the task")
        backend.end(TaskDied("killed", memory=memory), next(call for call, _ in backend.running if call.index == 0))
    error = running.join().error
    assert isinstance(error, FailedPrecondition)
    assert error.reason == reason
    assert f"in each of {TASK_ATTEMPTS} attempts" in error.message
    assert len(backend.submitted) == TASK_ATTEMPTS + 1
    assert backend.cancelled == [other], "the others are not left running"


def test_one_that_comes_further_each_time_is_not_given_up() -> None:
    backend = FakeBackend(slots=1)
    running = Running(context_of(1, pool_of(backend)), tasks=1)
    for number in range(3 * TASK_ATTEMPTS):
        wait_until(lambda: bool(backend.running), "the task")
        running.context.report(0, 10 * number + 1)
        backend.end(TaskDied("its node was taken away"))
    wait_until(lambda: bool(backend.running), "one more attempt")
    backend.end()
    assert running.join().values == [0]


def test_an_autoscaler_sees_at_once_that_all_its_workers_are_wanted() -> None:
    """A worker takes minutes to come, and waiting for it before more are asked for would double them."""
    most = WorkerSettings(cpus=1.0, gpus=0.5, most_workers=32).most_tasks
    backend = FakeBackend(slots=0)
    Running(context_of(1, pool_of(backend, fewest_waiting=most)), tasks=4800)
    wait_until(lambda: len(backend.running) >= 64, "the window")
    assert len(backend.running) == 64
    assert WorkerSettings(cpus=1.0, gpus=0.0).most_tasks == 0
    assert WorkerSettings(cpus=1.0, gpus=2.0, most_workers=3).most_tasks == 3


def test_an_error_of_a_task_ends_the_others() -> None:
    backend = FakeBackend(slots=2)
    pool = pool_of(backend)
    running = Running(context_of(1, pool), tasks=50)
    wait_until(lambda: len(backend.running) == 4, "the window")
    backend.end(InvalidArgument("x: is wrong", reason="R"))
    error = running.join().error
    assert isinstance(error, SynthMixError) and error.message == "x: is wrong"
    wait_until(lambda: len(backend.cancelled) == 4 or not backend.running, "the end of the others")
    assert pool.waiting == 0


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(task_pool, "LONGEST_BACKOFF_SECONDS", 0.04)
    backend = FakeBackend(slots=1)
    times: list[float] = []
    Running(context_of(1, pool_of(backend)), tasks=1)
    for _ in range(TASK_ATTEMPTS):
        wait_until(lambda: bool(backend.running), "the task")
        times.append(time.monotonic())
        backend.end(TaskDied("killed"))
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= 0.01 and pauses[2] >= 0.04


def test_slots_are_what_a_node_has_room_for() -> None:
    assert slots_of({"CPU": 16.0, "GPU": 4.0}, WorkerSettings(cpus=2.0, gpus=1.0)) == 4
    assert slots_of({"CPU": 3.0}, WorkerSettings(cpus=2.0, gpus=0.0)) == 1
    assert slots_of({"CPU": 16.0}, WorkerSettings(cpus=1.0, gpus=1.0)) == 0
    assert slots_of({"CPU": 1.0}, WorkerSettings(cpus=0.0, gpus=0.0)) == 1


class NodesOfRay:
    """Takes the place of ray: its nodes, and what is called where."""

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []

    def nodes(self) -> list[dict[str, Any]]:
        group = {"synthmix.io/image-synthesis": "true"}
        other = {"synthmix.io/study-control": "true"}
        return [
            {"NodeID": "a" * 56, "Alive": True, "Labels": group, "Resources": {"CPU": 8.0}},
            {"NodeID": "b" * 56, "Alive": False, "Labels": group, "Resources": {"CPU": 1.0}},
            {"NodeID": "c" * 56, "Alive": True, "Labels": other, "Resources": {"CPU": 2.0}},
            {"NodeID": "d" * 56, "Alive": True, "Labels": group, "Resources": {"CPU": 16.0}},
        ]

    def remote(self, function: Any) -> Any:
        def options(*, scheduling_strategy: Any, num_cpus: float, **rest: Any) -> Any:
            assert num_cpus == 0, "it waits for no task"
            assert not scheduling_strategy.soft
            return SimpleNamespace(
                remote=lambda called: self.called.append((scheduling_strategy.node_id[0], called)) or function(called)
            )

        return SimpleNamespace(options=options)


def test_each_node_of_a_group_that_is_alive_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = RayTasks("host", "image-synthesis", WorkerSettings(cpus=1, gpus=0))
    nodes = NodesOfRay()
    monkeypatch.setattr(workers, "_ray", nodes)
    expired: list[int] = []
    monkeypatch.setattr("synthmix.service_kit.node_cache.expire", lambda: expired.append(1))
    workers.on_each_node("synthmix.service_kit.node_cache:expire")
    assert nodes.called == [(letter, "synthmix.service_kit.node_cache:expire") for letter in "ad"]
    assert expired == [1, 1]
