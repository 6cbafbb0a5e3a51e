"""Features of images by the network that an evaluation names. Imported by workers only."""

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import numpy as np
import timm
import torch
from safetensors import safe_open
from torch.nn import functional

from synthmix.classifier_evaluation.architectures import weight_repositories
from synthmix.classifier_evaluation.feature_networks import (
    CONFIG,
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
from synthmix.image_features.features import BATCH_IMAGES, NETWORK, compute_features, feature_network, features_of
from synthmix.image_features.lite0 import LITE0
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.service_kit.errors import SynthMixError, invalid_field
from synthmix.service_kit.memory_errors import is_out_of_memory
from synthmix.service_kit.quantities import plural

Loaded = tuple[Any, Callable[[torch.Tensor], torch.Tensor]]
"""A network on the CPU, in evaluation mode, and its features (B, d) of pixels (B, 3, S, S) of 0 to 255."""


def try_network(network: FeatureNetwork, report: Callable[[int], None], threads: int) -> None:
    """The task by which an evaluation finds out, before it needs it, whether a network can be used.

    Raises:
        FailedPrecondition: The weights are not to be had.
        InvalidArgument: It cannot be loaded from its folder, or cannot see images of this size.
    """
    torch.set_num_threads(threads)
    NetworkFeatures(network)(np.zeros((1, USUAL_SIZE_PX, USUAL_SIZE_PX, 3), np.uint8))


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
            InvalidArgument: The network cannot be loaded from its folder, cannot see images of this size, or has no
                finite features of one vector each.
        """
        if self._of == DEFAULT:
            return compute_features(pixels)
        network, features = self._loaded
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        side_px = self.size_px or pixels.shape[1]
        at_once = max(1, BATCH_IMAGES * USUAL_SIZE_PX**2 // max(side_px, USUAL_SIZE_PX) ** 2)
        found = []
        for start in range(0, len(pixels), at_once):
            images = torch.from_numpy(np.array(pixels[start : start + at_once])).permute(0, 3, 1, 2).to(device).float()
            if images.shape[-1] != side_px:
                images = functional.interpolate(images, size=(side_px, side_px), mode="bicubic", antialias=True)
                images = images.clamp(0, 255)
            found.append(features(images).float().cpu())
            self._check(found[-1], len(images))
        return torch.cat(found).numpy()

    def _check(self, features: torch.Tensor, images: int) -> None:
        """Raises InvalidArgument for features that measures cannot be computed with."""
        problem = ""
        if features.dim() != 2 or len(features) != images:
            problem = f"gives features of the shape {tuple(features.shape)} for {plural(images, 'image')}"
        elif not features.isfinite().all():
            problem = "gives features that are not finite"
        if problem:
            raise invalid_field(
                FIELD,
                self._of.folder or self._of.name,
                f"{problem}, and measures take a vector of numbers for each image",
                "use another network, or one whose features are pooled",
                reason="FEATURE_NETWORK_UNUSABLE",
            )

    @cached_property
    def _loaded(self) -> Loaded:
        of = self._of
        if of.folder:
            return _from_folder(of)
        if of.name == LITE0:
            lite0 = feature_network()
            return lite0, lambda images: features_of(lite0, images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what a file lacks, timm draws without an error
            network = create_network(of.name, 0, pretrained=True, image_size_px=of.size_px, fields=FIELDS)
        try_forward(network, of.name, of.size_px, fields=FIELDS)
        config = network.pretrained_cfg
        preprocessing = Preprocessing(tuple(config["mean"]), tuple(config["std"]))
        return network.eval(), lambda images: network(preprocessing.normalise(images))


def _description(network: FeatureNetwork) -> str:
    if network.folder:
        return f"{network.name} of a folder (digest {network.digest})"
    if network.name == LITE0:
        return NETWORK
    return f"{network.name} (pooled features, weights {weight_repositories().get(network.name, 'of timm')})"


def _from_folder(network: FeatureNetwork) -> Loaded:
    folder = NetworkFolder(verified_folder(network), FIELD, network.folder)
    preprocessing = Preprocessing(*channel_statistics(folder))
    load = _load_dinov2 if network.name in DINOV2 else _load_timm
    try:
        with torch.random.fork_rng(devices=[]):
            model, features, missing = load(network, folder)
    except SynthMixError:
        raise
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
    return model.eval(), lambda images: features(preprocessing.normalise(images))


def _load_dinov2(
    network: FeatureNetwork, folder: NetworkFolder
) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor], Collection[str]]:
    """A network of transformers, its features of normalised images, and the names of tensors that its folder lacks."""
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        folder.path,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    model.config.return_dict = True
    return model, lambda images: model(images).pooler_output, report["missing_keys"]


def _load_timm(
    network: FeatureNetwork, folder: NetworkFolder
) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor], Collection[str]]:
    """A network of timm, likewise: what the folder lacks, timm draws without an error."""
    model = timm.create_model(
        f"local-dir:{folder.path}", pretrained=True, num_classes=0, **_size_options(network, folder)
    )
    with safe_open(folder.path / WEIGHTS, "numpy") as tensors:
        return model, model, model.state_dict().keys() - set(tensors.keys())


def _size_options(network: FeatureNetwork, folder: NetworkFolder) -> dict[str, int]:
    """For networks that are built for a size: the wanted one, where the folder's is another."""
    config = folder.json(CONFIG)
    said = config.get("pretrained_cfg", config)
    own_px = config.get("model_args", {}).get("img_size") or said.get("input_size", [0])[-1]
    if not (own_px and said.get("fixed_input_size")):
        return size_options(network.name, network.size_px)
    return {} if own_px == network.size_px else {"img_size": network.size_px}
