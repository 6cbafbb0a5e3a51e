"""What options of an adapter's objective do: against formulas, and interrupted anywhere to the same bytes."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import tiny_adapters
from synthmix.adapter_training import objective, planning, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.checkpoints import Checkpoint
from synthmix.adapter_training.held_out import HeldOut
from synthmix.adapter_training.training_prompts import encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.base_model import BUILTIN, resolve
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion
from tiny_adapters import pixels

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, HELD_OUT = 12, [2, 3, 9]
PROMPTS = ["a {label} cell", "a drawing of {label}"]


def settings_of(**options: Any) -> AdapterSettings:
    given = AdapterSettings(rank=2, images_seen=48, batch_size=4, seed=3, **{"learning_rate": 1e-2} | options)
    base_model = resolve(BUILTIN, field="x", weights=False)  # any will do
    settings = planning.filled(given, base_model)
    planning.check_settings(settings, base_model)
    return settings


def changed(row: int) -> np.ndarray:
    """The images, one of them inverted."""
    images = pixels(IMAGES)
    images[row] = 255 - images[row]
    return images


def trained(
    base: LatentDiffusion,
    settings: AdapterSettings,
    *,
    images: np.ndarray | None = None,
    stop_after: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[LatentDiffusion, recipe.TrainingState]:
    return tiny_adapters.trained(base, settings, stop_after, checkpoint, **given_with(settings, images))


def given_with(settings: AdapterSettings, images: np.ndarray | None = None) -> dict[str, Any]:
    """As many prompts, and those images held out, as the settings say."""
    return {
        "images": pixels(IMAGES) if images is None else images,
        "prompts": PROMPTS[: 1 + len(settings.more_prompts)],
        "held_out": HELD_OUT if settings.held_out else [],
    }


OPTIONS: list[dict[str, Any]] = [
    {"min_snr_gamma": 5.0},
    {"noise_offset": 0.1},
    {"least_noise": 0.5, "most_noise": 0.6},
    {"timestep_sampling": "logit_normal"},
    {"distribution_matching": 0.5},
    {"distribution_matching": 0.5, "min_snr_gamma": 1.0},
    {"loraplus_ratio": 16.0},
    {"ema_decay": 0.9},
    {"weight_decay": 1.0},
    {"learning_rate_schedule": "linear"},
    {"learning_rate_schedule": "constant", "warmup": 0.5},
    {"more_prompts": PROMPTS[1:]},
    {"held_out": 0.25, "evaluations": 6},
    {"held_out": 0.25, "evaluations": 12, "patience": 2, "learning_rate": 0.3},
    {"held_out": 0.25, "evaluations": 4, "ema_decay": 0.99, "patience": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(map(str, options)))
def test_an_option_changes_the_adapter_and_resumes_to_the_same_bytes(
    base: LatentDiffusion, options: dict[str, Any]
) -> None:
    settings = settings_of(**options)
    model, state = trained(base, settings)
    plain = trained(base, settings_of(learning_rate=settings.learning_rate))[0]
    assert adapter_files(model) != adapter_files(plain)
    resumed_model, again = tiny_adapters.resumed(base, settings, stop_after=7, **given_with(settings))
    assert (again.losses, again.held_out) == (state.losses, state.held_out)
    assert adapter_files(resumed_model) == adapter_files(model)


def scheduler_of(prediction_type: str, **options: Any) -> Any:
    return DDPMScheduler(prediction_type=prediction_type, beta_schedule="scaled_linear", **options)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_the_same_weight_of_the_clean_image_whatever_is_predicted(prediction_type: str) -> None:
    """Errors of noise and of velocity are the clean latents', times known factors: Hang et al., section 3.4."""
    scheduler, timesteps = scheduler_of(prediction_type), torch.tensor([0, 100, 500, 900, 999])
    signal = scheduler.alphas_cumprod[timesteps].double()
    ratio = signal / (1 - signal)
    of_clean_error = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones(5)}[prediction_type]
    weights = objective.min_snr_weights(scheduler, timesteps, 5.0)
    torch.testing.assert_close((weights * of_clean_error).float(), ratio.clamp(max=5).float())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_trains_the_last_noise_level_without_any_signal(prediction_type: str) -> None:
    scheduler = scheduler_of(prediction_type, rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] == 0
    weights = objective.min_snr_weights(scheduler, torch.arange(1000), 5.0)
    assert torch.isfinite(weights).all()
    assert weights[-1] == (1.0 if prediction_type == "epsilon" else objective.LEAST_WEIGHT)
    assert weights.min() >= (0.0 if prediction_type == "epsilon" else objective.LEAST_WEIGHT)


def task(settings: AdapterSettings, count: int = 4000, step: int = 0) -> objective.Task:
    return objective.draw(settings, scheduler_of("epsilon"), torch.zeros(count, 4, 2, 2), step)


def test_noise_offset_is_common_to_a_channels_pixels() -> None:
    plain, offset = task(settings_of()).target, task(settings_of(noise_offset=0.5)).target
    common = offset - plain
    torch.testing.assert_close(common, common.mean(dim=(2, 3), keepdim=True).expand_as(common), rtol=0, atol=1e-6)
    assert common[:, :, 0, 0].std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(task(settings_of(noise_offset=0.5)).timesteps, task(settings_of()).timesteps)


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (0.25, 0.5), (0.9, 1.0), (0.0, 0.001), (0.9999, 1.0)])
def test_noise_levels_are_those_of_the_range(sampling: str, least: float, most: float) -> None:
    settings = settings_of(least_noise=least, most_noise=most, timestep_sampling=sampling)
    timesteps = task(settings).timesteps
    first, end = objective.noise_levels(settings, 1000)
    assert first == min(int(least * 1000), 999)
    assert timesteps.min() >= first
    assert timesteps.max() < end
    if end - first > 100:
        shares = (timesteps - first).double() / (end - first)
        expected = {"uniform": 0.5, "logit_normal": 0.6827}[sampling]  # sigmoid(-1) to sigmoid(1) is one deviation
        low, high = (0.25, 0.75) if sampling == "uniform" else (1 / (1 + math.e), 1 / (1 + math.exp(-1)))
        assert ((shares >= low) & (shares < high)).double().mean().item() == pytest.approx(expected, abs=0.03)


def test_each_prompt_is_drawn_as_often() -> None:
    drawn = task(settings_of(more_prompts=["b {label}", "c {label}"])).prompts
    assert drawn.bincount().tolist() == pytest.approx([4000 / 3] * 3, rel=0.1)
    assert not task(settings_of()).prompts.any()


def test_distribution_matching_adds_the_squared_sum_of_a_batchs_errors() -> None:
    settings, scheduler = settings_of(distribution_matching=0.25), scheduler_of("epsilon")
    of_step = task(settings, 3)
    predicted = of_step.target + torch.tensor([1.0, -1.0, 2.0])[:, None, None, None]
    # Each error is that number: squares 1, 1 and 4, and their sum is 2.
    assert objective.loss(settings, scheduler, predicted, of_step).item() == pytest.approx(2 + 0.25 * 4, rel=1e-5)
    settings.min_snr_gamma = 5.0
    weights = objective.min_snr_weights(scheduler, of_step.timesteps, 5.0).tolist()
    expected = sum(w * e * e for w, e in zip(weights, (1, -1, 2), strict=True)) / 3
    expected += 0.25 * sum(w * e for w, e in zip(weights, (1, -1, 2), strict=True)) ** 2
    assert objective.loss(settings, scheduler, predicted, of_step).item() == pytest.approx(expected, rel=1e-5)


def test_loraplus_trains_the_factors_that_begin_as_zero_faster(base: LatentDiffusion) -> None:
    _, state = trained(base, settings_of(loraplus_ratio=16.0), stop_after=2)
    others, up = state.optimizer.param_groups
    assert up["lr"] == pytest.approx(16 * others["lr"])
    names = {name for name, value in state.parameters.items() if any(value is item for item in up["params"])}
    assert names == {name for name in state.parameters if ".lora_B." in name}
    assert len(others["params"]) == len(names)


def test_the_adapter_is_the_running_average(base: LatentDiffusion) -> None:
    settings = settings_of(ema_decay=0.5)
    expected: dict[str, torch.Tensor] = {}
    for step in range(13):
        _, raw = trained(base, settings_of(), stop_after=step)
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        for name, value in raw.parameters.items():
            expected[name] = decay * expected.get(name, value.detach()) + (1 - decay) * value.detach()
        if step == 12:
            break
    _, state = trained(base, settings)
    # The last step's raw weights are those of a whole training.
    whole = trained(base, settings_of())[1]
    assert whole.losses == state.losses, "averages change nothing of the training"
    for name, value in state.parameters.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("cosine", 0.2, {0: 0.05, 19: 1.0, 20: 1.0, 60: 0.525, 99: 0.0504}),
        ("linear", 0.2, {0: 0.05, 19: 1.0, 20: 1.0, 60: 0.525, 99: 0.0619}),
        ("constant", 0.2, {0: 0.05, 19: 1.0, 20: 1.0, 60: 1.0, 99: 1.0}),
        ("constant", 0.0, {0: 1.0, 99: 1.0}),
        ("linear", 1.0, {0: 0.01, 99: 1.0}),
    ],
)
def test_schedules(schedule: str, warmup: float, expected: dict[int, float]) -> None:
    settings = settings_of(learning_rate_schedule=schedule, warmup=warmup)
    shares = {step: recipe.learning_rate_share_of(settings, step, 100) for step in expected}
    assert shares == pytest.approx(expected, rel=0.01)


def test_what_is_held_out_is_not_trained_on(base: LatentDiffusion) -> None:
    settings = settings_of(held_out=0.25)
    model, state = trained(base, settings)
    other, state_of_other = trained(base, settings, images=changed(HELD_OUT[0]))
    assert adapter_files(model) == adapter_files(other)
    assert state.held_out != state_of_other.held_out
    assert [measured.images_seen for measured in state.held_out] == [8, 12, 16, 20, 24, 32, 36, 40, 44, 48]
    trained_on, _ = trained(base, settings, images=changed(0))
    assert adapter_files(model) != adapter_files(trained_on)


def test_the_loss_on_held_out_images_is_of_the_same_noise_whatever_is_drawn_meanwhile(base: LatentDiffusion) -> None:
    model = shared_copy(base)
    latents = recipe.cache_latents(model, pixels(IMAGES), np.arange(IMAGES) % 2, views=1)
    embeddings = prompt_embeddings(model, PROMPTS[:1], ("round", "flat")).embeddings

    def loss(batch_size: int) -> float:
        settings = settings_of(held_out=0.25)
        settings.batch_size = batch_size
        _, held_out = recipe.chosen(model, settings, latents, [], HELD_OUT)
        assert isinstance(held_out, HeldOut)
        before = torch.get_rng_state()
        measured = held_out.loss(lambda x, t, prompts, rows: model.unet(x, t, embeddings[prompts][rows]).sample)
        assert torch.equal(torch.get_rng_state(), before)
        return measured

    first = loss(2)
    torch.randn(3)
    assert loss(2) == first
    assert loss(3) == pytest.approx(first, rel=1e-5)


def test_patience_ends_a_training_and_keeps_its_best_weights(base: LatentDiffusion) -> None:
    settings = settings_of(held_out=0.25, evaluations=12, patience=2, learning_rate=0.3)
    model, state = trained(base, settings)
    losses = [measured.loss for measured in state.held_out]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 12, "two evaluations without a lower loss"
    assert state.step == len(losses)
    assert recipe.kept_images_seen(state, settings) == 4 * (best + 1)
    _, at_best = trained(base, settings_of(held_out=0.25, learning_rate=0.3), stop_after=best + 1)
    assert all(torch.equal(value, at_best.parameters[name]) for name, value in state.parameters.items())
    assert model.unet.training is False


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A device whose memory is enough for one image at once after three steps. Yields how many were asked for."""
    asked: list[int] = []
    prepared_denoiser = recipe.prepared_denoiser

    def of_little(*given: Any) -> Any:
        denoise, steps = prepared_denoiser(*given), itertools.count()

        def limited(latents: torch.Tensor, *others: Any) -> torch.Tensor:
            asked.append(len(latents))
            if next(steps) >= 3 and len(latents) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return denoise(latents, *others)

        return limited

    monkeypatch.setattr(recipe, "prepared_denoiser", of_little)
    yield asked


@pytest.mark.parametrize("options", [{}, {"min_snr_gamma": 5.0, "method": "dora"}], ids=str)
def test_a_batch_that_does_not_fit_is_divided(
    base: LatentDiffusion, options: dict[str, Any], little_memory: list[int]
) -> None:
    settings = settings_of(**options)
    model, state = trained(base, settings)
    assert state.micro_batch == 1
    assert little_memory == [4, 4, 4, 4, 2, *[1] * 36], "tried once in halves, and not again"
    assert len(state.losses) == 12
    checkpoint = Checkpoint(20, *checkpointed(trained(base, settings, stop_after=5)[1]))
    little_memory.clear()
    resumed_model, resumed = trained(base, settings, checkpoint=checkpoint)
    assert set(little_memory) == {1}
    assert resumed.losses == state.losses
    assert adapter_files(resumed_model) == adapter_files(model)


def checkpointed(state: recipe.TrainingState) -> tuple[Any, ...]:
    return recipe.state_tensors(state), state.losses, 1, tuple(state.held_out), "", state.micro_batch


def test_a_divided_batch_gives_the_same_gradients(base: LatentDiffusion) -> None:
    whole = trained(base, settings_of())[1]
    model = shared_copy(base)
    latents = recipe.cache_latents(model, pixels(IMAGES), np.arange(IMAGES) % 2, views=2)
    state = recipe.set_up(model, settings_of())
    state.micro_batch = 3
    prompts = encoded_once(model, prompt_embeddings(model, PROMPTS[:1], ("round", "flat")))
    recipe.train(model, state, settings_of(), latents, prompts, lambda state: None)
    assert state.losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_batch_whose_images_count_together_has_to_fit(base: LatentDiffusion, little_memory: list[int]) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        trained(base, settings_of(distribution_matching=0.1))
    assert little_memory == [4, 4, 4, 4]
