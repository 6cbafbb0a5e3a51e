"""The presets that a study names: filled in where it is planned, and said in its report.

What a study's record holds is filled: a preset that is changed later changes no study that there is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synthmix.api.studies.v1 import studies_pb2
from synthmix.presets import preset_files
from synthmix.presets.preset_files import ADAPTERS, DEFAULT_VARIANT, MIXTURES, PRESET, SELECTION, SYNTHESIS, VARIANT
from synthmix.service_kit.environment import IMAGE_SYNTHESIS
from synthmix.service_kit.errors import InvalidArgument, Problems, invalid_field
from synthmix.study_control.steps import Step, of_service


def with_presets(given: studies_pb2.StudySpec, problems: Problems) -> studies_pb2.StudySpec:
    """A copy whose sections have what the presets that they name give to fields which the user leaves out.

    Collects presets and variants that cannot be had.
    """
    spec = studies_pb2.StudySpec()
    spec.CopyFrom(given)
    _spread(spec, problems)
    for section, path, settings in _sections(spec):
        if not settings.HasField(PRESET):
            if settings.HasField(VARIANT):
                problems.found.append(_without_preset(f"{path}.{VARIANT}", getattr(settings, VARIANT)))
            continue
        with problems:
            variant = preset_files.find(getattr(settings, PRESET), _variant_of(settings), path=path)
            if section not in variant.sections:
                raise invalid_field(
                    f"{path}.{PRESET}",
                    getattr(settings, PRESET),
                    f"has no {section} in the variant {variant.name}",
                    f"leave it out, or use one of: {', '.join(preset_files.with_section(section))}",
                )
            setattr(settings, VARIANT, variant.name)
            preset_files.fill(settings, variant.sections[section])
    return spec


def _spread(spec: studies_pb2.StudySpec, problems: Problems) -> None:
    """Gives each section what the study says for all that say nothing themselves."""
    if spec.HasField(PRESET):
        found = len(problems.found)
        with problems:
            variant = preset_files.find(spec.preset, _variant_of(spec))
            if not spec.adapters:
                spec.adapters.add()
            if not spec.synthesis:
                spec.synthesis.add()
            if not spec.selection and SELECTION in variant.sections:
                spec.selection.add(preset=spec.preset)
            for section, _, settings in _sections(spec):
                if section != SELECTION and not settings.HasField(PRESET):
                    setattr(settings, PRESET, spec.preset)
        if len(problems.found) > found:
            return
    if spec.HasField(VARIANT):
        named = [settings for _, _, settings in _sections(spec) if settings.HasField(PRESET)]
        if not named:
            problems.found.append(_without_preset(VARIANT, spec.variant))
        for settings in named:
            if not settings.HasField(VARIANT):
                setattr(settings, VARIANT, spec.variant)


def _sections(spec: studies_pb2.StudySpec) -> Iterator[tuple[str, str, Any]]:
    """All that presets can fill: each with its section and its path."""
    for section in (ADAPTERS, SYNTHESIS, SELECTION):
        for index, settings in enumerate(getattr(spec, section)):
            yield section, f"{section}[{index}]", settings
    yield MIXTURES, MIXTURES, spec.mixtures


def _variant_of(settings: Any) -> str:
    return settings.variant if settings.HasField(VARIANT) else DEFAULT_VARIANT


def _without_preset(field: str, value: str) -> InvalidArgument:
    return invalid_field(field, value, "is of a preset, and there is none", f"name a {PRESET}, or leave it out")


def presets_of(spec: studies_pb2.StudySpec) -> list[dict[str, Any]]:
    """What a study's record says of its presets, for its report: a row for each preset and variant.

    Args:
        spec: Filled by `with_presets`, without defaults.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for section, path, settings in _sections(spec):
        if not settings.HasField(PRESET):
            continue
        preset = preset_files.read(settings.preset)
        variant = preset.variants[settings.variant]
        row = rows.setdefault(
            (preset.name, variant.name),
            {
                "name": preset.name,
                "variant": variant.name,
                "title": preset.title,
                "citation": preset.citation,
                "deviations": list(variant.deviations),
                "assumptions": list(variant.assumptions),
                "sections": [],
                "changes": [],
            },
        )
        row["sections"].append(path)
        row["changes"] += preset_files.differences(settings, variant.sections[section], path)
    return list(rows.values())


def with_image_sets(
    presets: Sequence[Mapping[str, Any]], steps: Sequence[Step], image_sets: Sequence[str]
) -> list[dict[str, Any]]:
    """What `presets_of` says, and besides the image sets that each preset's synthesis made.

    Args:
        image_sets: The names of what the steps of image synthesis made, in their order.
    """
    made = list(zip(of_service(steps, IMAGE_SYNTHESIS), image_sets, strict=True))
    return [
        {
            **preset,
            "image_sets": [
                name
                for step, name in made
                if step.fields.get("image_set.settings", step.fields.get("image_set.candidates")) in preset["sections"]
            ],
        }
        for preset in presets
    ]
