"""An inversion finds the noise that an image is made of, and circles go through the noise of two."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from known_noise import DEVIATION, MEAN, OF_BUILTIN, OF_STABLE_DIFFUSION, model_of
from synthmix.latent_diffusion.autoencoder import encode_images
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.denoising import Guidance, StartNoise, denoise, encoded, first_level, named_sampler
from synthmix.latent_diffusion.inversion import clean_and_noise, inversion_levels, inverted, on_circle
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.latent_diffusion.schedulers import EPSILON, SAMPLE, VELOCITY

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["a round cell", "a flat cell"]
SIZE_PX = 32
ZERO_SNR = {"rescale_betas_zero_snr": True}


def of_known(config: dict[str, Any], latents: torch.Tensor, steps: int, last: int) -> torch.Tensor:
    conditions = [Conditions(torch.zeros(1, 1, 1))] * len(latents)
    return inverted(model_of(config), latents, conditions, size_px=1, steps=steps, last=last)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction_type", [EPSILON, VELOCITY, SAMPLE])
@pytest.mark.parametrize("last", [400, 999])
def test_it_finds_the_noise_that_is_known(prediction_type: str, last: int, zero_snr: bool) -> None:
    """Latents of a normal distribution stay as many deviations from the mean as they are, at each noise level."""
    config = OF_STABLE_DIFFUSION | {"prediction_type": prediction_type} | (ZERO_SNR if zero_snr else {})
    deviations = torch.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    signal = float(model_of(config).pipeline.scheduler.alphas_cumprod[last])
    expected = math.sqrt(signal) * MEAN + math.sqrt(signal * DEVIATION**2 + 1 - signal) * deviations
    errors = [
        (of_known(config, MEAN + DEVIATION * deviations, steps, last) - expected).abs().max() for steps in (20, 80, 320)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.03


def test_levels_end_at_the_last_one() -> None:
    assert inversion_levels(999, 4) == [249, 499, 749, 999]
    assert inversion_levels(960, 1) == [960]
    assert inversion_levels(2, 6) == [-1, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("prediction_type", [EPSILON, VELOCITY, SAMPLE])
def test_image_and_noise_of_every_answer(prediction_type: str) -> None:
    clean, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    latents = math.sqrt(0.3) * clean + math.sqrt(0.7) * noise
    answers = {EPSILON: noise, VELOCITY: math.sqrt(0.3) * noise - math.sqrt(0.7) * clean, SAMPLE: clean}
    found = clean_and_noise(answers[prediction_type], latents, 0.3, prediction_type)
    torch.testing.assert_close(found, (clean, noise))
    with pytest.raises(ValueError, match="'flow' is no prediction type"):
        clean_and_noise(noise, latents, 0.3, "flow")


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_sampler_makes_the_images_again(base: LatentDiffusion, name: str, spacing: str) -> None:
    """From every sampler's own first noise level, and with the same prompts."""
    model = shared_copy(base)
    # An untrained UNet that answers with velocity takes no latents out of bounds, as one that answers with noise does.
    config = base.pipeline.scheduler.config
    model.pipeline.scheduler = DDIMScheduler.from_config(config, prediction_type=VELOCITY, **ZERO_SNR)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    clean = encode_images(model.vae, images, 2)
    conditions = encoded(model, PROMPTS)
    prompts = [conditions[prompt] for prompt in PROMPTS]
    errors = []
    for steps in (10, 50, 200):
        sampler = named_sampler(model, name, {"timestep_spacing": spacing}, 0.0)
        last = first_level(model, sampler, steps)
        noise = inverted(model, clean, prompts, size_px=SIZE_PX, steps=steps, last=last)
        made = denoise(
            model,
            prompts,
            [conditions[""]] * 2,
            [torch.Generator().manual_seed(number) for number in range(2)],
            size_px=SIZE_PX,
            steps=steps,
            guidance=Guidance(1.0),
            start=StartNoise(noise),
            sampler=sampler,
        )
        errors.append(float((made - clean).norm() / noise.norm()))
    assert errors[0] > errors[1] > errors[2], errors
    assert errors[2] < min(0.05, errors[0] / 4), errors


def test_where_the_last_level_is_noise_alone_nothing_is_divided_by_zero() -> None:
    latents = torch.full((1, 1, 1, 1), MEAN + DEVIATION)
    signals = model_of(OF_BUILTIN).pipeline.scheduler.alphas_cumprod
    assert signals[999] == 0
    assert of_known(OF_BUILTIN, latents, 200, 999).item() == pytest.approx(1, abs=0.02)


def pair(*, lengths: tuple[float, float] = (1.0, 1.0)) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Two latents, and the angle between them."""
    first, second = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    second = second + 0.5 * first
    first, second = lengths[0] * first / first.norm(), lengths[1] * second / second.norm()
    return first, second, math.acos(float((first * second).sum()) / (lengths[0] * lengths[1]))


def at(first: torch.Tensor, second: torch.Tensor, angle: float) -> torch.Tensor:
    return on_circle(first, second, torch.tensor([angle], dtype=torch.float64))


@pytest.mark.parametrize("lengths", [(1.0, 1.0), (15.0, 17.0)])
def test_a_circle_goes_through_both_and_closes(lengths: tuple[float, float]) -> None:
    first, second, theta = pair(lengths=lengths)
    torch.testing.assert_close(at(first, second, 0.0), first)
    torch.testing.assert_close(at(first, second, theta), second)
    torch.testing.assert_close(at(first, second, math.tau), first)
    torch.testing.assert_close(at(first, second, math.tau - 1e-9), first, atol=1e-6, rtol=0)
    for angle in (0.5, 2.0, 4.0, 6.0):
        assert min(lengths) - 1e-9 <= float(at(first, second, angle).norm()) <= max(lengths) + 1e-9


def test_between_equally_long_ones_it_is_spherical_interpolation() -> None:
    first, second, theta = pair()
    for share in (0.25, 0.5, 1.5, 3.0):
        of_first, of_second = math.sin((1 - share) * theta) / math.sin(theta), math.sin(share * theta) / math.sin(theta)
        torch.testing.assert_close(at(first, second, share * theta), of_first * first + of_second * second)


def test_each_pair_has_a_circle_of_its_own() -> None:
    latents = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    angles = torch.tensor([0.3, 2.0, 5.0])
    together = on_circle(latents[:3], latents[3:], angles)
    alone = [
        on_circle(*[part[None] for part in of_one]) for of_one in zip(latents[:3], latents[3:], angles, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.dtype == torch.float32
    for first, second in itertools.pairwise(angles):
        assert not torch.equal(
            on_circle(latents[:1], latents[3:4], first[None]), on_circle(latents[:1], latents[3:4], second[None])
        )


def test_two_that_are_one_are_that_one() -> None:
    first, _, _ = pair()
    torch.testing.assert_close(at(first.float(), 2 * first.float(), 3.0), first.float())
