"""Settings by their descriptors: defaults, checks, the canonical form, and back; and every declaration in protos/."""

import math
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.evaluations.v1.evaluations_pb2 import ClaimSettings, ClassifierSettings, Evaluation, MixtureSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings, SynthesisSettings
from synthmix.api.options.v1 import field_rules_pb2
from synthmix.api.studies.v1.studies_pb2 import StudySpec
from synthmix.service_kit.errors import InvalidArgument, Problems
from synthmix.service_kit.settings_messages import (
    canonical,
    check,
    default_of,
    distinguishing_names,
    fill_left_out,
    from_canonical,
    has_rules,
    in_words,
    rules_of,
    set_default,
    with_defaults,
)
from upgrades import upgraded, with_option


def settings_descriptors() -> list[Descriptor]:
    """Every message with rules that a study, an adapter, an image set or an evaluation holds."""
    found: dict[str, Descriptor] = {}
    pending = [StudySpec.DESCRIPTOR, Evaluation.DESCRIPTOR]
    while pending:
        descriptor = pending.pop()
        if descriptor.full_name in found:
            continue
        found[descriptor.full_name] = descriptor
        pending += [field.message_type for field in descriptor.fields if field.message_type is not None]
    return [descriptor for descriptor in found.values() if has_rules(descriptor)]


def faults(message: Any, path: str = "x") -> dict[str, str]:
    """What is wrong with a message, by the field."""
    problems = Problems()
    check(message, path, problems)
    return {item.field: item.description for error in problems.found for item in error.violations}


@pytest.mark.parametrize("descriptor", settings_descriptors(), ids=lambda item: item.name)
def test_every_declaration_is_sound(descriptor: Descriptor) -> None:
    for field in descriptor.fields:
        if field.message_type is not None:
            continue
        if field.GetOptions().HasExtension(field_rules_pb2.rules):
            assert field.is_repeated or field.has_presence, f"{field.full_name}: what was set can't be told from 0"
        rules = rules_of(field)
        assert not (rules.HasField("gt") and rules.HasField("gte"))
        assert not (rules.HasField("lt") and rules.HasField("lte"))
        assert default_of(field) is not None or not rules.default
    full = with_defaults(message_factory.GetMessageClass(descriptor)())
    assert faults(full) == {}  # defaults are allowed values
    assert canonical(full) == {}


def test_defaults_fill_what_was_left_out() -> None:
    given = AdapterSettings(rank=0, prompt="")
    full = with_defaults(given)
    assert (full.rank, full.prompt, full.method, full.caption_dropout, full.seed) == (0, "", "lora", 0.1, 0)
    assert full.HasField("seed") and not full.HasField("alpha")  # which depends on the rank
    assert not with_defaults(AdapterSettings()).HasField("rank")  # some methods exclude it
    fill_left_out(filled := AdapterSettings(), "rank")
    fill_left_out(full, "rank")
    assert (filled.rank, full.rank) == (16, 0)
    assert not given.HasField("method")  # the copy is filled


def test_defaults_reach_settings_in_settings_and_nothing_else() -> None:
    evaluation = with_defaults(Evaluation(classifier=ClassifierSettings(epochs=3)))
    assert (evaluation.classifier.epochs, evaluation.classifier.batch_size, evaluation.seeds) == (3, 32, 5)
    assert list(evaluation.mixtures.ratios) == [0, 0.1, 0.25, 0.5, 0.75]
    assert evaluation.claim.confidence == 0.95
    assert not evaluation.HasField("create_time")
    study = with_defaults(StudySpec(adapters=[AdapterSettings(rank=4), AdapterSettings()]))
    assert [item.caption_dropout for item in study.adapters] == [0.1, 0.1]
    assert not study.synthesis


def test_a_zero_that_was_set_is_not_a_default() -> None:
    settings = AdapterSettings(rank=0)
    set_default(settings, "rank", 16)
    set_default(settings, "batch_size", 4)
    assert (settings.rank, settings.batch_size) == (0, 4)


@pytest.mark.parametrize(
    ("message", "field", "said"),
    [
        (AdapterSettings(rank=0), "x.rank", "0 is out of range; use a value between 1 and 1024"),
        (AdapterSettings(image_size=4), "x.image_size", "4 is out of range; use a value between 16 and 2048 pixels"),
        (AdapterSettings(learning_rate=math.nan), "x.learning_rate", "nan is out of range"),
        (AdapterSettings(learning_rate=math.inf), "x.learning_rate", "inf is out of range"),
        (AdapterSettings(method="lorra"), "x.method", "did you mean 'lora'? use one of: lora"),
        (ClaimSettings(margin=0), "x.margin", "0.0 is out of range; use a value strictly between 0 and 1"),
        (ClaimSettings(confidence=1), "x.confidence", "1.0 is out of range; use a value between 0.5 and 0.9999"),
        (ClassifierSettings(match="step"), "x.match", "did you mean 'steps'?"),
        (ClassifierSettings(batch_size=1), "x.batch_size", "1 is out of range; use a value between 2 and 4096 images"),
        (MixtureSettings(ratios=[0.5, 0.25, 0.5]), "x.ratios[2]", "0.5 is there twice; leave one of them out"),
        (MixtureSettings(ratios=[-0.1]), "x.ratios[0]", "-0.1 is out of range; use a value between 0 and 10"),
        (MixtureSettings(controls=["a", "a"]), "x.controls[1]", "'a' is there twice"),
        (SelectionSettings(class_consistency=2), "x.class_consistency", "between 0 and 1"),
        (StudySpec(adapters=[{}, {"rank": 0}]), "x.adapters[1].rank", "0 is out of range"),
        (Evaluation(image_sets=["a", "a"]), "x.image_sets[1]", "'a' is there twice; leave one of them out"),
        (Evaluation(seeds=0), "x.seeds", "0 is out of range; use a value between 1 and 1000"),
    ],
)
def test_a_fault_is_said_with_field_value_and_remedy(message: Any, field: str, said: str) -> None:
    [(found, description)] = faults(message).items()
    assert found == field
    assert said in description


def test_all_faults_are_said_at_once() -> None:
    problems = Problems()
    check(AdapterSettings(rank=0, method="lorra", caption_dropout=1), "adapter.settings", problems)
    with pytest.raises(InvalidArgument) as caught:
        problems.raise_if_any()
    assert caught.value.reason == "SEVERAL_FIELDS"
    assert [item.field for item in caught.value.violations] == [
        f"adapter.settings.{field}" for field in ("method", "rank", "caption_dropout")
    ]


def test_what_is_not_set_is_not_checked() -> None:
    assert faults(SynthesisSettings()) == {}


def test_the_canonical_form_leaves_out_what_equals_its_default() -> None:
    settings = AdapterSettings(rank=16, alpha=16, method="lora", learning_rate=1e-4, images_seen=4800, seed=0)
    assert canonical(settings) == {"alpha": 16.0, "learning_rate": 1e-4, "images_seen": "4800"}
    assert canonical(AdapterSettings(rank=4, base_model="builtin")) == {"rank": 4}
    assert canonical(AdapterSettings(rank=4, base_model="other"), without=["base_model"]) == {"rank": 4}
    assert canonical(MixtureSettings(ratios=[0, 0.1, 0.25, 0.5, 0.75], synthetic_only=False)) == {
        "synthetic_only": False  # its default isn't declared, so that it is said
    }
    assert canonical(StudySpec(name="a", claim=ClaimSettings(margin=0.02), adapters=[{"rank": 16}])) == {
        "name": "a",
        "adapters": [{}],
    }


def test_the_canonical_form_reads_back() -> None:
    for settings in (
        AdapterSettings(rank=4, images_seen=2**40, prompt="", seed=-1),
        MixtureSettings(ratios=[0.3], controls=["duplicated_real"], synthetic_only=True),
        Evaluation(classifier=ClassifierSettings(pretrained=False)),
    ):
        assert from_canonical(canonical(settings), type(settings)) == with_defaults(settings)
    assert from_canonical({"rank": 4, "invented": 1}, AdapterSettings).rank == 4  # by a later version


def test_an_option_that_is_added_with_a_default_changes_no_canonical_form() -> None:
    later = upgraded({"synthmix.adapters.v1.AdapterSettings": with_option("rank_dropout", "0.5")})
    settings = later(AdapterSettings(rank=4))
    full = with_defaults(settings)
    assert full.rank_dropout == 0.5
    assert canonical(full) == canonical(with_defaults(AdapterSettings(rank=4))) == {"rank": 4}
    full.rank_dropout = 0.25
    assert canonical(full) == {"rank": 4, "rank_dropout": 0.25}
    assert from_canonical({"rank": 4}, type(full)).rank_dropout == 0.5


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([AdapterSettings(rank=4)], ["adapter"]),
        ([AdapterSettings(rank=4), AdapterSettings(rank=16)], ["rank 4", "rank 16"]),
        (
            [AdapterSettings(rank=4, targets="attention"), AdapterSettings(rank=4, image_size=64)],
            ["targets attention", "image size 64 pixels"],
        ),
        ([AdapterSettings(), AdapterSettings(rank=32)], ["adapter", "rank 32"]),
        (
            [AdapterSettings(more_prompts=["{label} a", "{label} b"]), AdapterSettings()],
            ["more prompts {label} a; {label} b", "adapter"],
        ),
        ([AdapterSettings(seed=2**53), AdapterSettings(seed=1)], [f"seed {2**53}", "seed 1"]),
        (
            [AdapterSettings(learning_rate=1e-4), AdapterSettings(learning_rate=2)],
            ["learning rate 0.0001", "learning rate 2"],
        ),
    ],
)
def test_names_say_what_differs(settings: list[AdapterSettings], names: list[str]) -> None:
    assert distinguishing_names([(item,) for item in settings], alone="adapter") == names


def test_names_of_image_sets_say_what_differs_of_adapter_and_synthesis() -> None:
    pairs = [
        (AdapterSettings(rank=rank), SynthesisSettings(steps=steps, guidance_scale=2))
        for rank in (4, 16)
        for steps in (10, 20)
    ]
    assert distinguishing_names(pairs, alone="") == [
        "rank 4, steps 10",
        "rank 4, steps 20",
        "rank 16, steps 10",
        "rank 16, steps 20",
    ]


def test_settings_in_words_are_those_that_are_set_in_order_with_their_units() -> None:
    adapter = AdapterSettings(method="lora", images_seen=4800, batch_size=16, learning_rate=1e-4)
    assert in_words(adapter) == {
        "Method": "lora",
        "Images seen": "4,800",
        "Batch size": "16 images",
        "Learning rate": "0.0001",
    }
    assert in_words(AdapterSettings(more_prompts=["a {label}", "b {label}"])) == {
        "More prompts": "a {label}; b {label}"
    }
    assert list(in_words(adapter)) == ["Method", "Images seen", "Batch size", "Learning rate"]
    classifier = ClassifierSettings(pretrained=True, image_size=64, augmentation=False)
    assert in_words(classifier) == {"Pretrained": "yes", "Image size": "64 pixels", "Augmentation": "no"}


def test_an_option_more_is_in_the_words() -> None:
    later = upgraded({AdapterSettings.DESCRIPTOR.full_name: with_option("invented", "0.05")})(AdapterSettings())
    assert in_words(with_defaults(later))["Invented"] == "0.05"


def test_values_by_keys_are_checked_named_and_addressed() -> None:
    settings = SynthesisSettings(class_images={"round": 0, "flat": 3}, strengths_by_images={16: 0.15, 1: 2.0})
    assert list(faults(settings)) == ["x.class_images[round]", "x.strengths_by_images[1]"]
    assert canonical(SynthesisSettings(strengths_by_images={16: 0.25, 1: 0.5})) == {
        "strengths_by_images": {"1": 0.5, "16": 0.25}
    }
    assert from_canonical({"strengths_by_images": {"16": 0.25}}, SynthesisSettings).strengths_by_images[16] == 0.25
    assert in_words(settings) == {
        "Class images": "flat: 3 images; round: 0 images",
        "Strengths by images": "1: 2; 16: 0.15",
    }
    named = [(SynthesisSettings(class_images={"round": count, "flat": 3}),) for count in (5, 7)]
    assert distinguishing_names(named, alone="") == ["class images flat: 3; round: 5", "class images flat: 3; round: 7"]
