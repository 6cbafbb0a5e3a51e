"""Runs a parsed command, and turns whatever goes wrong into a line for a person and a code for a script."""

import argparse
import importlib
import os
import sys
import traceback
from pathlib import Path

from synthmix.cli import exit_codes, outcomes
from synthmix.cli.known_errors import as_known
from synthmix.cli.output import note, print_error
from synthmix.cli.streams import discard
from synthmix.service_kit.errors import InvalidArgument


def run(arguments: argparse.Namespace) -> int:
    """The command's exit code. A handler gives it, or nothing if all went well."""
    debug = os.environ.get("SYNTHMIX_DEBUG") == "1"
    if not debug:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's C core logs failures that we report ourselves
    try:
        check_text(arguments)
        module, _, function = arguments.run.partition(":")
        return getattr(importlib.import_module(f"synthmix.cli.{module}"), function)(arguments) or exit_codes.OK
    except KeyboardInterrupt:
        note("interrupted")
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        discard(sys.stdout)
        discard(sys.stderr)
        return exit_codes.BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = as_known(error)
        print_error(arguments, known)
        return outcomes.of_error(known)


def check_text(arguments: argparse.Namespace) -> None:
    """Makes text of every argument that is sent to a service.

    A terminal's encoding needn't be that of who typed: bytes that it doesn't know are read again as UTF-8. Raises
    InvalidArgument where they aren't text. A path may be any bytes but NUL.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, str):
            setattr(arguments, name, _as_text(name, value))
        elif isinstance(value, list):
            setattr(arguments, name, [_as_text(name, item) if isinstance(item, str) else item for item in value])
        elif isinstance(value, Path) and "\0" in str(value):
            raise InvalidArgument(f"{name}: {str(value)!r} has a NUL; give a path without", reason="ARGUMENT_NOT_TEXT")


def _as_text(name: str, value: str) -> str:
    try:
        text = value.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        text = ""
    if "\0" in text or (value and not text):
        raise InvalidArgument(
            f"{name}: {value!r} is not UTF-8 text, so no service knows it; type it anew, in a terminal that uses UTF-8",
            reason="ARGUMENT_NOT_TEXT",
        )
    return text
