"""Train images after the base model's autoencoder: the control `reconstructed_real`, and the floor of fidelity.

They tell "the generator is poor" from "the autoencoder loses it": what it loses, no generator on its latents can make.

reconstructions/{id}/index.parquet, images-*.parquet  the train part's images in order, as PNG
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from synthmix.image_data.image_table import ImageTableWriter
from synthmix.image_data.pixel_cache import image_side_px, pixels
from synthmix.image_data.split_parts import TrainPart
from synthmix.image_data.synthetic_images import ReconstructedImages, open_images
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.autoencoder import load_autoencoder, reconstruct
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, RECONSTRUCTIONS, ArtifactName

# Raised whenever the same images would be restored differently.
RECIPE_VERSION = 1


def make_reconstruction(store: ObjectStore, image_set: Manifest, train: TrainPart) -> ReconstructedImages:
    """Reconstructs the train part by the autoencoder that an image set comes from, unless that was done before.

    They are as large as the image set's images, and grey if those are.

    Raises:
        FailedPrecondition, InvalidArgument: The base model is not to be had any more.
    """
    name, request = _name_and_request(store, image_set, train)
    if find_manifest(store, name) is not None:
        return _open(store, name, train)
    adapter = read_manifest(store, ArtifactName(ADAPTERS, image_set.inputs["adapter"]))
    found = base_model.resolve_again(
        adapter.summary["base_model"], adapter.inputs["base_model"], field="adapter.base_model", store=store
    )
    restored = reconstruct(
        load_autoencoder(found.folder), pixels(store, train, request["size_px"]), grey=request["grey"]
    )
    table = ImageTableWriter(store, name)
    for index, (image, label) in enumerate(zip(restored, train.labels, strict=True)):
        table.add(_png(image, grey=request["grey"]), label=train.classes[label], index=index)
    inputs = {"train_split": train.digest, "base_model": adapter.inputs["base_model"]}
    write_manifest(store, Manifest(name, inputs, request, RECIPE_VERSION, tuple(table.close())))
    return _open(store, name, train)


def open_reconstruction(store: ObjectStore, image_set: Manifest, train: TrainPart) -> ReconstructedImages:
    """What make_reconstruction made. Raises NotFound."""
    name, _ = _name_and_request(store, image_set, train)
    return _open(store, name, train)


def _open(store: ObjectStore, name: ArtifactName, train: TrainPart) -> ReconstructedImages:
    return open_images(ReconstructedImages, store, read_manifest(store, name), train.classes)


def _name_and_request(store: ObjectStore, image_set: Manifest, train: TrainPart) -> tuple[ArtifactName, dict[str, Any]]:
    adapter = read_manifest(store, ArtifactName(ADAPTERS, image_set.inputs["adapter"]))
    request = {
        "train_split": train.digest,
        "base_model": adapter.inputs["base_model"],
        "size_px": image_side_px(store, image_set),
        "grey": adapter.summary["grey"],
    }
    return ArtifactName(RECONSTRUCTIONS, digest_of({**request, "recipe_version": RECIPE_VERSION})), request


def _png(image: np.ndarray, *, grey: bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(buffer, "PNG")
    return buffer.getvalue()
