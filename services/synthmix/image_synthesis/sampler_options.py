"""The sampler that a request names: what it can do, and what it can do with a base model. Without torch."""

from typing import Any

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.image_to_image import begins_from_images, has_strength, is_inverted
from synthmix.latent_diffusion.schedulers import (
    LEADING,
    NOT_OFFERED,
    SCHEDULERS,
    STOCHASTIC,
    NoiseSchedule,
    Scheduler,
)
from synthmix.service_kit.errors import InvalidArgument, Problems, check_choice, check_range, invalid_field

OPTIONS = ("timestep_spacing", "sigma_spacing", "solver_order", "solver_algorithm", "eta")
# Third order is not defined for the equation with noise, and diffusers' comes to another spread of images.
MOST_STOCHASTIC_ORDER = 2


def named_sampler(settings: SynthesisSettings) -> Scheduler | None:
    """What the sampler that is named can do; None if none is, or it is not known."""
    return SCHEDULERS.get(settings.sampler)


def check_sampler(settings: SynthesisSettings, problems: Problems, *, field: str) -> None:
    """Collects a sampler that is not known, and options and settings that it does not have.

    Args:
        settings: Filled.
        field: Their path.
    """
    given = [name for name in OPTIONS if settings.HasField(name)]
    if not settings.HasField("sampler"):
        for name in given:
            problems.found.append(
                invalid_field(
                    f"{field}.{name}",
                    getattr(settings, name),
                    "is an option of a sampler, and none is named",
                    "set sampler, such as DPMSolverMultistepScheduler, or leave it out",
                )
            )
        return
    if settings.sampler in NOT_OFFERED:
        problem, remedy = NOT_OFFERED[settings.sampler], f"use one of: {', '.join(SCHEDULERS)}"
        problems.found.append(
            invalid_field(f"{field}.sampler", settings.sampler, problem, remedy, reason="SAMPLER_UNSUPPORTED")
        )
        return
    with problems:
        check_choice(f"{field}.sampler", settings.sampler, SCHEDULERS)
    sampler = named_sampler(settings)
    if sampler is None:
        return
    for name in given:
        _check_option(settings, sampler, name, problems, field)
    if settings.solver_algorithm == STOCHASTIC and settings.solver_order > MOST_STOCHASTIC_ORDER:
        problems.found.append(
            invalid_field(
                f"{field}.solver_order",
                settings.solver_order,
                f"is not defined for {STOCHASTIC}",
                f"use at most {MOST_STOCHASTIC_ORDER}",
            )
        )
    if settings.HasField("timestep_spacing") and settings.HasField("sigma_spacing"):
        problems.found.append(
            invalid_field(
                f"{field}.timestep_spacing",
                settings.timestep_spacing,
                f"spreads the steps, and so does sigma_spacing: {settings.sigma_spacing}",
                "leave one of the two out",
            )
        )
    _check_begin(settings, settings.sampler, problems, field)
    if sampler.most_steps is not None:
        with problems:
            check_range(f"{field}.steps", settings.steps, 1, sampler.most_steps)


def _check_option(settings: SynthesisSettings, sampler: Scheduler, name: str, problems: Problems, field: str) -> None:
    if not has_option(sampler, name):
        others = [other for other, one in SCHEDULERS.items() if has_option(one, name)]
        problems.found.append(
            invalid_field(
                f"{field}.{name}",
                getattr(settings, name),
                f"is no option of {settings.sampler}",
                f"leave it out, or use one of: {', '.join(others)}",
            )
        )


def has_option(sampler: Scheduler, option: str) -> bool:
    """Whether a sampler has one of OPTIONS."""
    has: dict[str, object] = {
        "timestep_spacing": sampler.spacings,
        "sigma_spacing": sampler.sigma_spacings,
        "solver_order": sampler.orders,
        "solver_algorithm": sampler.algorithms,
        "eta": sampler.has_eta,
    }
    return bool(has[option])


def _check_begin(settings: SynthesisSettings, sampler: str, problems: Problems, field: str) -> None:
    """Collects a strength for a sampler that has to begin at noise, and an inversion for one that draws its own."""
    if is_inverted(settings):
        _check_draws_none(settings, sampler, problems, field)
    if has_strength(settings) and not SCHEDULERS[sampler].image_to_image:
        name = "strength" if settings.HasField("strength") else "strengths_by_images"
        problems.found.append(
            invalid_field(
                f"{field}.{name}",
                settings.strength or dict(sorted(settings.strengths_by_images.items())),
                f"begins in the midst of the steps, and {sampler} has to begin at noise",
                "use another sampler, such as EulerDiscreteScheduler, or leave it out",
                reason="SAMPLER_UNSUPPORTED",
            )
        )


def _check_draws_none(settings: SynthesisSettings, sampler: str, problems: Problems, field: str) -> None:
    """Collects what adds noise in each step: little would be left of two images that an image is to begin from."""
    if SCHEDULERS[sampler].draws_noise:
        problems.found.append(
            invalid_field(
                f"{field}.inversion_steps",
                settings.inversion_steps,
                f"begins from noise of two images, and {sampler} adds other noise in each step",
                "use a sampler without, such as DDIMScheduler, or leave it out",
                reason="SAMPLER_UNSUPPORTED",
            )
        )
    for name, adds in (("eta", settings.eta > 0), ("solver_algorithm", settings.solver_algorithm == STOCHASTIC)):
        if adds:
            problems.found.append(
                invalid_field(
                    f"{field}.{name}",
                    getattr(settings, name),
                    "adds noise in each step, and with inversion_steps images begin from noise of two images",
                    "leave one of the two out",
                )
            )


def check_schedule(
    settings: SynthesisSettings, schedule: NoiseSchedule, problems: Problems, *, field: str
) -> list[str]:
    """Collects steps and a sampler that a base model cannot be sampled with. Returns warnings.

    Args:
        settings: Filled.
        schedule: The base model's own.
        field: The settings' path.
    """
    with problems:
        check_range(f"{field}.steps", settings.steps, 1, schedule.train_timesteps)
    if is_inverted(settings):
        with problems:
            check_range(f"{field}.inversion_steps", settings.inversion_steps, 1, schedule.train_timesteps)
    sampler = named_sampler(settings)
    if sampler is None:
        if not settings.HasField("sampler"):
            _check_begin(settings, schedule.scheduler, problems, field)
        return []
    if schedule.prediction_type not in sampler.prediction_types:
        problems.found.append(
            _unfit(
                settings,
                field,
                f"knows {' and '.join(sampler.prediction_types)}, and the base model's UNet answers with "
                f"{schedule.prediction_type}",
                [name for name, one in SCHEDULERS.items() if schedule.prediction_type in one.prediction_types],
            )
        )
    if not schedule.zero_terminal_snr:
        return []
    if not sampler.zero_terminal_snr:
        problems.found.append(
            _unfit(
                settings,
                field,
                "begins a little below noise alone, which is the last noise level of this base model, so that images "
                "would have another brightness",
                [name for name, one in SCHEDULERS.items() if one.zero_terminal_snr],
            )
        )
    elif settings.HasField("sigma_spacing"):
        problems.found.append(
            invalid_field(
                f"{field}.sigma_spacing",
                settings.sigma_spacing,
                "spreads steps by the noise's deviation, which is endless at the last noise level of this base model",
                "leave it out",
                reason="SAMPLER_UNSUPPORTED",
            )
        )
    if settings.timestep_spacing == LEADING and not begins_from_images(settings):
        return [
            f"{field}.timestep_spacing: {LEADING} begins below noise alone, which is the last noise level of this base "
            "model, so that images have another brightness; trailing does not"
        ]
    return []


def _unfit(settings: SynthesisSettings, field: str, problem: str, others: list[str]) -> InvalidArgument:
    remedy = f"leave it out, or use one of: {', '.join(others)}"
    return invalid_field(f"{field}.sampler", settings.sampler, problem, remedy, reason="SAMPLER_UNSUPPORTED")


def sampler_options(settings: SynthesisSettings) -> dict[str, Any]:
    """What diffusers' scheduler is made with."""
    options: dict[str, Any] = {}
    if settings.HasField("timestep_spacing"):
        options["timestep_spacing"] = settings.timestep_spacing
    if settings.HasField("sigma_spacing"):
        options[f"use_{settings.sigma_spacing}_sigmas"] = True
    if settings.HasField("solver_order"):
        options["solver_order"] = settings.solver_order
    if settings.HasField("solver_algorithm"):
        options["algorithm_type"] = settings.solver_algorithm
    return options
