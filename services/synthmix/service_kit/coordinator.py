"""Coordinators: an operation is a detached, named Ray actor that fans out tasks and writes progress and result.

A front end may die at any moment: the actor goes on. The actor may die: Ray restarts it, and since whatever is finished
lies in object storage, it goes on from there. The whole Ray cluster may die: a front end starts the actor anew.
"""

import importlib
import logging
import threading
import time
from datetime import datetime
from typing import Any

from synthmix.service_kit import incidents
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.errors import Internal, SynthMixError, Unavailable
from synthmix.service_kit.metrics import observe_on_worker
from synthmix.service_kit.operation_context import PROGRESS_INTERVAL_SECONDS, OperationContext
from synthmix.service_kit.ray_connection import NAMESPACE
from synthmix.service_kit.resource_names import OperationName
from synthmix.service_kit.s3_object_store import open_object_store

log = logging.getLogger(__name__)

CANCEL_POLL_SECONDS = 1.0
# Nodes that carry it run coordinators: in a cluster the head, since a worker without tasks may be taken away.
COORDINATORS_LABEL = "synthmix.io/coordinators"
# An outage of object storage or of another service shorter than this delays an operation and does not fail it.
OUTAGE_SECONDS = 600.0
OUTAGE_RETRY_SECONDS = 5.0
# An attempt that worked for so long before it met an outage met a new one.
HEALTHY_SECONDS = 60.0


class Coordinator:
    """The actor. It starts its work by itself, so that Ray's restart of a dead one needs no caller."""

    def __init__(self, operation: str, function: str):
        self._store = open_object_store()
        self._name = OperationName.parse(operation)
        self._function = function
        self._context: OperationContext | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="coordinate", daemon=True).start()

    def working(self) -> bool:
        """False once the result is written: whoever wants another attempt has to wait until this actor is gone."""
        return not self._ended.is_set()

    def report(self, task: str, done: int, total: int | None = None) -> None:
        if self._context is not None:
            self._context.report(task, done, total)

    def _run(self) -> None:
        try:
            outage_began_s: float | None = None
            while True:
                attempt_began_s = time.monotonic()
                try:
                    self._attempt()
                    return
                except Unavailable as error:
                    if outage_began_s is None or time.monotonic() - attempt_began_s > HEALTHY_SECONDS:
                        outage_began_s = time.monotonic()
                    if time.monotonic() - outage_began_s > OUTAGE_SECONDS:
                        log.error("%s gives up until it is started again: %s", self._name, error.message)
                        return
                    log.warning("%s waits: %s", self._name, error.message)
                    time.sleep(OUTAGE_RETRY_SECONDS)
        except Exception:
            log.exception("%s: the coordinator failed", self._name)
        finally:
            self._ended.set()
            self._remove_actor()

    def _attempt(self) -> None:
        record = records.find_record(self._store, self._name)
        if record is None or records.find_result(self._store, self._name) is not None:
            return
        context = self._context = OperationContext(self._store, record)
        context.resume()
        if records.cancellation_requested(self._store, self._name):
            context.cancel()
        start_s = time.time()
        queued_s = max(0.0, start_s - datetime.fromisoformat(record.create_time).timestamp())
        observe_on_worker("synthmix_operation_queue_seconds", queued_s, context.service)
        context.update(start_time=records.now())
        stop = threading.Event()
        syncing = threading.Thread(target=self._sync_until_stopped, args=(context, stop), daemon=True)
        syncing.start()
        try:
            # A cancelled operation is coordinated as well: a study has steps to cancel.
            module, _, attribute = self._function.partition(":")
            target = getattr(importlib.import_module(module), attribute)(context)
        except Unavailable:
            raise
        except SynthMixError as error:
            failure: SynthMixError | None = error
        except Exception as error:
            incident = incidents.record(str(self._name), error)
            failure = Internal(
                f"{self._name} failed unexpectedly ({type(error).__name__}: {_last_line(error)}); the stack trace of "
                f"incident {incident.number} is {incident.place}; submit it again, and report it if it fails again",
                reason="INTERNAL",
                metadata=incident.metadata,
            )
        else:
            failure = None
        finally:
            stop.set()
            syncing.join()
        context.write_progress()
        if failure is None:
            records.write_success(self._store, self._name, str(target))
        else:
            records.write_failure(self._store, self._name, failure)
        observe_on_worker("synthmix_operation_run_seconds", time.time() - start_s, context.service)

    def _sync_until_stopped(self, context: OperationContext, stop: threading.Event) -> None:
        """Writes progress to object storage, and looks there for a wish to cancel."""
        next_poll_s = 0.0
        while not stop.wait(PROGRESS_INTERVAL_SECONDS):
            try:
                context.write_progress()
                if time.monotonic() >= next_poll_s:
                    next_poll_s = time.monotonic() + CANCEL_POLL_SECONDS
                    if records.cancellation_requested(self._store, self._name):
                        context.cancel()
            except SynthMixError as error:
                log.warning("%s: progress is not written: %s", self._name, error.message)

    def _remove_actor(self) -> None:
        import ray

        try:
            ray.kill(ray.get_actor(str(self._name), namespace=NAMESPACE), no_restart=True)
        except ValueError:
            log.info("%s: the actor was gone already", self._name)


def launch(ray: Any, name: OperationName, function: str) -> Any:
    """Starts the operation's coordinator unless it runs, and returns its handle."""
    return (
        ray.remote(Coordinator)
        .options(
            name=str(name),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            label_selector={COORDINATORS_LABEL: "true"},
            max_restarts=-1,
            max_concurrency=4,
        )
        .remote(str(name), function)
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else ""
