"""A process of its own that leaves nothing behind, not even after kill -9 of the process that runs a stack.

It holds the other end of a pipe, in a session of its own. When the pipe ends, the stack's process has stopped
or died, and it sweeps. What it cannot do (the machine went down, it was killed as well), the next start on the
same home does.
"""

import os
import select
import signal
import sys
from pathlib import Path

from synthmix.local.home import Home
from synthmix.local.sweep import sweep

PARENT_CHECK_INTERVAL_S = 1.0


def watch(home: Home) -> None:
    """Waits until the parent closes its end of standard input or dies, then sweeps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever stops the stack's process politely needs the watcher to the end
    parent_pid = os.getppid()
    # A process that the parent forked may hold its end of the pipe, so look at the parent as well.
    while not select.select([sys.stdin], [], [], PARENT_CHECK_INTERVAL_S)[0] and os.getppid() == parent_pid:
        pass
    sweep(home)


if __name__ == "__main__":
    watch(Home(Path(sys.argv[1])))
