"""Presets: each of them is a study that can be planned, and what a user says stands above what it says."""

import json
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

import synthmix.cli
from local_services import LocalServices
from memory_object_store import MemoryObjectStore
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.presets import preset_files
from synthmix.service_kit.errors import InvalidArgument
from synthmix.service_kit.settings_messages import from_canonical
from synthmix.study_control.planning import StudySteps
from synthmix.study_control.presets_applied import with_image_sets
from test_study_plan import faults, lay_out
from test_study_plan import store as store

SEVEN = ["da-fusion", "diff-aug", "diff-ii", "diff-mix", "diffusemix", "gif", "real-guidance"]
UNAVAILABLE = ["diffusemix"]
VARIANTS = [(name, variant) for name in SEVEN for variant in preset_files.read(name).variants]


def targets(laid_out: StudySteps) -> list[str]:
    return [step.target for step in laid_out.steps]


def synthesis(laid_out: StudySteps, index: int = 0) -> Any:
    return laid_out.spec.synthesis[index]


# The files


def test_the_seven_strategies_are_there_and_those_that_cannot_be_had_say_why() -> None:
    assert preset_files.names() == SEVEN
    assert [name for name in SEVEN if preset_files.read(name).unavailable] == UNAVAILABLE
    assert {name for name, _ in VARIANTS} == set(SEVEN) - set(UNAVAILABLE)
    assert all(set(preset_files.read(name).variants) == set(preset_files.VARIANTS) for name, _ in VARIANTS)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_what_a_preset_says_in_words_is_in_sentences(name: str, variant: str) -> None:
    said = preset_files.find(name, variant)
    assert said.deviations
    for sentence in (*said.deviations, *said.assumptions):
        assert sentence[0].isupper() and sentence[-1] == "." and "\n" not in sentence


def test_fields_that_stand_for_one_another_are_fields() -> None:
    kinds = [kind.DESCRIPTOR for kind in preset_files.SECTIONS.values()]
    for group in preset_files.SAID_TOGETHER:
        assert any(isinstance(kind, Descriptor) and group <= set(kind.fields_by_name) for kind in kinds), group


# Studies


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_study_of_a_preset_is_the_study_with_its_settings_written_out(
    store: MemoryObjectStore, name: str, variant: str
) -> None:
    named = lay_out(store, f"preset: {name}\nvariant: {variant}")
    written = lay_out(store, preset_files.as_yaml(preset_files.read(name), preset_files.find(name, variant)))
    assert targets(named) == targets(written) != targets(lay_out(store))
    sections = preset_files.find(name, variant).sections
    in_sections = "".join(f"{section}: {{preset: {name}, variant: {variant}}}\n" for section in sections)
    assert targets(lay_out(store, in_sections)) == targets(named)


def test_what_the_user_says_stands(store: MemoryObjectStore) -> None:
    def fill(text: str) -> Any:
        return synthesis(lay_out(store, f"synthesis: {{preset: da-fusion, variant: paper, {text}}}"))

    filled = fill("steps: 10, guidance_scale: 2")
    assert (filled.steps, filled.guidance_scale, filled.strength) == (10, 2, 0.25)
    assert list(fill("strength: 0.5").more_strengths) == []
    assert (fill("more_strengths: [0.3], strength: 0.5").strength, fill("per_class: 90").per_class) == (0.5, 90)
    assert not fill("per_class: 90").HasField("images_per_source")
    assert fill("sampler: DDIMScheduler").sampler == "DDIMScheduler"


def test_a_rank_says_that_layers_are_adapted(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "adapters: {preset: da-fusion, rank: 4}")
    assert (laid_out.spec.adapters[0].method, laid_out.spec.adapters[0].class_tokens) == ("lora", 1)


def test_sections_follow_presets_of_their_own(store: MemoryObjectStore) -> None:
    laid_out = lay_out(
        store,
        "preset: diff-aug\nvariant: paper\nsynthesis: {preset: da-fusion, variant: unidiffda}\n"
        "mixtures: {preset: real-guidance}",
    )
    spec = laid_out.spec
    assert (spec.adapters[0].rank, spec.synthesis[0].strength, list(spec.mixtures.ratios)) == (10, 0.3, [5])
    assert [(item.preset, item.variant) for item in (spec.adapters[0], spec.synthesis[0], spec.mixtures)] == [
        ("diff-aug", "paper"),
        ("da-fusion", "unidiffda"),
        ("real-guidance", "paper"),
    ]


def test_a_list_of_presets_makes_an_image_set_of_each(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "synthesis: {preset: [da-fusion, diff-mix], variant: paper, steps: 10}")
    names = [step.display_name for step in laid_out.steps if step.service == "image-synthesis"]
    assert [name.split(", ")[0] for name in names] == ["images preset da-fusion", "images preset diff-mix"]
    assert [item.steps for item in laid_out.spec.synthesis] == [10, 10]


def test_a_study_keeps_its_values_when_a_preset_changes(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "preset: da-fusion\nvariant: paper\nsynthesis: {steps: 10}")
    recorded = json.loads(json.dumps(laid_out.record()))
    kept = from_canonical(recorded["spec"], studies_pb2.StudySpec).synthesis[0]
    assert (kept.preset, kept.variant, kept.strength, kept.steps) == ("da-fusion", "paper", 0.25, 10)
    [said] = recorded["presets"]
    assert said["sections"] == ["adapters[0]", "synthesis[0]", "mixtures"]
    assert said["changes"] == ["synthesis[0].steps is 10; the preset has 50."]
    assert said["deviations"] == list(preset_files.find("da-fusion", "paper").deviations)
    assert "presets" not in lay_out(store).record()


def test_what_a_study_sets_otherwise_is_said_in_its_words() -> None:
    preset = preset_files.find("real-guidance", "paper").sections["synthesis"]
    settings = SynthesisSettings(strength=0.3)
    preset_files.fill(settings, preset)
    assert list(preset_files.differences(settings, preset, "synthesis[0]")) == [
        "synthesis[0].strengths_by_images is left out; the preset has 1: 0.5, 2: 0.4, 4: 0.35, 8: 0.2, 16: 0.15."
    ]


def test_a_preset_is_told_with_the_image_sets_that_it_made(store: MemoryObjectStore) -> None:
    text = "selection: {preset: diff-mix, variant: paper}\nsynthesis: {preset: [da-fusion, diff-mix], variant: paper}"
    laid_out = lay_out(store, text)
    made = [step.target for step in laid_out.steps if step.service == "image-synthesis"]
    first, second = with_image_sets(laid_out.presets, laid_out.steps, made)
    assert (first["name"], first["image_sets"]) == ("da-fusion", made[:2])
    assert (second["name"], second["image_sets"]) == ("diff-mix", made[2:])


# What is refused


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("preset: da-fusoin", "preset", "did you mean 'da-fusion'"),
        ("synthesis: {preset: da-fusoin}", "synthesis[0].preset", "did you mean 'da-fusion'"),
        ("mixtures: {preset: diff-mix, variant: papre}", "mixtures.variant", "did you mean 'paper'"),
        ("preset: diff-mix\nvariant: papre", "variant", "did you mean 'paper'"),
        ("preset: diffusemix", "preset", "use diff-aug or real-guidance"),
        ("adapters: {preset: diffusemix}", "adapters[0].preset", "8 channels"),
        ("selection: {preset: da-fusion}", "selection[0].preset", "use one of: diff-mix, real-guidance"),
        ("selection: {preset: diff-mix}", "selection[0].preset", "no selection in the variant unidiffda"),
        ("variant: paper", "variant", "name a preset"),
        ("synthesis: {variant: paper}", "synthesis[0].variant", "name a preset"),
        (
            "preset: diff-mix\nsynthesis: {source: same_class}",
            "mixtures.soft_label_gamma",
            "leave source under synthesis to the preset diff-mix as well",
        ),
    ],
)
def test_what_there_is_not_is_refused(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    found = faults(store, text)
    assert list(found) == [field] and said in found[field]


def test_presets_are_of_studies_alone(store: MemoryObjectStore) -> None:
    services = LocalServices(store)
    refused = []
    for step in lay_out(store, "preset: diff-mix\nvariant: paper").steps:
        request = type(step.request)()
        request.CopyFrom(step.request)
        place = request.mixtures if step.display_name == "grid" else request.settings
        if step.display_name.startswith("selection"):
            place = request.selection
        place.preset = "diff-mix"
        with pytest.raises(InvalidArgument, match="presets show") as caught:
            services.plan(step.service, request)
        refused += [item.field for item in caught.value.violations]
    assert refused == [
        "adapter.settings.preset",
        "image_set.settings.preset",
        "image_set.selection.preset",
        "evaluation.mixtures.preset",
    ]


# The command line


def test_presets_are_listed_and_printed_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert synthmix.cli.main(["presets", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SEVEN) and "diffusemix cannot be had: it edits" in listed
    assert synthmix.cli.main(["presets", "show", "da-fusion", "--variant", "paper"]) == 0
    printed = capsys.readouterr().out
    assert "# Deviations:\n# - The base model" in printed and "  more_strengths: [0.5, 0.75, 1.0]\n" in printed
    assert synthmix.cli.main(["presets", "show", "da-fusion", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["sections"]["synthesis"]["strength"] == 0.3
    assert synthmix.cli.main(["presets", "show", "diff-iii"]) == 2
    assert "did you mean 'diff-ii'" in capsys.readouterr().err
