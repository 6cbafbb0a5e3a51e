"""Preset files: their form, those that there are, and how one fills what a user left out.

A file is a strategy, by its name:

    title: ...
    paper: {authors: ..., year: ..., title: ..., arxiv: ...}
    variants:
      paper:
        adapters: {...}      # the sections with their fields as a study has them
        synthesis: {...}
        selection: {...}     # may be left out
        mixtures: {...}
        deviations: [...]    # what differs from the paper, or from the benchmark, in sentences
        assumptions: [...]   # what neither of them says

or, of a strategy that cannot be had, `unavailable` with the reason and the remedy in place of `variants`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from textwrap import indent
from typing import Any, TypeVar

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.evaluations.v1.evaluations_pb2 import MixtureSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings, SynthesisSettings
from synthmix.service_kit.errors import Problems, check_choice, invalid_field
from synthmix.service_kit.yaml_text import to_yaml

SUFFIX = ".yaml"
ADAPTERS, SYNTHESIS, SELECTION, MIXTURES = "adapters", "synthesis", "selection", "mixtures"
SECTIONS: Mapping[str, type[Message]] = {
    ADAPTERS: AdapterSettings,
    SYNTHESIS: SynthesisSettings,
    SELECTION: SelectionSettings,
    MIXTURES: MixtureSettings,
}
PAPER, UNIDIFFDA = "paper", "unidiffda"
VARIANTS: Mapping[str, str] = {
    PAPER: "the values of the strategy's own authors",
    UNIDIFFDA: "the values of the benchmark UniDiffDA on its medical images (Li et al. 2026, arXiv:2603.08364)",
}
DEFAULT_VARIANT = UNIDIFFDA
PRESET, VARIANT = "preset", "variant"

M = TypeVar("M", bound=Message)

# Fields that say one thing together: a user who gives one of them says it all, and the preset's others are left out.
SAID_TOGETHER = (
    {"method", "rank", "alpha", "block_size", "factor"},
    {"images_seen", "class_token_images_seen"},
    {"prompt", "more_prompts"},
    {"strength", "more_strengths", "largest_strength", "strengths_by_images", "inversion_steps"},
    {"latent_guidance_radius", "latent_guidance_step"},
    {"per_class", "images_per_source", "balance"},
    {"sampler", "timestep_spacing", "sigma_spacing", "solver_order", "solver_algorithm", "eta"},
)
# Fields of a preset that mean something with its own value of others alone: ratios are of a mode.
SAID_WITH = {"ratios": {"mode"}}


@dataclass(frozen=True)
class Variant:
    """One variant of a preset.

    Attributes:
        sections: The settings of each of SECTIONS that it has.
        deviations: What differs from what it follows, in sentences.
        assumptions: What is not said there, and what was taken, in sentences.
    """

    name: str
    sections: Mapping[str, Message]
    deviations: tuple[str, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """A strategy.

    Attributes:
        citation: Its paper in a line.
        variants: By name; none if it cannot be had.
        unavailable: Why it cannot be had, and what to do; "" if it can.
    """

    name: str
    title: str
    citation: str
    variants: Mapping[str, Variant]
    unavailable: str


def names() -> list[str]:
    """Of all presets, sorted."""
    files = (item.name for item in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX))


@cache
def read(name: str) -> Preset:
    """One of `names()`."""
    value = yaml.safe_load((resources.files(__package__) / f"{name}{SUFFIX}").read_text("utf-8"))
    paper = value["paper"]
    return Preset(
        name=name,
        title=value["title"],
        citation=f"{paper['authors']} {paper['year']}, {paper['title']}, arXiv:{paper['arxiv']}",
        variants={key: _variant(key, item) for key, item in value.get("variants", {}).items()},
        unavailable=value.get("unavailable", ""),
    )


def _variant(name: str, value: dict[str, Any]) -> Variant:
    return Variant(
        name=name,
        sections={key: json_format.ParseDict(value[key], kind()) for key, kind in SECTIONS.items() if key in value},
        deviations=tuple(value["deviations"]),
        assumptions=tuple(value["assumptions"]),
    )


def find(name: str, variant: str = DEFAULT_VARIANT, *, path: str = "") -> Variant:
    """A preset's variant.

    Args:
        path: Of the settings that name them, such as "synthesis[0]"; "" for a study or a command.

    Raises:
        InvalidArgument: There is none of this name, or it cannot be had.
    """
    field = _join(path, PRESET)
    check_choice(field, name, names())
    preset = read(name)
    if preset.unavailable:
        raise invalid_field(field, name, "cannot be had", preset.unavailable, reason="PRESET_UNAVAILABLE")
    check_choice(_join(path, VARIANT), variant, preset.variants)
    return preset.variants[variant]


def with_section(section: str) -> list[str]:
    """The presets that have this section."""
    return [name for name in names() if any(section in item.sections for item in read(name).variants.values())]


def fill(settings: Message, preset: Message) -> None:
    """Gives settings the fields of a preset's section that they leave out, but for those that others stand for."""
    given = {field.name for field, _ in settings.ListFields()}
    filled = type(preset)()
    filled.CopyFrom(preset)
    for field, _ in preset.ListFields():
        if given & together(field.name):
            filled.ClearField(field.name)
    filled.MergeFrom(settings)
    settings.CopyFrom(filled)


def without_preset(settings: M) -> M:
    """A copy that says what it says without naming a preset: what other services are asked for."""
    plain = type(settings)()
    plain.CopyFrom(settings)
    plain.ClearField(PRESET)
    plain.ClearField(VARIANT)
    return plain


def together(field: str) -> set[str]:
    """A field with all that say one thing together with it."""
    return {field, *SAID_WITH.get(field, ())}.union(*(group for group in SAID_TOGETHER if field in group))


def differences(settings: Message, preset: Message, path: str) -> Iterator[str]:
    """In what filled settings are not as the preset's section has it, in sentences.

    Args:
        path: Of the settings.
    """
    there = {field.name: value for field, value in settings.ListFields()}
    for field, value in preset.ListFields():
        own = there.get(field.name)
        if own == value:
            continue
        said = "is left out" if own is None else f"is {_in_words(own)}"
        yield f"{path}.{field.name} {said}; the preset has {_in_words(value)}."


def refuse(settings: Message, problems: Problems, *, field: str) -> None:
    """Collects a preset in settings of something other than a study, which nothing fills.

    Args:
        field: The path of the settings.
    """
    for name in (PRESET, VARIANT):
        if settings.HasField(name):
            problems.found.append(
                invalid_field(
                    f"{field}.{name}",
                    getattr(settings, name),
                    "is of a study, which has its settings filled by it",
                    "write the settings out; `synthmix presets show` prints them",
                )
            )


def as_yaml(preset: Preset, variant: Variant) -> str:
    """A variant as the sections of a study's file, with what is to be known of it in comments."""
    lines = [f"{preset.title}: {preset.citation}", f"Variant {variant.name}: {VARIANTS[variant.name]}"]
    for heading, sentences in (("Deviations", variant.deviations), ("Assumptions", variant.assumptions)):
        if sentences:
            lines += [f"{heading}:", *(f"- {sentence}" for sentence in sentences)]
    sections = [f"{key}:\n{indent(to_yaml(settings), '  ').rstrip()}" for key, settings in variant.sections.items()]
    return "\n".join([*(f"# {line}" for line in lines), *sections])


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_in_words(value[key])}" for key in sorted(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_in_words, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field
