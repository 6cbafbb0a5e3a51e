"""The host of a service's operations as an actor of Ray, and how a front end finds it or starts it.

    operation-hosts/{service}/host.json  the version of the code whose host works

There is one host a service: a detached actor, named by the service and by the version of the code, which Ray starts
again when it dies. A front end may die at any moment: the host goes on, and any replica finds it by its name. When the
code changes, a front end of the new version writes its version down, tells the old host to leave and starts the new
one, which takes up what is unfinished. A front end of the old version that still runs sees that and leaves the new
host be. Should two hosts work at once for a moment, each writes the same bytes.
"""

import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from synthmix.service_kit import audit, node_cache
from synthmix.service_kit.environment import operation_limits, worker_settings
from synthmix.service_kit.errors import SynthMixError, Unavailable
from synthmix.service_kit.metrics import count_on_worker, observe_on_worker
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_host import Observer, OperationHost
from synthmix.service_kit.operation_records import now
from synthmix.service_kit.ray_connection import NAMESPACE, RayConnection
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.stored_records import known_fields
from synthmix.service_kit.task_pool import FEWEST_WAITING, TaskPool

log = logging.getLogger(__name__)

# Nodes that carry it run hosts: in a cluster the head, since a worker without tasks may be taken away.
HOSTS_LABEL = "synthmix.io/operation-hosts"
ANSWER_SECONDS = 20.0
POLL_SECONDS = 0.3
CLAIM_POLL_SECONDS = 5.0
# A host that no front end of its own version has asked for so long makes room for that of the front ends there are.
UNASKED_SECONDS = 60.0
CALLS_AT_ONCE = 32


def code_version() -> str:
    """Names what a front end and its host have in common: an image, or else the installed package."""
    return os.environ.get("SYNTHMIX_CODE_VERSION") or importlib.metadata.version("synthmix")


def host_name(service: str, version: str) -> str:
    """The actor's name."""
    return f"hosts/{service}/{version}"


@dataclass(frozen=True)
class Live:
    """What a host says of itself.

    Attributes:
        running: Operations that run.
        waiting: Operations that wait for what others make.
        queued: Others that it has taken up.
        unreadable: Those that it leaves alone, as another version wrote them.
        unasked_s: Seconds since a front end of its own version asked.
    """

    running: int = 0
    queued: int = 0
    unreadable: int = 0
    unasked_s: float = 0.0
    waiting: int = 0


class HostActor:
    """The actor. It works by itself, so that Ray's restart of a dead one needs no caller."""

    def __init__(self, service: str, version: str, functions: Mapping[str, str]):
        from synthmix.service_kit.ray_tasks import RayTasks

        audit.log_from_host(service)
        self._service = service
        self._version = version
        self._store = open_object_store()
        self._asked_s = time.monotonic()
        backend = RayTasks(host_name(service, version), service, worker_settings(service))
        self._tasks = TaskPool(backend)
        self._host = OperationHost(service, self._store, functions, self._tasks, operation_limits(), _observer(service))
        self._host.start()
        node_cache.start_expiring()
        threading.Thread(target=self._watch_claim, name="claim", daemon=True).start()
        threading.Thread(target=_expire_on_workers, args=(backend,), name="workers' caches", daemon=True).start()

    def live(self, version: str, most_tasks: int = 0) -> dict[str, float]:
        """The fields of Live, by name: front ends of this version ask, and of others.

        Args:
            most_tasks: That the service's workers run at once, as front ends of this version know.
        """
        if version == self._version:
            self._asked_s = time.monotonic()
            self._tasks.fewest_waiting = max(FEWEST_WAITING, most_tasks)
        return {**self._host.counts(), "unasked_s": time.monotonic() - self._asked_s}

    def wake(self) -> None:
        self._host.wake()

    def report(self, operation: str, task: int, done: int, total: int | None = None, message: str = "") -> None:
        self._host.report(operation, task, done, total, message)

    def note_begun(self, operation: str) -> None:
        self._host.note_begun(operation)

    def leave(self) -> None:
        """Stops all work for another host to go on with; the actor is gone soon afterwards."""
        self._host.leave()
        threading.Thread(target=self._remove, daemon=True).start()

    def _watch_claim(self) -> None:
        """Whoever is to tell this host to leave may have died before it could."""
        while True:
            time.sleep(CLAIM_POLL_SECONDS)
            try:
                claim = find_claim(self._store, self._service)
            except SynthMixError:
                continue
            if claim is not None and claim.version != self._version:
                log.info("the host of %s leaves for that of version %s", self._service, claim.version)
                self._host.leave()
                self._remove()
                return

    def _remove(self) -> None:
        import ray

        time.sleep(POLL_SECONDS)  # the answer to whoever asked is on its way
        try:
            ray.kill(ray.get_actor(host_name(self._service, self._version), namespace=NAMESPACE), no_restart=True)
        except ValueError:
            log.info("the host of %s was gone already", self._service)


def _expire_on_workers(workers: Any) -> None:
    """No process of ours stays on a worker that has nothing to do, but its cache does."""
    while True:
        time.sleep(node_cache.EXPIRY_INTERVAL_SECONDS)
        try:
            workers.on_each_node("synthmix.service_kit.node_cache:expire")
        except Exception:  # Ray raises many kinds; the next round is in an hour
            log.exception("the caches of workers could not be looked through")


def _observer(service: str) -> Observer:
    # A counter that exists from the start shows its first event as an increase.
    for state in ("succeeded", "failed", "cancelled"):
        count_on_worker("synthmix_operations_ended", 0, service, state=state)
    return Observer(
        ended=lambda state: count_on_worker("synthmix_operations_ended", 1, service, state=state),
        seconds=lambda name, seconds: observe_on_worker(name, seconds, service),
    )


@dataclass(frozen=True)
class Claim:
    """Whose host is to work: that of this version, by a front end that wrote so at this time."""

    version: str
    time_s: float


def find_claim(store: ObjectStore, service: str) -> Claim | None:
    try:
        value = store.find_json(_claim_key(service))
        return (
            None if value is None else Claim(str(value["version"]), datetime.fromisoformat(value["time"]).timestamp())
        )
    except (ValueError, KeyError, TypeError):
        return None


def write_claim(store: ObjectStore, service: str, version: str) -> None:
    store.put_json(_claim_key(service), {"version": version, "time": now()})


def _claim_key(service: str) -> str:
    return f"operation-hosts/{service}/host.json"


class Hosts:
    """A front end's way to its service's host.

    Args:
        functions: See OperationHost.
        version: Of the front end's code.
    """

    def __init__(
        self,
        service: str,
        store: ObjectStore,
        ray_connection: RayConnection,
        functions: Mapping[str, str],
        version: str | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._service = service
        self._store = store
        self._ray = ray_connection
        self._functions = dict(functions)
        self._version = version or code_version()
        self._since_s = clock()

    def wake(self) -> Live:
        """Tells the host that there is something new, and starts it if it is not there. Raises Unavailable."""
        ray = self._ray.ensure()
        actor, live = self._host(ray)
        actor.wake.remote()
        return live

    def _host(self, ray: Any) -> tuple[Any, Live]:
        claim = find_claim(self._store, self._service)
        if claim is not None and claim.version != self._version:
            found = self._ask_other(ray, claim.version) if claim.time_s >= self._since_s else None
            if found is not None:
                return found
            write_claim(self._store, self._service, self._version)
            self._send_away(ray, claim.version)
        elif claim is None:
            write_claim(self._store, self._service, self._version)
        return self._start(ray)

    def _ask_other(self, ray: Any, version: str) -> tuple[Any, Live] | None:
        """The host of another version, if it is there and front ends of its own version are as well."""
        try:
            actor = ray.get_actor(host_name(self._service, version), namespace=NAMESPACE)
            live = known_fields(Live, ray.get(actor.live.remote(self._version), timeout=ANSWER_SECONDS))
        except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return None
        return (actor, live) if live.unasked_s < UNASKED_SECONDS else None

    def _send_away(self, ray: Any, version: str) -> None:
        try:
            actor = ray.get_actor(host_name(self._service, version), namespace=NAMESPACE)
            ray.get(actor.leave.remote(), timeout=ANSWER_SECONDS)
        except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            log.info("the host of %s of version %s is gone, or does not answer: %s", self._service, version, error)

    def _start(self, ray: Any) -> tuple[Any, Live]:
        """The host of this version, which is started unless it runs."""
        end_s = time.monotonic() + ANSWER_SECONDS
        most_tasks = worker_settings(self._service).most_tasks
        while True:
            actor = (
                ray.remote(HostActor)
                .options(
                    name=host_name(self._service, self._version),
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,
                    label_selector={HOSTS_LABEL: "true"},
                    max_restarts=-1,
                    max_concurrency=CALLS_AT_ONCE,
                )
                .remote(self._service, self._version, self._functions)
            )
            try:
                live = ray.get(actor.live.remote(self._version, most_tasks), timeout=ANSWER_SECONDS)
                return actor, known_fields(Live, live)
            except ray.exceptions.GetTimeoutError as error:
                cause: Exception = error
            except ray.exceptions.RayActorError as error:
                cause = error
                log.info("the host of %s is on its way out, or did not come up: %s", self._service, error)
            if time.monotonic() > end_s:
                raise Unavailable(
                    f"the host of {self._service}'s operations does not start ({type(cause).__name__}); check that Ray "
                    f"runs and that a node with the label {HOSTS_LABEL} has memory for another process",
                    reason="RAY_UNAVAILABLE",
                ) from cause
            time.sleep(POLL_SECONDS)
