"""The methods by which adapters are trained, an entry each: what a method is, takes, counts, and cannot do.

Without torch and PEFT: front ends plan with it, and workers give PEFT what an entry says. A method's own options are
fields of AdapterSettings that no other method may have.

LoRA: Hu et al. 2021 (arXiv:2106.09685). rsLoRA: Kalajdzievski 2023 (arXiv:2312.03732). DoRA: Liu et al. 2024
(arXiv:2402.09353). PiSSA: Meng et al. 2024 (arXiv:2404.02948). OLoRA: Buyukakyuz 2024 (arXiv:2406.01775). LoHa:
Hyeon-Woo et al. 2022 (FedPara, arXiv:2108.06098). LoKr: Yeh et al. 2024 (LyCORIS, arXiv:2309.14859). OFT: Qiu et al.
2023 (arXiv:2306.07280). BOFT: Liu et al. 2024 (arXiv:2311.06243).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.part_layers import Layer
from synthmix.service_kit.adapter_payloads import FULL, NONE, divided
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.quantities import byte_size, plural
from synthmix.service_kit.settings_messages import fill_left_out, set_default

PATH = "adapter.settings"
REASON = "METHOD_CANNOT"
# Fields that belong to some methods. What a method does not name is refused with it.
OWN_FIELDS = ("rank", "alpha", "block_size", "factor", "loraplus_ratio")
LORA_FIELDS = ("rank", "alpha", "loraplus_ratio")
# Of rsLoRA, whose scale is alpha / sqrt(rank): 1 at the default rank. One alpha is kept over a sweep of ranks.
RSLORA_ALPHA = 4.0
DEFAULT_FACTOR = 8
# PEFT keeps a square of a layer's inputs in memory for each layer of BOFT: 0.3 GB for the attention of Stable Diffusion
# 1.5, and 60 GB for its convolutions.
BOFT_MOST_BYTES = 4 << 30
# That a step of loha fails; a training has up to some millions of them, times layers.
LARGEST_CHANCE = 1e-12


@dataclass(frozen=True)
class Method:
    """An entry.

    Attributes:
        sentence: What it does, for who chooses.
        takes: Those of OWN_FIELDS that it has.
        parameters: How many it trains in a layer.
        config: The name of PEFT's class.
        options: What PEFT's class is given besides the layers.
        cost: Of a step on a CPU, times lora's: measured on the built-in base model, with attention alone and with
            feedforward layers, for predicted times.
        learning_rate_factor: Of the default learning rate.
        largest_block: Of the default block_size.
        begins_from_weights: Whether its first factors are made from the base model's weights, and taken off them.
        cannot: Raises InvalidArgument for what it can't do in these layers.
    """

    sentence: str
    takes: tuple[str, ...]
    parameters: Callable[[AdapterSettings, Layer], int]
    config: str
    options: Callable[[AdapterSettings], dict[str, Any]]
    cost: float = 1.0
    learning_rate_factor: float = 1.0
    largest_block: int = 0
    begins_from_weights: bool = False
    cannot: Callable[[AdapterSettings, Sequence[Layer]], None] = lambda settings, layers: None


@dataclass(frozen=True)
class WithoutAdapter:
    """What is trained without a method of PEFT's.

    Attributes:
        sentence, cost, learning_rate_factor: As a Method's.
    """

    sentence: str
    cost: float
    learning_rate_factor: float


WITHOUT_ADAPTER = {
    NONE: WithoutAdapter("adapts no layer", 0.9, 1.0),
    FULL: WithoutAdapter("trains all weights of the UNet", 1.5, 0.1),
}


def scale(settings: AdapterSettings) -> float:
    """What the update is multiplied with: 1 for methods that rotate, and without one. `settings` are filled."""
    if "alpha" not in fields_of(settings.method):
        return 1.0
    return settings.alpha / (math.sqrt(settings.rank) if settings.method == "rslora" else settings.rank)


def parameter_count(settings: AdapterSettings, layers: Sequence[Layer]) -> int:
    """Trained parameters of adapted layers. `settings` are filled."""
    return sum(METHODS[settings.method].parameters(settings, layer) for layer in layers)


def fields_of(method: str) -> tuple[str, ...]:
    """Those of OWN_FIELDS that a method has."""
    return () if method in WITHOUT_ADAPTER else METHODS[method].takes


def fill(settings: AdapterSettings) -> None:
    """Gives the fields that a method has, and that were left out, the values that do not depend on the base model."""
    takes = fields_of(settings.method)
    if "rank" in takes:
        fill_left_out(settings, "rank")
    if "factor" in takes:
        set_default(settings, "factor", DEFAULT_FACTOR)
    if "alpha" in takes:  # a rank of 0 is one fault, not two
        set_default(settings, "alpha", RSLORA_ALPHA if settings.method == "rslora" else max(1, settings.rank))


def default_block_size(settings: AdapterSettings, layers: Sequence[Layer]) -> int:
    """The largest block up to the method's own that divides the inputs of every layer."""
    common = math.gcd(*(layer.inputs for layer in layers))
    return max(size for size in range(1, METHODS[settings.method].largest_block + 1) if common % size == 0)


def check_options(given: AdapterSettings, problems: Problems) -> None:
    """Collects options that the method has not. `given` are not filled yet."""
    for field in OWN_FIELDS:
        if not given.HasField(field) or field in fields_of(given.method):
            continue
        owners = ", ".join(name for name, method in METHODS.items() if field in method.takes)
        with problems:
            raise invalid_field(
                f"{PATH}.{field}",
                getattr(given, field),
                f"is no option of {given.method}, which {of_any(given.method).sentence}",
                f"leave it out, or use one of: {owners}; in a study, give {given.method} an entry of its own under "
                "adapters",
                reason=REASON,
            )


def of_any(method: str) -> Method | WithoutAdapter:
    """The entry of a method, whether or not it is PEFT's."""
    return METHODS.get(method) or WITHOUT_ADAPTER[method]


def check_layers(settings: AdapterSettings, layers: Sequence[Layer]) -> None:
    """Raises InvalidArgument for what a method can't do in these layers. `settings` are filled."""
    if settings.method in METHODS:
        METHODS[settings.method].cannot(settings, layers)


def _lora_parameters(settings: AdapterSettings, layer: Layer) -> int:
    return settings.rank * (layer.inputs + layer.outputs)


def _dora_parameters(settings: AdapterSettings, layer: Layer) -> int:
    return _lora_parameters(settings, layer) + layer.outputs


def _loha_parameters(settings: AdapterSettings, layer: Layer) -> int:
    """Two products of two factors each; a kernel of more than one pixel is a core tensor of its own."""
    rank = settings.rank
    if layer.kernel_pixels > 1:
        return 2 * rank * (layer.outputs + layer.channels + rank * layer.kernel_pixels)
    return 2 * rank * (layer.outputs + layer.inputs)


def _lokr_parameters(settings: AdapterSettings, layer: Layer) -> int:
    """A small full factor, and a large one that is of low rank where the rank is less than half its side."""
    rank = settings.rank
    (out_small, out_large), (in_small, in_large) = (
        divided(side, settings.factor) for side in (layer.outputs, layer.channels)
    )
    small = out_small * in_small
    if rank >= max(out_large, in_large) / 2:
        return small + out_large * in_large * layer.kernel_pixels
    if layer.kernel_pixels > 1:
        return small + rank * (out_large + in_large + rank * layer.kernel_pixels)
    return small + rank * (out_large + in_large)


def _oft_parameters(settings: AdapterSettings, layer: Layer) -> int:
    """A skew-symmetric matrix for each block."""
    return layer.inputs * (settings.block_size - 1) // 2


def _boft_parameters(settings: AdapterSettings, layer: Layer) -> int:
    """A matrix for each block, and a scale for each output."""
    return layer.inputs * settings.block_size + layer.outputs


def _lora(initial: str, **others: Any) -> Callable[[AdapterSettings], dict[str, Any]]:
    def options(settings: AdapterSettings) -> dict[str, Any]:
        return {
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "init_lora_weights": initial,
            "lora_dropout": settings.dropout,
            **others,
        }

    return options


def _check_loha(settings: AdapterSettings, layers: Sequence[Layer]) -> None:
    """PEFT's LoHa divides by the share of outputs that are left, which is 0 if all of a layer's are left out."""
    fewest = min(layers, key=lambda layer: layer.outputs)
    if settings.dropout**fewest.outputs > LARGEST_CHANCE:
        raise invalid_field(
            f"{PATH}.dropout",
            settings.dropout,
            f"leaves out all {fewest.outputs} outputs of {fewest.name} now and then, which PEFT's loha divides by",
            f"use less than {LARGEST_CHANCE ** (1 / fewest.outputs):.2g}, other targets, or lokr",
            reason=REASON,
        )


def _refuse_convolutions(settings: AdapterSettings, layers: Sequence[Layer]) -> None:
    """PiSSA and OLoRA factor matrices, and the factors' rank is at most the matrix's smaller side."""
    convolutions = [layer.name for layer in layers if layer.kernel]
    if convolutions:
        raise invalid_field(
            f"{PATH}.targets",
            settings.targets,
            f"has convolutions ({convolutions[0]}, one of {len(convolutions)}), which {settings.method} cannot adapt: "
            "it factors matrices",
            "use attention or attention+feedforward, or lora, rslora, dora, loha or lokr",
            reason=REASON,
        )
    smallest = min(layers, key=lambda layer: min(layer.shape))
    if settings.rank > min(smallest.shape):
        raise invalid_field(
            f"{PATH}.rank",
            settings.rank,
            f"is more than {settings.method} can factor {smallest.name} into, of {smallest.inputs} inputs and "
            f"{smallest.outputs} outputs",
            f"use at most {min(smallest.shape)}",
            reason=REASON,
        )


def _check_oft(settings: AdapterSettings, layers: Sequence[Layer]) -> None:
    """PEFT 0.21 rotates overlapping patches of an image and adds them up: no rotation at all multiplies it by nine.

    Its layer makes a dropout and never calls it.
    """
    if settings.dropout:
        raise invalid_field(
            f"{PATH}.dropout",
            settings.dropout,
            "has no effect in PEFT's oft",
            "leave it out, or use boft",
            reason=REASON,
        )
    kernels = [layer.name for layer in layers if layer.kernel_pixels > 1]
    if kernels:
        raise invalid_field(
            f"{PATH}.targets",
            settings.targets,
            f"has convolutions of more than one pixel ({kernels[0]}, one of {len(kernels)}), which oft cannot adapt: "
            "PEFT's layer for them changes the base model's answers before it has learned anything",
            "use attention, attention+feedforward or transformer, or boft, lora, rslora, dora, loha or lokr",
            reason=REASON,
        )
    _check_block_size(settings, layers)


def _check_boft(settings: AdapterSettings, layers: Sequence[Layer]) -> None:
    _check_block_size(settings, layers)
    fewest = min(layers, key=lambda layer: layer.inputs)
    blocks = fewest.inputs // settings.block_size
    if settings.dropout and settings.dropout * blocks < 1:
        raise invalid_field(
            f"{PATH}.dropout",
            settings.dropout,
            f"leaves out none of the {plural(blocks, 'block')} of {fewest.name}",
            "use 0, more, or a smaller block_size",
            reason=REASON,
        )
    memory_bytes = sum(4 * layer.inputs**2 for layer in layers)
    if memory_bytes > BOFT_MOST_BYTES:
        largest = max(layers, key=lambda layer: layer.inputs)
        raise invalid_field(
            f"{PATH}.targets",
            settings.targets,
            f"has layers for which boft keeps {byte_size(memory_bytes)} of permutations in memory, the largest for "
            f"{largest.name} of {largest.inputs:,} inputs, and more than {byte_size(BOFT_MOST_BYTES)} is refused",
            "use fewer or smaller layers, such as attention, or oft",
            reason=REASON,
        )


def _check_block_size(settings: AdapterSettings, layers: Sequence[Layer]) -> None:
    """PEFT would take another block size for a layer than it is told, with a warning (OFT), or raise (BOFT)."""
    for layer in layers:
        if layer.inputs % settings.block_size:
            common = math.gcd(*(item.inputs for item in layers))
            divisors = [str(size) for size in range(2, min(common, 1024) + 1) if common % size == 0]
            raise invalid_field(
                f"{PATH}.block_size",
                settings.block_size,
                f"does not divide the {layer.inputs:,} inputs of {layer.name}",
                f"use a divisor of every layer's inputs: {', '.join(divisors)}"
                if divisors
                else "use other targets: the inputs of these layers have no divisor in common",
                reason=REASON,
            )


METHODS: dict[str, Method] = {
    "lora": Method(
        sentence="adds a product of two thin matrices to a layer's weights",
        takes=LORA_FIELDS,
        parameters=_lora_parameters,
        config="LoraConfig",
        options=_lora("gaussian"),
    ),
    "rslora": Method(
        sentence="is lora scaled by alpha over the root of the rank, so that large ranks learn as fast as small ones",
        takes=LORA_FIELDS,
        parameters=_lora_parameters,
        config="LoraConfig",
        options=_lora("gaussian", use_rslora=True),
    ),
    "dora": Method(
        sentence="is lora on the direction of each output's weights, with their length trained apart",
        takes=LORA_FIELDS,
        parameters=_dora_parameters,
        config="LoraConfig",
        cost=1.4,
        options=_lora("gaussian", use_dora=True),
    ),
    "pissa": Method(
        sentence="is lora that begins from the weights' largest singular values and vectors",
        takes=LORA_FIELDS,
        parameters=_lora_parameters,
        config="LoraConfig",
        options=_lora("pissa"),
        begins_from_weights=True,
        cannot=_refuse_convolutions,
    ),
    "olora": Method(
        sentence="is lora that begins from the weights' first orthonormal directions (QR)",
        takes=LORA_FIELDS,
        parameters=_lora_parameters,
        config="LoraConfig",
        options=_lora("olora"),
        begins_from_weights=True,
        cannot=_refuse_convolutions,
    ),
    "loha": Method(
        sentence="adds the element-wise product of two products of thin matrices, of rank up to the square of `rank`",
        takes=("rank", "alpha"),
        parameters=_loha_parameters,
        config="LoHaConfig",
        cost=1.3,
        options=lambda settings: {
            "r": settings.rank,
            "alpha": settings.alpha,
            "rank_dropout": settings.dropout,
            "use_effective_conv2d": True,
        },
        learning_rate_factor=3.0,
        cannot=_check_loha,
    ),
    "lokr": Method(
        sentence="adds the Kronecker product of a small matrix and a large one, of low rank if `rank` is small",
        takes=("rank", "alpha", "factor"),
        parameters=_lokr_parameters,
        config="LoKrConfig",
        cost=1.2,
        options=lambda settings: {
            "r": settings.rank,
            "alpha": settings.alpha,
            "rank_dropout": settings.dropout,
            "decompose_factor": settings.factor,
            "use_effective_conv2d": True,
        },
        learning_rate_factor=10.0,
    ),
    "oft": Method(
        sentence="rotates a layer's inputs in blocks of `block_size`, and leaves angles between weights as they are",
        takes=("block_size",),
        parameters=_oft_parameters,
        config="OFTConfig",
        # A rank of 0 says that the block size counts.
        options=lambda settings: {"r": 0, "oft_block_size": settings.block_size},
        largest_block=32,
        cannot=_check_oft,
    ),
    "boft": Method(
        sentence="rotates a layer's inputs in blocks of `block_size`, and scales its outputs",
        takes=("block_size",),
        parameters=_boft_parameters,
        config="BOFTConfig",
        cost=1.4,
        options=lambda settings: {"boft_block_size": settings.block_size, "boft_dropout": settings.dropout},
        learning_rate_factor=3.0,
        largest_block=4,
        cannot=_check_boft,
    ),
}
