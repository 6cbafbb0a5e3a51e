"""A study of 100 short adapters, 100 image sets and 400 trials: what it takes besides its work, and a resubmission.

Usage: ``python tests/benchmarks/study_at_scale.py --home FOLDER --out FOLDER [--adapters 100]``.

It runs on a local stack with simulated images, whose steps are as short as they can be, and looks on: at the memory of
front ends and hosts, and at which workers do something. A worker is idle while work was ready if it does nothing, and
fewer tasks run than there are adapters, image sets with an adapter, and trials with images that are not made yet. What
a host still writes after a task counts as ready, so that the share is an upper bound. Then the same study is submitted
again. Writes study-at-scale.json and .md. Its home has to be a new one: nothing may have been made before.
"""

import argparse
import json
import math
import os
import platform
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from soak.disturbances import title_of
from synthmix import Client, GroupRule
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli.studies import watch_to_end
from synthmix.client.client import metadata_of
from synthmix.client.study_file import parse_document
from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset
from synthmix.local import Connection, local_stack
from synthmix.service_kit.artifacts import list_artifacts
from synthmix.service_kit.environment import ADAPTER_TRAINING, SERVICES, WORKER_SERVICES, variable_prefix
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, TRIALS
from synthmix.service_kit.s3_object_store import S3ObjectStore

DATASET = "sim-cells"
SEEDS = 4
LOOK_SECONDS = 0.25
# Of what takes longer to find out: which processes there are, what they hold, and what is made.
SURVEY_SECONDS = 2.0
MIB = 1 << 20

# What is asked of it.
MEMORY_MIB = 1024
IDLE_SHARE = 0.10
RESUBMISSION_SECONDS = 5.0


def study(adapters: int) -> studies_pb2.StudySpec:
    """Adapters of 64 images, an image set and a mixture of each, in four seeds; and real images alone in four."""
    ranks = max(number for number in range(1, math.isqrt(adapters) + 1) if adapters % number == 0)
    value = {
        "name": "at-scale",
        "dataset": DATASET,
        "split": {"test": 0.25, "validation": 0.25, "seed": 7},
        "adapters": {
            "rank": list(range(1, ranks + 1)),
            "learning_rate": [number * 1e-4 for number in range(1, adapters // ranks + 1)],
            "images_seen": 64,
        },
        "synthesis": {"prompt": "a brightfield image of {label} cells", "steps": 2},
        "mixtures": {"ratios": [0, 0.5]},
        "classifier": {"epochs": 1},
        "seeds": SEEDS,
    }
    return parse_document(yaml.safe_dump(value), studies_pb2.StudySpec, "at-scale").message


@dataclass(frozen=True)
class Survey:
    """What is looked at seldom.

    Attributes:
        memory_mib: Of front ends, hosts, workers, Ray and object storage: each process's share of what it maps.
        workers: Ray's processes.
        ready: Tasks of which the inputs are there, and which are not done; those that run are among them.
    """

    memory_mib: dict[str, float]
    workers: list[psutil.Process]
    ready: int


@dataclass
class Seen:
    """What was looked at while a block ran.

    Attributes:
        running: How many tasks ran, at each look.
        idle: At each look, whether a worker did nothing although a task could have run.
        tasks: At how many looks a task of this name ran.
        memory_mib: The most that each role had.
    """

    slots: int
    running: list[int] = field(default_factory=list)
    idle: list[bool] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    memory_mib: dict[str, float] = field(default_factory=dict)
    control_plane_mib: float = 0.0


class Onlooker:
    """Looks at a stack from outside, while a study of so many adapters runs on it."""

    def __init__(self, connection: Connection, adapters: int, slots: int):
        self._connection = connection
        self._store: ObjectStore = S3ObjectStore(connection.object_store)
        self._adapters = adapters
        self._slots = slots

    @contextmanager
    def looking(self) -> Iterator[Seen]:
        seen, ended = Seen(self._slots), threading.Event()
        thread = threading.Thread(target=self._look, args=(seen, ended), daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()

    def _look(self, seen: Seen, ended: threading.Event) -> None:
        surveyed_s = -math.inf
        while not ended.wait(LOOK_SECONDS):
            if time.monotonic() - surveyed_s > SURVEY_SECONDS:
                survey = self._survey()
                surveyed_s = time.monotonic()
                self._note(seen, survey.memory_mib)
            names = [task for task in map(task_of, survey.workers) if task]
            seen.running.append(len(names))
            seen.idle.append(len(names) < min(seen.slots, survey.ready))
            seen.tasks.update(names)

    def _note(self, seen: Seen, memory_mib: dict[str, float]) -> None:
        for role, mib in memory_mib.items():
            seen.memory_mib[role] = max(mib, seen.memory_mib.get(role, 0.0))
        own = sum(mib for role, mib in memory_mib.items() if role.startswith(("front end", "host")))
        seen.control_plane_mib = max(seen.control_plane_mib, own)

    def _survey(self) -> Survey:
        memory: dict[str, float] = {}

        def add(role: str, pid: int) -> None:
            memory[role] = memory.get(role, 0.0) + proportional_mib(pid)

        for name, pid in self._connection.pids.items():
            add(f"front end of {name}" if name in SERVICES else name, pid)
        workers = children(self._connection.pids["ray-node"])
        for worker in workers:
            title = title_of(worker)
            host, task = title.startswith("ray::HostActor"), title.startswith("ray::")
            add("hosts" if host else "workers" if task else "ray-node", worker.pid)
        return Survey(memory, workers, self._ready())

    def _ready(self) -> int:
        adapters, image_sets, trials = (
            len(list_artifacts(self._store, collection)) for collection in (ADAPTERS, IMAGE_SETS, TRIALS)
        )
        return (self._adapters - adapters) + (adapters - image_sets) + (SEEDS * (1 + image_sets) - trials)


def task_of(process: psutil.Process) -> str:
    """The function that one of Ray's workers runs for a service; "" if it does nothing, or is a host."""
    title = title_of(process)
    return title.removeprefix("ray::") if title.startswith("ray::synthmix.") else ""


def children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def proportional_mib(pid: int) -> float:
    """A process's memory, with its share of what several map; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def updated(client: Client) -> dict[str, int]:
    """When each operation of the services that have workers changed last."""
    return {
        operation.name: metadata_of(operation).update_time.ToNanoseconds()
        for service in WORKER_SERVICES
        for operation in client.list_operations(service)
    }


def measure(client: Client, onlooker: Onlooker, adapters: int) -> dict[str, Any]:
    spec = study(adapters)
    planned = client.plan_study(spec)
    before_mib = onlooker._survey().memory_mib
    start_s = time.perf_counter()
    with onlooker.looking() as seen:
        done = watch_to_end(client, metadata_of(client.submit_study(spec)).target)
    wall_s = time.perf_counter() - start_s
    assert done.state == operations_pb2.STATE_SUCCEEDED, client.get_operation(done.operation)
    metadata = metadata_of(client.get_operation(done.operation))
    operations = updated(client)
    start_s = time.perf_counter()
    with onlooker.looking() as again:
        answer = client.wait(client.submit_study(spec))
    resubmission_s = time.perf_counter() - start_s
    assert answer.done and metadata_of(answer).target == done.name
    assert updated(client) == operations, "an operation ran again"
    return {
        "adapters": adapters,
        "steps": len(metadata.steps),
        "trials": planned.steps[-1].plan.total,
        "workers": seen.slots,
        "wall_seconds": wall_s,
        "control_plane_mib": seen.control_plane_mib,
        "memory_before_mib": before_mib,
        "memory_mib": seen.memory_mib,
        "idle_share": statistics.fmean(seen.idle),
        "busy_share": statistics.fmean(seen.running) / seen.slots,
        "looks": len(seen.idle),
        "looks_with_task": dict(seen.tasks),
        "resubmission_seconds": resubmission_s,
        "resubmission_tasks": sum(again.tasks.values()),
    }


def table(figures: dict[str, Any]) -> str:
    rows = [
        ("memory of front ends and hosts, at most", f"{figures['control_plane_mib']:.0f} MiB", f"{MEMORY_MIB} MiB"),
        (
            "share of the time with an idle worker while work was ready",
            f"{figures['idle_share']:.1%}",
            f"{IDLE_SHARE:.0%}",
        ),
        ("submitted again", f"{figures['resubmission_seconds']:.1f} s", f"{RESUBMISSION_SECONDS:g} s"),
        ("tasks of that", str(figures["resubmission_tasks"]), "0"),
    ]
    memory = [
        f"| {role} | {figures['memory_before_mib'].get(role, 0):.0f} | {most:.0f} |"
        for role, most in sorted(figures["memory_mib"].items())
    ]
    lines = [
        "| what | found | at most |",
        "|---|---|---|",
        *(f"| {name} | {found} | {most} |" for name, found, most in rows),
        "",
        "| MiB of | before the study | at most |",
        "|---|---|---|",
        *memory,
        "",
        f"{figures['adapters']} adapters of 64 images, as many image sets and {figures['trials']} trials took "
        f"{figures['wall_seconds'] / 60:.1f} minutes on {figures['workers']} workers of one processor each, of which "
        f"{figures['busy_share']:.0%} were busy at {figures['looks']} looks. ({figures['processor']}; "
        f"load of the machine {figures['load']:.0f}.)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/study-at-scale"))
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    home: Path = arguments.home.resolve()
    if home.exists():
        raise SystemExit(f"{home} exists; name a folder that does not, so that nothing of the study was made before")
    images = home / "simulated-images"
    # A task of each service takes one processor, so that the workers can be counted.
    os.environ[f"{variable_prefix(ADAPTER_TRAINING)}_CPUS"] = "1"
    with local_stack(home, cpus=arguments.cpus, say=print) as connection, Client.connect(home) as client:
        write_simulated_dataset(images, SimulatedCellsSettings(images_per_class=24, chips=8))
        client.import_dataset(images, DATASET, group=GroupRule(pattern=GROUP_PATTERN), simulated=True)
        figures = measure(client, Onlooker(connection, arguments.adapters, arguments.cpus), arguments.adapters)
    figures |= {
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "load": os.getloadavg()[1],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "study-at-scale.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = table(figures)
    (arguments.out / "study-at-scale.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
