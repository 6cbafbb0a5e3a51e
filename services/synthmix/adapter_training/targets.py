"""Which layers of a UNet, and of a text encoder, an adapter is trained in. Without torch.

A UNet's are a named set or a regular expression, a text encoder's a named set.
"""

from collections.abc import Callable

from synthmix.latent_diffusion.part_layers import Layer, PartLayers
from synthmix.service_kit.errors import InvalidArgument, did_you_mean, invalid_field
from synthmix.service_kit.quantities import listed
from synthmix.service_kit.regular_expressions import compiled

FIELD = "adapter.settings.targets"
TEXT_FIELD = "adapter.settings.text_encoder_targets"
LONGEST_PATTERN = 500
SHOWN_LAYERS = 3

# Names of UNet modules in diffusers; PEFT adapts every module whose name is one of them, or ends in it after a dot.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEEDFORWARD = ("ff.net.0.proj", "ff.net.2")
_PROJECTION = ("proj_in", "proj_out")
_CONVOLUTION = ("conv1", "conv2", "time_emb_proj")
_SAMPLING = ("conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
_ENDS = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention+feedforward": _ATTENTION + _FEEDFORWARD,
    # What kohya's trainer adapts unless it is told otherwise.
    "transformer": _ATTENTION + _FEEDFORWARD + _PROJECTION,
    "attention+feedforward+convolution": _ATTENTION + _FEEDFORWARD + _CONVOLUTION,
    "all": _ATTENTION + _FEEDFORWARD + _PROJECTION + _CONVOLUTION + _SAMPLING + _ENDS,
}

# Names of CLIP's modules. diffusers' trainers adapt attention, kohya's both.
_TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_TARGETS: dict[str, tuple[str, ...]] = {
    "attention": _TEXT_ATTENTION,
    "attention+feedforward": (*_TEXT_ATTENTION, "fc1", "fc2"),
}


def adapted_layers(targets: str, layers: PartLayers) -> tuple[Layer, ...]:
    """The layers that a set or a regular expression means.

    Raises:
        InvalidArgument: It means none, can't be compiled, or matches a module that no adapter takes.
    """
    names = TARGETS.get(targets)
    if names is not None:
        found = tuple(layer for layer in layers.adaptable if _ends_in(layer.name, names))
        if not found:
            raise _unusable(targets, "means no layer of this base model's UNet", "use another set")
        return found
    matches = _matches(targets)
    wrong = sorted(name for name in layers.others if matches(name))
    if wrong:
        raise _unusable(
            targets,
            f"matches {listed(wrong, SHOWN_LAYERS)}, which no adapter takes: it is no linear layer and no convolution",
            r"match linear layers and convolutions alone, such as .*\.attn2\.to_[qkv]",
        )
    found = tuple(layer for layer in layers.adaptable if matches(layer.name))
    if not found:
        example = layers.adaptable[0].name if layers.adaptable else "conv_in"
        raise _unusable(
            targets,
            "is no set of layers, and as a regular expression it matches the whole name of none",
            f"{did_you_mean(targets, TARGETS)}use {', '.join(TARGETS)}, or an expression for names such as {example}",
            reason="UNKNOWN_CHOICE",
        )
    return found


def adapted_text_layers(targets: str, layers: PartLayers) -> tuple[Layer, ...]:
    """The layers of a text encoder that a set means. Raises InvalidArgument if it means none."""
    found = tuple(layer for layer in layers.adaptable if _ends_in(layer.name, TEXT_TARGETS[targets]))
    if not found:
        raise invalid_field(
            TEXT_FIELD,
            targets,
            "means no layer of this base model's text encoder",
            "leave it out, or use another base model",
            reason="TARGETS_UNUSABLE",
        )
    return found


def module_names(targets: str, layers: PartLayers) -> list[str]:
    """What PEFT is given: a set's own names, or the names of the layers that an expression matches."""
    return list(TARGETS.get(targets) or (layer.name for layer in adapted_layers(targets, layers)))


def _ends_in(name: str, ends: tuple[str, ...]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _matches(pattern: str) -> Callable[[str], bool]:
    """Whether an expression matches the whole of a name."""
    if len(pattern) > LONGEST_PATTERN:
        raise _unusable(pattern, f"is longer than {LONGEST_PATTERN} characters", "use a shorter expression, or a set")
    try:
        expression = compiled(pattern)
    except ValueError as error:
        raise _unusable(
            pattern,
            f"is no set of layers and no regular expression of RE2 ({error})",
            f"{did_you_mean(pattern, TARGETS)}use {', '.join(TARGETS)}, or mend the expression",
            reason="UNKNOWN_CHOICE",
        ) from error
    return lambda name: expression.fullmatch(name) is not None


def _unusable(targets: str, problem: str, remedy: str, *, reason: str = "TARGETS_UNUSABLE") -> InvalidArgument:
    return invalid_field(FIELD, targets, problem, remedy, reason=reason)
