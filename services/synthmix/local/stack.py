"""Starts, supervises and stops the whole stack on this machine."""

import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from synthmix.local import object_storage, ray_node, services, sweep
from synthmix.local.children import Child, Supervisor, stop_children, wait_until_ready
from synthmix.local.connection import Connection, write_connection
from synthmix.local.home import Home, lock, object_storage_keys, prepare
from synthmix.local.machine import usable_cpus, usable_gpus
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    WORKER_SERVICES,
    object_store_variables,
    variable_prefix,
)
from synthmix.service_kit.errors import Cancelled

log = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
SERVICE_GRACE_S = 12.0  # a service drains for 10 s
RAY_GRACE_S = 10.0
# weed ends in 1 s, or waits 10 s more for an admin server that nobody uses. Its clients are gone by then, and
# it keeps what it acknowledged even if it is killed while it writes.
OBJECT_STORAGE_GRACE_S = 3.0
REAPER_GRACE_S = sweep.KILL_DEADLINE_S + 5.0
# The path of a socket holds 107 characters (103 on macOS). Ours and Ray's names in it need 82.
LONGEST_TEMPORARY_PARENT = 21

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Plan:
    """All that is decided before the first process starts: each one's environment names the others' ports."""

    home: Home
    marker: str
    temporary: Path
    token: str
    storage: object_storage.ObjectStorage
    ray: ray_node.RayNode
    services: Sequence[services.Service]


class Stack:
    """A running stack. Made by start_stack."""

    def __init__(self, connection: Connection, supervisor: Supervisor, stopping: ExitStack):
        self.connection = connection
        self._supervisor = supervisor
        self._stopping = stopping

    def check(self) -> None:
        """Raises Unavailable if a child died again and again and was given up."""
        if self._supervisor.failure is not None:
            raise self._supervisor.failure

    def stop(self) -> None:
        """Stops all: services drain, then Ray, then object storage. No process, no temporary file stays.

        Raises Internal if a process cannot be killed.
        """
        self._stopping.close()


def start_stack(
    home: Path,
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    say: Say = log.info,
    stop_requested: threading.Event | None = None,
) -> Stack:
    """Starts object storage, Ray and the four services, on loopback, and supervises them.

    Args:
        home: What is kept between runs. Made if it does not exist.
        cpus: Processors that Ray gives out; all that this process may use, if not given.
        gpus: GPUs that Ray gives out; all that are found, if not given.
        say: Told of progress, a line at a time.
        stop_requested: Set it to give up.

    Raises:
        FailedPrecondition: A stack runs at that home, the home cannot be used, or a program is not installed.
        Unavailable: A child did not start. The message has the last lines of its log.
        Cancelled: The start was given up.
    """
    paths = prepare(home)
    with ExitStack() as stopping:
        stopping.callback(os.close, lock(paths))
        sweep.sweep(paths)
        cpus = usable_cpus() if cpus is None else cpus
        plan = _plan(paths, cpus, usable_gpus(os.environ, say) if gpus is None else gpus)
        stopping.callback(sweep.sweep, paths)
        children = _children(plan)
        stopping.callback(_stop, paths, children)
        _start(plan, children, say, stop_requested or threading.Event())
        connection = _connection(plan, children)
        supervisor = Supervisor(
            children.all(),
            # Ray's library aborts a driver that meets a new cluster at the old address, whatever it serves,
            # or lets it hang. So the services, which keep nothing, begin anew with Ray.
            dependents={children.ray: list(children.services.values())},
            marker=plan.marker,
            say=say,
            restarted=lambda: write_connection(_connection(plan, children)),
        )
        write_connection(connection)
        supervisor.start()
        stopping.callback(supervisor.stop)
        return Stack(connection, supervisor, stopping.pop_all())


@contextmanager
def local_stack(
    home: Path, *, cpus: int | None = None, gpus: int | None = None, say: Say = log.info
) -> Iterator[Connection]:
    """A stack that runs for the length of a `with` block.

    Raises as start_stack does, and Unavailable at the end of the block if a child was given up within it.
    """
    stack = start_stack(home, cpus=cpus, gpus=gpus, say=say)
    try:
        yield stack.connection
        stack.check()
    finally:
        stack.stop()


def run_stack(home: Path, *, cpus: int | None = None, gpus: int | None = None) -> None:
    """Runs a stack until SIGINT, SIGTERM or SIGHUP, and prints how to reach it. For the main thread.

    Raises as start_stack does, except that a signal during the start is no error, and Unavailable if a child
    was given up.
    """
    stop_requested = threading.Event()
    with _signals_set(stop_requested):
        began_s = time.monotonic()
        _print(f"SynthMix starts at {home}")
        try:
            stack = start_stack(home, cpus=cpus, gpus=gpus, say=_say, stop_requested=stop_requested)
        except Cancelled:
            _say("stopped before it was ready; nothing is left running")
            return
        try:
            _say(_how_to_reach(stack.connection, time.monotonic() - began_s))
            while not stop_requested.wait(0.2):
                stack.check()
        finally:
            began_s = time.monotonic()
            _say("stopping")
            stack.stop()
            _say(f"stopped in {time.monotonic() - began_s:.1f} s; all is kept at {stack.connection.home}")


@dataclass(frozen=True)
class _Children:
    reaper: Child
    storage: Child
    ray: Child
    services: Mapping[services.Service, Child]

    def all(self) -> list[Child]:
        return [self.reaper, self.storage, self.ray, *self.services.values()]


def _plan(home: Home, cpus: int, gpus: int) -> _Plan:
    taken_ports: set[int] = set()
    marker = uuid.uuid4().hex
    parent = tempfile.gettempdir()
    temporary = Path(parent if len(parent) <= LONGEST_TEMPORARY_PARENT else "/tmp") / f"smx{marker[:12]}"
    plan = _Plan(
        home=home,
        marker=marker,
        temporary=temporary,
        token=secrets.token_urlsafe(32),
        storage=object_storage.plan(home, object_storage_keys(home), temporary, taken_ports),
        # Ray opens its folder to every user of the machine, so it gets one below a folder that is ours alone.
        ray=ray_node.plan(temporary / "r", cpus, gpus, taken_ports),
        services=services.plan(taken_ports),
    )
    sweep.record_run(home, plan.marker, [temporary, *plan.storage.temporary_paths])
    temporary.mkdir(mode=0o700)
    return plan


def _children(plan: _Plan) -> _Children:
    common = _environment(plan, os.environ)

    def child(name: str, command: Sequence[str], environment: Mapping[str, str], **more: Any) -> Child:
        # In the home, not where the user stands: Ray's workers import from the working directory of their
        # drivers before they look elsewhere, and a user's folder may well hold a torch.py.
        folder, log = plan.home.folder, plan.home.logs / f"{name}.log"
        return Child(name, command, environment, folder=folder, log=log, **more)

    reaper = [sys.executable, "-P", "-m", "synthmix.local.reaper", str(plan.home.folder)]
    storage, ray = plan.storage, plan.ray
    refused = object_storage.RefusedWrites(storage.folder, plan.home.logs / f"{object_storage.NAME}.log")
    return _Children(
        reaper=child("reaper", reaper, common, holds_pipe=True),
        storage=child(
            object_storage.NAME,
            object_storage.command(storage),
            object_storage.environment(storage, common),
            prepare=refused.begin,
            fault=refused.fault,
        ),
        ray=child(
            ray_node.NAME,
            ray_node.command(ray),
            ray_node.environment(ray, common),
            prepare=partial(ray_node.forget_sessions, ray),
        ),
        services={
            service: child(service.name, services.command(service), services.environment(service, common))
            for service in plan.services
        },
    )


def _start(plan: _Plan, children: _Children, say: Say, stop_requested: threading.Event) -> None:
    def check_stop() -> None:
        if stop_requested.is_set():
            raise Cancelled("the start of the stack was interrupted; start it again", reason="START_INTERRUPTED")

    def say_ready(child: Child) -> None:
        say(f"  {child.name:<24} {time.monotonic() - child.started_s:5.1f} s")

    def wait(checks: Mapping[Child, Callable[[], bool]]) -> None:
        wait_until_ready(checks, timeout_s=START_TIMEOUT_S, say_ready=say_ready, check_stop=check_stop)

    object_storage.forget_ports(plan.storage)
    for child in (children.reaper, children.storage, children.ray):
        child.start()
    wait({children.storage: partial(object_storage.is_ready, plan.storage)})
    # Ray takes longest, and a service needs it at its first operation only, so the services start meanwhile.
    for child in children.services.values():
        child.start()
    wait(
        {child: partial(services.is_ready, service) for service, child in children.services.items()}
        | {children.ray: partial(ray_node.is_ready, plan.ray)}
    )


def _stop(home: Home, children: _Children) -> None:
    """Stops what runs. The reaper comes last, and sweeps; if it cannot, this process does so after it."""
    stop_children(list(children.services.values()), SERVICE_GRACE_S)
    stop_children([children.ray], RAY_GRACE_S)
    stop_children([children.storage], OBJECT_STORAGE_GRACE_S)
    object_storage.flush(home.object_storage)
    stop_children([children.reaper], REAPER_GRACE_S)


def _environment(plan: _Plan, inherited: Mapping[str, str]) -> dict[str, str]:
    """What all children share: the variables of synthmix.service_kit.environment, Ray's, and the marker."""
    environment = {
        name: value
        for name, value in inherited.items()
        if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR")
        # A client's, of another stack: on loopback, this one's services use no TLS.
        and not name.startswith("SYNTHMIX_TLS_")
    }
    environment |= object_store_variables(plan.storage.settings) | {
        sweep.MARKER_VARIABLE: plan.marker,
        "SYNTHMIX_RAY_ADDRESS": plan.ray.address,
        "SYNTHMIX_TOKEN": plan.token,
        "SYNTHMIX_CACHE_DIR": str(plan.home.cache),
        "SYNTHMIX_INCIDENTS_DIR": str(plan.home.incidents),
        # Who may call is this machine's user, who may read what the services may, and download what they like.
        "SYNTHMIX_BASE_MODEL_FOLDERS": inherited.get("SYNTHMIX_BASE_MODEL_FOLDERS", "/"),
        "SYNTHMIX_HUB_MODELS": inherited.get("SYNTHMIX_HUB_MODELS", "*"),
        "PYTHONPATH": _python_path(inherited),
        "PYTHONUNBUFFERED": "1",  # so that logs are whole when a child is killed
        **ray_node.driver_environment(plan.ray),
    }
    for service in plan.services:
        environment[f"{variable_prefix(service.name)}_ADDRESS"] = service.address
    for name in WORKER_SERVICES:
        prefix = variable_prefix(name)
        cpus_per_task = min(2, plan.ray.cpus) if name == ADAPTER_TRAINING else 1
        environment.setdefault(f"{prefix}_CPUS", str(cpus_per_task))  # a user's own setting stays
        environment.setdefault(f"{prefix}_GPUS", "1" if plan.ray.gpus else "0")
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") for name in inherited):
        for name in ("no_proxy", "NO_PROXY"):  # gRPC asks the proxy for loopback too, unless told not to
            environment[name] = ",".join(filter(None, [inherited.get(name), "127.0.0.1", "localhost"]))
    return environment


def _python_path(inherited: Mapping[str, str]) -> str:
    """PYTHONPATH for a child in another folder: absolute, and with the place that this package came from."""
    packages = Path(__file__).resolve().parents[2]
    entries = [str(Path(entry).absolute()) for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys([*entries, str(packages)]))


def _connection(plan: _Plan, children: _Children) -> Connection:
    metrics = {service.name: service.metrics_address for service in plan.services}
    return Connection(
        home=plan.home.folder,
        services={service.name: service.address for service in plan.services},
        metrics=metrics | {ray_node.NAME: plan.ray.metrics_address},
        token=plan.token,
        object_store=plan.storage.settings,
        ray_address=plan.ray.address,
        ray_auth_token=plan.ray.auth_token,
        pid=os.getpid(),
        pids={child.name: child.pid for child in children.all()},
    )


def _how_to_reach(connection: Connection, seconds: float) -> str:
    home = Home(connection.home)
    places = {
        **connection.services,
        "object storage": connection.object_store.endpoint_url,
        "Ray": connection.ray_address,
        "token and keys": home.connection,
        "logs": home.logs,
    }
    table = "\n".join(f"  {name:<24} {place}" for name, place in places.items())
    return (
        f"ready in {seconds:.1f} s\n\n{table}\n\n"
        f"use it from another terminal: synthmix --home {home.folder} studies list\n"
        "Ctrl-C stops it; everything is kept"
    )


def _print(line: str) -> None:
    print(line, flush=True)


def _say(line: str) -> None:
    """Prints what nobody may read any more: a pipe whose reader left, or a full disk, does not stop the stack."""
    with suppress(OSError):
        _print(line)


@contextmanager
def _signals_set(event: threading.Event) -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM and SIGHUP set the event. One that is ignored stays so (nohup)."""

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {
        number: signal.signal(number, handle) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
