"""The command line. `main` parses; everything heavier than that is imported only once a command is known."""

import sys
from collections.abc import Sequence

from synthmix.cli.exit_codes import BROKEN_PIPE, INTERRUPTED
from synthmix.cli.parser import build_parser
from synthmix.cli.streams import discard, prepare_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Exits by itself, as argparse does, on --help and misuse."""
    prepare_streams()
    try:
        code = _main(argv)
        sys.stdout.flush()
        return code
    except SystemExit as ended:  # by argparse, which may have printed help
        try:
            sys.stdout.flush()
        except OSError as error:
            raise SystemExit(_unwritten(error)) from None
        raise ended
    except KeyboardInterrupt:  # before the command was known
        return INTERRUPTED
    except OSError as error:
        return _unwritten(error)


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)

    # Not at the top: it imports protobuf, which --help need not wait for, and which may be what is missing.
    try:
        from synthmix.cli.dispatch import run
    except ModuleNotFoundError as error:
        print(f"error: Python's module {error.name!r} is not installed; install synthmix again", file=sys.stderr)
        return 1
    return run(arguments)


def _unwritten(error: OSError) -> int:
    """Says why standard output couldn't be written, and returns the exit code for that."""
    discard(sys.stdout)
    if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as head, has had enough
        return BROKEN_PIPE
    try:
        print(f"error: standard output cannot be written: {error.strerror}; write it elsewhere", file=sys.stderr)
    except OSError:
        discard(sys.stderr)
    return 1
