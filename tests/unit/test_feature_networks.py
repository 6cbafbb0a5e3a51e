"""The network that measures go by: what a request may name, and what is refused before anything runs."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthmix.api.evaluations.v1.evaluations_pb2 import Evaluation, MeasureSettings
from synthmix.classifier_evaluation import feature_networks, planning
from synthmix.classifier_evaluation.feature_networks import (
    DEFAULT,
    FeatureNetwork,
    find_network,
    verified_folder,
    weight_warnings,
)
from synthmix.client.study_file import read_study
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.settings_messages import with_defaults

NETWORK, SIZE = "evaluation.measures.feature_network", "evaluation.measures.image_size"
DINO = {"model_type": "dinov2", "patch_size": 14, "hidden_size": 16}


def found(name: str | None = None, image_size: int | None = None) -> FeatureNetwork:
    settings = MeasureSettings(feature_network=name, image_size=image_size)
    return find_network(with_defaults(settings))


def weights(tensors: dict[str, Any] | None = None) -> bytes:
    header = json.dumps(tensors or {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def folder(path: Path, config: object = DINO, **files: bytes | None) -> Path:
    """A folder of a network; a file that is None is left out."""
    path.mkdir()
    written = {"config.json": json.dumps(config).encode(), "model.safetensors": weights()}
    for name, data in (written | {name.replace("__", "."): data for name, data in files.items()}).items():
        if data is not None:
            (path / name).write_bytes(data)
    return path


def test_what_is_meant() -> None:
    assert found() == found("tf_efficientnet_lite0") == DEFAULT, "Lite0, and images as they are"
    assert found(image_size=96) == FeatureNetwork("tf_efficientnet_lite0", 96)
    assert found("resnet50") == FeatureNetwork("resnet50", 224)
    assert found("vit_small_patch14_dinov2", 112) == FeatureNetwork("vit_small_patch14_dinov2", 112)


def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "first"), folder(tmp_path / "second")
    network, other = found(str(first)), found(str(second))
    assert (network.name, network.size_px, network.folder) == ("dinov2", 224, str(first))
    assert network.digest == other.digest and verified_folder(network) == first
    (second / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    assert found(str(second)).digest != network.digest, "features depend on it"
    with pytest.raises(FailedPrecondition, match=r"its files differ.* give every node the same folder"):
        verified_folder(other)
    with pytest.raises(FailedPrecondition, match="there is no such folder"):
        verified_folder(FeatureNetwork("dinov2", 224, str(tmp_path / "third"), network.digest))
    (first / "adapter_config.json").write_text("{}")
    with pytest.raises(FailedPrecondition, match="its files differ"):
        verified_folder(network)


def test_a_folder_that_a_worker_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = found(str(folder(tmp_path / "x")))

    def refused(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(feature_networks, "_stamps", refused)
    with pytest.raises(FailedPrecondition, match="it cannot be read: Permission denied"):
        verified_folder(network)
    with pytest.raises(InvalidArgument, match=r"cannot be read \(Permission denied\); give a folder"):
        found(network.folder)


def test_another_repository_of_timm_s_weights_makes_another_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    before = FeatureNetwork("resnet50", 224).identity
    monkeypatch.setattr(feature_networks, "weight_repositories", lambda: {"resnet50": "timm/resnet50.newer"})
    assert FeatureNetwork("resnet50", 224).identity != before


REFUSALS: dict[str, tuple[Callable[[Path], tuple[str, int | None]], str, str, str]] = {
    "an unknown name": (
        lambda tmp: ("resnet5O", None),
        NETWORK,
        "UNKNOWN_ARCHITECTURE",
        r"'resnet5O' is not an architecture of timm; did you mean resnet50.*absolute path",
    ),
    "no weights": (
        lambda tmp: ("efficientnet_b7", None),
        NETWORK,
        "NO_PRETRAINED_WEIGHTS",
        "untrained network tell nothing; use tf_efficientnet_b7",
    ),
    "a size that patches do not fill": (
        lambda tmp: ("vit_small_patch14_dinov2", 64),
        SIZE,
        "IMAGE_SIZE_UNSUPPORTED",
        "64 cannot be cut into the patches of 14 pixels.*use a multiple of 14, such as 56 or 70",
    ),
    "the usual size in patches of 15": (
        lambda tmp: (str(folder(tmp / "x", DINO | {"patch_size": 15})), None),
        SIZE,
        "IMAGE_SIZE_UNSUPPORTED",
        "224 cannot be cut.*such as 210 or 225",
    ),
    "no folder": (
        lambda tmp: (str(tmp / "nowhere"), None),
        NETWORK,
        "FEATURE_NETWORK_NOT_FOUND",
        "is no folder that this server offers; give the absolute path of one below /",
    ),
    "a relative folder": (
        lambda tmp: ("./models/dino", None),
        NETWORK,
        "FEATURE_NETWORK_NOT_FOUND",
        r"'\./models/dino' is no folder",
    ),
    "no configuration": (
        lambda tmp: (str(folder(tmp / "x", config__json=None)), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"has no config\.json; give a folder as timm's save_for_hf",
    ),
    "pickled weights": (
        lambda tmp: (str(folder(tmp / "x", model__safetensors=None, pytorch_model__bin=b"pickle")), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        "has no model.safetensors; .*pickled weights are never loaded",
    ),
    "weights that are none": (
        lambda tmp: (str(folder(tmp / "x", model__safetensors=b"x" * 100)), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        "its model.safetensors is no safetensors file: it says that its header has",
    ),
    "a configuration that is no JSON": (
        lambda tmp: (str(folder(tmp / "x", config__json=b"{")), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its config\.json is not valid JSON \(line 1",
    ),
    "a language model": (
        lambda tmp: (str(folder(tmp / "x", {"model_type": "bert"})), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r'is "bert" by its config\.json; give a network of timm, or one of transformers\' dinov2',
    ),
    "a configuration that says nothing": (
        lambda tmp: (str(folder(tmp / "x", {})), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"does not say in config\.json what it is",
    ),
    "an architecture that timm does not have": (
        lambda tmp: (str(folder(tmp / "x", {"architecture": "resnet5O"})), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        'is "resnet5O" by its config.json, which the installed timm does not have; did you mean resnet50',
    ),
    "patches of no size": (
        lambda tmp: (str(folder(tmp / "x", DINO | {"patch_size": 0})), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its config\.json has patch_size 0, which is not from 1 to 1024",
    ),
    "patches larger than any image": (
        lambda tmp: (str(folder(tmp / "x", DINO | {"patch_size": 2048})), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its config\.json has patch_size 2048",
    ),
    "a size of which one patch is too small": (
        lambda tmp: (str(folder(tmp / "x")), 20),
        SIZE,
        "IMAGE_SIZE_UNSUPPORTED",
        "20 cannot be cut.*use a multiple of 14, such as 28$",
    ),
    "a size above which there is none": (
        lambda tmp: (str(folder(tmp / "x")), 1023),
        SIZE,
        "IMAGE_SIZE_UNSUPPORTED",
        "such as 1022$",
    ),
    "an adapter beside it": (
        lambda tmp: (str(folder(tmp / "x", adapter_config__json=b"{}")), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"has adapter_config\.json, and transformers would load that adapter into it; .*merged",
    ),
    "a description that is a list": (
        lambda tmp: (str(folder(tmp / "x", {"architecture": "resnet18", "pretrained_cfg": []})), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its config\.json has pretrained_cfg \[\], which is not a JSON object",
    ),
    "a mean of 400 digits": (
        lambda tmp: (
            str(folder(tmp / "x", preprocessor_config__json=b'{"image_mean": [%d, 0, 0]}' % 10**400)),
            None,
        ),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its preprocessor_config\.json has image_mean .* is not a number from -10 to 10 for each of three",
    ),
    "a deviation that is next to none": (
        lambda tmp: (str(folder(tmp / "x", preprocessor_config__json=b'{"image_std": [1e-300, 1, 1]}')), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its preprocessor_config\.json has image_std .* is not a number from 0\.001 to 10",
    ),
    "statistics of one channel": (
        lambda tmp: (str(folder(tmp / "x", preprocessor_config__json=b'{"image_mean": [0.5]}')), None),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its preprocessor_config\.json has image_mean \[0\.5\], which is not a number from",
    ),
    "a deviation of 0": (
        lambda tmp: (
            str(folder(tmp / "x", {"architecture": "resnet18", "pretrained_cfg": {"std": [0, 1, 1]}})),
            None,
        ),
        NETWORK,
        "FEATURE_NETWORK_UNUSABLE",
        r"its config\.json has std \[0, 1, 1\], which is not a number from 0\.001 to 10 for each",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    given, field, reason, said = REFUSALS[case]
    with pytest.raises(InvalidArgument, match=said) as caught:
        found(*given(tmp_path))
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_folder_that_the_operator_does_not_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, offered = folder(tmp_path / "hidden"), tmp_path / "offered"
    offered.mkdir()
    (offered / "link").symlink_to(hidden)
    monkeypatch.setenv("SYNTHMIX_BASE_MODEL_FOLDERS", str(offered))
    for path in (hidden, offered / "link", offered / ".." / "hidden"):
        with pytest.raises(InvalidArgument, match=f"give the absolute path of one below {offered}"):
            found(str(path))
    monkeypatch.delenv("SYNTHMIX_BASE_MODEL_FOLDERS")
    with pytest.raises(InvalidArgument, match="use an architecture of timm; the operator says where"):
        found(str(hidden))


def test_weights_that_workers_here_cannot_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FailedPrecondition, match=r"weights of resnet50 .*, or use tf_efficientnet_lite0") as caught:
        weight_warnings(FeatureNetwork("resnet50", 224))
    assert [violation.field for violation in caught.value.violations] == [NETWORK]


def test_an_evaluation_is_addressed_by_its_network_only_if_it_has_image_sets() -> None:
    parts = {"train": "1", "validation": "2", "test": "3"}

    def request(network: FeatureNetwork, image_sets: list[str]) -> dict[str, Any]:
        return planning.canonical_request(
            planning.filled(Evaluation()), parts=parts, image_sets=image_sets, network=network
        )

    here, there = (FeatureNetwork("dinov2", 224, folder, "abc") for folder in ("/here", "/there"))
    assert request(here, ["a"]) == request(there, ["a"]) != request(DEFAULT, ["a"])
    assert request(here, ["a"]) != request(FeatureNetwork("dinov2", 112, "/here", "abc"), ["a"])
    assert request(here, []) == request(DEFAULT, []), "nothing is measured"


def test_a_folder_beside_a_study_s_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: x\ndataset: y\nmeasures: {feature_network: ./dino, image_size: 112}\n")
    measures = read_study(file).message.measures
    assert (measures.feature_network, measures.image_size) == (str(tmp_path / "dino"), 112)
