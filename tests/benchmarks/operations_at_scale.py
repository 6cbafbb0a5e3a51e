"""Is a service with many operations still quick? Lists, a front end's round and a host, over a real S3 server.

Usage: ``python tests/benchmarks/operations_at_scale.py --out FOLDER [--finished 10000] [--open 1000]``.

It starts SeaweedFS as the local stack does, fills it with studies that have finished and studies that are to be done,
and measures a front end and a host, each in a process of its own, without Ray: both ask and answer it in milliseconds.
Writes operations-at-scale.json and .md into the folder.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from google.longrunning import operations_pb2

from real_servers import running
from synthmix.api.studies.v1 import studies_pb2
from synthmix.local import object_storage
from synthmix.local.home import object_storage_keys, prepare
from synthmix.service_kit import open_operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import Manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import STUDY_CONTROL, ObjectStoreSettings, OperationLimits
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_host import OperationHost
from synthmix.service_kit.operation_hosts import Live
from synthmix.service_kit.operation_index import Created, OperationIndex
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.owners import claim
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import STUDIES, ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import S3ObjectStore, open_object_store
from synthmix.study_control import specification
from synthmix.study_control.study_service import StudyService

SECONDS_APART = 300
DATASET = "datasets/" + "d" * 32
SPLIT = "splits/" + "e" * 32
WRITERS = 16
REPEATS = 7
MIB = 1024 * 1024
OWNERS = 20

# What is asked of it: seconds at most, and MiB.
LIST_SECONDS = 1.0
RECONCILE_SECONDS = 2.0
FRONT_END_MIB = 512
HOST_MIB = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/operations-at-scale"))
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--open", type=int, default=1_000)
    parser.add_argument("--role", choices=["front-end", "host"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        role = front_end if arguments.role == "front-end" else host
        print(json.dumps(role(open_object_store(), arguments.open)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    with seaweedfs() as settings:
        store = S3ObjectStore(settings)
        store.create_bucket()
        start_s = time.perf_counter()
        fill(store, arguments.finished, arguments.open)
        figures: dict[str, Any] = {
            "finished": arguments.finished,
            "open": arguments.open,
            "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
            "fill_seconds": time.perf_counter() - start_s,
            "load": os.getloadavg()[1],
        }
        for name in ("front-end", "host"):
            figures[name] = measured_in_a_process(name, arguments.open, settings)
    (arguments.out / "operations-at-scale.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = table(figures)
    (arguments.out / "operations-at-scale.md").write_text(text)
    print(text)


@contextmanager
def seaweedfs() -> Iterator[ObjectStoreSettings]:
    with tempfile.TemporaryDirectory(prefix="smx") as folder:
        home = prepare(Path(folder) / "home")
        (Path(folder) / "s").mkdir()
        storage = object_storage.plan(home, object_storage_keys(home), Path(folder) / "s", set())
        command, environment = object_storage.command(storage), object_storage.environment(storage, os.environ)
        with running("seaweedfs", command, environment, home.folder, lambda: object_storage.is_ready(storage)):
            yield storage.settings


def fill(store: ObjectStore, finished: int, opened: int) -> None:
    """Writes the objects that so many studies leave, as front end and host do."""
    spec = specification.with_defaults(studies_pb2.StudySpec(name="scale", dataset="cells"))
    request = {"spec": specification.canonical(spec, DATASET), "split": SPLIT, "dataset": DATASET}
    index = OperationIndex(store, STUDY_CONTROL)
    began = datetime.now(UTC) - timedelta(seconds=SECONDS_APART * (finished + opened) + 60)

    def write(number: int) -> None:
        study = ArtifactName(STUDIES, digest_of({"number": number}))
        record = records.OperationRecord(
            OperationName(STUDY_CONTROL, study.id),
            STUDIES,
            str(study),
            request | {"steps": []},
            # The newest is a minute old, and there are 288 a day.
            (began + timedelta(seconds=SECONDS_APART * number)).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            requested_by=Requester(f"owner-{number % OWNERS}"),
        )
        claim(store, study, record.requested_by.owner)
        index.add(record.name, Created(record.create_time, STUDIES))
        records.write_record(store, record)
        if number >= finished:
            open_operations.add(store, record)
            return
        records.write_progress(store, record, {"done": 3, "total": 3, "revision": 9})
        records.write_success(store, record, str(study))
        inputs = {"split": SPLIT, "evaluation": "evaluations/" + "f" * 32}
        write_manifest(store, Manifest(study, inputs, request, 1, (), {"verdict": "No ratio improves accuracy."}))

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(finished + opened)))


def measured_in_a_process(role: str, opened: int, settings: ObjectStoreSettings) -> dict[str, Any]:
    environment = os.environ | {
        "SYNTHMIX_OBJECT_STORE_ENDPOINT": settings.endpoint_url,
        "SYNTHMIX_OBJECT_STORE_ACCESS_KEY": settings.access_key,
        "SYNTHMIX_OBJECT_STORE_SECRET_KEY": settings.secret_key,
        "SYNTHMIX_OBJECT_STORE_BUCKET": settings.bucket,
    }
    command = [sys.executable, __file__, "--role", role, "--open", str(opened)]
    result = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def timed(action: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the first call in a new process, and of later ones; and what a later one takes of a processor here."""
    seconds = []
    for number in range(1 + REPEATS):
        if number == 1:
            cpu_s = time.process_time()
        start_s = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start_s)
    cpu_s = (time.process_time() - cpu_s) / REPEATS
    return {"first": seconds[0], "median": statistics.median(seconds[1:]), "worst": max(seconds), "processor": cpu_s}


class NoRay:
    """Stands for the host: it is there, and runs what it can."""

    def wake(self) -> Live:
        return Live(256, 0, 0, 0.0)


def front_end(store: ObjectStore, opened: int) -> dict[str, Any]:
    operations = Operations(
        STUDY_CONTROL, store, RayConnection("127.0.0.1:1"), {}, lambda name, _: service.resource(name, _)
    )
    operations._hosts = NoRay()  # type: ignore[assignment]
    service = StudyService(store, operations, None, None)  # type: ignore[arg-type]

    def studies(**request: Any) -> Any:
        return asyncio.run(service.ListStudies(studies_pb2.ListStudiesRequest(**request), None))  # type: ignore[arg-type]

    def listed() -> Any:
        return asyncio.run(operations.ListOperations(operations_pb2.ListOperationsRequest(), None))  # type: ignore[arg-type]

    assert len(studies().studies) == len(listed().operations) == 50
    assert len(studies(unfinished_only=True, page_size=1000).studies) == opened
    return {
        "list_studies": timed(studies),
        "list_studies_unfinished": timed(lambda: studies(unfinished_only=True)),
        "list_operations": timed(listed),
        "reconcile": timed(operations.reconcile),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def wait(context: OperationContext) -> str:
    """What an operation does: it waits for others' work, as a study does."""
    context.update(total=3, unit="steps", message="waiting")
    while True:
        context.sleep(1.0)


def host(store: ObjectStore, opened: int) -> dict[str, Any]:
    process = psutil.Process()
    before = process.memory_info().rss
    limits = OperationLimits()
    functions = {STUDIES: "operations_at_scale:wait"}
    working = OperationHost(STUDY_CONTROL, store, functions, None, limits)
    start_s = time.perf_counter()
    working.start()
    running = min(limits.at_once, opened)
    while working.counts() != {"running": running, "waiting": 0, "queued": opened - running, "unreadable": 0}:
        time.sleep(0.05)
    taken_up_s = time.perf_counter() - start_s
    time.sleep(10.0)
    start_s, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
    time.sleep(20.0)
    busy = (sum(process.cpu_times()[:2]) - cpu) / (time.perf_counter() - start_s)
    figures = {
        "take_up_seconds": taken_up_s,
        "look": timed(working.look_once),
        "processor_share": busy,
        "threads": process.num_threads(),
        "memory_before_mib": before / MIB,
        "memory_mib": process.memory_info().rss / MIB,
    }
    working.leave()
    return figures


def table(figures: dict[str, Any]) -> str:
    front, working = figures["front-end"], figures["host"]
    rows = [
        ("ListStudies, 50 of all", front["list_studies"], LIST_SECONDS),
        ("ListStudies, 50 of the unfinished", front["list_studies_unfinished"], LIST_SECONDS),
        ("ListOperations, 50 of all", front["list_operations"], LIST_SECONDS),
        ("a front end's round", front["reconcile"], RECONCILE_SECONDS),
        ("a host's look at what is open", working["look"], RECONCILE_SECONDS),
    ]
    lines = [
        "| what | first call | median | worst | at most | processor time of a call, without the server's |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {found['first']:.2f} s | {found['median']:.2f} s | {found['worst']:.2f} s | {most:g} s | "
            f"{found['processor']:.2f} s |"
            for name, found, most in rows
        ),
        "",
        "| what | MiB | at most |",
        "|---|---|---|",
        f"| front end, at its largest | {front['memory_mib']:.0f} | {FRONT_END_MIB} |",
        f"| host with all that is open | {working['memory_mib']:.0f} | {HOST_MIB} |",
        "",
        f"The host has taken up everything after {working['take_up_seconds']:.1f} s, has {working['threads']} threads, "
        f"{working['memory_mib'] - working['memory_before_mib']:.0f} MiB of its memory are for operations, and it uses "
        f"{working['processor_share']:.0%} of a processor while they wait. ({figures['processor']}; "
        f"{figures['finished']:,} finished and {figures['open']:,} open studies, of {OWNERS} owners; "
        f"load of the machine {figures['load']:.0f}.)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
