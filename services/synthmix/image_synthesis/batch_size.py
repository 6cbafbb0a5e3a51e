"""How many images are made at once: as many as are worth it, and as the memory has room for."""

from synthmix.latent_diffusion.autoencoder import MEMORY_SHARE, autoencoder_bytes, free_memory_bytes
from synthmix.latent_diffusion.loading import LatentDiffusion

# Measured: on a processor, 16 images at once cost as much each as 64. A GPU takes a whole shard of small ones.
MOST_IMAGES = {"cpu": 16}
MOST_IMAGES_ELSEWHERE = 64
# Tensors that are there at once at a UNet's largest, each as large as one of its first level.
UNET_TENSORS = 60


def images_at_once(model: LatentDiffusion, size_px: int) -> int:
    """At least one."""
    room = MEMORY_SHARE * free_memory_bytes(model.device) // image_bytes(model, size_px)
    return int(max(1, min(MOST_IMAGES.get(model.device.type, MOST_IMAGES_ELSEWHERE), room)))


def image_bytes(model: LatentDiffusion, size_px: int) -> int:
    """What an image takes while it is made, at most, with guidance."""
    side = size_px // model.pipeline.vae_scale_factor
    unet = 2 * UNET_TENSORS * side**2 * model.unet.config.block_out_channels[0] * model.dtype.itemsize
    return int(max(unet, autoencoder_bytes(model.vae, size_px)))
