"""`synthmix adapters`, `images` and `evaluations`: the same four commands on three kinds of resource."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.cli import exit_codes
from synthmix.cli.connection import connect
from synthmix.cli.operations import follow
from synthmix.cli.output import emit, human_time, note, number, table, with_owners, without_own
from synthmix.cli.progress import progress, shown_transfer
from synthmix.cli.studies import located
from synthmix.client.client import Client
from synthmix.client.resource_collection import ResourceCollection
from synthmix.client.study_file import read_document
from synthmix.service_kit.quantities import duration
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.yaml_text import to_yaml


@dataclass(frozen=True)
class Resource:
    """How the commands handle one kind: its message, the client's collection of it, its columns in a list."""

    kind: type[Message]
    of: Callable[[Client], ResourceCollection[Any]]
    headers: Sequence[str]
    row: Callable[[Any], Sequence[object]]


RESOURCES = {
    "adapters": Resource(
        adapters_pb2.Adapter,
        lambda client: client.adapters,
        ("BASE MODEL", "METHOD", "RANK", "TARGETS", "IMAGES SEEN"),
        lambda item: (
            item.settings.base_model,
            item.settings.method,
            item.settings.rank or "-",
            item.settings.targets or "-",  # of one that was imported, neither is known
            item.settings.images_seen or "-",
        ),
    ),
    "images": Resource(
        image_sets_pb2.ImageSet,
        lambda client: client.image_sets,
        ("IMAGES", "CLASSES", "STEPS", "GUIDANCE", "ADAPTER"),
        lambda item: (
            item.image_count,
            len(item.class_images),
            item.settings.steps or "-",  # of imported ones nobody knows
            "-" if item.HasField("imported") else f"{item.settings.guidance_scale:g}",
            f"imported from {item.imported.origin}"
            if item.HasField("imported")
            else " + ".join((item.adapter, *item.more_adapters)),
        ),
    ),
    "evaluations": Resource(
        evaluations_pb2.Evaluation,
        lambda client: client.evaluations,
        ("TRIALS", "SEEDS", "IMAGE SETS", "SPLIT"),
        lambda item: (item.trial_count, item.seeds, len(item.image_sets), item.split),
    ),
}


def create(arguments: argparse.Namespace) -> int:
    resource = RESOURCES[arguments.group]
    document = read_document(arguments.file, resource.kind)
    with connect(arguments) as client:
        with located(document):
            if arguments.validate:
                plan = resource.of(client).plan(document.message)
                emit(arguments, plan, plan_text(plan))
                return exit_codes.OK
            operation = resource.of(client).create(document.message)
        if arguments.wait:
            return follow(client, operation, arguments)
    emit(arguments, operation, operation.name)
    if arguments.output == "text":
        note(f"follow it with `synthmix operations wait {operation.name}`")
    return exit_codes.OK


def list_(arguments: argparse.Namespace) -> None:
    resource = RESOURCES[arguments.group]
    with connect(arguments) as client:
        items = list(resource.of(client).list())
    rows = [(item.name, *resource.row(item), duration(item.seconds), human_time(item.create_time)) for item in items]
    headers = ("NAME", *resource.headers, "TOOK", "CREATED")
    emit(arguments, items, table(*with_owners(headers, rows, items), right=("TOOK",)))


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        item = RESOURCES[arguments.group].of(client).get(arguments.name)
    emit(arguments, item, to_yaml(without_own(item)).rstrip())


def download(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        name = RESOURCES[arguments.group].of(client).get(arguments.name).name
        folder = arguments.to or Path(ArtifactName.parse(name, field="name").id)
        files = client.download(name, folder, progress=shown_transfer(show_progress))
    emit(
        arguments,
        {"name": name, "files": [str(path) for path in files]},
        f"{len(files)} files of {name} in {folder}",
    )


def plan_text(plan: operations_pb2.Plan) -> str:
    left = (
        f"{duration(plan.predicted_seconds)} of worker time predicted" if plan.done < plan.total else "all done already"
    )
    said = f"{plan.target}: {plan.done} of {plan.total} {plan.unit} done, {left}"
    quantities = [f"{item.name}: {number(item.value)}" for item in plan.quantities]
    return "\n".join([said, *quantities, *(f"warning: {warning}" for warning in plan.warnings)])
