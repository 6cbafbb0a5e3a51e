"""The command line. `main` parses; everything heavier than that is imported only once a command is known.

Exit codes, which scripts may rely on:

    0    done
    1    the operation or study failed, or something else went wrong
    2    the command line or an input is invalid
    3    what was named doesn't exist
    4    the services can't be reached, or refuse the caller
    5    the operation or study was cancelled
    130  interrupted; what runs in the services goes on
"""

import sys
from collections.abc import Sequence

from synthmix.cli.parser import build_parser
from synthmix.cli.streams import discard, prepare_streams

INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Exits by itself, as argparse does, on --help and misuse."""
    prepare_streams()
    try:
        code = _main(argv)
    except SystemExit as ended:  # by argparse, which may have printed help
        failure = _flush()
        if failure:
            raise SystemExit(failure) from None
        raise ended
    except KeyboardInterrupt:  # before the command was known
        return INTERRUPTED
    return _flush() or code


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)

    # Not at the top: it imports protobuf, which --help need not wait for, and which may be what is missing.
    try:
        from synthmix.cli.dispatch import run
    except ModuleNotFoundError as error:
        print(f"error: Python's module {error.name!r} isn't installed; install synthmix again", file=sys.stderr)
        return 1
    return run(arguments)


def _flush() -> int:
    """Writes what is left of standard output: 0, or the exit code of what then fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        discard(sys.stdout)
        print(f"error: standard output can't be written: {error.strerror}; write it elsewhere", file=sys.stderr)
        return 1
    return 0
