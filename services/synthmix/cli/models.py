"""`synthmix models`: put base models into object storage and look at them."""

import argparse

from synthmix.api.base_models.v1 import base_models_pb2
from synthmix.cli.connection import connect
from synthmix.cli.output import emit, human_time, table, with_owners, without_own
from synthmix.cli.progress import progress, shown_transfer
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.resource_names import MODELS
from synthmix.service_kit.yaml_text import to_yaml


def import_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        model = client.import_model(
            arguments.source, arguments.name, replace=arguments.replace, progress=shown_transfer(show_progress)
        )
    emit(arguments, model, _text(model))


def list_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        models = list(client.models.list())
    items = [(name, item) for item in models for name in item.display_names or [""]]
    rows = [
        (name, item.name, item.source, item.image_size, byte_size(item.size_bytes), human_time(item.create_time))
        for name, item in items
    ]
    headers = ("NAME", "MODEL", "SOURCE", "PIXELS", "SIZE", "CREATED")
    shown = table(*with_owners(headers, rows, [item for _, item in items]), right=("PIXELS", "SIZE"))
    emit(arguments, models, shown)


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        model = client.models.get(arguments.name)
    emit(arguments, model, to_yaml(without_own(model)).rstrip())


def _text(model: base_models_pb2.BaseModel) -> str:
    named = f"{MODELS}/{model.display_name}" if model.display_name else model.name
    return "\n".join(
        [
            f"{model.source}: {byte_size(model.size_bytes)}, for images of {model.image_size} pixels",
            model.name,
            f"a study or an adapter names it by `base_model: {named}`",
        ]
    )
