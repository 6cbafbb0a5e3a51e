"""`synthmix datasets`: import real images and look at them, or write simulated ones."""

import argparse

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.cli.connection import connect
from synthmix.cli.output import emit, human_time, note, table, with_owners, without_own
from synthmix.cli.progress import progress, shown_transfer
from synthmix.client.client import GroupRule, PixelRule
from synthmix.client.outputs import check_free, made_whole
from synthmix.client.split_images import table_text
from synthmix.image_data.sources.source_account import sentence
from synthmix.service_kit.errors import InvalidArgument
from synthmix.service_kit.extras import extra
from synthmix.service_kit.yaml_text import to_yaml


def import_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        dataset = client.import_dataset(
            arguments.path,
            arguments.name,
            group=group_rule(arguments),
            classes=arguments.classes,
            simulated=arguments.simulated,
            pixels=pixel_rule(arguments),
            replace=arguments.replace,
            label_column=arguments.label_column,
            path_column=arguments.path_column,
            caption_columns=arguments.caption_columns,
            accept_layout=arguments.yes,
            progress=shown_transfer(show_progress),
        )
    emit(arguments, dataset, dataset_text(dataset))


def list_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        datasets = list(client.list_datasets())
    rows = [
        (
            display_name,
            item.name,
            item.image_count,
            item.group_count,
            len(item.class_counts),
            "simulated" if item.simulated else "real",
            human_time(item.create_time),
        )
        for item in datasets
        for display_name in item.display_names or [item.display_name]
    ]
    items = [item for item in datasets for _ in item.display_names or [item.display_name]]
    headers = ("DATASET", "NAME", "IMAGES", "GROUPS", "CLASSES", "KIND", "CREATED")
    emit(arguments, datasets, table(*with_owners(headers, rows, items), right=("IMAGES", "GROUPS", "CLASSES")))


def show(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        dataset = client.get_dataset(arguments.name)
    emit(arguments, dataset, to_yaml(without_own(dataset)).rstrip())


def split(arguments: argparse.Namespace) -> None:
    if arguments.to is not None:
        check_free(arguments.to)
    with connect(arguments) as client:
        made = client.create_split(
            arguments.name, test=arguments.test, validation=arguments.validation, seed=arguments.seed
        )
        if arguments.to is not None:
            text = table_text(client.split_images(made.name))
            with made_whole(arguments.to) as path:
                path.write_text(text, encoding="utf-8")
    emit(arguments, made, split_text(made))


def split_text(made: datasets_pb2.Split) -> str:
    """The split's name, and what each part has of each class."""
    rows = [
        (part.part, item.label, item.images, item.groups) for part in made.part_counts for item in part.class_counts
    ]
    counts = table(("PART", "CLASS", "IMAGES", "GROUPS"), rows, right=("IMAGES", "GROUPS"))
    return "\n".join([made.name, "", counts, *(f"warning: {warning}" for warning in made.warnings)])


def simulate(arguments: argparse.Namespace) -> None:
    with extra("local", "drawing simulated images"):
        from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset

    settings = SimulatedCellsSettings(
        images_per_class=arguments.images_per_class, chips=arguments.chips, seed=arguments.seed
    )
    try:
        count = write_simulated_dataset(arguments.folder, settings)
    except ValueError as error:
        raise InvalidArgument(str(error), reason="SIMULATION_INVALID") from None
    emit(
        arguments,
        {"folder": str(arguments.folder), "images": count, "group_pattern": GROUP_PATTERN},
        f"{count} simulated images in {arguments.folder}",
    )
    if arguments.output == "text":
        note(
            f"import them with `synthmix datasets import {arguments.folder} --name sim-cells --simulated "
            f"--group-pattern '{GROUP_PATTERN}'`"
        )


def group_rule(arguments: argparse.Namespace) -> GroupRule:
    """The rule that the options state."""
    if arguments.no_groups:
        return GroupRule(none=True)
    return GroupRule(pattern=arguments.group_pattern, column=arguments.group_column)


def pixel_rule(arguments: argparse.Namespace) -> PixelRule | None:
    """What the options choose of each image's pixels; nothing if none is given."""
    rule = PixelRule(
        channels=[number for numbers in arguments.channels for number in numbers],
        plane=arguments.plane,
        white_level=arguments.white_level,
    )
    return rule if rule.ByteSize() else None


def dataset_text(dataset: datasets_pb2.Dataset) -> str:
    """What an import made: its size, its classes, and what is worth a warning."""
    counts = table(
        ("CLASS", "IMAGES", "GROUPS"),
        [(item.label, item.images, item.groups) for item in dataset.class_counts],
        right=("IMAGES", "GROUPS"),
    )
    others = [name for name in dataset.display_names if name != dataset.display_name]
    lines = [
        f"{dataset.display_name}: {dataset.image_count} images in {dataset.group_count} groups",
        dataset.name,
        *([f"also named: {', '.join(others)}"] if others else []),
        *_pixels_text(dataset),
        *([f"captions: {', '.join(dataset.caption_columns)}"] if dataset.caption_columns else []),
        "",
        counts,
        *_left_out_lines(dataset),
    ]
    return "\n".join(lines + [f"warning: {warning}" for warning in dataset.warnings])


def _pixels_text(dataset: datasets_pb2.Dataset) -> list[str]:
    rule, lines = dataset.pixels, []
    if rule.plane:
        lines.append(f"plane {rule.plane} of each image")
    if len(rule.channels) == 1:
        lines.append(f"channel {rule.channels[0]} of each image, as grey")
    elif rule.channels:
        colours = zip(rule.channels, ("red", "green", "blue"), strict=False)
        shown = ", ".join(f"channel {number} as {colour}" for number, colour in colours)
        lines.append(f"{shown} of each image")
    if dataset.white_levels:
        levels = ", ".join(f"{level:,}" for level in dataset.white_levels)
        lines.append(f"white in 16-bit images: {levels}")
    return lines


def _left_out_lines(dataset: datasets_pb2.Dataset) -> list[str]:
    """The account of the source's files that aren't images of the dataset."""
    if not dataset.left_out:
        return []
    return [
        f"left out: {sum(row.count for row in dataset.left_out):,} files",
        *(f"  {sentence(row)}" for row in dataset.left_out),
    ]
