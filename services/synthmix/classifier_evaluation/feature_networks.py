"""Which network an evaluation's measures go by: found and checked by front ends, without torch and timm.

A folder has config.json and model.safetensors, as timm's `save_for_hf` or transformers' `save_pretrained` write them.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor import Descriptor

from synthmix.api.evaluations.v1.evaluations_pb2 import MeasureSettings
from synthmix.classifier_evaluation.architectures import (
    architectures,
    nearest_names,
    trained_one_like,
    weight_repositories,
)
from synthmix.classifier_evaluation.pretrained_weights import NetworkFields, check_weights
from synthmix.image_features.lite0 import LITE0
from synthmix.latent_diffusion.model_folder import ModelFolder, is_number, is_whole, shown
from synthmix.service_kit.digests import digest_of, sha256_of_file
from synthmix.service_kit.environment import base_model_folders, offered_folder
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, invalid_field
from synthmix.service_kit.safetensors_header import read_header
from synthmix.service_kit.settings_messages import rules_of

FIELD = "evaluation.measures.feature_network"
IMAGE_SIZE = "evaluation.measures.image_size"
FIELDS = NetworkFields(FIELD, IMAGE_SIZE, f"use {LITE0}")
# The key of a network in an evaluation's request and summary.
FEATURE_NETWORK = "feature_network"
# The side if a request gives none: what nearly all networks were trained on or can see. Lite0 sees images as they are.
USUAL_SIZE_PX = 224
_SIZE_RULES = rules_of(cast(Descriptor, MeasureSettings.DESCRIPTOR).fields_by_name["image_size"])
LEAST_SIZE_PX, MOST_SIZE_PX = int(_SIZE_RULES.gte), int(_SIZE_RULES.lte)

CONFIG, WEIGHTS, PREPROCESSING = "config.json", "model.safetensors", "preprocessor_config.json"
# transformers loads an adapter that lies beside a network.
ADAPTER = "adapter_config.json"
# Of statistics of brightness, 0 to 1: far beyond any that are used, and what is divided by them stays finite.
LARGEST_MEAN, LEAST_STD, LARGEST_STD = 10, 1e-3, 10
# Of transformers, those whose features are their class token's.
DINOV2 = ("dinov2", "dinov2_with_registers")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Channels = tuple[float, float, float]
# timm names its vision transformers so.
_PATCH = re.compile(r"patch(\d+)")


@dataclass(frozen=True)
class FeatureNetwork:
    """A network whose features measures go by.

    Attributes:
        name: An architecture of timm, or one of DINOV2.
        size_px: Side of the images that it sees; 0 for the side that they have.
        folder: Where it is, if its weights are not those that timm knows.
        digest: Of the folder's files.
    """

    name: str
    size_px: int
    folder: str = ""
    digest: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What an evaluation is addressed by. A folder goes by what is in it, not by where it is."""
        repository = "" if self.folder else weight_repositories().get(self.name, "")
        return {"name": self.name, "size_px": self.size_px, "digest": self.digest, "repository": repository}


# It sees images at the side that they have.
DEFAULT = FeatureNetwork(LITE0, 0)


@dataclass(frozen=True)
class NetworkFolder(ModelFolder):
    """A folder that is to be a feature network."""

    def fault(self, problem: str, remedy: str, reason: str = "") -> InvalidArgument:
        return invalid_field(self.field, self.reference, problem, remedy, reason="FEATURE_NETWORK_UNUSABLE")


def find_network(settings: MeasureSettings) -> FeatureNetwork:
    """The network that settings, with their defaults, mean.

    Raises:
        InvalidArgument: There is no such network, it has no weights, or it cannot see images of this size.
    """
    reference = settings.feature_network
    if "/" in reference:
        return _in_folder(reference, settings.image_size or USUAL_SIZE_PX)
    if reference not in architectures():
        raise invalid_field(
            FIELD,
            reference,
            "is not an architecture of timm",
            f"did you mean {nearest_names(reference)}? A folder is named by its absolute path",
            reason="UNKNOWN_ARCHITECTURE",
        )
    if not architectures()[reference]:
        raise invalid_field(
            FIELD,
            reference,
            "has no weights that timm knows, and features of an untrained network tell nothing",
            f"use {trained_one_like(reference)}, or a folder with weights",
            reason="NO_PRETRAINED_WEIGHTS",
        )
    if reference == LITE0:
        return FeatureNetwork(LITE0, settings.image_size)
    size_px = settings.image_size or USUAL_SIZE_PX
    _check_patches(reference, size_px)
    return FeatureNetwork(reference, size_px)


def weight_warnings(network: FeatureNetwork) -> list[str]:
    """Warnings of weights that workers may not find. Raises FailedPrecondition if they cannot be had."""
    return [] if network.folder else check_weights(network.name, fields=FIELDS)


def verified_folder(network: FeatureNetwork) -> Path:
    """A network's folder on this worker.

    Raises:
        FailedPrecondition: It is not there, or not the one that the front end saw.
    """
    folder, problem = offered_folder(network.folder), "there is no such folder"
    if folder is not None:
        try:
            if _digest(folder, _stamps(folder)) == network.digest:
                return folder
            problem = "its files differ"
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
    raise FailedPrecondition(
        f"the feature network {network.folder!r} on this worker is not the one that the service saw ({problem}); give "
        "every node the same folder",
        reason="FEATURE_NETWORK_DIFFERS",
    )


def channel_statistics(folder: NetworkFolder) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel's brightness, 0 to 1, that a folder's network expects."""
    config = folder.json(CONFIG)
    file, said, names = CONFIG, config, ("mean", "std")
    if "architecture" in config:
        said = config.get("pretrained_cfg", config)
        if not isinstance(said, dict):
            raise folder.unreadable(CONFIG, f"has pretrained_cfg {shown(said)}, which is not a JSON object")
    else:
        file, names = PREPROCESSING, ("image_mean", "image_std")
        said = folder.json(PREPROCESSING) if (folder.path / PREPROCESSING).exists() else {}
    mean = _of_channels(folder, file, names[0], said.get(names[0], IMAGENET_MEAN), -LARGEST_MEAN, LARGEST_MEAN)
    std = _of_channels(folder, file, names[1], said.get(names[1], IMAGENET_STD), LEAST_STD, LARGEST_STD)
    return mean, std


def _of_channels(folder: NetworkFolder, file: str, name: str, values: object, low: float, high: float) -> Channels:
    if (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(is_number(value) and low <= value <= high for value in values)
    ):
        return float(values[0]), float(values[1]), float(values[2])
    raise folder.unreadable(
        file, f"has {name} {shown(values)}, which is not a number from {low:g} to {high:g} for each of three channels"
    )


def _in_folder(reference: str, size_px: int) -> FeatureNetwork:
    path = offered_folder(reference)
    if path is None:
        places = " or ".join(map(str, base_model_folders()))
        raise invalid_field(
            FIELD,
            reference,
            "is no folder that this server offers",
            f"give the absolute path of one below {places}"
            if places
            else "use an architecture of timm; the operator says where folders may lie, by SYNTHMIX_BASE_MODEL_FOLDERS "
            "or the chart's baseModels.folders",
            reason="FEATURE_NETWORK_NOT_FOUND",
        )
    folder = NetworkFolder(path, FIELD, reference)
    try:
        return FeatureNetwork(_kind(folder, size_px), size_px, str(path), _digest(path, _stamps(path)))
    except OSError as error:
        raise folder.fault(
            f"cannot be read ({error.strerror})", "give a folder that the service and its workers can read"
        ) from error


def _kind(folder: NetworkFolder, size_px: int) -> str:
    """The name of the network that is in a folder. Raises InvalidArgument if it cannot be used."""
    for name in (CONFIG, WEIGHTS):
        if not (folder.path / name).is_file():
            raise folder.fault(
                f"has no {name}",
                "give a folder as timm's save_for_hf or transformers' save_pretrained write it; pickled weights are "
                "never loaded",
            )
    if (folder.path / ADAPTER).exists():
        raise folder.fault(
            f"has {ADAPTER}, and transformers would load that adapter into it",
            "give a folder with the network alone, with the adapter merged into its weights if it is wanted",
        )
    config = folder.json(CONFIG)
    try:
        read_header(folder.path / WEIGHTS)
    except ValueError as error:
        raise folder.unreadable(WEIGHTS, f"is no safetensors file: {error}") from error
    channel_statistics(folder)
    if "architecture" in config:
        return _timm_kind(folder, config, size_px)
    kind = config.get("model_type")
    if kind not in DINOV2:
        raise folder.fault(
            f"is {shown(kind)} by its {CONFIG}" if kind else f"does not say in {CONFIG} what it is",
            f"give a network of timm, or one of transformers' {' and '.join(DINOV2)}",
        )
    patch_px = config.get("patch_size")
    if not isinstance(patch_px, int) or not is_whole(patch_px, 1, MOST_SIZE_PX):
        raise folder.unreadable(CONFIG, f"has patch_size {shown(patch_px)}, which is not from 1 to {MOST_SIZE_PX}")
    _check_multiple(folder.reference, patch_px, size_px)
    return str(kind)


def _timm_kind(folder: NetworkFolder, config: dict[str, Any], size_px: int) -> str:
    name = config["architecture"]
    if not isinstance(name, str) or name not in architectures():
        raise folder.fault(
            f"is {shown(name)} by its {CONFIG}, which the installed timm does not have",
            f"did you mean {nearest_names(str(name))}?",
        )
    _check_patches(name, size_px)
    return name


def _check_patches(architecture: str, size_px: int) -> None:
    found = _PATCH.search(architecture)
    if found:
        _check_multiple(architecture, int(found[1]), size_px)


def _check_multiple(name: str, patch_px: int, size_px: int) -> None:
    """Raises InvalidArgument unless images can be cut into a network's patches."""
    if size_px % patch_px and LEAST_SIZE_PX <= size_px <= MOST_SIZE_PX:
        below = size_px // patch_px * patch_px
        near = [size for size in (below, below + patch_px) if LEAST_SIZE_PX <= size <= MOST_SIZE_PX]
        raise invalid_field(
            IMAGE_SIZE,
            size_px,
            f"cannot be cut into the patches of {patch_px} pixels that {name} sees",
            f"use a multiple of {patch_px}, such as {' or '.join(map(str, near or [patch_px]))}",
            reason="IMAGE_SIZE_UNSUPPORTED",
        )


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file that makes a network."""
    found = [folder / name for name in (CONFIG, PREPROCESSING, WEIGHTS, ADAPTER) if (folder / name).is_file()]
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)


@lru_cache(maxsize=16)  # sizes and times are part of the key only: gigabytes are read once, and again if they changed
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    return digest_of({name: sha256_of_file(folder / name) for name, _, _ in files})
