"""Callers work for hours while something is killed, hung or full each minute: nothing finished is lost or done twice.

Usage: ``PYTHONPATH=tests python -m soak --minutes 120 --seed 7 --out FOLDER`` (`make soak`).

It starts the local stack and lets callers run random studies, imports, cancellations and deletions. From the first
finished studies on, each minute it does one of: kill a service, the Ray node, a worker or object storage, hang object
storage, fill the disk. Then it lets everything come to its end, looks at what is there, and runs the same studies on a
stack that nothing disturbs. Writes soak.json and soak.md, and exits with 1 and a list if anything went wrong.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from fuzzing import traces_in
from soak.callers import Caller, Ledger
from soak.catalogue import dataset_names, import_images, requests_of, write_images
from soak.disturbances import Disturber, Excuses
from soak.evidence import Account, Digests, differences
from soak.measures import ProcessMemory, disk_of, memory_of, processes_of
from soak.results import Outcome, write_results
from soak.schedule import Kind, schedule
from soak.stack import bounded_disk, keep_logs, running_stack
from studies import payload_digests, run_study
from synthmix import Client
from synthmix.local import read_connection
from synthmix.local.home import Home
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import SynthMixError, Unavailable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.s3_object_store import S3ObjectStore
from tiny_base_model import write_tiny_base_model

SAMPLE_SECONDS = 10.0
ACCOUNT_SECONDS = 30.0
SWEEP_SECONDS = 120.0
SAY_SECONDS = 30.0
WARM_UP_SECONDS = 600.0
# For what callers have begun when the time is over; a caller waits for no longer either.
DRAIN_SECONDS = 900.0
SETTLE_SECONDS = 120.0
UNDISTURBED_AT_ONCE = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long the stack is disturbed")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of requests, actions and disturbances")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--every", type=float, default=60.0, help="seconds from one disturbance to the next")
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    parser.add_argument("--disk", type=Path, help="a folder on a small file system of its own, which may be filled")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{timedelta(seconds=int(time.monotonic() - started_s))}  {text}", flush=True)

    # As Ctrl-C does: what was started ends, and what was mounted goes.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("the soak was told to stop"))
    say(f"seed {arguments.seed}, {arguments.minutes:g} minutes, {arguments.callers} callers; results go to {out}")
    with bounded_disk(arguments.disk, say) as (disk, may_be_filled):
        soak = Soak(arguments, out, disk, may_be_filled, say)
        outcome = soak.run()
    write_results(outcome, out)
    print((out / "soak.md").read_text())
    for failure in outcome.failures:
        print(f"FAILED: {failure}")
    if outcome.failures:
        print(f"{len(outcome.failures)} failures; logs: {soak.logs or 'none were kept'}")
    return 1 if outcome.failures else 0


@dataclass
class Samples:
    """(seconds since the start, bytes) of memory by role, and of the disk by part; and every process at those times."""

    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    disk: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    processes: list[tuple[float, list[ProcessMemory]]] = field(default_factory=list)

    def add(self, at_s: float, processes: list[ProcessMemory], disk: dict[str, int]) -> None:
        self.processes.append((at_s, processes))
        for series, found in ((self.memory, memory_of(processes)), (self.disk, disk | {"all": sum(disk.values())})):
            for name, value in found.items():
                series.setdefault(name, []).append((at_s, value))

    def last(self, series: dict[str, list[tuple[float, float]]]) -> str:
        return f"{series['all'][-1][1] / (1 << 20):.0f} MiB" if series else "not known yet"


class Soak:
    """One run: the disturbed stack, what is left of it, and the undisturbed one."""

    def __init__(
        self, arguments: argparse.Namespace, out: Path, disk: Path, may_be_filled: bool, say: Callable[[str], None]
    ):
        self._minutes, self._seed, self._every_s = arguments.minutes, arguments.seed, arguments.every
        self._callers: int = arguments.callers
        self._out, self._disk, self._say = out, disk, say
        self._kinds = [kind for kind in Kind if may_be_filled or kind != Kind.DISK]
        self._images, self._model = out / "images", out / "base-model"
        self._excuses, self._ledger, self._account, self._samples = Excuses(), Ledger(), Account(), Samples()
        self._over = threading.Event()
        self._began_s = 0.0
        self._said = 0
        self.logs: Path | None = None

    def run(self) -> Outcome:
        """Never raises what goes wrong in the run: that is a failure of the outcome."""
        write_tiny_base_model(self._model)
        for name in dataset_names(self._callers):
            write_images(self._images, name)
        self._try(self._disturbed)
        began_s = time.monotonic()
        if self._ledger.seen:
            self._try(self._undisturbed)
        undisturbed_s = time.monotonic() - began_s
        return Outcome(
            seed=self._seed,
            minutes=self._minutes,
            callers=self._callers,
            every_s=self._every_s,
            left_out=[kind for kind in Kind if kind not in self._kinds],
            counts=dict(self._ledger.counts),
            excused=dict(self._ledger.excused),
            disturbances=self._excuses.disturbances,
            durations_s=self._ledger.durations_s,
            compared=len(self._ledger.seen),
            undisturbed_s=undisturbed_s,
            account=self._account,
            memory=self._samples.memory,
            disk=self._samples.disk,
            processes=self._samples.processes,
            failures=self._ledger.failures,
        )

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            self._ledger.fail(f"the soak broke off: {traceback.format_exc()}")

    def _disturbed(self) -> None:
        home = Home(self._disk / "disturbed")
        with running_stack(home.folder, self._out / "up.log") as up:
            store = S3ObjectStore(read_connection(home.folder).object_store)
            self._try(lambda: self._soak(home, store, up))
            self._try(lambda: self._look(home, store))
            self._over.set()
            self._look_at_logs(home)
            if self._ledger.failures:
                self.logs = keep_logs(home, self._out)
        shutil.rmtree(home.folder)

    def _soak(self, home: Home, store: ObjectStore, up: subprocess.Popen[bytes]) -> None:
        stopping = threading.Event()
        watchers = [
            threading.Thread(target=self._repeat, args=(seconds, action), daemon=True)
            for seconds, action in (
                (SAMPLE_SECONDS, lambda: self._sample(home)),
                (ACCOUNT_SECONDS, lambda: self._account.add(store.list(""))),
                (SWEEP_SECONDS, lambda: self._sweep(home)),
                (SAY_SECONDS, self._say_progress),
            )
        ]
        callers = [
            Caller(
                number,
                Client.connect(home.folder),
                store,
                requests_of(self._seed, number, self._model),
                self._images,
                self._ledger,
                self._excuses,
                stopping,
                self._seed,
            )
            for number in range(self._callers)
        ]
        working = {caller: threading.Thread(target=caller.run, name=caller.name, daemon=True) for caller in callers}
        for thread in (*working.values(), *watchers):
            thread.start()
        try:
            self._warm_up(up)
            self._disturb(home, stopping, up)
        finally:
            stopping.set()
        self._say("nothing is disturbed any more; callers end what they have begun")
        drained_s = time.monotonic() + DRAIN_SECONDS
        for caller, thread in working.items():
            thread.join(max(0.0, drained_s - time.monotonic()))
            if thread.is_alive():
                self._ledger.fail(f"{caller.name} still is at: {caller.doing}")

    def _warm_up(self, up: subprocess.Popen[bytes]) -> None:
        """Until there is something to lose: as many finished studies as there are callers."""
        end_s = time.monotonic() + WARM_UP_SECONDS
        while len(self._ledger.seen) < self._callers and time.monotonic() < end_s:
            self._wait(time.monotonic() + 1.0, up)
        if not self._ledger.seen:
            raise RuntimeError(f"no study was finished in {WARM_UP_SECONDS:.0f} s, although nothing was disturbed")
        self._say(f"{len(self._ledger.seen)} studies are finished; disturbances begin")

    def _disturb(self, home: Home, stopping: threading.Event, up: subprocess.Popen[bytes]) -> None:
        began_s = self._began_s = time.monotonic()
        disk = self._disk if Kind.DISK in self._kinds else None
        disturber = Disturber(home.folder, disk, self._excuses, self._seed, self._say)
        for planned in schedule(self._seed, self._minutes, self._every_s, self._kinds):
            self._wait(began_s + planned.at_s, up)
            disturbance = disturber.disturb(planned, stopping)
            if disturbance.recovery_s is None:
                self._ledger.fail(f"the stack did not recover in time after this: {disturbance.what}")
        self._wait(began_s + 60 * self._minutes, up)

    def _wait(self, until_s: float, up: subprocess.Popen[bytes]) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            if up.poll() is not None:
                raise RuntimeError(f"the stack ended with status {up.returncode}; see {self._out / 'up.log'}")
            time.sleep(min(1.0, left_s))

    def _repeat(self, seconds: float, action: Callable[[], None]) -> None:
        """What a disturbance keeps from being done is left to the next time."""
        while not self._over.wait(seconds):
            began_s = time.monotonic()
            try:
                action()
            except SynthMixError as error:
                if not self._excuses.excuse(error, began_s):
                    self._ledger.fail(f"looking after the soak: {error}")
            except Exception:
                self._ledger.fail(f"looking after the soak: {traceback.format_exc()}")

    def _sample(self, home: Home) -> None:
        processes, disk = processes_of(read_connection(home.folder)), disk_of(home)
        if self._began_s:
            self._samples.add(time.monotonic() - self._began_s, processes, disk)

    def _sweep(self, home: Home) -> None:
        with Client.connect(home.folder) as client:
            for swept in client.sweep():
                self._ledger.count("objects swept", swept.count)

    def _say_progress(self) -> None:
        counts, disturbances = self._ledger.counts, self._excuses.disturbances
        new = self._ledger.failures[self._said :]
        self._said += len(new)
        for failure in new:  # not after hours alone: who watches may end it
            self._say(f"FAILED: {failure}")
        last = f", last: {disturbances[-1].kind}" if disturbances else ""
        self._say(
            f"studies finished {counts['studies finished']}, cancelled {counts['studies cancelled']}, "
            f"deleted {counts['studies deleted']}; imports {counts['datasets imported']}; "
            f"disturbances {len(disturbances)}{last}; memory {self._samples.last(self._samples.memory)}, "
            f"disk {self._samples.last(self._samples.disk)}; failures {len(self._ledger.failures)}"
        )

    def _look(self, home: Home, store: ObjectStore) -> None:
        """What must hold when everything has come to its end."""
        with Client.connect(home.folder) as client:
            end_s = time.monotonic() + SETTLE_SECONDS
            while (unfinished := _unfinished(client)) and time.monotonic() < end_s:
                time.sleep(2.0)
            self._ledger.failures += [f"{name} has not ended" for name in unfinished]
            self._account.add(store.list(""))
            for name in sorted(self._ledger.standing):
                try:
                    self._look_at(client, store, name)
                except SynthMixError as error:
                    self._ledger.fail(f"{name}, which was finished, is lost or damaged: {error}")
            client.sweep()
        for (artifact, _), again in sorted(self._account.again.items()):
            self._ledger.fail(
                f"{artifact} was made again although it was finished: {again.key} was written {again.seconds:.0f} s "
                "after its manifest"
            )

    def _look_at(self, client: Client, store: ObjectStore, name: str) -> None:
        """A study that was finished and not deleted is there with all that it was made of, bytes and all."""
        study = client.get_study(name)
        for line in differences(payload_digests(store, study), self._ledger.seen[name]):
            self._ledger.fail(f"{name} has changed since it was finished: {line}")
        with tempfile.TemporaryDirectory(prefix="synthmix-soak-") as folder:
            for artifact in (name, study.evaluation, *study.adapters, *study.image_sets):
                client.download(artifact, Path(folder) / artifact)

    def _look_at_logs(self, home: Home) -> None:
        for path in sorted(home.incidents.glob("*.log")):
            self._ledger.fail(f"a fault of SynthMix itself: {path.read_text()[:2000]}")
        traces = list(traces_in(home.logs, {}))
        (self._out / "traces.txt").write_text("\n\n".join(traces))
        self._ledger.count("logs with stack traces", len(traces))

    def _undisturbed(self) -> None:
        """Runs every study that was ever finished on a fresh stack, and compares the digests."""
        home = Home(self._disk / "undisturbed")
        with running_stack(home.folder, self._out / "undisturbed.log"):
            store = S3ObjectStore(read_connection(home.folder).object_store)
            with Client.connect(home.folder) as client, ThreadPoolExecutor(UNDISTURBED_AT_ONCE) as threads:
                wanted = self._ledger.specs
                self._say(f"the same {len(wanted)} studies run on a stack that nothing disturbs")
                for dataset in sorted({request.dataset for request in wanted.values()}):
                    import_images(client, self._images, dataset)

                def made(name: str) -> tuple[str, Digests]:
                    study = run_study(client, wanted[name].spec)
                    return study.name, payload_digests(store, study)

                for name, (found, digests) in zip(wanted, threads.map(made, wanted), strict=True):
                    if found != name:
                        self._ledger.fail(f"{name} is {found} on a stack that nothing disturbs")
                    for line in differences(self._ledger.seen[name], digests):
                        self._ledger.fail(f"{name} differs from an undisturbed run: {line}")
        shutil.rmtree(home.folder)


def _unfinished(client: Client) -> list[str]:
    try:
        return [item.name for service in SERVICES for item in client.list_operations(service) if not item.done]
    except Unavailable as error:
        return [f"an operation (they cannot be listed: {error})"]


if __name__ == "__main__":
    sys.exit(main())
