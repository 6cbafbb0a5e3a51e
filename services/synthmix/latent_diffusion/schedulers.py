"""The schedulers of diffusers that base models may name, and that images may be sampled by. Without torch.

Tried one by one with diffusers 0.42, on noise whose right answer is known (tests/components/test_samplers.py). Others
sample on noise levels of their own (EDM, flow matching, consistency models), need more than latents, or run backwards.
"""

from dataclasses import dataclass, replace

EPSILON, VELOCITY, SAMPLE = "epsilon", "v_prediction", "sample"
ANY = (EPSILON, VELOCITY, SAMPLE)
LEADING = "leading"
SPACINGS = (LEADING, "linspace", "trailing")
PLAIN, STOCHASTIC = "dpmsolver++", "sde-dpmsolver++"


@dataclass(frozen=True)
class Scheduler:
    """What one can do.

    Attributes:
        prediction_types: What the UNet may have been trained to answer with.
        zero_terminal_snr: Whether it can begin at noise alone, which the last level of some base models is (Lin et al.
            2024, arXiv:2305.08891). Others begin a little below it, at a brightness that is taken for the image's.
        image_to_image: Whether it may begin at any step.
        answers: Of the UNet in each step.
        most_steps: Of all; those of the base model if None.
        spacings: How steps may be spread over the noise levels.
        sigma_spacings: Whether they may be spread by the noise's deviation instead.
        orders: Which may be chosen; () if it has one.
        algorithms: Likewise.
        has_eta: Whether a share of new noise may be chosen.
        draws_noise: Whether steps add new noise in any case, so that the noise that an image begins from says little
            of it.
    """

    prediction_types: tuple[str, ...] = ANY
    zero_terminal_snr: bool = False
    image_to_image: bool = True
    answers: int = 1
    most_steps: int | None = None
    spacings: tuple[str, ...] = SPACINGS
    sigma_spacings: bool = False
    orders: tuple[int, ...] = ()
    algorithms: tuple[str, ...] = ()
    has_eta: bool = False
    draws_noise: bool = False


_DDIM = Scheduler(zero_terminal_snr=True, has_eta=True)
_DDPM = Scheduler(zero_terminal_snr=True, draws_noise=True)
_TWO_ANSWERS = Scheduler(answers=2, sigma_spacings=True)
_KDPM2 = Scheduler((EPSILON, VELOCITY), answers=2, sigma_spacings=True)
SCHEDULERS = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DEISMultistepScheduler": Scheduler(sigma_spacings=True, orders=(1, 2, 3)),
    "DPMSolverMultistepScheduler": Scheduler(
        zero_terminal_snr=True, sigma_spacings=True, orders=(1, 2, 3), algorithms=(PLAIN, STOCHASTIC)
    ),
    "DPMSolverSinglestepScheduler": Scheduler(spacings=(), sigma_spacings=True, orders=(1, 2, 3)),
    "EulerDiscreteScheduler": Scheduler(zero_terminal_snr=True, sigma_spacings=True),
    "EulerAncestralDiscreteScheduler": Scheduler((EPSILON, VELOCITY), zero_terminal_snr=True, draws_noise=True),
    "HeunDiscreteScheduler": _TWO_ANSWERS,
    "KDPM2DiscreteScheduler": _KDPM2,
    "KDPM2AncestralDiscreteScheduler": replace(_KDPM2, draws_noise=True),
    # Of models that were distilled for few steps: fifty of the noise levels are all that they know.
    "LCMScheduler": Scheduler(zero_terminal_snr=True, most_steps=50, spacings=(), draws_noise=True),
    # It weights as many answers as there have been steps from noise, whether it saw them or not.
    "LMSDiscreteScheduler": Scheduler(image_to_image=False, sigma_spacings=True),
    "PNDMScheduler": Scheduler((EPSILON, VELOCITY)),
    "SASolverScheduler": Scheduler(draws_noise=True),
    "TCDScheduler": Scheduler(zero_terminal_snr=True, most_steps=50, spacings=(), has_eta=True),
    "UniPCMultistepScheduler": Scheduler(zero_terminal_snr=True, sigma_spacings=True, orders=(1, 2, 3)),
}
_OWN_LEVELS = "is of models with noise levels of their own, and base models here have those of Stable Diffusion"
_BACKWARDS = "goes from images to noise"
_OTHER_MODELS = "is of models of another kind than Stable Diffusion"
NOT_OFFERED = {
    "CMStochasticIterativeScheduler": _OWN_LEVELS,
    "CosineDPMSolverMultistepScheduler": _OWN_LEVELS,
    "DDIMInverseScheduler": _BACKWARDS,
    "DPMSolverMultistepInverseScheduler": _BACKWARDS,
    "DPMSolverSDEScheduler": "draws one noise for a whole batch, and an image here has noise of its own in any batch; "
    "DPMSolverMultistepScheduler with solver_algorithm: sde-dpmsolver++ is near it",
    "EDMDPMSolverMultistepScheduler": _OWN_LEVELS,
    "EDMEulerScheduler": _OWN_LEVELS,
    "FlowMatchEulerDiscreteScheduler": _OWN_LEVELS,
    "FlowMatchHeunDiscreteScheduler": _OWN_LEVELS,
    "FlowMatchLCMScheduler": _OWN_LEVELS,
    "IPNDMScheduler": _OWN_LEVELS,
    "KarrasVeScheduler": _OWN_LEVELS,
    "RePaintScheduler": "fills in parts of images, and there is no mask here",
    "SCMScheduler": _OTHER_MODELS,
    "ScoreSdeVeScheduler": _OWN_LEVELS,
    "UnCLIPScheduler": _OTHER_MODELS,
    "VQDiffusionScheduler": _OTHER_MODELS,
}
"""Schedulers of diffusers that are not for these base models, and why."""


@dataclass(frozen=True)
class NoiseSchedule:
    """What a base model's own scheduler says.

    Attributes:
        scheduler: Its name, of SCHEDULERS.
        train_timesteps: Noise levels; sampling can't take more steps.
        zero_terminal_snr: Whether the last of them is noise alone.
    """

    scheduler: str
    prediction_type: str
    train_timesteps: int
    zero_terminal_snr: bool
