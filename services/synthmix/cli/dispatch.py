"""Runs a parsed command, and turns whatever goes wrong into a line for a person and a code for a script."""

import argparse
import importlib
import os
import sys
import traceback

from service_kit.errors import Internal, SynthMixError
from synthmix.cli import exit_codes
from synthmix.cli.output import note, print_error


def run(arguments: argparse.Namespace) -> int:
    """The command's exit code."""
    debug = os.environ.get("SYNTHMIX_DEBUG") == "1"
    if not debug:
        os.environ.setdefault(
            "GRPC_VERBOSITY", "NONE"
        )  # gRPC's C core logs connection failures that we report ourselves
    try:
        module, _, function = arguments.run.partition(":")
        code = getattr(importlib.import_module(f"synthmix.cli.{module}"), function)(arguments)
        sys.stdout.flush()
        return int(code)
    except KeyboardInterrupt:
        note("interrupted")
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as head, has had enough. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = as_known(error)
        print_error(arguments, known)
        return exit_codes.of_error(known)


def as_known(error: Exception) -> SynthMixError:
    """Any error as one whose message helps a user."""
    if isinstance(error, SynthMixError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return Internal(
            f"Python's module {error.name!r} isn't installed; `synthmix doctor` lists what is missing",
            reason="PACKAGE_MISSING",
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Internal(f"{where}{error.strerror}", reason="OPERATING_SYSTEM")
    return Internal(
        f"unexpected {type(error).__name__}: {error}; set SYNTHMIX_DEBUG=1 for the stack trace and report it",
        reason="INTERNAL",
    )
