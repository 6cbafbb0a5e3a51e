"""A base model with an adapter in it, or with several, made ready for sampling."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch

from synthmix.image_synthesis.unet_rewrites import keep_keys_and_values, rewrite_for_sampling
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.adapters import (
    PARTS,
    adapted_parts,
    adapter_layers,
    add_changes,
    add_up,
    changes,
    load_adapter,
    load_sum,
    scale_layers,
    scale_weights,
    weights,
)
from synthmix.latent_diffusion.class_tokens import class_tokens
from synthmix.latent_diffusion.kept_models import lend
from synthmix.latent_diffusion.loading import LatentDiffusion, answers
from synthmix.latent_diffusion.part_layers import UNET
from synthmix.latent_diffusion.unet_modules import multiplies_in_bfloat16
from synthmix.service_kit.adapter_payloads import ADAPTER_FILES, in_folder
from synthmix.service_kit.artifacts import Manifest, open_payload, read_manifest
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.kept_values import KeptValues
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.safetensors_header import read_header

# What SynthesisSettings.precision may say: see its comment in the proto.
BFLOAT16 = "bfloat16"

# The one in use: a worker makes many shards of one image set.
ADAPTED: KeptValues[LatentDiffusion] = KeptValues(lambda model: 1, lambda kept: 0, newest_always=True)


def adapted_model(
    store: ObjectStore,
    adapter_name: ArtifactName,
    precision: str,
    folders: tuple[str, ...] = ("",),
    shares: tuple[float, ...] = (1.0,),
    scale: float = 1.0,
) -> LatentDiffusion:
    """The adapter's base model with the adapter in it, made ready for sampling.

    Args:
        folders: Of the one that is meant, of an artifact of several adapters; or of those that are fused.
        shares: What each one's update is multiplied with, where several are fused.
        scale: What their sum, or the only one's update, is multiplied with.

    Raises:
        DataLoss: The adapter changes nothing, cannot be read, or has weights that are no numbers.
    """
    key = (adapter_name, precision, folders, shares, scale)
    return ADAPTED.get(key, lambda: _adapted_model(store, adapter_name, precision, folders, shares, scale))


def _adapted_model(
    store: ObjectStore,
    adapter_name: ArtifactName,
    precision: str,
    folders: tuple[str, ...],
    shares: tuple[float, ...],
    scale: float,
) -> LatentDiffusion:
    adapter = read_manifest(store, adapter_name)
    model = _lent(store, adapter)
    unadapted = weights(model)
    _put_beside(store, model, adapter, folders, shares)
    with _finite(adapter):
        make_ready(model, precision, unadapted, scale)
    return model


def summed_model(
    store: ObjectStore, adapters: tuple[ArtifactName, ...], precision: str, factors: tuple[float, ...], scale: float
) -> LatentDiffusion:
    """The base model of these adapters with the weighted sum of what they change in it, made ready for sampling.

    Args:
        adapters: Of one base model, each one for all classes, without tokens of classes.
        factors: What each one's changes are multiplied with.
        scale: What their sum is multiplied with.

    Raises:
        DataLoss: As adapted_model.
    """
    key = (adapters, precision, factors, scale)
    return ADAPTED.get(key, lambda: _summed_model(store, adapters, precision, factors, scale))


def _summed_model(
    store: ObjectStore, adapters: tuple[ArtifactName, ...], precision: str, factors: tuple[float, ...], scale: float
) -> LatentDiffusion:
    manifests = [read_manifest(store, name) for name in adapters]
    changed = []
    for adapter in manifests:
        alone = _lent(store, adapter)
        unadapted = weights(alone)
        _put_beside(store, alone, adapter, ("",), (1.0,))
        with _finite(adapter):
            _merge(alone)
        changed.append(changes(alone, unadapted))
        del alone  # or it stays beside the next one
    model = _lent(store, manifests[0])
    add_changes(model, changed, [scale * factor for factor in factors])
    make_ready(model, precision)
    return model


def _lent(store: ObjectStore, adapter: Manifest) -> LatentDiffusion:
    """A copy of the adapter's base model."""
    found = base_model.resolve_again(
        adapter.summary["base_model"], adapter.inputs["base_model"], field="adapter.settings.base_model", store=store
    )
    return lend(found)


def _put_beside(
    store: ObjectStore, model: LatentDiffusion, adapter: Manifest, folders: Sequence[str], shares: Sequence[float]
) -> None:
    """Puts an adapter, or the sum of several of an artifact, beside the weights. Raises as adapted_model."""
    before = answers(model)
    with tempfile.TemporaryDirectory() as temporary:
        places: list[Path] = []
        names = {payload.name for payload in adapter.payloads}
        for part in folders:
            places.append(Path(temporary) / f"adapter-{len(places)}")
            for file in ADAPTER_FILES:
                name = in_folder(part, file)
                if name in names:
                    (places[-1] / file).parent.mkdir(parents=True, exist_ok=True)
                    with open_payload(store, adapter, name) as stored, (places[-1] / file).open("wb") as copy:
                        shutil.copyfileobj(stored, copy)
        _load(model, places, shares, adapter)
    check_adapter_has_effect(model, before, adapter)


@contextmanager
def _finite(adapter: Manifest) -> Iterator[None]:
    """PEFT refuses to merge weights that are not finite; here it is DataLoss."""
    try:
        yield
    except ValueError as error:
        raise DataLoss(
            f"{adapter.name} has weights that are no numbers (NaN or infinite); delete it and train it again with a "
            "lower learning_rate",
            reason="ADAPTER_UNREADABLE",
        ) from error


def make_ready(
    model: LatentDiffusion,
    precision: str,
    unadapted: Mapping[str, Mapping[str, torch.Tensor]] = MappingProxyType({}),
    scale: float = 1.0,
) -> None:
    """Makes a copy of a base model, with an adapter or without one, as fast as it gets on its device.

    Args:
        unadapted: The weights without the adapter; of use for other scales than 1.
        scale: What the adapter's update is multiplied with.
    """
    _put_in(model, unadapted, scale)
    if model.device.type != "cpu":
        keep_keys_and_values(model.unet)
        return
    if precision != BFLOAT16 or multiplies_in_bfloat16():
        rewrite_for_sampling(model.unet)
    else:
        keep_keys_and_values(model.unet)
    if precision == BFLOAT16:
        model.unet.bfloat16()


def _put_in(model: LatentDiffusion, unadapted: Mapping[str, Mapping[str, torch.Tensor]], scale: float) -> None:
    """Puts an adapter that is beside the weights into them, where that is faster, and multiplies what it changes."""
    layers = [layer for part in PARTS for layer in adapter_layers(getattr(model, part)).values()]
    # Adding a small update to weights in bfloat16 would round it away: a GPU's adapter stays beside them.
    if model.device.type != "cpu" and (scale == 1 or add_up(layers)):
        if scale != 1:
            scale_layers(model, scale)
        return
    _merge(model)
    if scale != 1:
        scale_weights(model, unadapted, scale)


def _merge(model: LatentDiffusion) -> None:
    """Puts an adapter that is beside the weights into them. Raises ValueError, which is PEFT's, if it is not finite."""
    adapted = adapted_parts(model)
    if adapted:
        # safe_fusing puts new weights in the place of old ones, which are the base model's, instead of adding to them.
        model.pipeline.fuse_lora(components=adapted, safe_fusing=True)
        model.pipeline.unload_lora_weights()


def _load(model: LatentDiffusion, folders: Sequence[Path], shares: Sequence[float], adapter: Manifest) -> None:
    """Raises DataLoss for weights that no library shall read, or that don't fit."""
    try:
        for folder in folders:
            for path in folder.rglob("*.safetensors"):
                read_header(path)
        if len(folders) > 1:
            load_sum(model, folders, shares)
        else:
            load_adapter(model, folders[0])
    except ValueError as error:
        raise DataLoss(
            f"{adapter.name} has weights that cannot be used ({error}); delete it and train it again",
            reason="ADAPTER_UNREADABLE",
        ) from error


def check_adapter_has_effect(model: LatentDiffusion, before: Mapping[str, torch.Tensor], adapter: Manifest) -> None:
    """Raises DataLoss if the loaded adapter changes nothing: weights under unknown names load without an error.

    Args:
        before: What `answers` was without it.
    """
    after, adapted = answers(model), adapted_parts(model)
    if not adapted and class_tokens(model) is None:
        adapted = [UNET]
    for part in adapted:
        if torch.equal(before[part], after[part]):
            raise DataLoss(
                f"{adapter.name} was loaded and changes nothing in the {part}; delete it and train it again",
                reason="ADAPTER_WITHOUT_EFFECT",
            )
