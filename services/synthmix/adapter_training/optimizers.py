"""The optimizers that adapters are trained with, an entry each: the package that has it, and what it cannot do.

Without torch: front ends plan with it. optimizer_states.py makes them.

AdamW: Loshchilov and Hutter 2019 (arXiv:1711.05101). 8-bit AdamW: Dettmers et al. 2022 (arXiv:2110.02861). Prodigy:
Mishchenko and Defazio 2024 (arXiv:2306.06101). Schedule-Free AdamW: Defazio et al. 2024 (arXiv:2405.15682).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.service_kit.environment import workers_are_here
from synthmix.service_kit.errors import InvalidArgument, Problems, invalid_field, unmet_precondition
from synthmix.service_kit.settings_messages import fill_left_out, set_default

PATH = "adapter.settings"
REASON = "OPTIMIZER_CANNOT"
# Below it, who asked took Prodigy's factor for a learning rate: 1e-4 is usual for AdamW.
PRODIGYS_LEAST_FACTOR = 0.1


@dataclass(frozen=True)
class Package:
    """A distribution that not every worker has; the extra `optimizers` brings it.

    Attributes:
        name: By which it is installed.
        least_version: Numbers, the first of which has what is used.
    """

    name: str
    least_version: tuple[int, ...]


@dataclass(frozen=True)
class Optimizer:
    """An entry.

    Attributes:
        sentence: What it does, for who chooses.
        package: None if torch has it.
        learning_rate: Its default, where that does not depend on the base model and the method.
        learning_rate_schedule: Its default, where that is not the declared one.
        cannot: The InvalidArguments for what it cannot do together with other options.
    """

    sentence: str
    package: Package | None = None
    learning_rate: float | None = None
    learning_rate_schedule: str = ""
    cannot: Callable[[AdapterSettings], Iterator[InvalidArgument]] = lambda settings: iter(())


def fill(settings: AdapterSettings) -> None:
    """Gives the fields that were left out the optimizer's own values, and the schedule a value in any case."""
    optimizer = OPTIMIZERS.get(settings.optimizer)
    if optimizer is not None and optimizer.learning_rate is not None:
        set_default(settings, "learning_rate", optimizer.learning_rate)
    if optimizer is not None and optimizer.learning_rate_schedule:
        set_default(settings, "learning_rate_schedule", optimizer.learning_rate_schedule)
    fill_left_out(settings, "learning_rate_schedule")


def check_options(settings: AdapterSettings, problems: Problems) -> None:
    """Collects what the optimizer cannot do together with other options. `settings` are filled."""
    optimizer = OPTIMIZERS.get(settings.optimizer)
    if optimizer is not None:  # what is none of the choices is told by the field's own rules
        problems.found.extend(optimizer.cannot(settings))


def check_package(settings: AdapterSettings, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Checks that workers have the optimizer's package, as far as a front end can tell.

    Where the workers are on this machine, they have what this process has. Elsewhere their image is another one, so
    that only a warning can be given; the worker itself refuses before it reads anything (require_package).

    Returns:
        Warnings.

    Raises:
        FailedPrecondition: The package is missing, or too old.
    """
    if workers_are_here(environment):
        require_package(settings)
        return []
    package = OPTIMIZERS[settings.optimizer].package
    if package is None:
        return []
    return [
        f"optimizer {settings.optimizer} is of the Python package {package.name}, which SynthMix's own worker image "
        "does not have: unless yours has it, the training will end with an error before it begins"
    ]


def require_package(settings: AdapterSettings) -> None:
    """Raises FailedPrecondition if this process has not the optimizer's package in a version that can be used."""
    package = OPTIMIZERS[settings.optimizer].package
    if package is None:
        return
    try:
        found = version(package.name)
    except PackageNotFoundError:
        found = ""
    if found and _numbers(found) >= package.least_version:
        return
    least = ".".join(map(str, package.least_version))
    raise unmet_precondition(
        f"{PATH}.optimizer",
        f"{settings.optimizer!r} needs the Python package {package.name}, version {least} or newer, and the workers "
        f"have {f'version {found}' if found else 'none'}; install it where they are, with `pip install "
        "'synthmix[optimizers]'`, or use adamw",
        reason="PACKAGE_MISSING",
    )


def _numbers(text: str) -> tuple[int, ...]:
    """Of a version, those before anything else: (0, 50, 2) of 0.50.2.dev1."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _check_prodigy(settings: AdapterSettings) -> Iterator[InvalidArgument]:
    if settings.loraplus_ratio > 1:
        yield invalid_field(
            f"{PATH}.loraplus_ratio",
            settings.loraplus_ratio,
            "is a second learning rate, and prodigy finds one for all weights",
            "leave it out, or use adamw, adamw8bit or schedule_free",
            reason=REASON,
        )
    for field in ("text_encoder_learning_rate", "class_token_learning_rate"):
        rate = getattr(settings, field)
        if settings.HasField(field) and rate != settings.learning_rate:
            yield invalid_field(
                f"{PATH}.{field}",
                rate,
                "is a second learning rate, and prodigy finds one for all weights",
                f"use {settings.learning_rate:g}, which is the factor of all, or adamw, adamw8bit or schedule_free",
                reason=REASON,
            )
    if settings.learning_rate < PRODIGYS_LEAST_FACTOR:
        yield invalid_field(
            f"{PATH}.learning_rate",
            settings.learning_rate,
            "is for prodigy a factor of the learning rate that it finds by itself, and with so small a one finds none",
            f"leave it out, which is 1, or use at least {PRODIGYS_LEAST_FACTOR:g}",
            reason=REASON,
        )


def _check_schedule_free(settings: AdapterSettings) -> Iterator[InvalidArgument]:
    if settings.learning_rate_schedule != "constant":
        yield invalid_field(
            f"{PATH}.learning_rate_schedule",
            settings.learning_rate_schedule,
            "is a schedule, in place of which schedule_free averages the weights",
            "leave it out, or use constant; warmup stays",
            reason=REASON,
        )
    if settings.class_token_images_seen:
        yield invalid_field(
            f"{PATH}.class_token_images_seen",
            settings.class_token_images_seen,
            "lets the adapter wait, and schedule_free counts the steps of weights that wait",
            "leave it out, or use adamw, adamw8bit or prodigy",
            reason=REASON,
        )
    if settings.ema_decay:
        yield invalid_field(
            f"{PATH}.ema_decay",
            settings.ema_decay,
            "averages weights that schedule_free has averaged already",
            "leave it out, or use adamw, adamw8bit or prodigy",
            reason=REASON,
        )


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(sentence="is Adam with weight decay apart from the gradients"),
    "adamw8bit": Optimizer(
        sentence="is adamw with its moments in 8 bits, of tensors of 4,096 weights or more",
        package=Package("bitsandbytes", (0, 50)),  # the first that computes on a CPU too
    ),
    "prodigy": Optimizer(
        sentence="is adamw that finds the learning rate by itself, of which learning_rate is a factor",
        package=Package("prodigyopt", (1, 1)),
        learning_rate=1.0,
        # The estimate grows over some hundred steps, and hardly where a schedule lowers the rate meanwhile: 120 steps
        # on the tests' tiny model come to 4e-5 with a cosine, and to 0.016, by which it learns, without.
        learning_rate_schedule="constant",
        cannot=_check_prodigy,
    ),
    "schedule_free": Optimizer(
        sentence="is adamw that averages the weights in place of a schedule",
        package=Package("schedulefree", (1, 4)),
        learning_rate_schedule="constant",
        cannot=_check_schedule_free,
    ),
}
