"""The noise that train images would be made of: found once for each of them and worker.

Sources are inverted in batches of their class's order, which neither shards nor the number of images change, and so the
same noise is found wherever an image is made.
"""

from collections.abc import Hashable, Mapping, Sequence

import torch

from synthmix.image_data.pixel_cache import some_pixels
from synthmix.image_data.split_parts import TrainPart
from synthmix.image_synthesis.batch_size import images_at_once
from synthmix.image_synthesis.source_images import SourceImage
from synthmix.latent_diffusion.autoencoder import encode_images
from synthmix.latent_diffusion.denoising import encoded
from synthmix.latent_diffusion.inversion import inverted
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.kept_values import KeptValues
from synthmix.service_kit.machine_memory import available_memory_bytes
from synthmix.service_kit.object_store import ObjectStore

# Of the memory that is free without them.
KEPT_SHARE = 0.05

NOISE: KeptValues[torch.Tensor] = KeptValues(
    lambda noise: noise.nbytes,
    lambda kept_bytes: KEPT_SHARE * (available_memory_bytes() + kept_bytes),
)


def source_noise(
    store: ObjectStore,
    train: TrainPart,
    model: LatentDiffusion,
    ordered: Sequence[SourceImage],
    prompts: Mapping[int, str],
    wanted: set[int],
    *,
    size_px: int,
    original_px: int | None,
    steps: int,
    last: int,
    of_model: Hashable,
) -> dict[int, torch.Tensor]:
    """The noise (channels, size, size) of each source that is wanted, by its row, float32, on the CPU.

    Args:
        ordered: Those of a class, in the order in which they come.
        prompts: Of each one's row, as the model gets it.
        wanted: Rows.
        steps: Of an inversion.
        last: The noise level to which it goes.
        of_model: What tells the model's weights from any other's.
    """
    found: dict[int, torch.Tensor] = {}
    at_once = images_at_once(model, size_px)
    for begin in range(0, len(ordered), at_once):
        rows = sorted(source.row for source in ordered[begin : begin + at_once])
        if wanted.isdisjoint(rows):
            continue
        texts = [prompts[row] for row in rows]

        def invert(rows: list[int] = rows, texts: list[str] = texts) -> torch.Tensor:
            latents = encode_images(model.vae, some_pixels(store, train, rows, size_px), at_once)
            conditions = encoded(model, texts)
            of_rows = [conditions[text] for text in texts]
            return inverted(
                model, latents, of_rows, size_px=size_px, steps=steps, last=last, original_px=original_px
            ).cpu()

        noise = NOISE.get((of_model, train.digest, size_px, steps, last, tuple(rows), tuple(texts)), invert)
        found |= dict(zip(rows, noise, strict=True))
    return found
