"""`synthmix presets`: the strategies of the field, which a study may follow. Asks no service."""

import argparse

from synthmix.cli.output import emit, table
from synthmix.presets import preset_files


def list_(arguments: argparse.Namespace) -> None:
    presets = [preset_files.read(name) for name in preset_files.names()]
    value = [
        {
            "name": item.name,
            "title": item.title,
            "citation": item.citation,
            "variants": list(item.variants),
            "unavailable": item.unavailable,
        }
        for item in presets
    ]
    rows = [(item.name, ", ".join(item.variants) or "-", item.citation) for item in presets]
    lines = [table(("PRESET", "VARIANTS", "PAPER"), rows)]
    lines += [f"{item.name} cannot be had: {item.unavailable}" for item in presets if item.unavailable]
    emit(arguments, value, "\n".join(lines))


def show(arguments: argparse.Namespace) -> None:
    variant = preset_files.find(arguments.name, arguments.variant)
    preset = preset_files.read(arguments.name)
    value = {
        "name": preset.name,
        "variant": variant.name,
        "citation": preset.citation,
        "sections": dict(variant.sections),
        "deviations": list(variant.deviations),
        "assumptions": list(variant.assumptions),
    }
    emit(arguments, value, preset_files.as_yaml(preset, variant))
