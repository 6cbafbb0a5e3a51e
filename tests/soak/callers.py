"""What a caller does, as a user of the typed client would, and the ledger of what it was promised."""

import random
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from soak.catalogue import Request, import_images, own_dataset
from soak.disturbances import Excuses
from soak.evidence import Digests, differences
from studies import payload_digests
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import Operation, failure_of, result_of
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, NotFound, SynthMixError
from synthmix.service_kit.object_store import ObjectStore

Result = TypeVar("Result")

# What a caller wants has to be there in the end, whatever is disturbed meanwhile.
PATIENCE_SECONDS = 900.0
# Of a study that the disk has no room for, however long it had waited for its turn before.
MOST_ATTEMPTS = 5
PAUSES_SECONDS = (0.5, 2.0)
LONGEST_THOUGHT_SECONDS = 2.0
LONGEST_BEFORE_CANCEL_SECONDS = 8.0


class Stuck(Exception):
    """Something did not come about although a caller asked for it again and again."""


@dataclass
class Ledger:
    """What all callers have seen. Safe to share between threads.

    Attributes:
        counts: What was done, by what it is called.
        excused: Errors that a disturbance excuses, by reason.
        failures: What must not happen, a line or more each.
        seen: The digests of each study that was ever finished, by its name in object storage.
        specs: What those studies were asked for as.
        standing: The studies that are finished and that nobody has deleted.
        durations_s: How long callers waited for studies that were made.
    """

    counts: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seen: dict[str, Digests] = field(default_factory=dict)
    specs: dict[str, Request] = field(default_factory=dict)
    standing: set[str] = field(default_factory=set)
    durations_s: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def excuse(self, error: SynthMixError) -> None:
        with self._lock:
            self.excused[error.reason] += 1

    def fail(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)

    def finish(self, study: str, request: Request, digests: Digests, seconds: float) -> None:
        """A study is finished. It has to have the digests that it had before, if it was deleted meanwhile."""
        with self._lock:
            self.counts["studies finished"] += study not in self.standing
            before = self.seen.setdefault(study, digests)
            self.specs[study] = request
            self.standing.add(study)
            self.durations_s.append(seconds)
            self.failures += [f"{study} made again differs: {line}" for line in differences(digests, before)]

    def withdraw(self, studies: set[str]) -> set[str]:
        """Nothing is promised of these studies any more. Returns those of which something was."""
        with self._lock:
            withdrawn = self.standing & studies
            self.standing -= studies
            return withdrawn

    def restore(self, studies: set[str]) -> None:
        """They were not deleted after all."""
        with self._lock:
            self.standing |= studies


class Caller:
    """One user, who goes on until told to stop, and then ends what is begun.

    Args:
        client: Is closed at the end.
        requests: The studies that are this caller's own.
        images: Where the images of datasets are.
    """

    def __init__(
        self,
        number: int,
        client: Client,
        store: ObjectStore,
        requests: Sequence[Request],
        images: Path,
        ledger: Ledger,
        excuses: Excuses,
        stopping: threading.Event,
        seed: int,
    ):
        self.name = f"caller {number}"
        self._number, self._store, self._images = number, store, images
        self._requests, self._ledger, self._excuses, self._stopping = list(requests), ledger, excuses, stopping
        self._rng = random.Random(f"{seed} caller {number}")
        self._client = client
        self._finished: dict[str, Request] = {}
        self.doing = "nothing yet"

    def run(self) -> None:
        actions: dict[Callable[[], None], int] = {
            self._run_study: 50,
            self._cancel_study: 15,
            self._delete_study: 18,
            self._delete_dataset: 3,
            self._read: 9,
            self._import: 5,
        }
        with self._client:
            while not self._stopping.is_set():
                action = self._rng.choices(list(actions), list(actions.values()))[0]
                try:
                    action()
                except (SynthMixError, Stuck) as error:
                    self._ledger.fail(f"{self.name}, {self.doing}: {type(error).__name__}: {error}")
                except Exception:
                    self._ledger.fail(f"{self.name}, {self.doing}: {traceback.format_exc()}")
                self._stopping.wait(self._rng.uniform(0.0, LONGEST_THOUGHT_SECONDS))

    def _persist(self, doing: str, call: Callable[[], Result]) -> Result:
        """Asks again as long as what is answered is a disturbance's fault. Raises what is not, and Stuck."""
        self.doing = doing
        end_s = time.monotonic() + PATIENCE_SECONDS
        while True:
            began_s = time.monotonic()
            try:
                return call()
            except SynthMixError as error:
                if not self._excuses.excuse(error, began_s):
                    raise
                self._ledger.excuse(error)
                if time.monotonic() > end_s:
                    raise Stuck(f"for {PATIENCE_SECONDS:.0f} s, at last: {error}") from error
            time.sleep(self._rng.uniform(*PAUSES_SECONDS))

    def _run_study(self) -> None:
        self._make(self._rng.choice(self._requests))

    def _make(self, request: Request) -> None:
        """A study to its end. One that fails for want of room is asked for again."""
        first_s = time.monotonic()
        for attempt in range(MOST_ATTEMPTS):
            began_s = time.monotonic()
            operation = self._submit(request)
            self._ledger.count("studies that were there already" if operation.done else "studies run")
            ended = self._ended(request, operation)
            if not ended.HasField("error"):
                break
            error = failure_of(ended)
            if not self._excuses.excuse(error, began_s) or attempt == MOST_ATTEMPTS - 1:
                raise error
            self._ledger.excuse(error)
            self._ledger.count("studies that failed for want of room, and were asked for again")
            time.sleep(self._rng.uniform(*PAUSES_SECONDS))
        self._take(request, result_of(ended, studies_pb2.Study), time.monotonic() - first_s)

    def _submit(self, request: Request) -> Operation:
        self._persist(f"import of {request.dataset}", lambda: self._make_sure_of(request.dataset))
        return self._persist(f"submission of {request.name}", lambda: self._client.submit_study(request.spec))

    def _make_sure_of(self, dataset: str) -> None:
        try:
            self._client.get_dataset(dataset)
        except NotFound:
            import_images(self._client, self._images, dataset)
            self._ledger.count("datasets imported")

    def _ended(self, request: Request, operation: Operation) -> Operation:
        end_s = time.monotonic() + PATIENCE_SECONDS
        while not operation.done:
            if time.monotonic() > end_s:
                raise Stuck(f"{operation.name} has not ended after {PATIENCE_SECONDS:.0f} s")
            current = operation
            operation = self._persist(
                f"waiting for {request.name}", lambda current=current: self._client.wait(current, timeout_s=30.0)
            )
        return operation

    def _take(self, request: Request, study: studies_pb2.Study, seconds: float) -> None:
        digests = self._persist(f"digests of {request.name}", lambda: payload_digests(self._store, study))
        self._finished[study.name] = request
        self._ledger.finish(study.name, request, digests, seconds)

    def _cancel_study(self) -> None:
        request = self._rng.choice(self._requests)
        began_s = time.monotonic()
        operation = self._submit(request)
        if operation.done:  # it was there already
            return
        self._stopping.wait(self._rng.uniform(0.0, LONGEST_BEFORE_CANCEL_SECONDS))
        self._persist(f"cancellation of {request.name}", lambda: self._client.cancel(operation.name))
        ended = self._ended(request, operation)
        if not ended.HasField("error"):
            self._take(request, result_of(ended, studies_pb2.Study), time.monotonic() - began_s)
            return
        error = failure_of(ended)
        if isinstance(error, Cancelled):
            self._ledger.count("studies cancelled")
        elif self._excuses.excuse(error, began_s):
            self._ledger.excuse(error)
        else:
            raise error

    def _delete_study(self) -> None:
        if not self._finished:
            return
        study = self._rng.choice(sorted(self._finished))
        cascade = self._rng.random() < 0.5
        self._delete(
            f"deletion of {study}{' with what it made' if cascade else ''}",
            lambda: self._client.delete_study(study, cascade=cascade),
            {study},
            "studies deleted",
        )

    def _delete_dataset(self) -> None:
        dataset = own_dataset(self._number)
        studies = {name for name, request in self._finished.items() if request.dataset == dataset}
        self._delete(
            f"deletion of {dataset} with what was made from it",
            lambda: self._client.delete_dataset(dataset, cascade=True),
            studies,
            "datasets deleted",
        )

    def _delete(self, doing: str, call: Callable[[], object], studies: set[str], what: str) -> None:
        """Deletes; the studies must be gone afterwards, or all be there if something that still runs needs them."""
        withdrawn = self._ledger.withdraw(studies)
        attempts = 0

        def delete() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                call()
            except NotFound:  # it was never made, or the answer to an earlier call was lost
                pass
            except FailedPrecondition as error:
                if error.reason != "OPERATION_RUNNING":
                    raise
                return False
            return True

        if not self._persist(doing, delete):
            # An attempt whose answer was lost may have deleted some of them.
            kept = withdrawn if attempts == 1 else {study for study in withdrawn if self._looked_for(study)}
            self._ledger.restore(kept)
            self._ledger.count("deletions refused, as something that runs needs it")
            return
        self._ledger.count(what)
        for study in studies:
            self._finished.pop(study)
            if self._looked_for(study):
                self._ledger.fail(f"{study} is still there after the {doing}")

    def _looked_for(self, study: str) -> bool:
        """Whether a study is there."""

        def is_there() -> bool:
            try:
                self._client.get_study(study)
            except NotFound:
                return False
            return True

        return self._persist(f"look for {study}", is_there)

    def _read(self) -> None:
        self._persist("list of studies", lambda: list(self._client.list_studies()))
        if not self._finished:
            return
        study = self._rng.choice(sorted(self._finished))
        with tempfile.TemporaryDirectory(prefix="synthmix-soak-report-") as folder:
            # Whatever arrives is compared with what the manifest says.
            self._persist(f"report of {study}", lambda: self._client.download_report(study, Path(folder)))
        self._ledger.count("reports read")

    def _import(self) -> None:
        dataset = self._rng.choice([own_dataset(self._number), *{item.dataset for item in self._requests}])
        self._persist(f"import of {dataset}", lambda: import_images(self._client, self._images, dataset))
        self._ledger.count("datasets imported")
