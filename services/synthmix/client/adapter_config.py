"""What PEFT's configuration says of an adapter's layers, and has to say so that PEFT makes the factors there are."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from synthmix.client.adapter_formats import DOWN, UP
from synthmix.client.adapter_source import SHOWN_KEYS, Source
from synthmix.client.safetensors_files import Tensor
from synthmix.service_kit.adapter_payloads import LENGTHS, divided
from synthmix.service_kit.quantities import listed, shortened
from synthmix.service_kit.regular_expressions import compiled

# Layers of a UNet whose kernels are of three by three pixels: a factor of low rank does not tell.
KERNELS_OF_NINE = ("conv", "conv1", "conv2", "conv_in", "conv_out")
# Of PEFT's configuration: what is read, and what only a training needs. Anything else has to be as if it was not there.
READ = {
    "LORA": {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights"},
    "LOHA": {"r", "alpha", "rank_pattern", "alpha_pattern", "use_effective_conv2d"},
    "LOKR": {
        *("r", "alpha", "rank_pattern", "alpha_pattern", "use_effective_conv2d", "decompose_factor", "decompose_both"),
    },
    "OFT": {
        *("r", "oft_block_size", "coft", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms"),
        "peft_version",
    },
    "BOFT": {"boft_block_size", "boft_block_num", "boft_n_butterfly_factor"},
}
_OF_TRAININGS = {
    *("peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
    *("peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_weights"),
    *("lora_dropout", "rank_dropout", "module_dropout", "boft_dropout", "rank_dropout_scale", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "runtime_config", "megatron_config", "megatron_core"),
    *("qalora_group_size", "velora_config", "monteclora_config", "ensure_weight_tying"),
}
# How LoRA's factors began, where they were not taken off the base model's weights.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
# Where a factor's shape has the rank.
_RANK_AXES = {
    DOWN: 0,
    UP: 1,
    **{f"{name}_a": 1 for name in ("hada_w1", "hada_w2", "lokr_w1", "lokr_w2")},
    **{f"{name}_b": 0 for name in ("hada_w1", "hada_w2", "lokr_w1", "lokr_w2")},
}


def rank_by_factors(source: Source, kind: str, layer: str, parts: Mapping[str, Tensor], said: int = 0) -> int:
    """A layer's rank, by its factors.

    Args:
        said: What the configuration says; it counts for factors of which none is of low rank.
    """
    of_rank: dict[str, int] = {}
    for part, tensor in parts.items():
        axis = _RANK_AXES.get(part)
        if axis is not None:
            if len(tensor.shape) <= max(axis, 1):
                raise source.fault(
                    f"has {tensor.name} of the shape {list(tensor.shape)}, which is no factor's", "give the whole file"
                )
            # Of a kernel's core both factors have the rank first.
            first = part.endswith("_a") and f"{part[:5]}t{part[6]}" in parts
            of_rank[tensor.name] = tensor.shape[0 if first else axis]
    if len(set(of_rank.values())) > 1:
        shown = ", ".join(f"{name} {rank}" for name, rank in of_rank.items())
        raise source.fault(f"has factors of several ranks in {layer}: {shown}", "give the adapter as it was trained")
    if 0 in of_rank.values():
        raise source.fault(f"has factors of no rank in {layer}", "give the adapter as it was trained")
    if of_rank:
        return next(iter(of_rank.values()))
    return max(said, _full_rank(parts))


def _full_rank(parts: Mapping[str, Tensor]) -> int:
    """The least rank with which PEFT makes both factors of a Kronecker product full."""
    return max(-(-side // 2) for part in ("lokr_w1", "lokr_w2") for side in parts[part].shape[:2])


def patterns(kind: str, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Rank and alpha as PEFT says them: the most frequent, and those of layers that have others."""
    (rank, _), *_ = Counter(ranks.values()).most_common(1)
    (alpha, _), *_ = Counter(alphas.values()).most_common(1)
    config: dict[str, Any] = {"peft_type": kind, "r": rank, "lora_alpha" if kind == "LORA" else "alpha": alpha}
    rank_pattern = {layer: value for layer, value in ranks.items() if value != rank}
    alpha_pattern = {layer: value for layer, value in alphas.items() if value != alpha}
    if rank_pattern:
        config["rank_pattern"] = rank_pattern
    if alpha_pattern:
        config["alpha_pattern"] = alpha_pattern
    return config


def options_of(
    source: Source,
    kind: str,
    layers: Mapping[str, Mapping[str, Tensor]],
    ranks: Mapping[str, int],
    said: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What PEFT has to be told besides, so that it makes the factors that there are."""
    has = {part for parts in layers.values() for part in parts}
    if kind == "LORA":
        return {"use_dora": True} if LENGTHS in has else {}
    if kind == "LOHA":
        return {"use_effective_conv2d": bool({"hada_t1", "hada_t2"} & has)}
    options: dict[str, Any] = {
        "use_effective_conv2d": "lokr_t2" in has,
        "decompose_both": "lokr_w1_a" in has,
    }
    factor: Any = said.get("decompose_factor", -1) if said is not None else _factor(source, layers)
    if type(factor) is not int:
        raise source.fault(f"says decompose_factor {shortened(repr(factor), 40)}", "it is a whole number")
    for layer, parts in layers.items():
        full = {part: f"lokr_{part}" in parts for part in ("w1", "w2")}
        small, large = kronecker_shapes(layer, parts)
        rules = {
            "w1": not (options["decompose_both"] and ranks[layer] < max(small) / 2),
            "w2": ranks[layer] >= max(large) / 2,
        }
        if full != rules:
            raise source.fault(
                f"has {layer} as PEFT's LoKr does not: of the rank {ranks[layer]}, with factors of {list(small)} and "
                f"{list(large)} that are {'full' if full['w2'] else 'of low rank'}",
                "train it with PEFT, or with LyCORIS's usual options (full_matrix, or neither of its factors by hand)",
                "ADAPTER_UNSUPPORTED",
            )
    return {**options, "decompose_factor": factor}


def _factor(source: Source, layers: Mapping[str, Mapping[str, Tensor]]) -> int:
    """The factor with which PEFT divides all layers' sides as the file has them."""
    shapes = {layer: kronecker_shapes(layer, parts) for layer, parts in layers.items()}
    smallest = max(side for small, _ in shapes.values() for side in small)
    for factor in (smallest, -1, *range(smallest + 1, 2 * smallest + 1)):
        if all(
            divided(one * other, factor) == (one, other)
            for small, large in shapes.values()
            for one, other in zip(small, large, strict=True)
        ):
            return int(factor)
    layer, (small, large) = next(iter(shapes.items()))
    raise source.fault(
        f"has layers whose Kronecker factors PEFT has for no one factor, such as {layer} in {list(small)} and "
        f"{list(large)}",
        "train it with one factor for all layers",
        "ADAPTER_UNSUPPORTED",
    )


def kronecker_shapes(layer: str, parts: Mapping[str, Tensor]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Outputs and inputs of the small and of the large factor; of a kernel without its pixels."""
    sides = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in parts:
            sides.append((parts[name].shape[0], parts[name].shape[1]))
        elif "lokr_t2" in parts and name == "lokr_w2":
            sides.append((parts["lokr_w2_a"].shape[1], parts["lokr_w2_b"].shape[1]))
        else:
            pixels = 9 if name == "lokr_w2" and layer.rpartition(".")[2] in KERNELS_OF_NINE else 1
            sides.append((parts[f"{name}_a"].shape[0], parts[f"{name}_b"].shape[1] // pixels))
    return sides[0], sides[1]


def pattern_value(
    source: Source, config: Mapping[str, Any], name: str, layer: str, default: Any, *, whole: bool = False
) -> float:
    """What PEFT's configuration says of a layer: patterns are expressions that the end of its name matches."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise source.fault(f"says {name} {shortened(repr(patterns), 60)}", "it is an object of layers and numbers")
    value = default
    for pattern, of_layers in patterns.items():
        try:
            is_meant = _expression(pattern)(layer)
        except ValueError as error:
            raise source.fault(
                f"says {name} of {shortened(repr(pattern), 60)} ({error})", "mend the pattern"
            ) from error
        if is_meant:
            value = of_layers
            break
    if type(value) not in ((int,) if whole else (int, float)) or not math.isfinite(value):
        raise source.fault(
            f"says {shortened(repr(value), 40)} for {name.partition('_')[0]} of {layer}", "it is a number"
        )
    return float(value)


def _expression(pattern: str) -> Callable[[str], bool]:
    expression = compiled(rf"(.*\.)?({pattern})")
    return lambda name: expression.fullmatch(name) is not None


def check_config(source: Source, kind: str, config: Mapping[str, Any]) -> None:
    """Raises InvalidArgument for options that make it another adapter than the tensors alone."""
    others = {
        key: value
        for key, value in config.items()
        if key not in READ[kind] | _OF_TRAININGS and value not in (None, False, "none", "", [], {}, 0)
    }
    if others:
        shown = [f"{key} {shortened(repr(value), 40)}" for key, value in sorted(others.items())]
        raise source.fault(
            f"is trained with what is not taken: {listed(shown, SHOWN_KEYS)}", "train it without", "ADAPTER_UNSUPPORTED"
        )
    beginning = config.get("init_lora_weights")
    if beginning not in _PLAIN_BEGINNINGS:
        raise source.fault(
            f"began with {shortened(repr(beginning), 40)}: its factors are for a base model from which they were taken "
            "off",
            "save it as a difference: PEFT's save_pretrained with path_initial_model_for_weight_conversion",
            "ADAPTER_UNSUPPORTED",
        )
    if kind == "OFT" and config.get("use_cayley_neumann", True):
        version = str(config.get("peft_version") or "")
        found = re.match(r"(\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < (0, 18):
            raise source.fault(
                f"is of PEFT {version or 'before 0.18'}: rotations (use_cayley_neumann) mean something else since 0.18",
                "train it with PEFT 0.18 or newer",
                "ADAPTER_UNSUPPORTED",
            )
    if kind == "BOFT" and config.get("boft_n_butterfly_factor", 1) != 1:
        raise source.fault(
            f"has boft_n_butterfly_factor {config['boft_n_butterfly_factor']}, which takes PEFT's extension for CUDA",
            "train it with 1",
            "ADAPTER_UNSUPPORTED",
        )
