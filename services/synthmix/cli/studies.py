"""`synthmix studies`: plan, run and follow studies."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli import exit_codes
from synthmix.cli.connection import connect
from synthmix.cli.operations import said_of_cancelled
from synthmix.cli.output import emit, ended_badly, human_time, note, number, table, with_owners, without_own
from synthmix.cli.progress import progress, shown_operation
from synthmix.client.client import Client, failure_of, metadata_of
from synthmix.client.study_file import Document, read_study
from synthmix.service_kit.errors import Internal, SynthMixError
from synthmix.service_kit.operation_calls import state_word
from synthmix.service_kit.quantities import duration, shortened
from synthmix.service_kit.yaml_text import to_yaml

VERDICT_WIDTH = 70


def validate(arguments: argparse.Namespace) -> None:
    document = read_study(arguments.file)
    with connect(arguments) as client, located(document):
        plan = client.plan_study(document.message)
    emit(arguments, plan, plan_text(plan))


def submit(arguments: argparse.Namespace) -> int:
    document = read_study(arguments.file)
    with connect(arguments) as client:
        with located(document):
            operation = client.submit_study(document.message)
        metadata = metadata_of(operation)
        name = metadata.target
        for warning in metadata.warnings:
            note(f"warning: {warning}")
        if arguments.wait:
            return follow(client, name, arguments, told=metadata.warnings)
        emit(arguments, operation, name)
    if arguments.output == "text":
        note(f"follow it with `synthmix studies watch {name}`")
    return exit_codes.OK


def watch(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        return follow(client, arguments.name, arguments)


def list_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        studies = list(client.list_studies())
    rows = [
        (
            item.spec.name,
            item.name,
            state_word(item.state),
            human_time(item.create_time),
            shortened(item.verdict, VERDICT_WIDTH),
        )
        for item in studies
    ]
    headers = ("STUDY", "NAME", "STATE", "CREATED", "VERDICT")
    emit(arguments, studies, table(*with_owners(headers, rows, studies)))


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        study = client.get_study(arguments.name)
    emit(arguments, study, to_yaml(without_own(study)).rstrip())


def cancel(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        operations = client.cancel_studies(arguments.name) if arguments.all else [client.cancel_study(arguments.name)]
        lines = [
            said_of_cancelled(client, item, "is asked to stop; submitted again it goes on from what is done")
            for item in operations
        ]
    value = {"operations": operations} if arguments.all else {"operation": operations[0]}
    emit(arguments, value, "\n".join(lines) or f"no study named {arguments.name!r} goes on: nothing is stopped")


def report(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        study = client.get_study(arguments.name)
        folder = arguments.to or Path(f"{study.spec.name}-report")
        files = client.download_report(study.name, folder)
    emit(
        arguments,
        {"study": study.name, "verdict": study.verdict, "files": [str(path) for path in files]},
        "\n".join([study.verdict, *(str(path) for path in files)]),
    )


def follow(client: Client, name: str, arguments: argparse.Namespace, told: Sequence[str] = ()) -> int:
    """Shows a study's progress until it ends, then its verdict. Ctrl-C leaves the study running.

    Args:
        told: Warnings that were said before.
    """
    try:
        study = watch_to_end(client, name, told)
    except KeyboardInterrupt:
        note(
            f"\nno longer watching; the study goes on\n  watch it again:  synthmix studies watch {name}\n"
            f"  stop it:         synthmix studies cancel {name}"
        )
        return exit_codes.INTERRUPTED
    if study.state == operations_pb2.STATE_SUCCEEDED:
        emit(arguments, study, f"{study.verdict}\n{study.name}")
        if arguments.output == "text":
            note(f"get the report with `synthmix studies report {study.name}`")
        return exit_codes.OK
    return ended_badly(arguments, failure_of(client.get_operation(study.operation)))


def watch_to_end(client: Client, name: str, told: Sequence[str] = ()) -> studies_pb2.Study:
    """The study, once it has ended; shows its progress until then, and warnings that were not told before."""
    with progress() as show_progress:
        show = shown_operation(show_progress, told)
        for event in client.watch_study(name):
            if event.HasField("progress"):
                show(event.progress)
            if event.HasField("study"):
                return event.study
    raise Internal(f"the stream of {name} ended without the study; watch it again", reason="STREAM_ENDED")


@contextmanager
def located(document: Document[Any]) -> Iterator[None]:
    """Adds the file's lines to what the server finds wrong in it."""
    try:
        yield
    except SynthMixError as error:
        raise document.locate(error) from None


def plan_text(plan: studies_pb2.StudyPlan) -> str:
    """The steps of a plan as a table, their sum and the warnings below it."""
    rows = [
        (
            item.display_name,
            item.plan.total,
            item.plan.done,
            item.plan.unit,
            duration(item.plan.predicted_seconds) if item.plan.done < item.plan.total else "-",
        )
        for item in plan.steps
    ]
    predicted = f"{duration(plan.predicted_seconds)} of worker time predicted for what is not done"
    if plan.predicted_wall_seconds:
        predicted += f", {duration(plan.predicted_wall_seconds)} with the workers that this cluster can run at once"
    lines = [
        table(("STEP", "UNITS", "DONE", "UNIT", "PREDICTED"), rows, right=("UNITS", "DONE", "PREDICTED")),
        *(_candidates(plan.search) if plan.HasField("search") else ()),
        *_quantities(plan),
        "",
        f"{plan.name}: {predicted}",
    ]
    return "\n".join(lines + [f"warning: {warning}" for warning in plan.warnings])


def _candidates(search: studies_pb2.SearchPlan) -> list[str]:
    """What each rung of each adapter of a search takes, as a table below what the search is, after an empty line."""
    rows = [
        (
            item.display_name,
            *(f"{duration(rung.predicted_seconds)} at {rung.images_seen:,}" for rung in item.rungs),
            duration(sum(rung.predicted_seconds for rung in item.rungs)),
        )
        for item in search.candidates
    ]
    rungs = [f"RUNG {number + 1}" for number in range(len(search.candidates[0].rungs))]
    return [
        "",
        f"search among {len(search.candidates)} adapters within {duration(search.budget_seconds)} of worker time; all, "
        f"trained and scored to their ends, would take {duration(search.full_seconds)}",
        table(("ADAPTER", *rungs, "ALL"), rows, right=(*rungs, "ALL")),
    ]


def _quantities(plan: studies_pb2.StudyPlan) -> list[str]:
    """What is known of steps before they are done, as a table below an empty line; nothing if there is none."""
    planned: list[studies_pb2.PlannedStep | studies_pb2.PlannedCandidate] = [*plan.steps, *plan.search.candidates]
    known = [
        (item.display_name, {quantity.name.upper(): number(quantity.value) for quantity in item.plan.quantities})
        for item in planned
        if item.plan.quantities
    ]
    if not known:
        return []
    # Adapters without class tokens have no number of them.
    names = list(dict.fromkeys(name for _, quantities in known for name in quantities))
    rows = [(step, *(quantities.get(name, "-") for name in names)) for step, quantities in known]
    return ["", table(("STEP", *names), rows, right=names)]
