"""`synthmix operations`: look at long-running work of any service, and stop it."""

import argparse

from synthmix.cli import exit_codes
from synthmix.cli.connection import connect
from synthmix.cli.output import (
    emit,
    ended_badly,
    error_text,
    human_time,
    note,
    owners_text,
    table,
    with_owners,
    without_own,
)
from synthmix.cli.progress import progress, shown_operation
from synthmix.client.client import Client, Operation, failure_of, metadata_of
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.operation_calls import state_word
from synthmix.service_kit.yaml_text import to_yaml


def list_(arguments: argparse.Namespace) -> None:
    services = [arguments.service] if arguments.service else SERVICES
    with connect(arguments) as client:
        operations = [operation for service in services for operation in client.list_operations(service)]
    operations.sort(key=lambda operation: metadata_of(operation).create_time.ToNanoseconds(), reverse=True)
    rows = []
    for operation in operations:
        metadata = metadata_of(operation)
        rows.append(
            (
                operation.name,
                state_word(metadata.state),
                f"{metadata.done}/{metadata.total}",
                metadata.unit,
                human_time(metadata.create_time),
                human_time(metadata.update_time),
                metadata.target,
            )
        )
    headers = ("NAME", "STATE", "DONE", "UNIT", "CREATED", "UPDATED", "MAKES")
    items = [metadata_of(operation) for operation in operations]
    emit(arguments, operations, table(*with_owners(headers, rows, items), right=("DONE",)))


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        operation = client.get_operation(arguments.name)
    lines = [f"name: {operation.name}", to_yaml(without_own(metadata_of(operation))).rstrip()]
    if operation.HasField("error"):
        error = failure_of(operation)
        lines.append(error_text(error))
        if "trace" in error.metadata:
            lines.append(f"stack trace of incident {error.metadata['incident']}: {error.metadata['trace']}")
    emit(arguments, operation, "\n".join(lines))


def wait(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        return follow(client, client.get_operation(arguments.name), arguments)


def cancel(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        client.cancel(arguments.name)
        text = said_of_cancelled(client, arguments.name, "is asked to stop")
    emit(arguments, {"operation": arguments.name}, text)


def said_of_cancelled(client: Client, name: str, stopping: str) -> str:
    """What became of an operation that was cancelled: it is stopping, or goes on for others who asked for it."""
    operation = client.get_operation(name)
    metadata = metadata_of(operation)
    if operation.done or metadata.cancel_requested or not metadata.requested_by:
        return f"{name} {stopping}"
    return f"{name} goes on for {owners_text(metadata)}, who asked for it as well; it is not yours any more"


def follow(client: Client, operation: Operation, arguments: argparse.Namespace) -> int:
    """Shows an operation's progress until it ends, then what it made. Ctrl-C leaves it running."""
    try:
        with progress() as show_progress:
            done = client.wait(operation, progress=shown_operation(show_progress))
    except KeyboardInterrupt:
        note(
            "\nno longer waiting; the operation goes on\n"
            f"  wait again:  synthmix operations wait {operation.name}\n"
            f"  stop it:     synthmix operations cancel {operation.name}"
        )
        return exit_codes.INTERRUPTED
    if done.HasField("error"):
        return ended_badly(arguments, failure_of(done))
    emit(arguments, done, metadata_of(done).target)
    return exit_codes.OK
