"""`synthmix up`: the whole stack on this machine."""

import argparse

from synthmix.cli import exit_codes
from synthmix.embedded import run_stack
from synthmix.endpoints import default_home


def up(arguments: argparse.Namespace) -> int:
    run_stack(arguments.home or default_home(), cpus=arguments.cpus, gpus=arguments.gpus)
    return exit_codes.OK
