"""Features of images: what a network that was trained on ImageNet makes of them before its last layer.

A source's features are an artifact that is addressed by its content, so that they are computed once.

features/{id}/features.npy  (images, 1280) float32
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from synthmix.classifier_evaluation.classifiers import build_classifier
from synthmix.classifier_evaluation.pretrained_weights import LITE0
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_payload, write_manifest, write_payload
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import FEATURES, ArtifactName

# Its weights come with a package of ours: nothing is downloaded.
NETWORK = f"{LITE0} (EfficientNet-Lite0 trained on ImageNet, pooled features)"
# Raised whenever features of the same images would be other numbers.
RECIPE_VERSION = 1
PAYLOAD = "features.npy"
BATCH_IMAGES = 64


def stored_features(
    store: ObjectStore, images: dict[str, Any], size_px: int, load: Callable[[], np.ndarray], *, source: str
) -> np.ndarray:
    """Features of a source of images, from object storage or computed and stored.

    Args:
        store: Object storage.
        images: What identifies the source's content, such as a part's digest.
        size_px: Side of the square images.
        source: What the images are of, for when that is deleted: an artifact's id, or a part's digest.
        load: Returns their pixels, (images, size_px, size_px, 3) uint8; called if they are not stored.

    Returns:
        (images, 1280) float32.

    Raises:
        DataLoss: Object storage does not hold what was written.
    """
    request = {"images": images, "size_px": size_px, "network": NETWORK}
    name = ArtifactName(FEATURES, digest_of({**request, "recipe_version": RECIPE_VERSION}))
    found = find_manifest(store, name)
    if found is not None:
        stored: np.ndarray = np.load(io.BytesIO(read_payload(store, found, PAYLOAD)), allow_pickle=False)
        return stored
    features = compute_features(load())
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    payload = write_payload(store, name, PAYLOAD, buffer.getvalue())
    write_manifest(store, Manifest(name, {"images": source}, request, RECIPE_VERSION, (payload,)))
    return features


@torch.inference_mode()
def compute_features(pixels: np.ndarray) -> np.ndarray:
    """Features, (images, 1280) float32, of (images, S, S, 3) uint8 pixels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier, preprocessing = build_classifier(LITE0, 2, pretrained=True, image_size_px=pixels.shape[1], seed=0)
    network: Any = classifier.to(device).eval()  # timm's methods are not those of every module
    features = []
    for start in range(0, len(pixels), BATCH_IMAGES):
        images = torch.from_numpy(np.array(pixels[start : start + BATCH_IMAGES])).permute(0, 3, 1, 2).to(device)
        maps = network.forward_features(preprocessing.normalise(images))
        features.append(network.forward_head(maps, pre_logits=True).float().cpu())
    return torch.cat(features).numpy()
