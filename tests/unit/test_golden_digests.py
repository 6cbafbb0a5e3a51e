"""The addresses of a few requests, measured once. What was paid for under an address is found by it for ever.

A digest that changes is a mistake, unless the meaning of the request has changed: then raise the recipe version of the
step, and pin anew.
"""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message

from synthmix.adapter_training import planning as adapters
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.evaluations.v1.evaluations_pb2 import (
    ClaimSettings,
    ClassifierSettings,
    Evaluation,
    MixtureSettings,
)
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.api.options.v1 import field_rules_pb2
from synthmix.classifier_evaluation import planning as evaluations
from synthmix.classifier_evaluation import trial_requests
from synthmix.classifier_evaluation.mixtures import MixtureSpec, TrialSpec
from synthmix.image_data.mixture_kinds import APPEND
from synthmix.image_synthesis import planning as image_sets
from synthmix.latent_diffusion.base_model import BUILTIN, resolve
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.settings_messages import rules_of, with_defaults
from synthmix.study_control import split as splits
from upgrades import upgraded, with_option

BASELINE = Path(__file__).resolve().parents[2] / "protos" / "baseline.binpb"
TRAIN, VALIDATION, TEST = "1" * 32, "2" * 32, "3" * 32
PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
MODEL, ADAPTER, IMAGE_SET, DATASET = "4" * 32, "5" * 32, "6" * 32, "7" * 32


def adapter_digest(settings: Any) -> str:
    full = adapters.filled(settings, resolve(BUILTIN, field="base_model", weights=False))
    return digest_of(adapters.canonical_request(full, train_digest=TRAIN, base_model_digest=MODEL))


def image_set_digest(settings: Any) -> str:
    full = image_sets.filled(settings, None)
    return digest_of(image_sets.canonical_request(full, adapter_id=ADAPTER, class_images={"beta": 7, "alpha": 9}))


def evaluation_digest(evaluation: Any) -> str:
    full = evaluations.filled(evaluation)
    request = evaluations.canonical_request(full, parts=PARTS, image_sets=[IMAGE_SET])
    return digest_of(request | {"recipe_version": "without the metrics', which change it whenever one is added"})


def trial_digest(settings: Any) -> str:
    trial = TrialSpec(MixtureSpec(APPEND, 0.25, IMAGE_SET), 3)
    return digest_of(trial_requests.trial_request(PARTS, with_defaults(settings), trial))


def split_digest(settings: Any) -> str:
    return digest_of(splits.canonical_request(with_defaults(settings), dataset_id=DATASET))


GOLDEN: list[tuple[Any, Message, str]] = [
    (adapter_digest, AdapterSettings(), "7b01e2ccdf7de54ba49c158e760d3213"),
    (
        adapter_digest,
        AdapterSettings(rank=4, targets="attention+feedforward", images_seen=320, seed=3),
        "74fd295730bc583947135510cafdc696",
    ),
    (
        adapter_digest,
        AdapterSettings(prompt="a {label} nucleus", caption_dropout=0, image_size=96),
        "34d0935ebc5e95812b37e31b60d85866",
    ),
    (image_set_digest, SynthesisSettings(prompt="a {label} cell"), "3e561041ffe94d6e0ec45bfba13336b8"),
    (
        image_set_digest,
        SynthesisSettings(prompt="a {label} cell", steps=4, guidance_scale=1.5, seed=2),
        "84755e27517e901c811a5adf1baeb30d",
    ),
    (evaluation_digest, Evaluation(), "0ecac1c296c490e47224a7a0f2e99162"),
    (
        evaluation_digest,
        Evaluation(
            mixtures=MixtureSettings(ratios=[0.5, 0.25], synthetic_only=True, controls=["duplicated_real"]),
            classifier=ClassifierSettings(epochs=1, pretrained=False),
            seeds=3,
            claim=ClaimSettings(margin=0.05),
        ),
        "fb879b63293a82b13b8103d26ead29f6",
    ),
    (trial_digest, ClassifierSettings(), "68b4e452dc6b1798551a08a6c9a8f232"),
    (
        trial_digest,
        ClassifierSettings(architecture="resnet18", match="epochs", augmentation=False),
        "15967ce7f981f8c8e09d4c2bfcb63264",
    ),
    (split_digest, SplitSettings(), "5fd0c4c8c502bf89b3b47654386325db"),
    (split_digest, SplitSettings(test=0.3, seed=7), "ce2087f337e8664978317d343ef089a8"),
]


@pytest.mark.parametrize(("digest", "settings", "golden"), GOLDEN)
def test_a_request_keeps_its_address(digest: Any, settings: Message, golden: str) -> None:
    assert digest(settings) == golden


@pytest.mark.parametrize(("digest", "settings", "golden"), GOLDEN)
def test_a_request_keeps_its_address_when_an_option_is_added(digest: Any, settings: Message, golden: str) -> None:
    later = upgraded(
        {
            f"synthmix.{name}": with_option("invented", "0.5")
            for name in (
                "adapters.v1.AdapterSettings",
                "image_sets.v1.SynthesisSettings",
                "evaluations.v1.MixtureSettings",
                "evaluations.v1.ClassifierSettings",
                "evaluations.v1.ClaimSettings",
                "datasets.v1.SplitSettings",
            )
        }
    )(settings)
    assert digest(later) == golden


def test_what_means_the_same_has_one_address() -> None:
    assert adapter_digest(AdapterSettings(rank=16, alpha=16, learning_rate=6e-3)) == adapter_digest(AdapterSettings())
    assert adapter_digest(AdapterSettings(base_model="another name")) == adapter_digest(AdapterSettings())
    assert image_set_digest(SynthesisSettings(per_class=9)) == image_set_digest(SynthesisSettings())
    given = Evaluation(mixtures=MixtureSettings(ratios=[0.5, 0.25]))
    other = Evaluation(mixtures=MixtureSettings(ratios=[0.25, 0, 0.5]), seeds=5)
    assert evaluation_digest(given) == evaluation_digest(other)


def test_a_changed_default_raises_the_recipe_version() -> None:
    """Of what was released: the baseline has its declarations."""
    released = descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes())
    compared = 0
    for file in released.file:
        for message in file.message_type:
            for field in message.field:
                default = list(field.options.Extensions[field_rules_pb2.rules].default)
                name = f"{file.package}.{message.name}.{field.name}"
                compared += bool(default)
                assert default == list(rules_of(descriptor_pool.Default().FindFieldByName(name)).default), (
                    f"the default of {name} has changed, and with it what stored requests mean that leave the field "
                    "out, though their addresses stay: raise the recipe version of the step, then accept the new "
                    "default with `python protos/generate.py --release`"
                )
    assert compared > 20
