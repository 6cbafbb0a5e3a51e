"""`synthmix adapters export`, `import` and `merge`: adapters to and from other programs, and several as one."""

import argparse
from pathlib import Path

from synthmix.cli.connection import connect
from synthmix.cli.output import emit
from synthmix.cli.progress import progress, shown_transfer
from synthmix.client.adapter_formats import Export, Stored
from synthmix.client.adapter_merges import Merge, merge_adapters
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, is_id, unqualified


def export(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        name = ArtifactName.parse(client.adapters.get(arguments.name).name, field="name")
        made = client.export_adapter(
            str(name),
            arguments.format,
            arguments.out,
            label=arguments.label,
            image=arguments.image,
            progress=shown_transfer(show_progress),
        )
    said = f"{name} in the format {arguments.format}:"
    emit(arguments, {"name": str(name), **_value(arguments, made)}, "\n".join([said, *_lines(made)]))


def import_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        adapter = client.import_adapter(
            arguments.path,
            arguments.base_model,
            classes=arguments.classes,
            prompt=arguments.prompt,
            image_size=arguments.image_size,
            grey=arguments.grey,
            progress=shown_transfer(show_progress),
        )
    settings = adapter.settings
    size = f"block size {settings.block_size}" if settings.block_size else f"rank {settings.rank}"
    said = [
        f"{adapter.name}: {settings.method} of {size} for {settings.base_model}, {adapter.parameter_count:,} numbers",
        "note: it is not known on which images it was trained, so that evaluations and studies refuse image sets that "
        "are made with it",
    ]
    emit(arguments, adapter, "\n".join(said))


def merge(arguments: argparse.Namespace) -> None:
    adapters = [_named(text) for text in arguments.adapters]
    weights, out, rank, form = arguments.weights, arguments.out, arguments.rank, arguments.format
    if all(isinstance(adapter, Path) for adapter in adapters):  # then there may be no stack
        made = merge_adapters(adapters, weights, out, rank=rank, format_name=form, fetch=_nothing_to_fetch)
    else:
        with connect(arguments) as client, progress() as show_progress:
            made = client.merge_adapters(
                adapters, weights, out, rank=rank, format_name=form, progress=shown_transfer(show_progress)
            )
    said = [
        f"{len(adapters)} adapters as one LoRA of up to rank {made.rank}, in the format {form}:",
        *_lines(made.exported),
        _loss(made),
    ]
    value = {**_value(arguments, made.exported), "rank": made.rank, "relative_error": made.error}
    emit(arguments, value, "\n".join(said))


def _named(text: str) -> str | Path:
    """An adapter of the service by its name or digest, or else a path."""
    return text if is_id(unqualified(ADAPTERS, text)) else Path(text)


def _nothing_to_fetch(name: str, folder: Path) -> Stored:
    raise AssertionError(f"{name} is no path")


def _loss(made: Merge) -> str:
    if not made.error:
        return "nothing is left out: ranks add up"
    return f"left out to keep the rank: {made.error:.3g} of the update, by the root of the sum of squares"


def _value(arguments: argparse.Namespace, made: Export) -> dict[str, object]:
    return {"format": arguments.format, "files": [str(path) for path in made.files], "notes": list(made.notes)}


def _lines(made: Export) -> list[str]:
    return [*(f"  {path}" for path in made.files), *(f"note: {sentence}" for sentence in made.notes)]
