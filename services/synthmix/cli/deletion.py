"""`synthmix ... delete`, `datasets remove-images` and `sweep`: they say what goes, and ask where a person watches."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.cli import exit_codes
from synthmix.cli.connection import connect
from synthmix.cli.datasets import dataset_text
from synthmix.cli.output import emit, human_time, note, table
from synthmix.cli.progress import progress, shown_transfer
from synthmix.cli.resources import RESOURCES
from synthmix.client.client import Client
from synthmix.client.user_files import LARGEST_FILE_BYTES, check_size, read_user_file
from synthmix.service_kit.errors import InvalidArgument, listing
from synthmix.service_kit.quantities import byte_size, plural
from synthmix.service_kit.resource_names import collection_of

NOUNS = {
    "datasets": ("dataset", "datasets"),
    "models": ("base model", "base models"),
    "splits": ("split", "splits"),
    "autoencoder-checks": ("check of an autoencoder", "checks of autoencoders"),
    "adapters": ("adapter", "adapters"),
    "image-sets": ("image set", "image sets"),
    "trials": ("trial", "trials"),
    "reconstructions": ("set of reconstructed images", "sets of reconstructed images"),
    "features": ("set of features", "sets of features"),
    "image-set-scores": ("score of an image set", "scores of image sets"),
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


def remove_images(arguments: argparse.Namespace) -> int:
    images = [*arguments.images, *(_lines(arguments.from_file) if arguments.from_file else [])]
    chosen: dict[str, Any] = {"images": images, "groups": arguments.groups, "cascade": arguments.cascade}
    with connect(arguments) as client:
        planned = client.delete_dataset(arguments.name, cascade=arguments.cascade, validate_only=True)
        if not arguments.yes:
            before = client.get_dataset(arguments.name)
            after = client.remove_images(arguments.name, **chosen, validate_only=True)
            note(
                f"this removes {plural(before.image_count - after.image_count, 'image')} of {before.image_count:,} "
                f"from {arguments.name}, which becomes {after.name}"
            )
            if planned.kept:
                note("others asked for it as well: the images go for all of them, with what they made from it")
                may_go = answered_yes()
            else:
                may_go = confirmed(planned, now=arguments.now)
            if not may_go:
                note("nothing was removed")
                return exit_codes.FAILED
        with progress() as show_progress:
            left = client.remove_images(
                arguments.name, **chosen, now=arguments.now, progress=shown_transfer(show_progress)
            )
    if planned.deleted:
        kinds = Counter(collection_of(item.name) for item in planned.deleted)
        note(f"deleted {counted(kinds)}{listing([item.name for item in planned.deleted])}")
    emit(arguments, left, dataset_text(left))
    return exit_codes.OK


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not blank; of standard input for "-"."""
    data = (
        check_size("standard input", sys.stdin.buffer.read(LARGEST_FILE_BYTES + 1))
        if str(path) == "-"
        else read_user_file(path, pipe_remedy="give - to read standard input")
    )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{path} is not UTF-8 text (byte {error.start}); give one image a line", reason="FILE_UNREADABLE"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def sweep(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        swept = client.sweep(validate_only=arguments.dry_run)
    rows = [(item.kind, item.count, byte_size(item.size_bytes)) for item in swept]
    emit(arguments, swept, table(("WHAT", "OBJECTS", "SIZE"), rows, right=("OBJECTS", "SIZE")))


def method_of(client: Client, group: str) -> Callable[..., artifacts_pb2.Deletion]:
    """What deletes one of the things that a group of commands is about."""
    if group == "datasets":
        return client.delete_dataset
    if group == "models":
        return client.models.delete
    return client.delete_study if group == "studies" else RESOURCES[group].of(client).delete


def confirmed(deletion: artifacts_pb2.Deletion, *, now: bool = False) -> bool:
    """Whether the person who watches says that it may go. Raises InvalidArgument if nobody does."""
    names = listing([f"{item.name}, {byte_size(item.size_bytes)}" for item in deletion.deleted])
    note(f"this deletes {deletion_text(deletion, now=now)}{names}")
    return answered_yes()


def answered_yes() -> bool:
    """What the person who watches says. Raises InvalidArgument if nobody does."""
    if not somebody_watches():
        raise InvalidArgument(
            "nobody can be asked whether that may go; pass --yes to delete it", reason="CONFIRMATION_MISSING"
        )
    print("delete it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def somebody_watches() -> bool:
    """Whether a question is seen, and can be answered."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def deletion_text(deletion: artifacts_pb2.Deletion, *, now: bool = False) -> str:
    """How many of each kind go, how large they are, and when object storage has their room again.

    Args:
        now: Nothing is kept for the grace period.
    """
    counts = Counter(collection_of(item.name) for item in deletion.deleted)
    files_go = "within two hours" if now else f"after {human_time(deletion.payloads_expire_time)}"
    text = "nothing"
    if deletion.deleted:
        text = f"{counted(counts)}, {byte_size(deletion.size_bytes)}; the files go {files_go}"
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
