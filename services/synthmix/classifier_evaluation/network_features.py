"""Features of images by the network that an evaluation names. Imported by workers only."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import safe_open
from torch.nn import functional

from synthmix.classifier_evaluation.architectures import weight_repositories
from synthmix.classifier_evaluation.feature_networks import (
    DEFAULT,
    DINOV2,
    FIELD,
    FIELDS,
    USUAL_SIZE_PX,
    WEIGHTS,
    FeatureNetwork,
    NetworkFolder,
    channel_statistics,
    verified_folder,
)
from synthmix.classifier_evaluation.timm_networks import create_network, size_options, try_forward
from synthmix.image_features.features import BATCH_IMAGES, NETWORK, compute_features, feature_network
from synthmix.image_features.lite0 import LITE0, LITE0_MEAN, LITE0_STD
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.service_kit.memory_errors import is_out_of_memory
from synthmix.service_kit.quantities import plural


class NetworkFeatures:
    """Features of images, by a network that is loaded when the first are asked for.

    Attributes:
        description: What the network is, for reports.
        size_px: Side of the images that it sees; 0 for the side that they have.
        identity: Of the network, in what stored features are addressed by.
    """

    def __init__(self, network: FeatureNetwork):
        self._of = network
        self.size_px = network.size_px
        self.description = _description(network)
        self.identity: dict[str, Any] = {"network": self.description}
        if self.size_px:
            self.identity["network_size_px"] = self.size_px

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Features, (N, d) float32, of pixels (N, S, S, 3) of 0 to 255.

        Images of another side are brought to the network's by bicubic interpolation with antialiasing, as Parmar et al.
        2022 (arXiv:2104.11222) measure it to be right.

        Raises:
            FailedPrecondition: The weights are not to be had.
            InvalidArgument: The network cannot be loaded from its folder, or cannot see images of this size.
        """
        if self._of == DEFAULT:
            return compute_features(pixels)
        network, preprocessing = self._loaded
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        side_px = self.size_px or pixels.shape[1]
        at_once = max(1, BATCH_IMAGES * USUAL_SIZE_PX**2 // max(side_px, USUAL_SIZE_PX) ** 2)
        found = []
        for start in range(0, len(pixels), at_once):
            images = torch.from_numpy(np.array(pixels[start : start + at_once])).permute(0, 3, 1, 2).to(device).float()
            if images.shape[-1] != side_px:
                images = functional.interpolate(images, size=(side_px, side_px), mode="bicubic", antialias=True).clamp(
                    0, 255
                )
            found.append(self._pooled(network, preprocessing.normalise(images)).float().flatten(1).cpu())
        return torch.cat(found).numpy()

    def _pooled(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        if self._of.name == LITE0 and not self._of.folder:
            pooled: torch.Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
            return pooled
        out = network(images)
        return out if isinstance(out, torch.Tensor) else out.pooler_output

    @cached_property
    def _loaded(self) -> tuple[Any, Preprocessing]:
        """The network on the CPU, in evaluation mode."""
        of = self._of
        if of.folder:
            return _from_folder(of)
        if of.name == LITE0:
            return feature_network(), Preprocessing(LITE0_MEAN, LITE0_STD)
        network = create_network(of.name, 0, pretrained=True, image_size_px=of.size_px, fields=FIELDS)
        try_forward(network, of.name, of.size_px, fields=FIELDS)
        config = network.pretrained_cfg
        return network.eval(), Preprocessing(tuple(config["mean"]), tuple(config["std"]))


def _description(network: FeatureNetwork) -> str:
    if network.folder:
        return f"{network.name} of a folder (digest {network.digest})"
    if network.name == LITE0:
        return NETWORK
    return f"{network.name} (pooled features, weights {weight_repositories().get(network.name, 'of timm')})"


def _from_folder(network: FeatureNetwork) -> tuple[Any, Preprocessing]:
    folder = NetworkFolder(verified_folder(network), FIELD, network.folder)
    mean, std = channel_statistics(folder)
    load = _load_dinov2 if network.name in DINOV2 else _load_timm
    try:
        model, missing = load(network, folder.path)
    except Exception as error:  # timm, transformers and safetensors raise kinds of their own
        if is_out_of_memory(error):
            raise
        problem = f"({type(error).__name__}: {str(error)[:200]})"
        raise folder.fault(f"cannot be loaded {problem}", "copy it again from where it came from") from error
    if missing:
        raise folder.fault(
            f"lacks {plural(len(missing), 'tensor')} of {network.name}, such as {min(missing)}",
            "give a folder that has all weights of the network that its config.json names",
        )
    try_forward(model, network.name, network.size_px, fields=FIELDS)
    return model.eval(), Preprocessing(mean, std)


def _load_dinov2(network: FeatureNetwork, path: Path) -> tuple[Any, Collection[str]]:
    """A network of transformers, and the names of tensors that its folder lacks."""
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        path, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    return model, report["missing_keys"]


def _load_timm(network: FeatureNetwork, path: Path) -> tuple[Any, Collection[str]]:
    """A network of timm, and the names of tensors that its folder lacks: these timm draws without an error."""
    model = timm.create_model(
        f"local-dir:{path}", pretrained=True, num_classes=0, **size_options(network.name, network.size_px)
    )
    with safe_open(path / WEIGHTS, "numpy") as tensors:
        return model, model.state_dict().keys() - set(tensors.keys())
