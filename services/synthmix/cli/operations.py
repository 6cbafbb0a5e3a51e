"""`synthmix operations`: look at long-running work of any service, and stop it."""

import argparse

from synthmix.cli import exit_codes, outcomes
from synthmix.cli.connection import connect
from synthmix.cli.output import emit, error_text, human_time, note, print_error, table
from synthmix.cli.progress import metadata_rows, progress
from synthmix.cli.studies import state_word
from synthmix.client.client import Client, Operation, failure_of, metadata_of
from synthmix.service_kit.environment import SERVICES
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
    emit(
        arguments,
        operations,
        table(("NAME", "STATE", "DONE", "UNIT", "CREATED", "UPDATED", "MAKES"), rows, right=("DONE",)),
    )


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        operation = client.get_operation(arguments.name)
    lines = [f"name: {operation.name}", to_yaml(metadata_of(operation)).rstrip()]
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
    emit(arguments, {"operation": arguments.name}, f"{arguments.name} is asked to stop")


def follow(client: Client, operation: Operation, arguments: argparse.Namespace) -> int:
    """Shows an operation's progress until it ends, then what it made. Ctrl-C leaves it running."""
    try:
        with progress() as show_progress:
            done = client.wait(
                operation, progress=lambda metadata: show_progress(metadata_rows(metadata), metadata.message)
            )
    except KeyboardInterrupt:
        note(
            "\nno longer waiting; the operation goes on\n"
            f"  wait again:  synthmix operations wait {operation.name}\n"
            f"  stop it:     synthmix operations cancel {operation.name}"
        )
        return exit_codes.INTERRUPTED
    if done.HasField("error"):
        error = failure_of(done)
        print_error(arguments, error)
        return outcomes.of_outcome(error)
    emit(arguments, done, metadata_of(done).target)
    return exit_codes.OK
