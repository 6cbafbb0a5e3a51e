"""The client that a command line asks for."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from synthmix.cli.output import note
from synthmix.client.client import Client
from synthmix.service_kit.quantities import listed


def open_client(arguments: argparse.Namespace) -> Client:
    return Client.connect(
        arguments.home,
        addresses=arguments.address,
        release=arguments.release,
        kube_context=arguments.kube_context,
        token=arguments.token,
        tls_ca=arguments.tls_ca,
    )


@contextmanager
def connect(arguments: argparse.Namespace) -> Iterator[Client]:
    """A client for the length of a block, after which is said what lists had to leave out."""
    with open_client(arguments) as client:
        yield client
        if client.unreachable:
            note(f"left out, as the service cannot read them: {listed(client.unreachable)}")
