"""What operations of tests do in a real host: each run leaves its process' id in the request's folder."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from synthmix.service_kit.operation_context import OperationContext

PART_BYTES = 128 * 2**20
MOST_PARTS = 96
"""12 GiB: if nothing ends it by then, nothing does."""


def _note(context: OperationContext) -> int:
    folder = Path(context.record.request["folder"])
    number = len(list(folder.iterdir())) + 1
    (folder / f"run-{number}").write_text(str(os.getpid()))
    return number


def wait(context: OperationContext) -> str:
    """Until it is cancelled, or ended with its host; the run that the request names ends at once."""
    number = _note(context)
    while number != context.record.request.get("runs"):
        context.sleep(0.1)
    return f"probes/{number}"


def end(context: OperationContext) -> str:
    """At once."""
    return f"probes/{_note(context)}"


def run_tasks(context: OperationContext) -> str:
    """So many tasks, each of which does what the request says; it adds up what they return."""
    request = context.record.request
    arguments = [{"number": number} for number in range(request["tasks"])]
    total = sum(context.run_tasks(f"probe_operations:{request['task']}", arguments))
    return f"probes/{total}"


def work(number: int, report: Callable[[int], None], threads: int) -> int:
    """A task that ends well."""
    report(1)
    return number


def die(number: int, report: Callable[[int], None], threads: int) -> int:
    """A task whose worker dies of it, if it is the first."""
    if number == 0:
        os._exit(1)
    return number


def take_memory(number: int, folder: str, report: Callable[[int], None], threads: int) -> int:
    """A task that takes more and more memory until it is ended, if it is the first."""
    if number == 0:
        with (Path(folder) / "attempts").open("a") as attempts:
            attempts.write(f"{os.getpid()}\n")
        taken = []
        while len(taken) < MOST_PARTS:
            taken.append(bytearray(b"x") * PART_BYTES)
            time.sleep(0.02)
    return number
