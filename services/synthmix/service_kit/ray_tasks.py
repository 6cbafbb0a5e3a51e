"""Tasks on Ray's workers: how they are handed over, what runs them there, and what their ends mean."""

import contextlib
import importlib
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from synthmix.service_kit import kept_values
from synthmix.service_kit.environment import WorkerSettings
from synthmix.service_kit.errors import Cancelled, SynthMixError
from synthmix.service_kit.metrics import count_on_worker
from synthmix.service_kit.ray_connection import NAMESPACE
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.storage_space import disk_full, says_full
from synthmix.service_kit.task_pool import Outcome, TaskCall, TaskDied, TaskResult

# A host answers all of its tasks: one that says more often what it has done is not asked to be heard at once.
REPORT_INTERVAL_SECONDS = 0.25
# The operation of which this process has said that it is begun: each process says it once, not with each of many tasks.
_begun = ""


class RayTasks:
    """The worker group of a service, as a host's TaskPool uses it.

    Args:
        host: The name of the host's actor.
        service: The service whose worker group it is.
        settings: What one task is given.
    """

    def __init__(self, host: str, service: str, settings: WorkerSettings):
        import ray

        self._host = host
        self._settings = settings
        self._label = f"synthmix.io/{service}"
        self._ray = ray
        # By default a worker process is thrown away after one task that holds a GPU, and its imports with it. Tasks
        # that die are tried again by TaskPool, with pauses and an end. Ray has one attempt more, at once: where memory
        # runs out, it ends what it may try again before anything else, such as this host, by the policy that
        # RAY_worker_killing_policy_by_group chooses in the environment of Ray's nodes. That want of memory is no reason
        # to try again for ever says RAY_task_oom_retries there.
        remote = ray.remote(
            max_calls=0,
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            max_retries=1,
            label_selector={self._label: "true"},
        )(run_task)
        # Ray checks options each time that they are given.
        self._named = cache(lambda function: remote.options(name=function))

    def submit(self, call: TaskCall, ended: Callable[[Outcome], None]) -> Any:
        threads = max(1, int(self._settings.cpus))
        reference = self._named(call.function).remote(
            self._host, call.operation, call.index, call.function, dict(call.keywords), threads, self._settings.gpus
        )
        reference.future().add_done_callback(lambda future: ended(self._outcome(future)))
        return reference

    def cancel(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True, recursive=True)

    def slots(self) -> int:
        return sum(slots_of(node["Resources"], self._settings) for node in self._nodes())

    def on_each_node(self, function: str) -> None:
        """Calls a function, as "module:name", once on each node of the group, beside whatever runs there."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for node in self._nodes():
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            self._ray.remote(_call).options(name=function, num_cpus=0, max_retries=0, scheduling_strategy=where).remote(
                function
            )

    def _nodes(self) -> list[dict[str, Any]]:
        """The nodes of the group that are alive."""
        return [node for node in self._ray.nodes() if node["Alive"] and node["Labels"].get(self._label) == "true"]

    def _outcome(self, future: Any) -> Outcome:
        exceptions = self._ray.exceptions
        error = future.exception()
        if error is None:
            return future.result()  # type: ignore[no-any-return]
        if isinstance(error, exceptions.RayTaskError):
            return error.cause if isinstance(error.cause, SynthMixError) else error
        if isinstance(error, exceptions.OutOfMemoryError):
            return TaskDied(_first_line(error), memory=True)
        if isinstance(
            error,
            exceptions.WorkerCrashedError
            | exceptions.NodeDiedError
            | exceptions.LocalRayletDiedError
            | exceptions.ObjectLostError
            | exceptions.RaySystemError,
        ):
            return TaskDied(_first_line(error))
        return error  # type: ignore[no-any-return]


def _call(function: str) -> None:
    module, _, attribute = function.partition(":")
    getattr(importlib.import_module(module), attribute)()


def slots_of(resources: Mapping[str, float], settings: WorkerSettings) -> int:
    """How many tasks a node with these resources runs at once."""
    parts = [
        resources.get(name, 0.0) / wanted
        for name, wanted in (("CPU", settings.cpus), ("GPU", settings.gpus))
        if wanted > 0
    ]
    return int(min(parts)) if parts else 1


def run_task(
    host: str, operation: str, index: int, function: str, keywords: dict[str, Any], threads: int, gpus: float
) -> TaskResult:
    """Runs one task on a worker. Besides its keywords the function gets `report(done, total, message)`, `threads`."""
    import ray

    global _begun
    name = OperationName.parse(operation)
    try:
        actor = ray.get_actor(host, namespace=NAMESPACE)
    except ValueError:
        raise Cancelled(f"{operation} has ended; submit it again if it is wanted", reason="CANCELLED") from None
    if operation != _begun:
        _begun = operation
        with contextlib.suppress(AttributeError):  # a host of a version before this one does not want to know
            actor.note_begun.remote(operation)
    module, _, attribute = function.partition(":")
    call = getattr(importlib.import_module(module), attribute)
    start_s = time.perf_counter()
    reported_s = 0.0

    def report(done: int, total: int | None = None, message: str = "") -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s >= REPORT_INTERVAL_SECONDS:
            reported_s = time.monotonic()
            actor.report.remote(operation, index, done, total, message)

    try:
        with kept_values.at_work():
            value = call(**keywords, report=report, threads=threads)
    except Exception as error:
        if isinstance(error, SynthMixError) or not says_full(error):
            raise
        raise disk_full(Path(tempfile.gettempdir())) from error
    finally:
        seconds = time.perf_counter() - start_s
        count_on_worker("synthmix_worker_seconds", seconds, name.service)
        count_on_worker("synthmix_gpu_seconds", seconds * gpus, name.service)
    return TaskResult(value, seconds)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
