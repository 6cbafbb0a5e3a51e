"""Networks that stay in memory: built once, given out as copies that a training cannot damage, and forgotten."""

import itertools
import time
from typing import Any

import pytest
import timm
import torch
from torch import nn

from synthmix.classifier_evaluation import kept_classifiers
from synthmix.classifier_evaluation.classifiers import build_classifier
from synthmix.classifier_evaluation.kept_classifiers import NETWORKS, untrained_classifier
from synthmix.image_features.lite0 import LITE0

pytestmark = pytest.mark.usefixtures("nothing_kept")

SMALL = "test_efficientnet"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The architecture and the seed of each network that is built."""
    networks: list[tuple[str, int]] = []

    def counted(architecture: str, class_count: int, **options: Any) -> Any:
        networks.append((architecture, options["seed"]))
        return build_classifier(architecture, class_count, **options)

    monkeypatch.setattr(kept_classifiers, "build_classifier", counted)
    return networks


def untrained(architecture: str = SMALL, classes: int = 2, size_px: int = 32, seed: int = 0) -> nn.Module:
    network, _ = untrained_classifier(
        architecture, classes, pretrained=architecture == LITE0, image_size_px=size_px, seed=seed
    )
    return network


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == its_name and torch.equal(value, its) for (name, value), (its_name, its) in pairs)


def spoil(network: nn.Module) -> None:
    """As a training does: in place."""
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(1)


@pytest.mark.parametrize("architecture", [SMALL, LITE0])
def test_what_is_kept_is_bit_for_bit_what_is_built(architecture: str, built: list[tuple[str, int]]) -> None:
    anew, preprocessing = build_classifier(architecture, 2, pretrained=architecture == LITE0, image_size_px=32, seed=3)
    spoil(untrained(architecture, seed=3))
    network, its_preprocessing = untrained_classifier(
        architecture, 2, pretrained=architecture == LITE0, image_size_px=32, seed=3
    )
    assert built == [(architecture, 3)]
    assert equal(network, anew) and its_preprocessing == preprocessing
    modules = zip(network.modules(), anew.modules(), strict=True)
    assert all(type(one) is type(other) and one.training == other.training for one, other in modules)
    assert all(value.requires_grad for value in network.parameters())


def test_first_weights_that_are_drawn_are_those_of_the_seed(built: list[tuple[str, int]]) -> None:
    assert not equal(untrained(seed=0), untrained(seed=1))
    assert equal(untrained(seed=1), untrained(seed=1))
    assert built == [(SMALL, 0), (SMALL, 1)]


def test_the_package_s_weights_are_loaded_once_for_all_seeds(built: list[tuple[str, int]]) -> None:
    assert equal(untrained(LITE0, seed=0), untrained(LITE0, seed=1))
    anew, _ = build_classifier(LITE0, 2, pretrained=True, image_size_px=32, seed=1)
    assert equal(untrained(LITE0, seed=1), anew)
    assert built == [(LITE0, 0)]


def test_a_trial_begins_within_three_tenths_of_a_second() -> None:
    untrained(LITE0, size_px=64)
    start_s = time.process_time()
    untrained(LITE0, size_px=64)
    assert time.process_time() - start_s < 0.3


def test_another_network_in_between(built: list[tuple[str, int]]) -> None:
    first = untrained()
    others = [untrained("test_resnet"), untrained(classes=3), untrained(size_px=48)]
    assert equal(untrained(), first)
    assert len(built) == 1 + len(others)


def test_the_one_asked_for_the_longest_ago_goes_when_there_is_no_room(
    built: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = untrained(seed=0)
    size = sum(value.nbytes for value in itertools.chain(network.parameters(), network.buffers()))
    assert size > 100_000
    monkeypatch.setattr(kept_classifiers, "MOST_BYTES", 2 * size)
    for seed in (1, 0, 2):
        untrained(seed=seed)
    assert NETWORKS.bytes == 2 * size
    untrained(seed=0)
    assert len(built) == 3
    untrained(seed=1)
    assert len(built) == 4


def test_a_network_that_is_too_large_is_not_kept(built: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_classifiers, "MOST_BYTES", 100_000)
    spoil(untrained())
    assert not NETWORKS.bytes
    assert equal(untrained(), build_classifier(SMALL, 2, pretrained=False, image_size_px=32, seed=0)[0])
    assert len(built) == 2


def test_every_kind_of_network_can_be_copied() -> None:
    """timm has a small one of each of its usual kinds, named for tests."""
    names = timm.list_models("test_*")
    assert len(names) >= 10
    for name in names:
        network, _ = untrained_classifier(name, 2, pretrained=False, image_size_px=160, seed=0)
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 160, 160)).shape == (1, 2)
