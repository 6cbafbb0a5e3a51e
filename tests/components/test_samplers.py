"""What each sampler can do, against diffusers' classes and against noise whose right answer is known."""

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from known_noise import DEVIATION, MEAN, OF_BUILTIN, OF_STABLE_DIFFUSION, model_of
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_synthesis.sampler_options import check_sampler, check_schedule, sampler_options
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.denoising import Guidance, Start, StartNoise, denoise, named_sampler
from synthmix.latent_diffusion.schedulers import EPSILON, NOT_OFFERED, SCHEDULERS, NoiseSchedule
from synthmix.service_kit.errors import Problems

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 1500
# Fewer steps than the deterministic ones of second order need, for those that add noise or are of first order.
STEPS = 40
DISTILLED = ("LCMScheduler", "TCDScheduler")


def sampled(
    config: dict[str, Any], name: str, steps: int = STEPS, strength: float | None = None, **options: Any
) -> Any:
    """What is made of noise, or of latents of the right distribution: their mean and deviation."""
    settings = SynthesisSettings(steps=steps, guidance_scale=1.0, sampler=name, **options)
    problems = Problems()
    check_sampler(settings, problems, field="settings")
    check_schedule(settings, schedule_of(config), problems, field="settings")
    problems.raise_if_any()
    model = model_of(config)
    conditions = [Conditions(torch.zeros(1, 1, 1))] * IMAGES
    start = None
    if strength is not None:
        clean = MEAN + DEVIATION * torch.randn((IMAGES, 1, 1, 1), generator=torch.Generator().manual_seed(7))
        start = Start(clean, int(steps * strength))
    made = denoise(
        model,
        conditions,
        conditions,
        [torch.Generator().manual_seed(image) for image in range(IMAGES)],
        size_px=1,
        steps=steps,
        guidance=Guidance(1.0),
        start=start,
        sampler=named_sampler(model, name, sampler_options(settings), settings.eta),
    )
    return made.mean().item(), made.std().item()


def schedule_of(config: dict[str, Any]) -> NoiseSchedule:
    return NoiseSchedule(
        "DDIMScheduler",
        config.get("prediction_type", EPSILON),
        1000,
        zero_terminal_snr=config.get("rescale_betas_zero_snr", False),
    )


def cases(has: Callable[[Any], Any]) -> list[Any]:
    return [pytest.param(name, id=name.removesuffix("Scheduler")) for name, one in SCHEDULERS.items() if has(one)]


def test_the_table_says_what_diffusers_classes_take() -> None:
    for name, sampler in SCHEDULERS.items():
        kind = getattr(diffusers, name)
        made, step = inspect.signature(kind).parameters, inspect.signature(kind.step).parameters
        assert sampler.zero_terminal_snr == ("rescale_betas_zero_snr" in made), name
        assert not sampler.sigma_spacings or {"use_karras_sigmas", "use_exponential_sigmas"} <= set(made), name
        assert not sampler.spacings or "timestep_spacing" in made, name
        assert bool(sampler.orders) == ("solver_order" in made), name
        assert not sampler.algorithms or "algorithm_type" in made, name
        assert sampler.has_eta == ("eta" in step), name
        assert sampler.answers == kind.order, name
        if sampler.most_steps:
            assert made["original_inference_steps"].default == sampler.most_steps, name


def test_every_scheduler_of_diffusers_is_offered_or_known_not_to_be() -> None:
    """Of those that Stable Diffusion's pipelines take."""
    of_stable_diffusion = {kind.name for kind in diffusers.schedulers.KarrasDiffusionSchedulers}
    assert of_stable_diffusion <= set(SCHEDULERS) | set(NOT_OFFERED)
    assert not set(SCHEDULERS) & set(NOT_OFFERED)


@pytest.mark.parametrize("name", cases(lambda one: True))
def test_images_of_noise_are_spread_as_they_should_be(name: str) -> None:
    mean, deviation = sampled(OF_STABLE_DIFFUSION, name)
    # The last noise level of Stable Diffusion is not noise alone, which moves the mean a little.
    assert mean == pytest.approx(MEAN, abs=0.04)
    if name in DISTILLED:  # which take a step for the whole way
        assert 0.25 < deviation < 0.55
    else:
        assert deviation == pytest.approx(DEVIATION, abs=0.08)


@pytest.mark.parametrize("name", cases(lambda one: one.zero_terminal_snr))
def test_from_noise_alone_the_mean_is_right(name: str) -> None:
    mean, _ = sampled(OF_BUILTIN, name)
    assert mean == pytest.approx(MEAN, abs=0.025)


@pytest.mark.parametrize("name", cases(lambda one: one.image_to_image))
@pytest.mark.parametrize("strength", [0.5, 0.05])
def test_what_begins_from_images_stays_as_they_are_spread(name: str, strength: float) -> None:
    mean, deviation = sampled(OF_STABLE_DIFFUSION, name, strength=strength)
    assert mean == pytest.approx(MEAN, abs=0.03)
    least = 0.25 if name in DISTILLED else DEVIATION - 0.08
    assert least < deviation < DEVIATION + 0.05


OPTIONS = [
    *[(name, {"sigma_spacing": "karras"}) for name, one in SCHEDULERS.items() if one.sigma_spacings],
    *[(name, {"sigma_spacing": "exponential"}) for name, one in SCHEDULERS.items() if one.sigma_spacings],
    *[(name, {"solver_order": order}) for name, one in SCHEDULERS.items() for order in one.orders],
    *[(name, {"timestep_spacing": spacing}) for name, one in SCHEDULERS.items() for spacing in one.spacings],
    *[("DPMSolverMultistepScheduler", {"solver_algorithm": one}) for one in ("dpmsolver++", "sde-dpmsolver++")],
    *[("DDIMScheduler", {"eta": 0.5}), ("DDIMScheduler", {"eta": 1.0}), ("TCDScheduler", {"eta": 0.3})],
]


@pytest.mark.parametrize(
    ("name", "options"), [pytest.param(*case, id=f"{case[0]}-{next(iter(case[1].values()))}") for case in OPTIONS]
)
def test_options_change_the_way_and_not_where_it_ends(name: str, options: dict[str, Any]) -> None:
    mean, deviation = sampled(OF_STABLE_DIFFUSION, name, **options)
    assert mean == pytest.approx(MEAN, abs=0.06)
    least = 0.25 if name in DISTILLED else DEVIATION - 0.1
    assert least < deviation < DEVIATION + 0.06


def from_given_noise(name: str, seed: int) -> torch.Tensor:
    """What is made of the same noise, with other noise of the images' own."""
    model = model_of(OF_STABLE_DIFFUSION)
    conditions = [Conditions(torch.zeros(1, 1, 1))] * 4
    return denoise(
        model,
        conditions,
        conditions,
        [torch.Generator().manual_seed(seed + image) for image in range(4)],
        size_px=1,
        steps=10,
        guidance=Guidance(1.0),
        start=StartNoise(torch.linspace(-1, 1, 4).reshape(4, 1, 1, 1)),
        sampler=named_sampler(model, name, {}, 0.0),
    )


@pytest.mark.parametrize("name", cases(lambda one: True))
def test_the_table_says_which_draw_noise_on_their_way(name: str) -> None:
    one, other = (from_given_noise(name, seed) for seed in (0, 50))
    assert torch.equal(one, other) != SCHEDULERS[name].draws_noise


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_more_steps_than_timesteps_of_their_own(name: str) -> None:
    """Two steps at one timestep, which diffusers looks up: it takes the second for the first."""
    _, deviation = sampled(OF_STABLE_DIFFUSION, name, steps=300, sigma_spacing="karras")
    assert deviation == pytest.approx(DEVIATION, abs=0.04)
