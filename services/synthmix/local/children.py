"""Child processes, and a supervisor that starts them again when they die."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from synthmix.local.sweep import CHILD_VARIABLE, kill_marked
from synthmix.service_kit.errors import Internal, SynthMixError, Unavailable

LOG_TAIL_BYTES = 4_000
LOG_TAIL_LINES = 15
POLL_INTERVAL_S = 0.2
# A child that dies younger than this may do so again: its restarts back off, and in the end it is given up.
QUICK_DEATH_S = 30.0
QUICK_DEATHS_ALLOWED = 5
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 10.0


class Child:
    """A process of the stack, that may be started several times. Not safe to share between threads.

    Args:
        name: Names it in logs, and marks its processes.
        command: What to run.
        environment: All of the child's environment; its name is added.
        folder: Its working directory.
        log: Where its output goes. The log of an earlier stack is kept beside it.
        holds_pipe: Whether its standard input is a pipe that ends when this process does.
        prepare: Called before each start, when nothing of an earlier one runs any more.
        fault: Says of a running one what only another start mends, such as "refuses writes"; "" if nothing is so.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        log: Path,
        holds_pipe: bool = False,
        prepare: Callable[[], None] | None = None,
        fault: Callable[[], str] | None = None,
    ):
        self.name = name
        self.log = log
        self.started_s = 0.0
        self._command = list(command)
        self._environment = {**environment, CHILD_VARIABLE: name}
        self._folder = folder
        self._prepare = prepare
        self._fault = fault
        self._stdin = subprocess.PIPE if holds_pipe else subprocess.DEVNULL
        self._process: subprocess.Popen[bytes] | None = None
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))

    @property
    def pid(self) -> int:
        return self._started().pid

    def start(self) -> None:
        """Starts it, in a session of its own: Ctrl-C is for the stack's process to answer."""
        if self._prepare is not None:
            self._prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=self._stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_s = time.monotonic()

    def has_ended(self) -> bool:
        return self._started().poll() is not None

    def fault(self) -> str:
        """What of a running one only another start mends; "" if nothing is so, or if it started a moment ago."""
        if self._fault is None or time.monotonic() - self.started_s < QUICK_DEATH_S:
            return ""
        return self._fault()

    def request_stop(self) -> None:
        """Asks it to end: closes its pipe if it has one, else sends SIGTERM. Harmless if it never started."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        else:
            self._process.terminate()

    def kill(self) -> None:
        self._started().kill()

    def wait(self, deadline_s: float) -> None:
        """Waits for its end, and kills it at the deadline (of time.monotonic)."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        """Such as "ended with exit status 1" or "was killed by SIGKILL"."""
        status = self._started().returncode
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with exit status {status}"

    def log_tail(self) -> str:
        """The last lines of its output, indented."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process


def stop_children(children: Sequence[Child], grace_s: float) -> None:
    """Asks all to end at once, and kills those that haven't within the grace."""
    for child in children:
        child.request_stop()
    deadline_s = time.monotonic() + grace_s
    for child in children:
        child.wait(deadline_s)


def wait_until_ready(
    checks: Mapping[Child, Callable[[], bool]],
    *,
    timeout_s: float,
    say_ready: Callable[[Child], None],
    check_stop: Callable[[], None],
) -> None:
    """Waits for children that start side by side.

    Args:
        checks: Says of each whether it is ready.
        timeout_s: What all of them have together.
        say_ready: Told of each when it is.
        check_stop: Raises to give up.

    Raises:
        Unavailable: One ended, or wasn't ready in time. The message has the last lines of its log.
    """
    pending = dict(checks)
    deadline_s = time.monotonic() + timeout_s
    while True:
        for child, is_ready in list(pending.items()):
            if child.has_ended():
                raise _failure(child, f"{child.how_it_ended()} while it started")
            if is_ready():
                say_ready(child)
                del pending[child]
        if not pending:
            return
        check_stop()
        if time.monotonic() > deadline_s:
            late = next(iter(pending))
            raise _failure(late, f"wasn't ready after {timeout_s:.0f} s")
        time.sleep(0.05)


class Supervisor:
    """Starts children again that died, or have a fault, from a thread of its own, with growing pauses.

    One that dies on and on is given up: `failure` then says so, and nothing is started any more.

    Args:
        children: All started.
        dependents: Children that must begin anew when another did.
        marker: The stack's, to find what a dead child left running.
        say: Told of each death and restart.
        restarted: Called after each restart.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        dependents: Mapping[Child, Sequence[Child]],
        marker: str,
        say: Callable[[str], None],
        restarted: Callable[[], None],
    ):
        self.failure: SynthMixError | None = None
        self._children = list(children)
        self._dependents = dependents
        self._marker = marker
        self._say = say
        self._restarted = restarted
        self._quick_deaths = dict.fromkeys(self._children, 0)
        self._restart_s: dict[Child, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After it returns, nothing is started any more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(POLL_INTERVAL_S):
                for child in self._children:
                    self._look_after(child)
        except SynthMixError as error:
            self.failure = error
        except Exception as error:
            self.failure = Internal(
                f"the supervisor of the stack failed ({type(error).__name__}: {error}); start the stack again, and "
                "report it",
                reason="SUPERVISOR_FAILED",
            )

    def _look_after(self, child: Child) -> None:
        if child not in self._restart_s:
            if not child.has_ended():
                if fault := child.fault():
                    self._say(f"{child.name} {fault}; it is killed, to be started again")
                    child.kill()
                return
            age_s = time.monotonic() - child.started_s
            deaths = self._quick_deaths[child] + 1 if age_s < QUICK_DEATH_S else 1
            self._quick_deaths[child] = deaths
            if deaths >= QUICK_DEATHS_ALLOWED:
                raise _failure(
                    child,
                    f"{child.how_it_ended()}, {deaths} times in a row within {QUICK_DEATH_S:.0f} s of start",
                )
            backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (deaths - 1))
            self._restart_s[child] = time.monotonic() + backoff_s
            self._say(
                f"{child.name} {child.how_it_ended()} after {age_s:.0f} s; starting it again in "
                f"{backoff_s:g} s (log: {child.log})"
            )
        elif time.monotonic() >= self._restart_s[child]:
            del self._restart_s[child]
            kill_marked(self._marker, child.name)  # what it had started holds its ports
            child.start()
            self._restarted()
            self._say(f"{child.name} was started again")
            for dependent in self._dependents.get(child, ()):
                self._say(f"{dependent.name} begins anew with {child.name}")
                dependent.kill()


def _failure(child: Child, what: str) -> Unavailable:
    return Unavailable(
        f"{child.name} {what}; see the end of {child.log}:\n{child.log_tail()}",
        reason="CHILD_FAILED",
        metadata={"child": child.name, "log": str(child.log)},
    )
