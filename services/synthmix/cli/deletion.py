"""`synthmix ... delete`: shows what goes, asks where a person watches, and deletes it."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.cli import exit_codes
from synthmix.cli.connection import connect
from synthmix.cli.output import emit, human_time, note
from synthmix.cli.resources import RESOURCES
from synthmix.client.client import Client
from synthmix.service_kit.errors import InvalidArgument, listing
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.resource_names import collection_of

NOUNS = {
    "datasets": ("dataset", "datasets"),
    "splits": ("split", "splits"),
    "adapters": ("adapter", "adapters"),
    "image-sets": ("image set", "image sets"),
    "trials": ("trial", "trials"),
    "reconstructions": ("set of reconstructed images", "sets of reconstructed images"),
    "features": ("set of features", "sets of features"),
    "evaluations": ("evaluation", "evaluations"),
    "studies": ("study", "studies"),
}


def delete(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        method = method_of(client, arguments.group)
        if not arguments.yes:
            planned = method(arguments.name, cascade=arguments.cascade, validate_only=True)
            if not confirmed(planned):
                note("nothing was deleted")
                return exit_codes.FAILED
        deletion = method(arguments.name, cascade=arguments.cascade)
    emit(arguments, deletion, f"deleted {deletion_text(deletion)}")
    return exit_codes.OK


def method_of(client: Client, group: str) -> Callable[..., artifacts_pb2.Deletion]:
    """What deletes one of the things that a group of commands is about."""
    if group == "datasets":
        return client.delete_dataset
    return client.delete_study if group == "studies" else RESOURCES[group].of(client).delete


def confirmed(deletion: artifacts_pb2.Deletion) -> bool:
    """Whether the person who watches says that it may go. Raises InvalidArgument if nobody does."""
    names = listing([f"{item.name}, {byte_size(item.size_bytes)}" for item in deletion.deleted])
    note(f"this deletes {deletion_text(deletion)}{names}")
    if not somebody_watches():
        raise InvalidArgument(
            "nobody can be asked whether that may go; pass --yes to delete it", reason="CONFIRMATION_MISSING"
        )
    print("delete it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def somebody_watches() -> bool:
    """Whether a question is seen, and can be answered."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def deletion_text(deletion: artifacts_pb2.Deletion) -> str:
    """How many of each kind go, how large they are, and when object storage has their room again."""
    counts = Counter(collection_of(item.name) for item in deletion.deleted)
    files_go = human_time(deletion.payloads_expire_time)
    text = "nothing"
    if deletion.deleted:
        text = f"{counted(counts)}, {byte_size(deletion.size_bytes)}; the files go after {files_go}"
    if deletion.kept:
        stays = listing([f"{name}, which stays, since others asked for it as well" for name in deletion.kept])
        text += f"\nwhat is not yours any more:{stays}"
    if deletion.unneeded:
        left = Counter(collection_of(name) for name in deletion.unneeded)
        text += f"\nnothing else refers to {counted(left)} that it used: --cascade deletes them as well"
    return text


def counted(counts: Counter[str]) -> str:
    """Such as "2 adapters, 1 study"."""
    return ", ".join(f"{count:,} {NOUNS[name][count != 1]}" for name, count in counts.items())
