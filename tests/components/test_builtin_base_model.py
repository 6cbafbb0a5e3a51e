"""What the weights that are shipped can do: properties that a study rests on, not how good pictures look."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from pretraining.corpus import MITOCHECK_HELD_OUT
from real_images import real_images
from synthmix.latent_diffusion.autoencoder import encode_images, load_autoencoder, reconstruct
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.loading import LatentDiffusion, encode_prompts, load

BYTES = 25_000_000


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    torch.set_num_threads(1)
    return load(BUILTIN_FOLDER, torch.device("cpu"))


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    """Ten images of each phenotype that the base model never saw, uint8 (60, 64, 64, 3)."""
    source = real_images("mitocheck")
    paths = [path for label in sorted(MITOCHECK_HELD_OUT) for path in sorted((source / label).iterdir())[:10]]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def psnr_db(model: LatentDiffusion, latents: torch.Tensor, pixels: np.ndarray) -> float:
    with torch.inference_mode():
        restored = model.vae.decode(latents).sample.clamp(-1.0, 1.0)
    error = restored - (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1.0)
    return float((10.0 * torch.log10(4.0 / error.square().mean(dim=(1, 2, 3)))).mean())


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in BUILTIN_FOLDER.rglob("*") if path.is_file()) <= BYTES


def test_class_names_that_it_never_saw_have_states_of_their_own(model: LatentDiffusion) -> None:
    """Were two names one to the text encoder, no adapter of the UNet could tell the classes apart."""
    names = [*sorted(MITOCHECK_HELD_OUT), "293A", "HT1080", "basophil", "eosinophil"]
    states = encode_prompts(model, [f"a microscopy image of a {name} cell" for name in names]).embeddings
    size = states.flatten(1).norm(dim=1).mean()
    for (first, one), (second, other) in combinations(zip(names, states, strict=True), 2):
        assert (one - other).norm() > 0.1 * size, (first, second)


def test_latents_are_scaled_as_the_noise_schedule_expects(model: LatentDiffusion, nuclei: np.ndarray) -> None:
    latents = encode_images(model.vae, nuclei, 32)
    assert latents.shape[1] == model.unet.config.in_channels
    assert 0.5 < latents.std() < 2.0


def test_unseen_nuclei_are_restored_and_the_decoder_stands_a_diffusion_models_error(
    model: LatentDiffusion, nuclei: np.ndarray
) -> None:
    latents = encode_images(model.vae, nuclei, 32)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    exact = psnr_db(model, latents, nuclei)
    assert exact > 39.0
    assert psnr_db(model, latents + 0.2 * noise, nuclei) > exact - 3.5


def test_the_autoencoder_alone_restores_what_the_whole_model_does(model: LatentDiffusion, nuclei: np.ndarray) -> None:
    few = nuclei[:8]
    restored = reconstruct(load_autoencoder(BUILTIN_FOLDER), few, grey=True)
    assert restored.shape == few.shape and (restored == restored[..., :1]).all()
    error = (restored.astype(float) - few) / 127.5
    assert 10 * np.log10(4 / (error**2).mean()) > 36.0
    coloured = reconstruct(model.vae, few, grey=False)
    assert np.abs(coloured.astype(float).mean(axis=-1) - restored[..., 0]).max() <= 1.5
