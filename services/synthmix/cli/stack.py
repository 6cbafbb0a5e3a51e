"""`synthmix up`: the whole stack on this machine."""

import argparse

from synthmix.client.endpoints import default_home
from synthmix.local import run_stack


def up(arguments: argparse.Namespace) -> None:
    run_stack(arguments.home or default_home(), cpus=arguments.cpus, gpus=arguments.gpus)
