"""Features by another network than Lite0: those of timm's and of transformers' own code, and measures by them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file, save_file
from timm.models import save_for_hf
from transformers import AutoModel

from feature_network_folders import dinov2_folder, timm_folder
from memory_object_store import MemoryObjectStore
from striped_study import evaluate, striped_store, stripes
from synthmix.api.evaluations.v1.evaluations_pb2 import MeasureSettings
from synthmix.classifier_evaluation import front_end
from synthmix.classifier_evaluation.evaluation_operation import TRY_NETWORK
from synthmix.classifier_evaluation.feature_networks import FeatureNetwork, find_network
from synthmix.classifier_evaluation.network_features import NetworkFeatures, try_network
from synthmix.image_features.features import compute_features
from synthmix.service_kit.artifacts import list_artifacts
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import FEATURES
from synthmix.service_kit.settings_messages import with_defaults

pytestmark = pytest.mark.usefixtures("any_base_model")


@pytest.fixture
def store(own_cache: None, tmp_path: Path) -> MemoryObjectStore:
    return striped_store(tmp_path)


def network(folder: Path, image_size: int) -> FeatureNetwork:
    return find_network(with_defaults(MeasureSettings(feature_network=str(folder), image_size=image_size)))


def pictures(count: int = 5, side: int = 32) -> np.ndarray:
    return np.stack([np.stack([stripes(index % 2, index, side)] * 3, axis=-1) for index in range(count)])


def normalised(pixels: np.ndarray, mean: Any, std: Any) -> torch.Tensor:
    shares = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    return ((shares - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).float()


def test_timm_s_own_features_of_a_fine_tuned_network(tmp_path: Path) -> None:
    folder, pixels = timm_folder(tmp_path / "net"), pictures()
    own = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, img_size=32).eval()
    with torch.inference_mode():
        expected = own(normalised(pixels, own.pretrained_cfg["mean"], own.pretrained_cfg["std"])).numpy()
    np.testing.assert_allclose(NetworkFeatures(network(folder, 32))(pixels), expected, atol=1e-5)


def test_transformers_own_features_of_dinov2(tmp_path: Path) -> None:
    """Its class token after the last norm, with the folder's statistics and embeddings of position brought to size."""
    folder, pixels = dinov2_folder(tmp_path / "dino"), pictures(side=28)
    with torch.inference_mode():
        own = AutoModel.from_pretrained(folder).eval()
        expected = own(normalised(pixels, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(NetworkFeatures(network(folder, 28))(pixels), expected, atol=1e-5)


def test_images_of_another_side_are_brought_to_the_network_s(tmp_path: Path) -> None:
    folder = dinov2_folder(tmp_path / "dino")
    features = NetworkFeatures(network(folder, 56))
    flat = np.full((2, 28, 28, 3), 90, dtype=np.uint8)
    np.testing.assert_allclose(features(flat), features(np.full((2, 56, 56, 3), 90, dtype=np.uint8)), atol=1e-4)
    assert features(pictures(3, side=30)).shape == (3, 16)


def test_lite0_at_a_size() -> None:
    pixels = pictures(side=64)
    at_64, at_96 = (NetworkFeatures(FeatureNetwork("tf_efficientnet_lite0", size))(pixels) for size in (64, 96))
    np.testing.assert_allclose(at_64, compute_features(pixels), atol=1e-4)
    assert at_96.shape == (5, 1280) and np.abs(at_96 - at_64).max() > 0.01


def test_weights_that_lack_a_tensor_are_not_drawn(tmp_path: Path) -> None:
    for make, name in ((timm_folder, "blocks.0.attn.proj.weight"), (dinov2_folder, "layernorm.weight")):
        folder = make(tmp_path / make.__name__)
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InvalidArgument, match=rf"lacks 1 tensor of \w+, such as {name}"):
            NetworkFeatures(network(folder, 28 if make is dinov2_folder else 32))(pictures())


@pytest.mark.parametrize("image_size", [224, 384])
def test_a_network_that_was_fine_tuned_at_another_size(tmp_path: Path, image_size: int) -> None:
    """Its folder says 384, and the architecture's own size is 224."""
    with torch.random.fork_rng(devices=[]):
        own = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=384, depth=1, embed_dim=48, num_heads=3)
    own.pretrained_cfg["input_size"] = (3, 384, 384)
    folder = tmp_path / "net"
    arguments = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 384}
    save_for_hf(own, str(folder), safe_serialization=True, model_args=arguments)
    assert NetworkFeatures(network(folder, image_size))(pictures(2)).shape == (2, 48)


def test_features_that_are_not_pooled(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "net", "test_resnet")
    config = json.loads((folder / "config.json").read_text()) | {"model_args": {"global_pool": ""}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InvalidArgument, match=r"gives features of the shape \(5, \d+, \d+, \d+\) for 5 images"
    ) as caught:
        NetworkFeatures(network(folder, 64))(pictures())
    assert caught.value.reason == "FEATURE_NETWORK_UNUSABLE"


def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    folder = dinov2_folder(tmp_path / "dino")
    tensors = load_file(folder / "model.safetensors")
    tensors["layernorm.weight"][:] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidArgument, match="gives features that are not finite"):
        try_network(network(folder, 28), lambda seen: None, 1)


def test_what_a_configuration_says_of_types_and_answers_changes_nothing(tmp_path: Path) -> None:
    plain, odd = dinov2_folder(tmp_path / "plain"), dinov2_folder(tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text()) | {"dtype": "float16", "return_dict": False}
    (odd / "config.json").write_text(json.dumps(config))
    ours, others = (NetworkFeatures(network(folder, 28))(pictures()) for folder in (odd, plain))
    np.testing.assert_array_equal(ours, others)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "net", "test_resnet")
    tensors = load_file(folder / "model.safetensors")
    tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"][:1]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InvalidArgument, match=r"(?s)cannot be loaded \(RuntimeError: .*size mismatch") as caught:
        NetworkFeatures(network(folder, 32))(pictures())
    assert caught.value.reason == "FEATURE_NETWORK_UNUSABLE"


def test_a_folder_that_changed_since_the_plan(tmp_path: Path) -> None:
    planned = network(timm_folder(tmp_path / "net"), 32)
    timm_folder(tmp_path / "net", seed=1)
    with pytest.raises(FailedPrecondition, match="its files differ"):
        NetworkFeatures(planned)(pictures())


def test_an_evaluation_by_another_network(store: MemoryObjectStore, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "net")
    usual, first = evaluate(store, ratios=[0.5])
    of_usual = len(list(list_artifacts(store, FEATURES)))
    manifest, ran = evaluate(store, ratios=[0.5], measures={"feature_network": str(folder), "image_size": 48})
    assert manifest.name != usual.name
    assert ran.reused == first.tasks_run.count("synthmix.classifier_evaluation.trials:run_trial"), "trials are the same"
    message = front_end.evaluation_message(store, manifest)
    assert (message.measures.feature_network, message.measures.image_size) == (str(folder), 48), "as it was asked for"
    assert ran.tasks_run[0] == TRY_NETWORK and TRY_NETWORK not in first.tasks_run
    assert message.fidelity.feature_network.startswith("test_vit of a folder (digest ")
    assert message.fidelity.network_image_size == 48
    before = front_end.evaluation_message(store, usual).fidelity
    assert before.network_image_size == before.image_size
    assert [source.image_set for source in message.fidelity.sources] == [item.image_set for item in before.sources]
    assert message.fidelity.near_copy_distance != before.near_copy_distance
    assert len(list(list_artifacts(store, FEATURES))) == 2 * of_usual, "of each network by itself"
