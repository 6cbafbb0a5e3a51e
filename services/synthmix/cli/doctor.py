"""`synthmix doctor`: what this machine has, what its stack says, and what to do about what is missing."""

import argparse
import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from synthmix.cli import exit_codes
from synthmix.cli.output import emit, table
from synthmix.client.endpoints import default_home
from synthmix.local.machine import nvidia_gpus, usable_cpus
from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import FailedPrecondition, SynthMixError, Unavailable, Unimplemented
from synthmix.service_kit.machine_memory import available_memory_bytes
from synthmix.service_kit.quantities import byte_size

if TYPE_CHECKING:
    from synthmix.api.clusters.v1 import clusters_pb2
    from synthmix.client.client import Client
    from synthmix.client.release.connection import OpenRelease

OK, WARN, FAIL = "ok", "warn", "fail"
INSTALL = "install synthmix again"
INSTALL_LOCAL = "needed by `up` and `demo`: install synthmix[local]"
GIB = 1024**3
LOW_MEMORY_BYTES, LOWEST_MEMORY_BYTES = 4 * GIB, 1 * GIB
LOW_DISK_BYTES, LOWEST_DISK_BYTES = 10 * GIB, 1 * GIB
HEALTH_TIMEOUT_S = 5.0
ASK_AGAIN_S = 1.0
MOST_PODS = 5
STATUS_WITHOUT_STACK = {"NO_STACK": OK, "STACK_NOT_READY": WARN}
# The name and the extra of a requirement, as the metadata of a distribution has it.
_PACKAGE, _EXTRA = re.compile(r"[\w.-]+"), re.compile(r'extra == "(\w+)"')
# Reasons of a cluster without what tasks run on.
NO_WORKERS = ("RAY_CLUSTER_NOT_FOUND", "WORKER_DEPLOYMENTS_NOT_FOUND")


T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table; `remedy` is "" where nothing is to be done."""

    name: str
    status: str
    found: str
    remedy: str = ""


def doctor(arguments: argparse.Namespace) -> int:
    home = arguments.home or default_home()
    checks = [*([] if arguments.services else machine(home)), *stack(arguments)]
    rows = [(item.status.upper(), item.name, item.found, item.remedy) for item in checks]
    emit(
        arguments,
        {"checks": [asdict(item) for item in checks]},
        table(("", "CHECK", "FOUND", "REMEDY"), rows),
    )
    return exit_codes.FAILED if any(item.status == FAIL for item in checks) else exit_codes.OK


def machine(home: Path) -> Iterator[Check]:
    """What this machine has for a stack whose home this is."""
    yield Check("Python", OK, platform.python_version())
    yield packages("client packages", lambda extra: extra == "", FAIL, INSTALL)
    yield packages("stack packages", lambda extra: extra not in ("", "dev"), WARN, INSTALL_LOCAL)
    cpus = usable_cpus()
    yield (
        Check("processors", WARN, str(cpus), "use 2 or more: services and workers share them")
        if cpus < 2
        else Check("processors", OK, str(cpus))
    )
    yield amount(
        "memory",
        available_memory_bytes(),
        LOW_MEMORY_BYTES,
        LOWEST_MEMORY_BYTES,
        "close other programs, or use a larger machine",
    )
    yield amount(
        f"disk at {home}",
        shutil.disk_usage(_existing(home)).free,
        LOW_DISK_BYTES,
        LOWEST_DISK_BYTES,
        "free some space, or choose another --home",
    )
    yield gpu()
    weed = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    yield Check("object storage", OK, weed) if weed else Check("object storage", WARN, "no weed program", INSTALL_LOCAL)
    yield home_writable(home)


def packages(name: str, is_asked: Callable[[str], bool], status: str, remedy: str) -> Check:
    """Whether the distribution's requirements are installed, of the extras that are asked for ("" is none).

    By metadata, not by importing: torch alone takes seconds.
    """
    needed, missing, found = importlib.metadata.requires("synthmix") or [], [], []
    for requirement in needed:
        package, extra = _PACKAGE.match(requirement), _EXTRA.search(requirement)
        if package and is_asked(extra[1] if extra else ""):
            try:
                found.append(f"{package[0]} {importlib.metadata.version(package[0])}")
            except importlib.metadata.PackageNotFoundError:
                missing.append(package[0])
    if missing:
        return Check(name, status, f"missing: {', '.join(missing)}", remedy)
    return Check(name, OK, ", ".join(found[:3]) + ", ...")


def amount(name: str, free: int, low: int, lowest: int, remedy: str) -> Check:
    found = f"{byte_size(free)} free"
    if free >= low:
        return Check(name, OK, found)
    return Check(name, WARN if free >= lowest else FAIL, found, f"have {byte_size(low)} or more: {remedy}")


def gpu() -> Check:
    try:
        found = nvidia_gpus("name,memory.total")
    except (OSError, subprocess.SubprocessError):
        remedy = "run nvidia-smi and see what it says about the driver"
        return Check("GPU", WARN, "nvidia-smi is there and fails", remedy)
    return Check("GPU", OK, "; ".join(found) or "none (the built-in base model trains on processors)")


def home_writable(home: Path) -> Check:
    name = f"home {home}"
    existing = _existing(home)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "choose another folder by --home or SYNTHMIX_HOME"
        return Check(name, FAIL, f"{existing} is not writable: {error.strerror}", remedy)
    return Check(name, OK, "writable" if existing == home else f"will be made in {existing}")


def stack(arguments: argparse.Namespace) -> Iterator[Check]:
    """Whether a stack answers, each of its services by health, object storage through each, and its cluster."""
    try:
        from synthmix.cli.connection import open_client  # gRPC may be what is missing, and the doctor has to say so

        client = open_client(arguments)
    except Unavailable as error:
        yield Check("stack", STATUS_WITHOUT_STACK.get(error.reason, FAIL), error.message)
        return
    except ModuleNotFoundError as error:
        yield Check("stack", FAIL, f"cannot be asked: Python's module {error.name!r} is missing", INSTALL)
        return
    except SynthMixError as error:
        yield Check("stack", FAIL, error.message)
        return
    patience_ends_s = time.monotonic() + arguments.wait
    with client:
        for service in SERVICES:
            where = f"{service} ({client.endpoints.place_of(service)})"
            health = functools.partial(client.check_health, service, timeout_s=HEALTH_TIMEOUT_S)
            yield _answers(where, health, until_s=patience_ends_s)
            storage = functools.partial(_list_operations, client, service)
            yield _answers("  its object storage", storage, until_s=patience_ends_s)
            if client.endpoints.release:
                yield pods(client.endpoints.release, service)
        yield from cluster(client, until_s=patience_ends_s)


def pods(release: "OpenRelease", service: str) -> Check:
    """How many of the service's pods are ready, and what the others wait for."""
    name = "  its pods"
    try:
        found = release.pods_of(service)
    except SynthMixError as error:
        return Check(name, WARN, error.message, "the pods cannot be looked at; the services do not need it")
    waiting = [f"{pod.name}: {pod.problem}" for pod in found if pod.problem]
    said = "; ".join([f"{len(found) - len(waiting)} of {len(found)} ready", *waiting[:MOST_PODS]])
    return Check(name, WARN, said, "look at them with kubectl describe") if waiting else Check(name, OK, said)


def cluster(client: "Client", *, until_s: float) -> Iterator[Check]:
    """The GPUs, Ray and the workers of a stack that runs on Kubernetes. Ray may take until then to start."""
    name = "Kubernetes"
    try:
        found = _ask(client.get_cluster, until_s, lambda cluster: not cluster.ray_problem)
    except FailedPrecondition as error:
        if error.reason == "NO_CLUSTER":
            yield Check(name, OK, "not used: the workers run on one machine")
        elif error.reason in NO_WORKERS:
            yield Check("Ray", FAIL, error.message, "no task runs until it is there: `helm upgrade` makes it again")
        else:
            yield Check(name, WARN, error.message, "`cluster`, `scale` and predicted times need it; studies do not")
        return
    except Unimplemented:
        remedy = "upgrade them, or use their version's client"
        yield Check(name, WARN, "the services are older than this client", remedy)
        return
    except SynthMixError as error:
        yield Check(name, FAIL, error.message, "look at study-control's log")
        return
    yield gpus_of_cluster(found)
    if found.ray_problem:
        remedy = f"no task runs until it does: look at Ray's pods in namespace {found.namespace} with kubectl describe"
        yield Check("Ray", FAIL, found.ray_problem, remedy)
    else:
        yield Check("Ray", OK, "its head is ready")
    for group in found.worker_groups:
        said = (
            f"{group.ready_workers} of {group.desired_workers} workers ready, "
            f"{group.min_workers} to {group.max_workers} allowed"
        )
        if not group.max_workers:
            remedy = f"allow some with `synthmix scale {group.name} --max N`"
        elif group.ready_workers < group.desired_workers:
            remedy = f"look at the group's pods in namespace {found.namespace} with kubectl describe"
        else:
            remedy = ""
        yield Check(f"  workers of {group.name}", WARN if remedy else OK, said, remedy)


def gpus_of_cluster(found: "clusters_pb2.Cluster") -> Check:
    name = "Kubernetes' GPUs"
    if found.warnings:
        return Check(name, WARN, "; ".join(found.warnings), "predicted times need it; studies do not")
    usable = [node for node in found.nodes if node.ready and node.schedulable]
    gpus = sum(node.nvidia_gpus + node.amd_gpus for node in usable)
    products = sorted({node.gpu_product for node in usable if node.gpu_product})
    kinds = f" ({', '.join(products)})" if products else ""
    said = f"{gpus} on {len(usable)} of {len(found.nodes)} GPU nodes{kinds}"
    if not gpus and any(group.gpus_per_worker for group in found.worker_groups):
        remedy = "workers wait for GPUs: check the nodes' drivers and device plugin, or let the cluster add nodes"
        return Check(name, WARN, said, remedy)
    return Check(name, OK, said)


def _list_operations(client: "Client", service: str) -> None:
    """Reads operation records, and those lie in object storage."""
    next(client.list_operations(service), None)


def _answers(name: str, question: Callable[[], None], *, until_s: float) -> Check:
    try:
        _ask(question, until_s, lambda answer: True)
    except SynthMixError as error:
        return Check(name, FAIL, error.message, "start the stack (`synthmix up`), or look at the service's log")
    return Check(name, OK, "answers")


def _ask(question: Callable[[], T], until_s: float, will_do: Callable[[T], bool]) -> T:
    """Asks again until then, while the answer will not do or the service cannot be reached."""
    return ask_until(
        question,
        end_s=until_s,
        pause_s=ASK_AGAIN_S,
        will_do=will_do,
        is_passing=lambda error: isinstance(error, Unavailable),
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
