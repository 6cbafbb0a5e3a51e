"""The client that a command line asks for."""

import argparse

from synthmix.client.client import Client


def connect(arguments: argparse.Namespace) -> Client:
    return Client.connect(
        arguments.home,
        addresses=arguments.address,
        release=arguments.release,
        kube_context=arguments.kube_context,
        token=arguments.token,
        tls_ca=arguments.tls_ca,
    )
