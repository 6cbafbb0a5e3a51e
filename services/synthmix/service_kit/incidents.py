"""Incidents: faults of SynthMix itself. Each has a number; its stack trace stands where the number says.

On one machine that is a file of the home's logs, which outlives the stack; on a cluster, where SYNTHMIX_INCIDENTS_DIR
is not set, it is the log of the container: `kubectl logs` shows it.
"""

import contextlib
import logging
import os
import socket
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

MOST_FILES = 100
LONGEST_TRACE_CHARACTERS = 100_000
FEWEST_SECRET_CHARACTERS = 6
CONTAINER_LOG = Path("/proc/1/fd/2")
LOG_FORMAT = "%(asctime)s {service} %(levelname)s %(message)s"
RAY_LOGS = "/tmp/ray/session_latest/logs"
SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "ACCESS_KEY")


@dataclass(frozen=True)
class Incident:
    """A number, and where the stack trace is, as the end of a sentence: "in /home/.../1f2e.log"."""

    number: str
    place: str

    @property
    def metadata(self) -> dict[str, str]:
        """For ErrorInfo."""
        return {"incident": self.number, "trace": self.place}


def record(what: str, error: BaseException, environment: Mapping[str, str] = os.environ) -> Incident:
    """Writes down an unexpected error, with its stack trace and without secrets; never raises.

    Args:
        what: Where it happened: an operation or a method.
    """
    number = uuid.uuid4().hex[:12]
    what, trace = _encodable(what), _encodable("".join(traceback.format_exception(error)))
    text = f"incident {number} in {what}\n{_without_secrets(_bounded(trace), environment)}"
    folder = environment.get("SYNTHMIX_INCIDENTS_DIR")
    if folder:
        path = Path(folder) / f"{number}.log"
        try:
            _write(path, text)
        except OSError as problem:
            log.warning("%s cannot be written (%s)", path, problem.strerror)
        else:
            log.error("incident %s in %s: %s", number, what, path)
            return Incident(number, f"in {path}")
    log.error("%s", text)
    return Incident(number, _place_of_log(number, text, environment))


def _write(path: Path, text: str) -> None:
    """Writes the file, and removes the oldest of them: a fault that comes again and again must not fill the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    files = sorted(path.parent.glob("*.log"), key=lambda file: file.stat().st_mtime_ns)
    for old in files[:-MOST_FILES]:
        with contextlib.suppress(FileNotFoundError):  # another process was first
            old.unlink()


def _place_of_log(number: str, text: str, environment: Mapping[str, str]) -> str:
    """Where this process's log is. Ray keeps its workers' output in files, so they write to their container's log."""
    name = environment.get("SYNTHMIX_POD_NAME") or socket.gethostname()
    if "KUBERNETES_SERVICE_HOST" not in environment:
        return f"in the log of process {os.getpid()} on {name}"
    namespace = environment.get("SYNTHMIX_NAMESPACE")
    kubectl = f"kubectl --namespace {namespace}" if namespace else "kubectl"
    if not _is_container_log():
        try:
            with CONTAINER_LOG.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            return f"in Ray's logs in the pod {name}: {kubectl} exec {name} -- grep -rA60 {number} {RAY_LOGS}"
    return f"in the log of the pod {name}: {kubectl} logs {name} --all-containers"


def log_handler(environment: Mapping[str, str] = os.environ) -> logging.Handler:
    """What writes to the log that `kubectl logs` shows, as _place_of_log says; elsewhere to that of this process."""
    if "KUBERNETES_SERVICE_HOST" in environment and not _is_container_log():
        with contextlib.suppress(OSError):
            return logging.FileHandler(CONTAINER_LOG)
    return logging.StreamHandler()


def _is_container_log() -> bool:
    try:
        return os.path.samestat(os.fstat(2), os.stat(CONTAINER_LOG))
    except OSError:
        return False


def _encodable(text: str) -> str:
    """What no file and no log refuses: a lone surrogate, of a file's name or a message, is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _bounded(trace: str) -> str:
    if len(trace) <= LONGEST_TRACE_CHARACTERS:
        return trace
    half = LONGEST_TRACE_CHARACTERS // 2
    return f"{trace[:half]}\n[{len(trace) - 2 * half} characters left out]\n{trace[-half:]}"


def _without_secrets(text: str, environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        if len(value) >= FEWEST_SECRET_CHARACTERS and any(word in name for word in SECRET_WORDS):
            text = text.replace(value, f"[{name}]")
    return text
