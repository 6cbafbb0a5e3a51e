"""A study from its specification to its report's inputs, over object storage in memory: planned once, paid for once."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf import json_format

from image_archives import dataset, picture
from local_services import LocalServices
from memory_object_store import MemoryObjectStore
from stored_models import store_model
from synthmix.adapter_training import planning as adapters
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.image_synthesis import planning as image_sets
from synthmix.service_kit import model_names, open_operations, operation_host
from synthmix.service_kit.artifacts import find_manifest, read_manifest
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    STUDY_CONTROL,
    OperationLimits,
)
from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SynthMixError,
    Unauthenticated,
    Unavailable,
    invalid_field,
)
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_records import (
    OperationRecord,
    find_progress,
    find_result,
    finished_operation,
    now,
    write_record,
)
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.settings_messages import canonical, with_defaults
from synthmix.study_control import planning, specification, study_operation, study_run
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.planning import StudySteps
from synthmix.study_control.step_services import delaying
from synthmix.study_control.steps import Step, of_service, recorded_steps
from synthmix.study_control.study_progress import StudyProgress
from test_base_model_files import config, write_model
from upgrades import upgraded, with_option
from waiting import wait_until

# Two classes, of which one is rare: in 12 plates, 4 images of alpha and 1 of beta each.
FILES = {
    f"{label}/plate-{plate}_{number}.png": picture(100 * plate + 10 * number + index)
    for index, (label, count) in enumerate((("alpha", 4), ("beta", 1)))
    for plate in range(12)
    for number in range(count)
}


@pytest.fixture
def store(tmp_path: Path, own_cache: None) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    claim_name(store, LOCAL, "cells", dataset(store, tmp_path, FILES).name, account=None, replace=False)
    return store


def study(text: str = "") -> studies_pb2.StudySpec:
    return parse_document(f"name: a\ndataset: cells\n{text}", studies_pb2.StudySpec, "study.yaml").message


def lay_out(store: MemoryObjectStore, text: str = "", services: LocalServices | None = None) -> StudySteps:
    return planning.lay_out(store, services or LocalServices(store), study(text), LOCAL)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ran:
    """What each service made for a study, and how many units of each step were there already."""

    made: dict[str, list[str]]
    reused: list[int]

    @property
    def names(self) -> list[str]:
        return [name for names in self.made.values() for name in names]


def steps(laid_out: StudySteps, service: str) -> list[Step]:
    return list(of_service(laid_out.steps, service))


def run(store: MemoryObjectStore, services: LocalServices, laid_out: StudySteps) -> Ran:
    """Runs a study's steps by what its operation's record holds."""
    record = json.loads(json.dumps(laid_out.record()))  # as object storage keeps it
    name = OperationName(STUDY_CONTROL, laid_out.name.id)
    context = OperationContext(store, OperationRecord(name, "studies", str(laid_out.name), record, now()))
    recorded = recorded_steps(record)
    progress = StudyProgress(context, recorded)
    made = study_run.run_study(context, services, progress, recorded)  # type: ignore[arg-type]
    return Ran(made, [cost["reused"] for cost in progress.costs(recorded)])


def faults(store: MemoryObjectStore, text: str) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        lay_out(store, text)
    return {item.field: item.description for item in caught.value.violations}


# Defaults


def test_a_study_of_nothing_but_a_dataset_is_whole(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store)
    assert [step.display_name for step in laid_out.steps] == ["adapter", "images", "grid"]
    assert laid_out.spec.adapters[0].targets == "attention"
    assert {item.name: item.value for item in laid_out.steps[0].plan.quantities}["scale"] == 1
    assert laid_out.spec.seeds == 5
    assert laid_out.spec.mixtures.synthetic_only
    assert list(laid_out.spec.mixtures.ratios) == [0, 0.1, 0.25, 0.5, 0.75]
    assert not lay_out(store, "mixtures: {ratios: [0.5]}").spec.mixtures.synthetic_only


def test_a_study_that_needs_no_images_makes_none(store: MemoryObjectStore) -> None:
    assert [step.display_name for step in lay_out(store, "mixtures: {ratios: [0]}").steps] == ["grid"]


def test_adapters_train_with_the_prompt_that_images_are_asked_with(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, 'synthesis: {prompt: "a {label} nucleus", steps: [10, 20]}')
    assert [step.request.settings.prompt for step in laid_out.steps[:3]] == ["a {label} nucleus"] * 3
    laid_out = lay_out(store, 'adapters: {prompt: "a {label} nucleus"}')
    assert [step.request.settings.prompt for step in laid_out.steps[:2]] == ["a {label} nucleus"] * 2
    several = 'synthesis: {prompt: ["a {label} cell", "one {label}"]}\n'
    assert "say which one to train with" in faults(store, several)["adapters[0].prompt"]
    laid_out = lay_out(store, several + 'adapters: {prompt: "the {label}"}')
    assert [step.request.settings.prompt for step in laid_out.steps[:3]] == [
        "the {label}",
        "a {label} cell",
        "one {label}",
    ]


def test_a_study_means_the_model_that_a_name_has_when_it_is_asked_for(store: MemoryObjectStore, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    first = store_model(store, folder)
    model_names.claim(store, LOCAL, "tiny", first, replace=False, field="display_name")
    laid_out = lay_out(store, "adapters: {base_model: models/tiny, targets: all}")
    assert laid_out.spec.adapters[0].base_model == str(first)
    assert laid_out.name == lay_out(store, f"adapters: {{base_model: {first}, targets: all}}").name
    assert {item["spec"]["adapters"][0]["base_model"] for item in (laid_out.request, laid_out.record())} == {str(first)}
    config("scheduler/scheduler_config.json", beta_end=0.0133)(folder)
    second = store_model(store, folder)
    model_names.claim(store, LOCAL, "tiny", second, replace=True, field="display_name")
    assert lay_out(store, "adapters: {base_model: models/tiny, targets: all}").name != laid_out.name


def test_a_model_that_is_not_there_is_told_at_its_adapter(store: MemoryObjectStore) -> None:
    with pytest.raises(NotFound, match=r"adapters\[1\].base_model: there is no model 'tiny' in object storage"):
        lay_out(store, "adapters: {base_model: [builtin, models/tiny]}")
    assert "is not a valid name" in faults(store, "adapters: {base_model: models/Tiny}")["adapters[0].base_model"]
    said = faults(store, "adapters: {base_model: models/tiny.safetensors}")["adapters[0].base_model"]
    assert "is a single file by its name" in said
    said = faults(store, f"adapters: {{base_model: models/{'0' * 32}}}")["adapters[0].base_model"]
    assert "is not among the models in object storage" in said


# The grid


def test_image_sets_are_adapters_times_syntheses_and_named_by_what_differs(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "adapters: {rank: [4, 16], seed: 1}\nsynthesis: {guidance_scale: [1.5, 2], steps: 10}")
    assert [step.display_name for step in laid_out.steps] == [
        "adapter rank 4",
        "adapter rank 16",
        "images rank 4, guidance scale 1.5",
        "images rank 4, guidance scale 2",
        "images rank 16, guidance scale 1.5",
        "images rank 16, guidance scale 2",
        "grid",
    ]
    trained, images = steps(laid_out, ADAPTER_TRAINING), steps(laid_out, IMAGE_SYNTHESIS)
    assert [step.request.adapter for step in images] == [trained[0].target] * 2 + [trained[1].target] * 2
    [grid] = steps(laid_out, CLASSIFIER_EVALUATION)
    assert list(grid.request.image_sets) == [step.target for step in images]


def test_base_models_are_swept_like_any_setting(store: MemoryObjectStore) -> None:
    found = faults(store, "adapters: {base_model: [builtin, /no/such/model]}")
    assert list(found) == ["adapters[1].base_model"]


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("adapters: [{rank: 16}, {alpha: 16}]", "adapters[1]", "means the same as adapters[0]; remove one of them"),
        ("synthesis: [{steps: 25}, {seed: 0}]", "synthesis[1]", "means the same as synthesis[0]; remove one of them"),
        (
            f"adapters: {{rank: {list(range(1, 258))}}}",
            "adapters",
            "257 are too many combinations; shorten the lists to at most 256",
        ),
        (
            "adapters: {rank: [1, 2, 3, 4, 5]}\nsynthesis: {seed: " + str(list(range(60))) + "}",
            "synthesis",
            "300 are too many combinations",
        ),
    ],
)
def test_grids_that_pay_twice_or_too_much(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    assert said in faults(store, text)[field]


def test_what_a_grid_has_in_common_is_refused_once(store: MemoryObjectStore) -> None:
    found = faults(store, "adapters: {rank: [0, 4], seed: [1, 2], image_size: 60}\nsynthesis: {steps: [0, 10]}")
    assert {field: said.split(";")[0] for field, said in found.items()} == {
        "adapters[0].rank": "0 is out of range",
        "adapters[0].image_size": "60 is not a multiple of 8",
        "synthesis[0].steps": "0 is out of range",
    }


# Images of each class


def test_a_selection_chooses_among_more_images(store: MemoryObjectStore) -> None:
    selection = "selection: [none, {class_consistency: [0.3, 0.5]}, {memorised: true, oversample: 3}]\n"
    laid_out = lay_out(store, selection + "synthesis: {per_class: 60}\nmixtures: {ratios: [0.5]}")
    assert [step.display_name for step in laid_out.steps] == [
        "adapter",
        "images",
        "selection, class consistency 0.3, oversample 2",
        "selection, class consistency 0.5, oversample 2",
        "selection, memorised true, oversample 3",
        "grid",
    ]
    candidates, *chosen = steps(laid_out, IMAGE_SYNTHESIS)
    assert {item.label: item.images for item in candidates.request.class_images} == {"alpha": 180, "beta": 180}
    for step in chosen:
        assert step.request.candidates == candidates.target
        assert {item.label: item.images for item in step.request.class_images} == {"alpha": 60, "beta": 60}
    [grid] = steps(laid_out, CLASSIFIER_EVALUATION)
    assert list(grid.request.image_sets) == [candidates.target, *(step.target for step in chosen)]
    services = LocalServices(store)
    assert run(store, services, laid_out).made[IMAGE_SYNTHESIS] == [step.target for step in (candidates, *chosen)]


def test_without_none_only_what_is_chosen_is_evaluated(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "selection: {top_k: 1}")
    _, chosen = steps(laid_out, IMAGE_SYNTHESIS)
    [grid] = steps(laid_out, CLASSIFIER_EVALUATION)
    assert list(grid.request.image_sets) == [chosen.target]
    assert lay_out(store, "selection: none").request["image_sets"] == lay_out(store).request["image_sets"]


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("selection: [none, {top_k: 1}, none]", "selection", "is there twice"),
        ("selection: [{top_k: 1}, {top_k: 1, keep: best}]", "selection[1]", "means the same as selection[0]"),
        ("selection: {top_k: 1, keep: none}", "selection[0].keep", "use one of: best, random"),
        (
            "selection: {drop_lowest: 0.1}\nsynthesis: {strength: 0.5, images_per_source: 5}\n"
            "mixtures: {mode: append, ratios: [5], synthetic_only: false}",
            "selection[0].drop_lowest",
            "0.1 leaves too few of 1 times as many images as are wanted; use a smaller share, or make at least 1.12",
        ),
    ],
)
def test_selections_that_cannot_be(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    assert said in faults(store, text)[field]


def images_of(laid_out: StudySteps) -> dict[str, int]:
    [step] = steps(laid_out, IMAGE_SYNTHESIS)
    return {item.label: item.images for item in step.request.class_images}


def train_counts(laid_out: StudySteps) -> dict[str, int]:
    return specification.part_counts(laid_out.split, "train")


def test_each_class_gets_as_many_images_as_its_share_takes(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store)
    counts = train_counts(laid_out)
    assert counts["alpha"] == 4 * counts["beta"]
    assert images_of(laid_out) == counts
    assert steps(laid_out, IMAGE_SYNTHESIS)[0].plan.total == sum(counts.values())
    assert set(images_of(lay_out(store, "synthesis: {per_class: 40}")).values()) == {40}


def test_counts_of_single_classes(store: MemoryObjectStore) -> None:
    counts = train_counts(lay_out(store))
    assert images_of(lay_out(store, "synthesis: {class_images: {beta: 90}}")) == counts | {"beta": 90}
    assert images_of(lay_out(store, "synthesis: {per_class: 40, class_images: {beta: 90}}")) == {
        "alpha": 40,
        "beta": 90,
    }
    several = lay_out(store, "synthesis: {class_images: [{beta: 90}, {alpha: 70, beta: 90}]}")
    assert [step.display_name for step in steps(several, IMAGE_SYNTHESIS)] == [
        "images class images beta: 90",
        "images class images alpha: 70; beta: 90",
    ]
    same = lay_out(store, f"synthesis: {{class_images: {{alpha: {counts['alpha']}}}}}")
    assert steps(same, IMAGE_SYNTHESIS)[0].target == steps(lay_out(store), IMAGE_SYNTHESIS)[0].target


def test_a_study_fills_its_smaller_classes_up(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "mixtures: {mode: balance}")
    counts = train_counts(laid_out)
    assert images_of(laid_out) == {"alpha": min(16, counts["alpha"]), "beta": counts["alpha"] - counts["beta"]}
    assert list(laid_out.spec.mixtures.ratios) == [0, 1] and not laid_out.spec.mixtures.synthetic_only
    said = lay_out(store, "mixtures: {mode: balance}\nsynthesis: {balance: true}")
    assert steps(said, IMAGE_SYNTHESIS)[0].target == steps(laid_out, IMAGE_SYNTHESIS)[0].target
    both = lay_out(store, "mixtures: {mode: balance, ratios: [1], synthetic_only: true}")
    assert images_of(both) == {"alpha": counts["alpha"], "beta": counts["alpha"] - counts["beta"]}


def test_strengths_of_a_study_go_by_its_train_images(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "synthesis: {strengths_by_images: {1: 0.5, 20: 0.3}}")
    [step] = steps(laid_out, IMAGE_SYNTHESIS)
    assert step.request.train_split == f"{laid_out.split.name}/parts/train"
    strengths = {item.name: item.value for item in step.plan.quantities if item.name.startswith("strength of")}
    assert strengths == {
        f"strength of {label}": 0.3 if count >= 20 else 0.5 for label, count in train_counts(laid_out).items()
    }
    assert set(strengths.values()) == {0.3, 0.5}


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        (
            "synthesis: {class_images: {alpha: 400, beta: 1}}",
            "synthesis[0].class_images[beta]",
            "1 is too small for the largest mixture; use at least ",
        ),
        ("synthesis: {class_images: {bta: 9}}", "synthesis[0].class_images[bta]", "did you mean 'beta'?"),
        ("synthesis: {class_images: {beta: 0}}", "synthesis[0].class_images[beta]", "0 is out of range; use a value b"),
        ("synthesis: {balance: true}", "synthesis[0].balance", "makes too few images for the largest mixture, of 'alp"),
        (
            "synthesis: {balance: true, per_class: 9}\nmixtures: {mode: balance}",
            "synthesis[0].balance",
            "True says how many images there are, and so does per_class; leave one of the two out",
        ),
    ],
)
def test_counts_that_cannot_be(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    found = faults(store, text)
    assert said in found[field]


def test_adapters_of_images_make_enough_children_for_mixtures_that_leave_images_out(store: MemoryObjectStore) -> None:
    text = "mixtures: {mode: replace, ratios: [0.25]}\nadapters: {per: [class, image], images_seen: 320}"
    laid_out = lay_out(store, text)
    of_classes, of_images = (
        {item.label: item.images for item in step.request.class_images} for step in steps(laid_out, IMAGE_SYNTHESIS)
    )
    counts = train_counts(laid_out)
    assert of_classes == counts
    assert of_images == counts
    more = lay_out(store, text.replace("0.25", "0.6"))
    of_classes, of_images = (
        {item.label: item.images for item in step.request.class_images} for step in steps(more, IMAGE_SYNTHESIS)
    )
    assert (of_classes, of_images) == (counts, {label: 2 * count for label, count in counts.items()})
    assert any("one adapter for each of" in warning for warning in laid_out.plan().warnings)


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        (
            "synthesis: {fused_adapters: 2}",
            "synthesis[0].fused_adapters",
            "2 fuses adapters of two images, and adapters[0] is not one for each image",
        ),
        (
            "synthesis: {fused_adapters: [1, 2]}\nadapters: {per: image, method: [lora, loha]}",
            "synthesis[1].fused_adapters",
            "those of the method loha do not add up",
        ),
        ("synthesis: {fusion_weight: 0.3}", "synthesis[0].fusion_weight", "and there is one; set fused_adapters: 2"),
        (
            "mixtures: {mode: sample_local, ratios: [0.5]}",
            "mixtures.mode",
            "takes children of the very image, and those of synthesis[0] with adapters[0] begin as noise",
        ),
        (
            "synthesis: {fused_adapters: 2}\nadapters: {per: image}\nmixtures: {mode: replace, ratios: [0.5]}",
            "synthesis[0].fused_adapters",
            "mixtures of the mode replace leave real images out",
        ),
        (
            "adapters: {per: image}\nmixtures: {mode: replace, ratios: [0.5, 0.98]}",
            "mixtures.ratios[1]",
            "keeps no real image of the class 'beta'",
        ),
        ("adapters: {per: image, held_out: 0.1}", "adapters[0].held_out", "or use per: class"),
    ],
)
def test_what_adapters_of_images_cannot_be_used_for(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    found = faults(store, text)
    assert list(found) == [field]
    assert said in found[field]


def test_two_adapters_of_images_are_fused_in_a_study(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "synthesis: {fused_adapters: 2, fusion_weight: [0.5, 0.7]}\nadapters: {per: image}")
    assert [step.display_name for step in steps(laid_out, IMAGE_SYNTHESIS)] == [
        "images fusion weight 0.5",
        "images fusion weight 0.7",
    ]


def test_images_of_a_study_begin_from_its_train_part(store: MemoryObjectStore) -> None:
    mixtures = "mixtures: {mode: replace, ratios: [0.25, 0.6]}"
    laid_out = lay_out(store, f"synthesis: {{strength: [0.3, 0.7]}}\n{mixtures}")
    of_strengths = steps(laid_out, IMAGE_SYNTHESIS)
    assert [step.display_name for step in of_strengths] == ["images strength 0.3", "images strength 0.7"]
    assert {step.request.train_split for step in of_strengths} == {f"{laid_out.split.name}/parts/train"}
    counts = train_counts(laid_out)
    # 60 % takes more images than it keeps: two of each that is kept, and any may be.
    one = lay_out(store, f"synthesis: {{strength: 0.3}}\n{mixtures}")
    assert images_of(one) == {label: 2 * count for label, count in counts.items()}
    noise = lay_out(store, mixtures)
    assert images_of(noise) == counts
    assert steps(noise, IMAGE_SYNTHESIS)[0].request.train_split == ""
    of_each = lay_out(store, "synthesis: {strength: 0.5, images_per_source: 3}")
    assert images_of(of_each) == {label: 3 * count for label, count in counts.items()}
    several = lay_out(store, "synthesis: {strength: 0.3, more_strengths: [[0.5, 0.7], [0.9]]}")
    assert [list(step.request.settings.more_strengths) for step in steps(several, IMAGE_SYNTHESIS)] == [
        [0.5, 0.7],
        [0.9],
    ]
    inverted = lay_out(store, "synthesis: {inversion_steps: 50, images_per_source: 5}")
    assert images_of(inverted) == {label: 5 * count for label, count in counts.items()}
    assert steps(inverted, IMAGE_SYNTHESIS)[0].request.train_split == f"{inverted.split.name}/parts/train"
    drawn = lay_out(store, "synthesis: {strength: 0.3}\nmixtures: {mode: sample_local, ratios: [0.1, 0.9]}")
    assert images_of(drawn) == counts, "one of each"
    [fault] = faults(store, "synthesis: {strength: 0.3, per_class: 1}\nmixtures: {mode: sample_local, ratios: [0.1]}")
    assert fault == "synthesis[0].per_class"


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        (
            "synthesis: {strength: 0.5, images_per_source: 1}\nmixtures: {ratios: [1.5]}",
            "synthesis[0].images_per_source",
            "1 is too small for the largest mixture; use at least 2",
        ),
        (
            "synthesis: {strength: 0.5}\nmixtures: {mode: replace, ratios: [0.5, 0.98]}",
            "mixtures.ratios[1]",
            "keeps no real image of the class 'beta', and synthetic images begin from train images",
        ),
        (
            "synthesis: {inversion_steps: 50}\nmixtures: {mode: replace, ratios: [0.5]}",
            "synthesis[0].inversion_steps",
            "makes children of two images, and mixtures of the mode replace leave real images out",
        ),
        (
            "synthesis: {inversion_steps: 50}\nadapters: {per: image}",
            "synthesis[0].inversion_steps",
            "50 begins from two images of a class, and adapters[0] is one for each image",
        ),
        ("synthesis: {strength: 0.01}", "synthesis[0].strength", "0.01 of 25 steps is less than one step"),
        ("synthesis: {images_per_source: 3}", "synthesis[0].images_per_source", "set strength, such as 0.5"),
        ("synthesis: {source: any_class}", "synthesis[0].source", "set strength, such as 0.5"),
        (
            "synthesis: {strength: 0.5, source: any_class}\nmixtures: {mode: replace, ratios: [0.5]}",
            "synthesis[0].source",
            "leave real images out, so that they may hold few of them; use same_class, or another mode",
        ),
        (
            "synthesis: {strength: 0.5, source: any_class}\nmixtures: {mode: sample_local, ratios: [0.5]}",
            "synthesis[0].source",
            "puts a child in its source's place; use same_class, or another mode, such as sample_global",
        ),
        (
            "synthesis: {strength: 0.5, source: any_class}\nadapters: {per: image}",
            "synthesis[0].source",
            "adapters[0] has one for each image",
        ),
        (
            "synthesis: {strength: 0.5, source: pairs}\nmixtures: {mode: replace, ratios: [0.5]}",
            "synthesis[0].source",
            "makes children of two images, and mixtures of the mode replace leave real images out",
        ),
        (
            "synthesis: {strength: 0.5, source: pairs}\nadapters: {per: image}",
            "synthesis[0].source",
            "adapters[0] is one for each image, which knows no other",
        ),
        (
            "synthesis: {strength: 0.5}\nmixtures: {soft_label_gamma: 0.5}",
            "mixtures.soft_label_gamma",
            "0.5 is of images that begin from images of another class, and there are none",
        ),
        (
            "synthesis: {strength: 0.5, more_strengths: [0.6, 0.001]}",
            "synthesis[0].more_strengths[1]",
            "is less than one step",
        ),
    ],
)
def test_what_cannot_begin_from_images(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    found = faults(store, text)
    assert list(found) == [field]
    assert said in found[field]


def test_a_ratio_more_keeps_the_image_set(store: MemoryObjectStore) -> None:
    def target(text: str) -> str:
        return steps(lay_out(store, text), IMAGE_SYNTHESIS)[0].target

    assert target("mixtures: {ratios: [0.25]}") == target("mixtures: {ratios: [0.25, 1]}")
    assert target("mixtures: {ratios: [0.25]}") != target("mixtures: {ratios: [0.25, 1.5]}")
    larger = lay_out(store, "mixtures: {ratios: [1.5]}")
    assert images_of(larger) == {label: 2 * count for label, count in train_counts(larger).items()}


@pytest.mark.parametrize(
    ("mixtures", "times"),
    [
        ("{mode: share, ratios: [0.5]}", 1),
        ("{mode: share, ratios: [0.75]}", 4),  # three for each real one, in coarse steps
        ("{mode: replace, ratios: [1]}", 1),
    ],
)
def test_what_a_mode_takes_is_what_is_made(store: MemoryObjectStore, mixtures: str, times: int) -> None:
    laid_out = lay_out(store, f"mixtures: {mixtures}")
    assert images_of(laid_out) == {label: times * count for label, count in train_counts(laid_out).items()}


@pytest.mark.parametrize("mixtures", ["{mode: share, ratios: [1]}", "{mode: shere, ratios: [0.5]}"])
def test_a_ratio_or_mode_that_cannot_be_is_refused_where_it_is_written(store: MemoryObjectStore, mixtures: str) -> None:
    assert list(faults(store, f"mixtures: {mixtures}")) in (["mixtures.ratios[0]"], ["mixtures.mode"])


# What was planned is what runs


def test_a_study_runs_what_its_record_holds(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    services = LocalServices(store)
    laid_out = lay_out(store, "adapters: {rank: [4, 16]}", services)
    monkeypatch.setattr(planning, "lay_out", lambda *arguments: pytest.fail("planned twice"))
    assert run(store, services, laid_out).names == [step.target for step in laid_out.steps]
    assert services.created == [step.target for step in laid_out.steps]


def test_a_step_that_is_there_is_not_asked_for_again(store: MemoryObjectStore) -> None:
    services = LocalServices(store)
    first = lay_out(store, "adapters: {rank: 4}", services)
    run(store, services, first)
    services.created.clear()
    both = lay_out(store, "adapters: {rank: [4, 16]}", services)
    ran = run(store, services, both)
    assert services.created == [both.steps[1].target, both.steps[3].target, both.steps[4].target]
    assert [reused > 0 for reused in ran.reused] == [True, False, True, False, False]


def later_version() -> Any:
    """Of the services: each kind of settings has an option more, with a default."""
    return upgraded(
        {
            f"synthmix.{name}": with_option("invented", "0.5")
            for name in (
                "adapters.v1.AdapterSettings",
                "image_sets.v1.SynthesisSettings",
                "evaluations.v1.ClassifierSettings",
                "evaluations.v1.MixtureSettings",
                "evaluations.v1.ClaimSettings",
            )
        }
    )


def test_a_study_submitted_before_an_upgrade_finishes_without_paying_twice(store: MemoryObjectStore) -> None:
    before = LocalServices(store)
    laid_out = lay_out(store, "adapters: {rank: [4, 16], learning_rate: 1e-3}\nclassifier: {epochs: 2}", before)
    before.create(ADAPTER_TRAINING, laid_out.steps[0].request)  # and then the services are upgraded
    after = LocalServices(store, version=later_version())
    assert run(store, after, laid_out).names == [step.target for step in laid_out.steps]
    assert after.created == [step.target for step in laid_out.steps[1:]]

    again = lay_out(store, "adapters: {rank: [4, 16], learning_rate: 1e-3}\nclassifier: {epochs: 2}", after)
    assert again.name == laid_out.name
    assert {step.plan.done == step.plan.total for step in again.steps[:4]} == {True}
    spec = laid_out.spec
    assert canonical(with_defaults(later_version()(spec))) == canonical(spec)


def test_a_study_goes_on_after_an_upgrade_to_another_recipe(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made stays; what is left is made, and used, by the new recipe."""
    services = LocalServices(store)
    laid_out = lay_out(store, "adapters: {rank: [4, 16]}", services)
    services.create(ADAPTER_TRAINING, laid_out.steps[0].request)
    monkeypatch.setattr(adapters, "RECIPE_VERSION", adapters.RECIPE_VERSION + 1)
    made = run(store, services, laid_out).made
    kept, other = made[ADAPTER_TRAINING]
    assert kept == laid_out.steps[0].target
    assert other != laid_out.steps[1].target
    images = [read_manifest(store, ArtifactName.parse(name, field="x")) for name in made[IMAGE_SYNTHESIS]]
    assert [f"adapters/{item.inputs['adapter']}" for item in images] == [kept, other]


class AtWork(LocalServices):
    """Works until a test says that a step is made."""

    def __init__(self, store: MemoryObjectStore):
        super().__init__(store)
        self.asked: dict[str, tuple[str, Any]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.cancelled: list[str] = []

    def create(self, service: str, resource: Any) -> Any:
        target = self._plan(service, resource, validate_only=False).plan.target
        self.asked[target] = service, resource
        self.requests.append((service, resource))
        return self.get_operation(f"operations/{service}/{target.rpartition('/')[2]}")

    def make(self, target: str) -> None:
        super().create(*self.asked[target])

    def get_operation(self, name: str) -> Any:
        target = next(target for target in self.asked if target.endswith(name.rpartition("/")[2]))
        if find_manifest(self.store, ArtifactName.parse(target, field="target")) is not None:
            return finished_operation(progress_pb2.Plan(), name, target)
        operation = operations_pb2.Operation(name=name)
        operation.metadata.Pack(progress_pb2.OperationMetadata(target=target, state=progress_pb2.STATE_RUNNING))
        return operation

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)


Working = tuple[AtWork, StudySteps, list[Ran]]


@pytest.fixture
def at_work(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Working]:
    """Services at work on a study of two adapters, and where what it made is put when it has ended."""
    monkeypatch.setattr(study_run, "POLL_SECONDS", 0.01)
    services, ran = AtWork(store), []
    laid_out = lay_out(store, "adapters: {rank: [4, 16]}", services)
    thread = threading.Thread(target=lambda: ran.append(run(store, services, laid_out)), daemon=True)
    thread.start()
    yield services, laid_out, ran
    thread.join(10)
    assert not thread.is_alive()


def test_a_step_begins_when_what_it_is_made_of_is_there(at_work: Working) -> None:
    services, laid_out, ran = at_work
    adapters, images = steps(laid_out, ADAPTER_TRAINING), steps(laid_out, IMAGE_SYNTHESIS)
    [grid] = steps(laid_out, CLASSIFIER_EVALUATION)
    begun = [adapters[0].target, adapters[1].target, grid.target]
    wait_until(lambda: list(services.asked) == begun, "the adapters, and the grid, which has real images to begin with")
    services.make(adapters[1].target)
    wait_until(lambda: list(services.asked) == [*begun, images[1].target], "the images of the one that is done")
    services.make(images[1].target)
    services.make(adapters[0].target)
    wait_until(lambda: images[0].target in services.asked, "the other images")
    services.make(images[0].target)
    services.make(grid.target)
    wait_until(lambda: bool(ran), "the end")
    assert ran[0].names == [step.target for step in laid_out.steps]
    assert len(services.requests) == 5 and not services.cancelled


def test_a_grid_that_waits_for_what_is_never_made_is_asked_for_anew(
    at_work: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image synthesis service is upgraded to another recipe while adapters are trained."""
    services, laid_out, ran = at_work
    [planned] = steps(laid_out, CLASSIFIER_EVALUATION)
    wait_until(lambda: planned.target in services.asked, "the grid")
    monkeypatch.setattr(image_sets, "RECIPE_VERSION", image_sets.RECIPE_VERSION + 1)
    for step in steps(laid_out, ADAPTER_TRAINING):
        services.make(step.target)
    wait_until(lambda: len(services.requests) >= 6, "both image sets, and the grid")

    def grid() -> Any:
        return [resource for service, resource in services.requests if service == CLASSIFIER_EVALUATION][-1]

    made = [target for target in services.asked if target.startswith("image-sets/")]
    wait_until(lambda: list(grid().image_sets) == made, "the grid over what is being made")
    for target in made:
        services.make(target)
    evaluation = list(services.asked)[-1]
    services.make(evaluation)
    wait_until(lambda: bool(ran), "the end")
    assert ran[0].made[IMAGE_SYNTHESIS] == made and ran[0].made[CLASSIFIER_EVALUATION] == [evaluation]
    assert evaluation != planned.target
    assert f"operations/{CLASSIFIER_EVALUATION}/{planned.target.rpartition('/')[2]}" in services.cancelled


def test_a_study_shows_what_each_step_says_of_itself(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store)
    [grid] = steps(laid_out, CLASSIFIER_EVALUATION)
    name = OperationName(STUDY_CONTROL, laid_out.name.id)
    context = OperationContext(store, OperationRecord(name, "studies", str(laid_out.name), laid_out.record(), now()))
    progress = StudyProgress(context, laid_out.steps)

    def shown(operation: operations_pb2.Operation) -> progress_pb2.Step:
        progress.follow(grid, operation)
        progress.publish()
        context.write_progress()
        written = find_progress(store, context.record)
        assert written is not None
        return json_format.ParseDict(written["steps"][2], progress_pb2.Step())

    running = operations_pb2.Operation(name="operations/x")
    running.metadata.Pack(
        progress_pb2.OperationMetadata(state="STATE_RUNNING", message="waiting for 2 image sets", done=3)
    )
    step = shown(running)
    assert (step.display_name, step.message, step.done) == ("grid", "waiting for 2 image sets", 3)
    step = shown(finished_operation(progress_pb2.Plan(), "operations/x", grid.target))
    assert (step.state, step.message, step.done) == (progress_pb2.STATE_SUCCEEDED, "", step.total)


def test_a_study_says_once_what_its_steps_find_on_the_way(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "adapters: {rank: [4, 16]}")
    name = OperationName(STUDY_CONTROL, laid_out.name.id)
    context = OperationContext(store, OperationRecord(name, "studies", str(laid_out.name), laid_out.record(), now()))
    progress = StudyProgress(context, laid_out.steps)
    for step, warnings in zip(steps(laid_out, ADAPTER_TRAINING), (["no colour"], ["no colour", "blur"]), strict=True):
        running = operations_pb2.Operation(name="operations/x")
        running.metadata.Pack(progress_pb2.OperationMetadata(state="STATE_RUNNING", warnings=warnings))
        progress.follow(step, running)
        progress.follow(step, running)
    progress.publish()
    context.write_progress()
    assert (find_progress(store, context.record) or {})["warnings"] == ["no colour", "blur"]


class Refusing(LocalServices):
    """Refuses a step's start, as a service does over gRPC, a number of times."""

    def __init__(self, store: MemoryObjectStore, refusal: SynthMixError, times: int):
        super().__init__(store)
        self.refusal = delaying(refusal)
        self.times = times

    def create(self, service: str, resource: Any) -> Any:
        if service == IMAGE_SYNTHESIS and self.times:
            self.times -= 1
            raise self.refusal
        return super().create(service, resource)


PASSING = [
    FailedPrecondition("operations/x is still being cancelled; submit it again", reason="OPERATION_CANCELLING"),
    Unauthenticated("the token is not this server's", reason="TOKEN_WRONG"),
    ResourceExhausted("10,000 operations have not ended", reason="TOO_MANY_OPERATIONS"),
    Unavailable("image-synthesis does not answer", reason="SERVICE_UNREACHABLE"),
]


@pytest.mark.parametrize("refusal", PASSING, ids=lambda refusal: refusal.reason)
def test_a_refusal_that_passes_delays_a_study_and_does_not_fail_it(
    store: MemoryObjectStore, refusal: SynthMixError, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Refusing(store, refusal, times=2)
    laid_out = lay_out(store, services=services)
    record = json.loads(json.dumps(laid_out.record()))

    def run_steps(context: OperationContext) -> str:
        steps = recorded_steps(record)
        progress = StudyProgress(context, steps)
        study_run.run_study(context, services, progress, steps)  # type: ignore[arg-type]
        return context.record.target

    monkeypatch.setattr(operation_host, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(operation_host, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(study_run, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(study_operation, "run", run_steps)
    name = OperationName(STUDY_CONTROL, laid_out.name.id)
    operation = OperationRecord(name, "studies", str(laid_out.name), record, now())
    open_operations.add(store, operation)
    write_record(store, operation)
    functions = {"studies": "synthmix.study_control.study_operation:run"}
    host = operation_host.OperationHost(STUDY_CONTROL, store, functions, None, OperationLimits())
    host.start()
    wait_until(lambda: find_result(store, operation) is not None, "the study's end", 10)
    host.leave()
    assert (find_result(store, operation) or {}).get("target") == str(laid_out.name)
    assert services.times == 0
    assert services.created == [step.target for step in laid_out.steps], "nothing was made twice, or cancelled"


@pytest.mark.parametrize(
    "refusal",
    [
        InvalidArgument("image_set.settings.steps: 0 is out of range", reason="OUT_OF_RANGE"),
        ResourceExhausted("the disk is full", reason="STORAGE_FULL"),
        FailedPrecondition("memory is not enough", reason="OUT_OF_MEMORY"),
    ],
    ids=lambda refusal: refusal.reason,
)
def test_a_refusal_that_does_not_pass_fails_a_study(store: MemoryObjectStore, refusal: SynthMixError) -> None:
    services = Refusing(store, refusal, times=1)
    with pytest.raises(type(refusal)) as caught:
        run(store, services, lay_out(store, services=services))
    assert caught.value.reason == refusal.reason


def test_a_failed_step_is_said_in_the_study_s_terms(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "synthesis: {steps: [10, 20]}")
    restored = Step.from_json(json.loads(json.dumps(laid_out.steps[2].to_json())))
    assert (restored.request, restored.plan) == (laid_out.steps[2].request, laid_out.steps[2].plan)
    error = invalid_field("image_set.settings.steps", 20, "can't be taken", "use another number of steps")
    said = restored.in_study_terms(error)
    assert said.message == "synthesis[1].steps: 20 can't be taken; use another number of steps"
    assert [item.field for item in said.violations] == ["synthesis[1].steps"]
