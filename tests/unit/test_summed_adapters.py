"""Images of several adapters at once: what is planned, and what is refused before anything runs."""

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.api.image_sets.v1.image_sets_pb2 import ImageSet, SynthesisSettings
from synthmix.image_synthesis import planning
from synthmix.service_kit.artifacts import Manifest, write_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING, IMAGE_SYNTHESIS
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from test_study_plan import faults, lay_out, steps
from test_study_plan import store as store

RANKS = "adapters: {rank: [2, 4, 8]}\n"


def test_one_image_set_is_made_with_all_adapters(store: MemoryObjectStore) -> None:
    weights = "{guidance_scale: [2, 3], adapter_weights: [1, 0.5, -0.25]}"
    laid_out = lay_out(store, f"{RANKS}synthesis: [{{steps: 10}}, {weights}]")
    adapters = [step.target for step in steps(laid_out, ADAPTER_TRAINING)]
    requests = [step.request for step in steps(laid_out, IMAGE_SYNTHESIS)]
    assert [[item.adapter, *item.more_adapters] for item in requests] == [[name] for name in adapters] + [adapters] * 2
    assert list(requests[-1].settings.adapter_weights) == [1, 0.5, -0.25]
    assert len({step.target for step in laid_out.steps}) == len(laid_out.steps)
    names = [step.display_name for step in steps(laid_out, IMAGE_SYNTHESIS)]
    assert len(set(names)) == len(names) and "adapter weights 1; 0.5; -0.25" in names[-1]


def test_a_study_without_weights_keeps_its_addresses(store: MemoryObjectStore) -> None:
    [made] = steps(lay_out(store), IMAGE_SYNTHESIS)
    planned = planning.plan(store, made.request, validate_only=True)  # type: ignore[arg-type]
    assert "more_adapters" not in planned.request and "adapter_weights" not in planned.request["settings"]


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("synthesis: {adapter_weights: [0.5]}", "synthesis[0].adapter_weights", "there is one; leave it out"),
        (f"{RANKS}synthesis: {{adapter_weights: [1, 1]}}", "synthesis[0].adapter_weights", "are 2, and there are 3"),
        (f"{RANKS}synthesis: {{adapter_weights: [0, 0, 0]}}", "synthesis[0].adapter_weights", "adapter_scale: 0"),
        (f"{RANKS}synthesis: {{adapter_weights: [1, 1, 5]}}", "synthesis[0].adapter_weights[2]", "between -4 and 4"),
        (
            "adapters: {rank: 4, per: [dataset, class]}\nsynthesis: {adapter_weights: [1, 1]}",
            "synthesis[0].adapter_weights",
            "adapters[1] has one for each class",
        ),
        (
            "adapters: {rank: 4, class_tokens: [0, 1]}\nsynthesis: {adapter_weights: [1, 1]}",
            "synthesis[0].adapter_weights",
            "adapters[1] has learned class tokens",
        ),
        (
            "adapters: {rank: 4, image_size: [32, 64]}\nsynthesis: {adapter_weights: [1, 1]}",
            "synthesis[0].adapter_weights",
            "of one image size, and adapters[0] has 32, adapters[1] 64",
        ),
        (
            f"{RANKS}synthesis: {{adapter_weights: [1, 1, 1]}}\nsearch: {{budget_seconds: 3600}}",
            "synthesis[0].adapter_weights",
            "a search goes on with some",
        ),
    ],
)
def test_what_cannot_be_added_up(store: MemoryObjectStore, text: str, field: str, said: str) -> None:
    found = faults(store, text)
    assert said in found[field], found


def adapter(store: MemoryObjectStore, number: int, train_split: str = "1" * 32, base: str = "2" * 32) -> str:
    name = ArtifactName(ADAPTERS, f"{number:032x}")
    summary = {"grey": True, "base_model": "builtin", "classes": ["alpha", "beta"]}
    inputs = {"base_model": base, "train_split": train_split}
    settings = {"image_size": 64, "prompt": "a {label} cell"}
    write_manifest(store, Manifest(name, inputs, {"settings": settings}, 3, (), summary))
    return str(name)


def refused(store: MemoryObjectStore, first: str, *more: str, weights: int) -> InvalidArgument:
    settings = SynthesisSettings(adapter_weights=[1] * weights)
    request = ImageSet(adapter=first, more_adapters=more, settings=settings)
    with pytest.raises(InvalidArgument) as caught:
        planning.plan(store, request, validate_only=False)  # type: ignore[arg-type]
    return caught.value


def test_an_image_set_by_itself(store: MemoryObjectStore) -> None:
    first, second = adapter(store, 1), adapter(store, 2)
    assert "say what the changes of each of the 2" in refused(store, first, second, weights=0).message
    assert "there is one" in refused(store, first, weights=1).message
    assert refused(store, first, first, weights=2).violations[0].field == "image_set.more_adapters[0]"
    assert "of one base model" in refused(store, first, adapter(store, 3, base="3" * 32), weights=2).message
    other = ImageSet(adapter=first, more_adapters=[adapter(store, 4, train_split="4" * 32)])
    other.settings.adapter_weights[:] = [1, 1]
    with pytest.raises(FailedPrecondition, match="was not trained on the train part") as caught:
        planning.plan(store, other, validate_only=False)  # type: ignore[arg-type]
    assert caught.value.reason == "TRAIN_SPLITS_DIFFER"
    missing = ImageSet(adapter=first, more_adapters=[f"adapters/{'f' * 32}"], settings=other.settings)
    with pytest.raises(NotFound, match=r"image_set.more_adapters\[0\]: adapters/f+ does not exist"):
        planning.plan(store, missing, validate_only=False)  # type: ignore[arg-type]
