"""Measures on a worker what a base model's autoencoder leaves of train images, before anything is trained on them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from synthmix.adapter_training.inputs import open_inputs
from synthmix.image_data.autoencoder_checks import CheckRequest, checked_rows, find_check, write_check
from synthmix.image_data.pixel_cache import are_grey, some_pixels
from synthmix.image_data.reconstruction_quality import reconstruction_quality
from synthmix.image_features.distances import paired_distance
from synthmix.image_features.features import NETWORK, compute_features
from synthmix.latent_diffusion.autoencoder import reconstruct
from synthmix.latent_diffusion.kept_models import lend
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.s3_object_store import open_object_store

# Of 1,024 pixels, each takes 0.2 GB.
FEATURES_AT_ONCE = 4


def measure(check: Mapping[str, Any], names: Mapping[str, str], report: Callable[[int], None], threads: int) -> None:
    """Writes the check, unless it is there: another adapter's operation may have been first.

    Args:
        check: A CheckRequest, as plain values.
        names: Where the train part and the base model are found, as an adapter's operation has them.

    Raises:
        SynthMixError: As open_inputs and lend, what keeps images from being read, and that the memory is not enough.
    """
    store, request = open_object_store(), CheckRequest(**check)
    if find_check(store, request) is not None:
        return
    torch.set_num_threads(threads)
    train, found = open_inputs(store, names, train_split=request.train_split, base_model_digest=request.base_model)
    images = some_pixels(store, train, checked_rows(train.labels), request.image_size)
    # Grey images are grey again in a study: the channels of synthetic ones are averaged.
    grey = are_grey(images)
    # The whole model, which is looked over when it is loaded, and stays for the training.
    autoencoder = lend(found).vae
    size_px = request.image_size
    with memory_told_at(
        "adapter.settings.image_size", f"an image of {size_px} pixels", "lower the adapter's image_size"
    ):
        # One at a time: of 512 pixels, each takes 1.5 GB with Stable Diffusion's.
        reconstructed = np.stack([reconstruct(autoencoder, image[None], grey=grey)[0] for image in images])
        before, after = (compute_features(some, at_once=FEATURES_AT_ONCE) for some in (images, reconstructed))
    distance = paired_distance(before, after)
    quality = replace(
        reconstruction_quality(images, reconstructed),
        kid=round(distance.value, 3),
        kid_low=round(distance.low, 3),
        kid_high=round(distance.high, 3),
        kid_by_chance=round(distance.by_chance, 3),
        feature_network=NETWORK,
    )
    write_check(store, request, quality)
